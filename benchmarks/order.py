"""How good and how fast the order engine is.

    python -m benchmarks.order random [--count 100]    random graphs: the exhaustive optimum, proofs, gaps
    python -m benchmarks.order captured [FOLDER]       training graphs of real models (made by benchmarks.captured)
    python -m benchmarks.order speed                   wide and training-like graphs, seconds and memory
    python -m benchmarks.order [random ...] --docs     one of them or all, into docs/benchmarks/order.md

``classic`` is the best of program order, lpmf, bfs and dfs, the four between which PyTorch chooses. Gaps are over the
proved bound. Prints Markdown; needs no torch.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks import graphs
from benchmarks.exhaustive import least_peak, none_below
from benchmarks.order_corpus import FOLDER, parts, read

from lowtide.core.native import compiler
from lowtide.memory.flat import flatten
from lowtide.memory.graph import MemoryGraph
from lowtide.memory.lifetime import timeline
from lowtide.order.check import check_order
from lowtide.order.engine import OrderResult, reorder
from lowtide.order.entrants import lpmf

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/benchmarks/order.md"
CLASSIC = ("program", "lpmf", "bfs", "dfs")
PARTS = ("random", "captured", "speed")
MOST_SETS = 200_000
SHAPES_OF_SPEED = ("training", "checkpointed", "backward", "layered")
Row = dict[str, object]


def run(graph: MemoryGraph) -> tuple[OrderResult, float]:
    """The engine's answer, checked and replayed, and its CPU seconds (it has one thread)."""
    start = time.process_time()
    result = reorder(graph)
    seconds = time.process_time() - start
    check_order(graph, result.order)
    assert timeline(graph, result.order).peak == result.peak >= result.lower_bound
    assert result.peak <= min(result.candidates.values())
    return result, seconds


def table(rows: Iterable[Row]) -> str:
    """A Markdown table; columns are the keys of the first row, numbers stand to the right."""
    rows = list(rows)
    if not rows:
        return ""
    numeric = [isinstance(x, int | float) for x in rows[0].values()]
    lines = ["| " + " | ".join(rows[0]) + " |", "|" + "".join("-:|" if n else "-|" for n in numeric)]
    lines += ["| " + " | ".join(map(_cell, row.values())) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _cell(x: object) -> str:
    return f"{x:.4g}" if isinstance(x, float) else str(x)


def _percent(x: float) -> str:
    return f"{x:.2%}" if x else "0"


def small(count: int) -> tuple[list[Row], str]:
    """8 to 20 nodes: is the peak the least of all orders, and is it proved?"""
    rows: list[Row] = []
    total = wrong = unproved = 0
    for shape in graphs.SHAPES:
        classic, missed, open_ = [], 0, 0
        for seed in range(count):
            # Nearly every set of a wide graph can have run, so that the oracle would take minutes at 20 nodes.
            n = random.Random(f"{shape}/{seed}").randint(8, 14 if shape == "wide" else 20)
            graph = graphs.make(shape, seed, n)
            result, _ = run(graph)
            missed += result.peak != least_peak(graph)
            open_ += result.status != "OPTIMAL"
            classic.append(min(result.candidates[x] for x in CLASSIC) / max(1, result.peak) - 1)
        total, wrong, unproved = total + count, wrong + missed, unproved + open_
        rows.append(
            {"shape": shape, "graphs": count, "not the optimum": missed, "not proved": open_} | _classic(classic)
        )
    return rows, f"{total} graphs: {wrong} not the exhaustive optimum, {unproved} not proved."


def _classic(above: list[float]) -> Row:
    return {
        "classic wrong": f"{sum(x > 0 for x in above) / len(above):.0%}",
        "classic above, mean": _percent(statistics.mean(above)),
        "worst": _percent(max(above)),
    }


def medium(count: int) -> tuple[list[Row], str]:
    """40 to 60 nodes: how many are proved, and do the proofs stand where sets can be counted out?"""
    rows: list[Row] = []
    rest: list[float] = []
    total = proved = tested = wrong = 0
    for shape in graphs.SHAPES:
        classic, seconds, gaps, mine, checked = [], [], [], 0, 0
        for seed in range(count):
            graph = graphs.make(shape, seed, random.Random(f"{shape}/{seed}").randint(40, 60))
            result, took = run(graph)
            seconds.append(took)
            classic.append(min(result.candidates[x] for x in CLASSIC) / max(1, result.peak) - 1)
            if result.status != "OPTIMAL":
                gaps.append(result.gap)
                continue
            mine += 1
            # Only as many as time allows: counting out is what the engine is there to avoid.
            verdict = none_below(graph, result.peak, MOST_SETS // 10) if seed < 10 else None
            checked += verdict is not None
            wrong += verdict is False
        total, proved, tested, rest = total + count, proved + mine, tested + checked, rest + gaps
        row = {"shape": shape, "graphs": count, "proved": f"{mine / count:.1%}", "proofs counted out": checked}
        rows.append(
            row | _classic(classic) | {"CPU s, median": statistics.median(seconds), "CPU s, most": max(seconds)}
        )
    gap = _percent(statistics.mean(rest)) if rest else "none is left"
    told = f"{total} graphs: {proved / total:.1%} proved; mean gap of the rest: {gap}. "
    return rows, told + f"Of the proofs {tested} were counted out, set by set: {wrong} wrong."


def captured(folder: Path) -> tuple[list[Row], str]:
    """Real training graphs: the classic orders beside ours, MiB."""
    rows: list[Row] = []
    proved = worse = 0
    for file in sorted(folder.rglob("*.json*")):
        for part, graph in parts(read(file)).items():
            result, seconds = run(graph)
            best = min(result.candidates[x] for x in CLASSIC)
            proved += result.status == "OPTIMAL"
            worse += result.peak > best
            row: Row = {"graph": file.name.partition(".json")[0], "part": part, "nodes": len(graph.nodes)}
            row |= {x.replace("program", "given"): _mib(result.candidates[x]) for x in CLASSIC}
            row |= {"ours": f"**{_mib(result.peak)}**" if result.peak < best else _mib(result.peak)}
            row |= {"bound": _mib(result.lower_bound), "by": result.bound_name}
            rows.append(row | {"gap": _percent(result.gap), "CPU s": f"{seconds:.2f}"})
    if not rows:
        return rows, f"{folder} holds no graphs."
    return (
        rows,
        f"{len(rows)} graphs: {proved} proved optimal ({proved / len(rows):.0%}), {worse} above the best of four.",
    )


def _mib(nbytes: int) -> str:
    return f"{nbytes / 2**20:.2f}"


def speed() -> tuple[list[Row], str]:
    """Seconds and memory, each graph in a process of its own."""
    rows = [one("independent", 8000)]
    for n in (1_000, 10_000, 100_000):
        rows += [one(shape, n) for shape in SHAPES_OF_SPEED]
    return (
        rows,
        "Seconds are wall time; `independent` is lpmf alone. Memory is what the process grew by while ordering.",
    )


def one(shape: str, n: int) -> Row:
    command = [sys.executable, "-m", "benchmarks.order", "one", f"{shape}:{n}"]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def measured(shape: str, n: int) -> Row:
    if shape == "independent":
        flat = flatten(graphs.independent(n))
        start, used = time.perf_counter(), time.process_time()
        lpmf(flat)
        seconds, used = time.perf_counter() - start, time.process_time() - used
        blank = dict.fromkeys(("status", "gap", "classic above ours", "stopped by", "MiB", "KiB per node"), "")
        return {"graph": shape, "nodes": n, "s": f"{seconds:.2f}", "CPU s": f"{used:.2f}"} | blank
    reorder(graphs.make(shape, 1, 20))  # the library is built, and every module is there
    graph = graphs.make(shape, 1, n)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start, used = time.perf_counter(), time.process_time()
    result = reorder(graph)
    seconds, used = time.perf_counter() - start, time.process_time() - used
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    best = min(result.candidates[x] for x in CLASSIC)
    return {
        "graph": shape,
        "nodes": len(graph.nodes),
        "s": f"{seconds:.2f}",
        "CPU s": f"{used:.2f}",
        "status": result.status,
        "gap": f"{result.gap:.3%}",
        "classic above ours": _percent(best / max(1, result.peak) - 1),
        "stopped by": result.stopped_by,
        "MiB": f"{grown / 1024:.0f}",
        "KiB per node": f"{grown / len(graph.nodes):.1f}",
    }


def write_page(what: str, count: int, folder: Path) -> None:
    """Measure one part and put it between its marks of the page, with when and how."""
    tool = compiler()
    version = subprocess.run([tool, "-dumpfullversion"], capture_output=True, text=True).stdout.strip() if tool else ""
    command = f"python -m benchmarks.order {what} --docs" + (f" --count {count}" if what == "random" else "")
    text = f"Measured {datetime.date.today()}, Python {platform.python_version()}, g++ {version}, two cores, by `{command}`.\n"
    for rows, told in found(what, count, folder):
        text += f"\n{told}\n\n{table(rows)}"
    begin, end = f"<!-- {what}: begin -->\n", f"<!-- {what}: end -->\n"
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(begin)
    PAGE.write_text(f"{before}{begin}\n{text}\n{end}{rest.partition(end)[2]}", encoding="utf-8")


def found(what: str, count: int, folder: Path) -> Iterable[tuple[list[Row], str]]:
    """The tables of one part, each with a sentence."""
    if what == "random":
        yield small(count)
        yield medium(count)
    else:
        yield captured(folder) if what == "captured" else speed()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="?", choices=(*PARTS, "one"))
    parser.add_argument("given", nargs="?", help="a folder of graphs (captured)")
    parser.add_argument("--count", type=int, default=100, help="random graphs per shape and size")
    parser.add_argument("--docs", action="store_true", help="write docs/benchmarks/order.md")
    words = parser.parse_args()
    folder = Path(words.given) if words.given and words.what == "captured" else FOLDER
    if words.what == "one":
        shape, _, n = words.given.partition(":")
        print(json.dumps(measured(shape, int(n))))
    elif words.docs:
        for what in PARTS if words.what is None else (words.what,):
            write_page(what, words.count, folder)
    elif words.what is None:
        parser.error("say what, or --docs")
    else:
        for rows, told in found(words.what, words.count, folder):
            print(f"{told}\n\n{table(rows)}", flush=True)


if __name__ == "__main__":
    main()

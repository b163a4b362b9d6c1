"""How good and how fast the order engine is.

    python benchmarks/order.py speed                 wide and training-like graphs, seconds and resident memory
    python benchmarks/order.py random [--count 50]   random graphs of 8-20 and 40-60 nodes, proofs and gaps
    python benchmarks/order.py corpus FOLDER         every GRAPH.json below a folder (lowtide order's format)

``classic`` is the best of program order, lpmf, bfs and dfs, the four between which PyTorch chooses. Gaps are over the
proved bound. Prints Markdown tables; ``--json FILE`` keeps the rows.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import time
from pathlib import Path

import graphs

from lowtide.memory.flat import flatten
from lowtide.memory.graph import MemoryGraph
from lowtide.memory.json import load
from lowtide.order.engine import OrderResult, reorder
from lowtide.order.entrants import lpmf

CLASSIC = ("program", "lpmf", "bfs", "dfs")


def run(graph: MemoryGraph) -> tuple[OrderResult, float]:
    start = time.perf_counter()
    result = reorder(graph)
    return result, time.perf_counter() - start


def table(rows: list[dict[str, object]]) -> None:
    if not rows:
        return
    print("| " + " | ".join(rows[0]) + " |")
    print("|" + " --- |" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(f"{x:.4g}" if isinstance(x, float) else str(x) for x in row.values()) + " |")


def speed() -> list[dict[str, object]]:
    flat = flatten(graphs.independent(8000))
    start = time.perf_counter()
    lpmf(flat)
    rows: list[dict[str, object]] = [
        {"graph": "lpmf alone, 8k independent nodes", "nodes": 8000, "seconds": time.perf_counter() - start}
    ]
    for n in (1_000, 10_000, 100_000):
        for shape in ("training", "checkpointed", "backward", "layered"):
            graph = graphs.make(shape, 1, n)
            result, seconds = run(graph)
            rows.append(
                {
                    "graph": shape,
                    "nodes": len(graph.nodes),
                    "seconds": seconds,
                    "status": result.status,
                    "gap": result.gap,
                    "classic over ours": min(result.candidates[x] for x in CLASSIC) / max(1, result.peak),
                    "stopped by": result.stopped_by,
                    "resident MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
                }
            )
            del graph
    rows[0] |= {x: "" for x in rows[1] if x not in rows[0]}
    return rows


def randomly(count: int) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for low, high in ((8, 20), (40, 60)):
        totals: list[OrderResult] = []
        for shape in graphs.SHAPES:
            found, seconds, classic = [], [], []
            for seed in range(count):
                graph = graphs.make(shape, seed, random.Random(seed).randint(low, high))
                result, took = run(graph)
                found.append(result)
                seconds.append(took)
                classic.append(min(result.candidates[x] for x in CLASSIC) / max(1, result.peak) - 1)
            totals += found
            rows.append(line(f"{shape} {low}-{high}", found) | spread(seconds, classic))
        rows.append(line(f"all {low}-{high}", totals) | dict.fromkeys(spread([0.0], [0.0]), ""))
    return rows


def line(name: str, found: list[OrderResult]) -> dict[str, object]:
    rest = [r.gap for r in found if r.status != "OPTIMAL"]
    return {
        "graphs": name,
        "count": len(found),
        "proved": f"{sum(r.status == 'OPTIMAL' for r in found) / len(found):.1%}",
        "mean gap of the rest": statistics.mean(rest) if rest else 0.0,
    }


def spread(seconds: list[float], classic: list[float]) -> dict[str, object]:
    return {
        "classic above ours, mean": statistics.mean(classic),
        "classic wrong": f"{sum(x > 0 for x in classic) / len(classic):.0%}",
        "seconds, median": statistics.median(seconds),
        "seconds, worst": max(seconds),
    }


def corpus(folder: Path) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for file in sorted(folder.rglob("*.json")):
        graph = load(file)
        result, seconds = run(graph)
        row: dict[str, object] = {"graph": str(file.relative_to(folder).with_suffix("")), "nodes": len(graph.nodes)}
        row |= {x: result.candidates[x] for x in CLASSIC}
        row |= {"ours": result.peak, "bound": result.lower_bound, "by": result.bound_name, "status": result.status}
        rows.append(row | {"gap": result.gap, "seconds": seconds})
    if rows:
        proved = sum(row["status"] == "OPTIMAL" for row in rows)
        print(f"{proved} of {len(rows)} proved optimal\n")
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "random", "corpus"))
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--count", type=int, default=50)
    parser.add_argument("--json", type=Path)
    words = parser.parse_args()
    if words.what == "corpus" and words.folder is None:
        parser.error("corpus needs a folder")
    rows = {"speed": speed, "random": lambda: randomly(words.count), "corpus": lambda: corpus(words.folder)}[
        words.what
    ]()
    table(rows)
    if words.json is not None:
        words.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()

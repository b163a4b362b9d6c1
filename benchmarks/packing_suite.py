"""Packing of the suite's captured graphs: forward, backward and joint, with PyTorch Inductor's allocation tree beside ours.

    python -m benchmarks.packing_suite [--only gpt2 resnet50] [--variants plain chunked-loss] [--reorder] [--html DIR]
    python -m benchmarks.packing_suite --by-packer [--only gpt2 resnet50] [--variants plain]

Every storage that the graph counts is a buffer, results that library calls allocate themselves included; storages that
continue in one another's bytes are one. Alignment 64. The same buffers and lifetimes go to Lowtide (with as many search steps as
the compiler gives itself), to its greedy packers alone, and to Inductor's own classes (``torch._inductor``; the column stays
empty where torch is not installed). ``--by-packer``: what each packer reaches by itself, and which one the automatic choice
takes. Every placement of ours is checked. Prints Markdown.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import platform
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

from benchmarks.order_corpus import FOLDER, parts, read

from lowtide.core.units import align_up
from lowtide.memory.graph import MemoryGraph
from lowtide.memory.lifetime import Lifetime, lifetimes
from lowtide.order.engine import reorder
from lowtide.plan import compiled
from lowtide.plan.check import check
from lowtide.plan.flat import flatten, lower_bound
from lowtide.plan.pack import PACKERS, pack
from lowtide.plan.problem import PackBuffer, PackProblem
from lowtide.report.packing import page

ALIGNMENT = 64
NODES, MORE = 2000, 8  # search steps, as plan.chains
BY_ITSELF = ("tree", "size", "time", "exact")  # packers asked one at a time


def problem_of(graph: MemoryGraph, order: Sequence[int] | None = None) -> PackProblem:
    """One buffer per chain of storages that take each other over, sizes rounded up to the alignment."""
    chains: dict[str, list[Lifetime]] = {}
    root: dict[str, str] = {}
    for a in sorted(lifetimes(graph, order), key=lambda x: x.first):
        root[a.name] = root[a.takes_over] if a.takes_over is not None else a.name
        chains.setdefault(root[a.name], []).append(a)
    buffers = [
        PackBuffer(name, align_up(m[0].nbytes, ALIGNMENT), ((m[0].first, max(x.end for x in m)),), ALIGNMENT)
        for name, m in chains.items()
        if m[0].nbytes
    ]
    return PackProblem(tuple(buffers))


def inductor_tree(problem: PackProblem) -> str:
    """Bytes over the bound of all pools that Inductor's planner makes of the same buffers; empty without torch. Where its
    recursion is deeper than Python allows, it is tried again with a limit and a stack of its own, marked with +."""
    if importlib.util.find_spec("torch") is None:
        return ""
    bound = lower_bound(flatten(problem))
    try:
        return f"{_tree(problem) / bound:.3f}"
    except RecursionError:
        found: list[int] = []
        limit = sys.getrecursionlimit()
        sys.setrecursionlimit(1_000_000)
        threading.stack_size(1 << 29)
        deep = threading.Thread(target=lambda: found.append(_tree(problem)))
        deep.start()
        deep.join()
        threading.stack_size(0)
        sys.setrecursionlimit(limit)
        return f"{found[0] / bound:.3f}+"


def _tree(problem: PackProblem) -> int:
    own = importlib.import_module("torch._inductor.codegen.memory_planning")
    device = importlib.import_module("torch").device("cpu")
    blocks = []
    for b in problem.buffers:
        node = SimpleNamespace(get_layout=lambda n=b.size: SimpleNamespace(size=[n]), get_device=lambda: device)
        blocks.append(own.Allocation(node, own.LiveRange(*b.intervals[0]), b.size, b.size))
    pools = own.AllocationPools()
    for block in sorted(blocks, key=lambda x: (-x.size_hint, -len(x.live_range))):
        pools.allocate(block)
    return sum(pool.root.get_size_hint() for pool in pools.device_to_pools.get(device, ()))


def rows(files: Sequence[Path], again: bool, html: Path | None) -> None:
    """A line per graph, and how many of them are at their bound."""
    print("| graph | part | steps | buffers | bound, MiB | best greedy | Lowtide | packer | CPU ms | Inductor's tree |")
    print("|-|-|-:|-:|-:|-:|-:|-|-:|-:|")
    gaps: list[float] = []
    for file in files:
        for part, graph in parts(read(file)).items():
            order = reorder(graph, budget_steps=20_000).order if again else None
            problem = problem_of(graph, order)
            if not problem.buffers:
                continue
            began = time.process_time()
            found = pack(problem, seconds=60, nodes=NODES + MORE * len(problem.buffers), packers=(*PACKERS, "exact"))
            taken = 1000 * (time.process_time() - began)
            check(problem, found.offsets, height=found.height)
            greedy = min(h for packer, h in found.tried if packer.partition("/")[0] in PACKERS)
            bound = found.lower_bound
            gaps.append(found.gap)
            name = file.name.partition(".json")[0]
            print(
                f"| {name} | {part} | {len(graph.nodes)} | {len(problem.buffers)} | {bound / 2**20:.1f} "
                f"| {greedy / bound:.4f} | {found.height / bound:.4f}{'=' if found.status == 'OPTIMAL' else ''} "
                f"| {found.packer} | {taken:.0f} | {inductor_tree(problem)} |",
                flush=True,
            )
            if html is not None:
                html.mkdir(parents=True, exist_ok=True)
                (html / f"{name}-{part}.html").write_text(page(problem, found, name), encoding="utf-8")
    at_bound = sum(g == 0 for g in gaps)
    print(f"\n{at_bound} of {len(gaps)} graphs at their bound; largest gap {max(gaps, default=0):.5%}.")


def by_packer(files: Sequence[Path]) -> None:
    """A line per graph with the height over the bound of each packer alone and of the automatic choice."""
    print(f"| graph | part | buffers | bound, MiB | {' | '.join(BY_ITSELF)} | chosen | packer |")
    print(f"|-|-|-:|-:|{'-:|' * len(BY_ITSELF)}-:|-|")
    at_bound = dict.fromkeys((*BY_ITSELF, "chosen"), 0)
    for file in files:
        for part, graph in parts(read(file)).items():
            problem = problem_of(graph)
            nodes = NODES + MORE * len(problem.buffers)
            found = {name: pack(problem, seconds=60, nodes=nodes, packers=(name,)) for name in BY_ITSELF}
            found["chosen"] = pack(problem, seconds=60, nodes=nodes)
            for packer, result in found.items():
                check(problem, result.offsets, height=result.height)
                at_bound[packer] += result.gap == 0
            figures = " | ".join(f"{1 + r.gap:.4f}" for r in found.values())
            bound = found["chosen"].lower_bound / 2**20
            print(
                f"| {file.name.partition('.json')[0]} | {part} | {len(problem.buffers)} | {bound:.1f} | {figures} "
                f"| {found['chosen'].packer} |",
                flush=True,
            )
    print(f"\nAt the bound: {', '.join(f'{packer} {n}' for packer, n in at_bound.items())}.")


def main() -> None:
    """Read the command line and print the table."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--only", nargs="+", default=[], metavar="MODEL")
    words.add_argument("--variants", nargs="+", default=["plain", "checkpointed", "chunked-loss"])
    words.add_argument("--reorder", action="store_true", help="in the order engine's order instead of program order")
    words.add_argument("--html", type=Path, metavar="DIR", help="a picture of every plan")
    words.add_argument("--by-packer", action="store_true", help="each packer by itself, in program order")
    given = words.parse_args()
    files = [f for f in sorted(FOLDER.glob("*.json.gz")) if not given.only or f.name.partition("-")[0] in given.only]
    files = [f for f in files if f.name.partition("-")[2].partition(".")[0].split("-", 1)[0] in "".join(given.variants)]
    print(
        f"Python {platform.python_version()}, {platform.machine()}, compiled search: {compiled.library() is not None}\n"
    )
    if given.by_packer:
        by_packer(files)
    else:
        rows(files, given.reorder, given.html)


if __name__ == "__main__":
    main()

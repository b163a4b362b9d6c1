"""Packing: minimalloc's eleven instances and random families, with competitors where they are installed.

    python benchmarks/packing.py instances [--seconds 40] [--only DJ] [--competitors 10]
    python benchmarks/packing.py families [--seconds 10]
    python benchmarks/packing.py shapes [--counts 1000] [--lives mixed] [--seed 8]

Prints Markdown tables. Times are CPU seconds of this process unless a column says wall. Every placement is checked before
it is counted (above 20,000 buffers by a sweep over time instead of the quadratic checker). CP-SAT comes from OR-tools,
the others from the package omnimalloc; both are optional.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import platform
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from lowtide.ir.symbolic import evaluate, parse_dim
from lowtide.plan import compiled
from lowtide.plan.check import check
from lowtide.plan.cpsat import pack_cpsat
from lowtide.plan.flat import flatten, lower_bound
from lowtide.plan.pack import PACKERS, pack
from lowtide.plan.pools import Pool, plan_pools
from lowtide.plan.problem import PackBuffer, PackProblem, PackResult
from lowtide.plan.problem_csv import parse_csv
from lowtide.plan.ranges import live_in
from lowtide.plan.replan import replanner
from lowtide.plan.tree import Request

HERE = Path(__file__).parent
CAPACITY = 1 << 20


def instances(only: str) -> list[tuple[str, PackProblem]]:
    files = sorted((HERE / "problems").glob("*.csv"))
    return [(f.name[0], parse_csv(f.read_text(), f.name)) for f in files if f.name[0] in only]


def measured(run: Callable[[], PackResult]) -> tuple[PackResult, float, float]:
    """Result, CPU seconds, wall seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = run()
    return result, time.process_time() - cpu, time.perf_counter() - wall


def at_capacity(only: str) -> None:
    print(f"\n### At capacity {CAPACITY:,}\n")
    print("| | buffers | bound / capacity | CPU ms | steps | height / bound | status |\n|-|-:|-:|-:|-:|-:|-|")
    total = 0.0
    for name, problem in instances(only):
        capped = PackProblem(problem.buffers, CAPACITY)
        result, cpu, _ = measured(lambda capped=capped: pack(capped, seconds=60))
        check(capped, result.offsets, height=result.height)
        total += cpu
        bound = lower_bound(flatten(problem))
        print(
            f"| {name} | {len(problem.buffers)} | {bound / CAPACITY:.3f} | {1000 * cpu:.0f} | {result.nodes} "
            f"| {result.height / bound:.4f} | {result.status} |"
        )
    print(f"\nAll together: {total:.2f} s of CPU, greedy packers and problem set-up included.")


def minimising(only: str, seconds: float, rivals: float) -> None:
    names = list(omnimalloc_packers()) if rivals else []
    columns = ["CP-SAT"] * bool(rivals and has("ortools")) + names
    print(f"\n### As few bytes as possible, {seconds:g} s each (rivals: {rivals:g} s each)\n")
    print("Height over the lower bound; `=` means proved least.\n")
    print("| | best greedy | Lowtide | CPU s | " + "".join(f"{c} | " for c in columns))
    print("|-|-:|-:|-:|" + "-:|" * len(columns))
    for name, problem in instances(only):
        bound = lower_bound(flatten(problem))
        result, cpu, _ = measured(lambda p=problem: pack(p, seconds=seconds))
        check(problem, result.offsets, height=result.height)
        greedy = min(h for packer, h in result.tried if packer.partition("/")[0] in PACKERS)
        mark = "=" if result.status == "OPTIMAL" else ""
        row = [name, f"{greedy / bound:.3f}", f"{result.height / bound:.4f}{mark}", f"{cpu:.2f}"]
        if rivals and has("ortools"):
            other = pack_cpsat(problem, seconds=rivals, workers=2)
            check(problem, other.offsets, height=other.height if other.offsets else None) if other.offsets else None
            row.append(
                f"{other.height / bound:.3f}{'=' if other.status == 'OPTIMAL' else ''}" if other.offsets else "none"
            )
        row += [rival(run, problem, bound) for run in omnimalloc_packers(rivals).values()] if rivals else []
        print("| " + " | ".join(row) + " |", flush=True)


def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def omnimalloc_packers(seconds: float = 1.0) -> dict[str, Callable[[PackProblem], dict[str, int]]]:
    """Packers of omnimalloc by name; empty where it is not installed."""
    if not has("omnimalloc"):
        return {}
    omni = importlib.import_module("omnimalloc")
    kinds = importlib.import_module("omnimalloc.allocators")

    def runner(allocator: object) -> Callable[[PackProblem], dict[str, int]]:
        def run(problem: PackProblem) -> dict[str, int]:
            rows = [omni.Allocation(b.id, b.size, b.intervals[0][0], b.intervals[-1][1]) for b in problem.buffers]
            return {str(a.id): a.offset for a in omni.allocate(rows, allocator)}

        return run

    omni.set_max_threads(2)
    return {
        "omnimalloc supermalloc": runner(kinds.SupermallocAllocator(timeout=seconds)),
        "omnimalloc best-fit": runner(kinds.BestFitAllocator()),
        "omnimalloc hill-climb": runner(kinds.HillClimbAllocator()),
    }


def rival(run: Callable[[PackProblem], dict[str, int]], problem: PackProblem, bound: int) -> str:
    try:
        offsets = run(problem)
    except (RuntimeError, ValueError, TimeoutError) as e:
        return f"none ({type(e).__name__})"
    height = max(offsets[b.id] + b.size for b in problem.buffers)
    check(problem, offsets, height=height)
    return f"{height / bound:.3f}"


# ---- random families ------------------------------------------------------------------------------------------------


def family(kind: str, n: int, alignment: int = 64, seed: int = 1) -> PackProblem:
    """A random problem; each family stresses something else."""
    draw = random.Random(f"{kind}{n}{seed}")
    rows: list[tuple[int, int, int]] = []
    for i in range(n):
        size, (first, end) = draw.randint(1, 1 << 20), sorted((draw.randrange(n), draw.randrange(n)))
        if kind == "nested":
            first, end = i, 2 * n - i
        elif kind == "staircase":
            first, end = i, i + 1 + n // 50
        elif kind == "powers of two":
            size = 1 << draw.randint(8, 20)
        elif kind == "many equal":
            size = 4096 * draw.choice((1, 1, 1, 2, 16))
        elif kind == "huge plus tiny":
            size = draw.choice((1 << 24, *(64,) * 40))
        elif kind == "short lives":
            end = first + draw.randint(1, 40)
        rows.append((size, first, max(end, first + 1)))
    if kind == "training":
        rows = training(n, draw)
    return PackProblem(tuple(PackBuffer(f"{i}", s, ((a, z),), alignment) for i, (s, a, z) in enumerate(rows)))


def training(n: int, draw: random.Random) -> list[tuple[int, int, int]]:
    """Per layer a saved tensor that lives from forward to its backward, temporaries on both sides, and gradients."""
    layers = -(-n // 5)
    sizes = [draw.choice((1, 2, 3, 4, 6, 8, 12, 16)) * draw.choice((4096, 65536, 262144)) + 64 * k for k in range(24)]
    rows: list[tuple[int, int, int]] = []
    for i in range(layers):
        back = 2 * layers - i
        rows += [
            (draw.choice(sizes), i, back),
            (draw.choice(sizes), i, i + draw.randint(1, 3)),
            (draw.choice(sizes), back - 1, back + draw.randint(1, 3)),
            (draw.choice(sizes), back - 1, back + draw.randint(1, 6)),
            (draw.choice(sizes), max(0, i - draw.randint(0, 30)), i + 1),
        ]
    return rows[:n]


def sound(problem: PackProblem, offsets: dict[str, int]) -> bool:
    """Checked by a sweep over time that keeps what is alive sorted by offset: n log n, for very many buffers."""
    import bisect

    events = sorted((t, kind, i) for i, b in enumerate(problem.buffers) for t, kind in ((b.intervals[0][0], 1), (b.intervals[0][1], 0)))  # fmt: skip  # noqa: E501
    alive: list[tuple[int, int]] = []
    for _, kind, i in events:
        b = problem.buffers[i]
        entry = (offsets[b.id], offsets[b.id] + b.size)
        k = bisect.bisect_left(alive, entry)
        if kind == 0:
            alive.pop(k)
            continue
        if (k > 0 and alive[k - 1][1] > entry[0]) or (k < len(alive) and alive[k][0] < entry[1]):
            return False
        alive.insert(k, entry)
    return True


def families(seconds: float, counts: list[int]) -> None:
    print(f"\n### Random families, at most {seconds:g} s each\n")
    print("| family | buffers | alignment | first packer | its CPU s | final height / bound | packer | CPU s |")
    print("|-|-:|-:|-:|-:|-:|-|-:|")
    kinds = (
        "uniform",
        "nested",
        "staircase",
        "powers of two",
        "many equal",
        "huge plus tiny",
        "short lives",
        "training",
    )
    for n in counts:
        for kind in kinds:
            for alignment in (1, 64, 512) if n <= 1000 else (64,):
                problem = family(kind, n, alignment)
                first = "size" if n <= 30_000 else "time"
                one, cpu_one, _ = measured(lambda p=problem, f=first: pack(p, seconds=60, packers=(f,)))
                result, cpu, _ = measured(lambda p=problem: pack(p, seconds=seconds))
                assert sound(problem, result.offsets)
                print(
                    f"| {kind} | {n} | {alignment} | {one.height / one.lower_bound:.4f} | {cpu_one:.2f} "
                    f"| {result.height / result.lower_bound:.4f}{'=' if result.status == 'OPTIMAL' else ''} "
                    f"| {result.packer} | {cpu:.2f} |",
                    flush=True,
                )


# ---- sizes that vary ------------------------------------------------------------------------------------------------

_IN_PYTHON = 25  # shapes that are also placed without a compiler


def lives(kind: str, n: int, draw: random.Random) -> list[tuple[int, int]]:
    """Lifetimes of buffers whose sizes vary."""
    if kind == "training":
        return [(a, max(z, a + 1)) for _, a, z in training(n, draw)]
    if kind == "uniform":
        return [tuple(sorted(draw.sample(range(2 * n), 2))) for _ in range(n)]  # type: ignore[misc]
    return [(i, i + draw.randint(1, 4 if kind == "short" else 40)) for i in range(n)]


LIVES = ("short", "mixed", "training", "uniform")


def shapes(n: int, count: int, kinds: Sequence[str], seed: int) -> None:
    """The allocation tree (offsets are expressions) and planning anew, at the hint and at other shapes."""
    forms = [parse_dim(t) for t in ("(s0*s1*16)", "(s0*s1*64)", "(s0*4096)", "(s1*4096)", "(s0*1024)")]
    print(f"\n### {n} buffers planned at (16, 16), height / bound there and at {count} shapes; CPU ms per shape\n")
    print(
        "| lives | where | tree mean | tree worst | anew mean | anew worst | -Og ms, median | worst | -O3 ms, median "
        "| worst | in Python ms, median | worst | height, worst |"
    )
    print("|-|-|-:|-:|-:|-:|-:|-:|-:|-:|-:|-:|-:|")
    for kind in kinds:
        draw = random.Random(seed)
        dims, spans = [draw.choice(forms) for _ in range(n)], lives(kind, n, draw)
        hint = {"s0": 16, "s1": 16}
        rows = [
            Request(f"b{i}", d, evaluate(d, hint), live_in([span]))
            for i, (d, span) in enumerate(zip(dims, spans, strict=True))
        ]
        pools = plan_pools(rows) if n <= 300 else ()
        problem = PackProblem(tuple(PackBuffer(r.name, r.hint, (r.ranges.spans[0],)) for r in rows))
        ways = [replanner(problem, long=long) for long in (False, True)] + [replanner(problem, native=False)]
        elsewhere = [{"s0": draw.randint(1, 128), "s1": draw.randint(1, 128)} for _ in range(count)]
        for where, cases in (("hint", [hint]), ("elsewhere", elsewhere)):
            tree, again, in_python = list[float](), list[float](), list[float]()
            ms: list[list[float]] = [[], [], []]
            for k, sizes in enumerate(cases):
                wanted = [evaluate(d, sizes) for d in dims]
                got = None
                for way, taken in zip(ways, ms, strict=True):
                    if way is ways[-1] and k >= _IN_PYTHON:
                        continue
                    began = time.process_time()
                    found = way(wanted)
                    taken.append(1000 * (time.process_time() - began))
                    got = got or found
                    if way is ways[-1]:
                        in_python.append(found.height / found.lower_bound)
                assert got is not None
                sized = PackProblem(tuple(replace(b, size=s) for b, s in zip(problem.buffers, wanted, strict=True)))
                assert sound(sized, {b.id: x for b, x in zip(sized.buffers, got.offsets, strict=True)})
                again.append(got.height / got.lower_bound)
                tree += [_tree_bytes(pools, sizes) / got.lower_bound] if pools else []
            shown = f"{sum(tree) / len(tree):.3f} | {max(tree):.3f}" if tree else "|"
            times = " | ".join(f"{sorted(x)[len(x) // 2]:.1f} | {max(x):.1f}" for x in ms)
            print(
                f"| {kind} | {where} | {shown} | {sum(again) / len(again):.4f} | {max(again):.4f} | {times} "
                f"| {max(in_python):.4f} |",
                flush=True,
            )


def _tree_bytes(pools: Sequence[Pool], sizes: Mapping[str, int]) -> int:
    total = 0
    for pool in pools:
        known = dict(sizes)
        for name, d in pool.sizes:
            known[name] = evaluate(d, known)
        total += evaluate(pool.nbytes, known)
    return total


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("what", choices=("instances", "families", "shapes"))
    words.add_argument("--seconds", type=float, default=40.0)
    words.add_argument("--only", default="ABCDEFGHIJK")
    words.add_argument("--competitors", type=float, default=0.0, help="seconds for each rival; 0 leaves them out")
    words.add_argument("--counts", type=int, nargs="+", help="buffers; of random families and of shapes")
    words.add_argument("--lives", choices=LIVES, nargs="+", default=LIVES, help="of shapes")
    words.add_argument("--seed", type=int, default=7, help="of shapes: another draws other lives, sizes and shapes")
    given = words.parse_args()
    print(
        f"Python {platform.python_version()}, {platform.machine()}, compiled search: {compiled.library() is not None}"
    )
    if given.what == "instances":
        at_capacity(given.only)
        minimising(given.only, given.seconds, given.competitors)
    elif given.what == "families":
        families(given.seconds, given.counts or [1000, 20_000, 100_000])
    else:
        for n in given.counts or (300, 1000):
            shapes(n, 100, given.lives, given.seed)


if __name__ == "__main__":
    main()

"""The run-time planner beside eager: peaks and step times of programs whose sizes vary, and of convolution networks.

    python -m benchmarks.runtime [--quick] [--part programs|networks] [--only detection ...]

Per program: eager, the first planned run and the tenth, at one size, at sizes that change in every step and come again, and
with arguments drawn anew for every step. Peak is the most bytes that the framework's CPU allocator held over what was there
before the step. Storage groups and packed offsets are set beside the lower bound at the same sizes. A step time is the best of
eager's, and that times the median ratio of interleaved rounds.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from benchmarks.varying import Varying, programs
from torch import nn

import lowtide
from lowtide.core.units import format_bytes
from lowtide.runtime.measure import measure

warnings.filterwarnings("ignore", category=FutureWarning)


@dataclass(frozen=True)
class Row:
    name: str
    eager_peak: int
    first_peak: int
    tenth_peak: int
    packed: int
    groups: int
    bound: int
    eager_us: float
    first_us: float
    tenth_us: float
    varying_eager_us: float
    varying_us: float
    fresh: float


def timed(calls: list[Callable[[], Any]], rounds: int, seconds: float) -> list[float]:
    """Microseconds per call: the median over rounds of the ratio to the first one, times the first one's best. Who begins
    is another one in every round."""
    counts = []
    for call in calls:
        call()
        begin = time.perf_counter()
        call()
        counts.append(max(1, int(seconds / max(time.perf_counter() - begin, 1e-6))))
    found: list[list[float]] = [[] for _ in calls]
    for r in range(rounds):
        for k in _turns(len(calls), r):
            begin = time.perf_counter()
            for _ in range(counts[k]):
                calls[k]()
            found[k].append((time.perf_counter() - begin) / counts[k] * 1e6)
    base = min(found[0])
    return [base * statistics.median(b / a for a, b in zip(found[0], other, strict=True)) for other in found]


def _turns(count: int, r: int) -> list[int]:
    """Who is measured in round ``r``, one after the other."""
    return [(k + r) % count for k in range(count)]


def drawn_anew(p: Varying, call: Callable[..., Any], rounds: int) -> float:
    """The median ratio to eager's time where no step has the arguments of an earlier one: sizes that data decides seldom come
    again."""
    found = []
    for r in range(rounds):
        given = [p.draw(3 + k % 7) for k in range(100)]
        took = [0.0, 0.0]
        for k in _turns(2, r):
            f = (p.module, call)[k]
            begin = time.perf_counter()
            for one in given:
                f(*one)
            took[k] = time.perf_counter() - begin
        found.append(took[1] / took[0])
    return statistics.median(found)


def row_of(p: Varying, rounds: int, seconds: float) -> Row:
    torch.manual_seed(0)  # the same arguments whatever ran before
    exported = p.exported()
    args = p.draw(6)
    others = [p.draw(3 + k % 7) for k in range(21)]
    call = lowtide.plan_at_run_time(exported, tight=True)
    took: list[float] = []

    def first_run() -> None:
        begin = time.perf_counter()
        call(*args)
        took.append((time.perf_counter() - begin) * 1e6)

    first = measure(first_run).peak_nbytes
    for _ in range(8):
        call(*args)
    tenth = measure(lambda: call(*args)).peak_nbytes
    told = call.told()
    groups = lowtide.plan_at_run_time(exported, strategy="groups")
    for _ in range(4):
        groups(*args)
    eager_peak = measure(lambda: p.module(*args)).peak_nbytes
    eager_us, tenth_us = timed([lambda: p.module(*args), lambda: call(*args)], rounds, seconds)
    varying = lowtide.plan_at_run_time(exported)
    for one in others * 3:
        varying(*one)

    def all_of(f: Callable[..., Any]) -> Callable[[], None]:
        def run() -> None:
            for one in others:
                f(*one)

        return run

    changing = [t / len(others) for t in timed([all_of(p.module), all_of(varying)], rounds, seconds)]
    return Row(
        p.name, eager_peak, first, tenth, told.slab_nbytes, groups.told().slab_nbytes, told.bound_nbytes,
        eager_us, took[0], tenth_us, *changing, drawn_anew(p, varying, rounds),
    )  # fmt: skip


def peaks(rows: list[Row]) -> str:
    """Peaks and slabs."""
    out = [
        "| program | peak: eager | first run | tenth | slab: packed (/ bound) | groups (/ bound) | bound |",
        "|-|-|-|-|-|-|-|",
    ]
    for r in rows:
        share, far = (f"{n / r.bound:.{digits}f}" if r.bound else "-" for n, digits in ((r.packed, 3), (r.groups, 2)))
        out.append(
            f"| {r.name} | {format_bytes(r.eager_peak)} | {format_bytes(r.first_peak)} | {format_bytes(r.tenth_peak)} "
            f"| {format_bytes(r.packed)} ({share}) | {format_bytes(r.groups)} ({far}) | {format_bytes(r.bound)} |"
        )
    return "\n".join(out)


def times(rows: list[Row]) -> str:
    """Step times."""
    out = [
        "| program | step, µs: eager | first run, ms | tenth run, µs | ratio | sizes that change in every step, µs: eager "
        "| planned | ratio | arguments drawn anew: ratio |",
        "|-|-|-|-|-|-|-|-|-|",
    ]
    for r in rows:
        out.append(
            f"| {r.name} | {r.eager_us:.0f} | {r.first_us / 1000:.0f} | {r.tenth_us:.0f} | {r.tenth_us / r.eager_us:.2f} "
            f"| {r.varying_eager_us:.0f} | {r.varying_us:.0f} | {r.varying_us / r.varying_eager_us:.2f} | {r.fresh:.2f} |"
        )
    return "\n".join(out)


def convolutions(rounds: int, seconds: float, quick: bool, only: list[str]) -> str:
    """Eager networks with all their allocations placed."""
    out = [
        "| network | live bound | peak: eager | placed | placed / bound | caching allocator (model) | step, ms: eager "
        "| placed | ratio |",
        "|-|-|-|-|-|-|-|-|-|",
    ]
    for name, net, x in networks(quick):
        if only and name not in only:
            continue
        call = lowtide.place_allocations(net)
        for _ in range(3):
            call(x)
        trace = call.trace(x)
        assert trace is not None
        eager, placed = measure(lambda net=net, x=x: net(x)), measure(lambda call=call, x=x: call(x))
        a, b = timed([lambda net=net, x=x: net(x), lambda call=call, x=x: call(x)], rounds, seconds)
        out.append(
            f"| {name} | {format_bytes(trace.lower_bound)} | {format_bytes(eager.peak_nbytes)} "
            f"| {format_bytes(placed.peak_nbytes)} | {placed.peak_nbytes / trace.lower_bound:.4f} "
            f"| {format_bytes(trace.caching_nbytes)} | {a / 1e3:.1f} | {b / 1e3:.1f} | {b / a:.2f} |"
        )
    return "\n".join(out)


def networks(quick: bool) -> list[tuple[str, nn.Module, torch.Tensor]]:
    """torchvision's, where it is installed; see docs/benchmarks.md."""
    try:
        from benchmarks.suite.library import torchvision_package

        models = torchvision_package().models
    except ImportError:
        plain = nn.Sequential(
            nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.ReLU(), nn.MaxPool2d(2)
        ).eval()
        return [("four layers", plain, torch.randn(4, 3, 128, 128))]
    names = (
        ("resnet18", "mobilenet_v3_small")
        if quick
        else ("resnet50", "mobilenet_v3_large", "densenet121", "convnext_tiny")
    )
    return [(n, getattr(models, n)().eval(), torch.randn(4, 3, 128, 128)) for n in names]


def main(words: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="few rounds, small sizes")
    parser.add_argument("--part", choices=("programs", "networks"), help="only one of the two tables")
    parser.add_argument("--only", nargs="*", default=[], help="names of programs and networks; none: all of them")
    chosen = parser.parse_args(words)
    torch.set_num_threads(2)
    rounds, seconds, scale = (3, 0.02, 1) if chosen.quick else (9, 0.1, 4)
    known = (
        [*(p.name for p in programs(scale)), *(name for name, _, _ in networks(chosen.quick))] if chosen.only else []
    )
    if unknown := sorted(set(chosen.only) - set(known)):
        parser.error(f"--only: there is no {', '.join(unknown)}; known: {', '.join(known)}")
    with torch.no_grad():
        if chosen.part != "networks":
            wanted = [p for p in programs(scale) if not chosen.only or p.name in chosen.only]
            rows = [row_of(p, rounds, seconds) for p in wanted]
            print(f"{peaks(rows)}\n\n{times(rows)}", flush=True)
        if chosen.part != "programs":
            print(f"\n{convolutions(rounds, seconds, chosen.quick, chosen.only)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Predicted bytes beside measured ones, step by step, on the suite's models.

    python -m benchmarks.live [--size bench] [--modes train infer] [--only gpt2 ...] [--kernels aten]
    python -m benchmarks.live --docs              the same, into docs/benchmarks/order.md; rows of earlier runs stay

For each model one iteration of the compiled program is followed line by line while PyTorch's CPU allocator is counted.
``estimate``: the peak of the order engine's timeline, with in-place reuse, in the order that runs. ``promised``: the peak of
the plan, which puts storages into slabs. ``measured``: the allocator's. Steps are compared one
by one; ``off`` is the largest difference, of measured over predicted bytes.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import platform
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from benchmarks.order import PAGE, Row, table
from benchmarks.suite.entry import without_dropout
from benchmarks.suite.library import LIBRARY
from benchmarks.suite.models import MODELS, missing

import lowtide.backend
from lowtide.analysis import iteration_peak
from lowtide.by_step import by_step
from lowtide.memory.lifetime import timeline
from lowtide.runtime.records import Calls, Planned, records
from lowtide.schedule.schedule import memory_graph

BEGIN, END = "<!-- live: begin -->\n", "<!-- live: end -->\n"
KEPT = PAGE.parents[2] / "out/live.json"  # so that parts can be measured again
NAMES = [entry.name for entry in LIBRARY]


def iteration(name: str, mode: str, size: str, options: dict[str, object]) -> Callable[[], object]:
    """One iteration of a compiled model, warmed up; gradients stay."""
    case = MODELS[name].build(size)  # type: ignore[arg-type]
    module, given, loss = without_dropout(case.module).train(mode == "train"), dict(case.inputs), case.loss
    torch._dynamo.reset()
    lowtide.backend._reset()
    compiled = torch.compile(lambda: loss(module(**given)), backend="lowtide", options=options)

    def train() -> None:
        compiled().backward()

    @torch.no_grad()
    def infer() -> object:
        return compiled()

    run = train if mode == "train" else infer
    for _ in range(2):
        run()
        module.zero_grad()
    return run


def estimate(run: Callable[[], object]) -> int:
    """Peak of the timelines of all graphs of an iteration, one allocation for every storage that is not in place."""
    with Calls() as log:
        run()
    as_estimated: dict[int, Planned] = {}
    for planned in {id(c.planned): c.planned for c in log.calls}.values():
        live = timeline(memory_graph(planned.schedule)).live
        as_estimated[id(planned)] = replace(planned, plan=replace(planned.plan, live=live, slabs=()))
    return iteration_peak([replace(c, planned=as_estimated[id(c.planned)]) for c in log.calls])


def measured(name: str, mode: str, size: str, options: dict[str, object]) -> Row:
    run = iteration(name, mode, size, options)
    gc.collect()
    rows = by_step(run)
    gc.collect()
    estimated = estimate(run)
    unplanned = [why for r in records() for why in (r.fallback, *r.captured.values()) if why is not None]
    assert not unplanned, unplanned
    predicted, found = max(r.predicted for r in rows), max(r.measured for r in rows)
    off = max(rows, key=lambda r: abs(r.measured - r.predicted))
    return {
        "model": f"{name}, {mode}",
        "steps": len(rows),
        "estimate": f"{estimated / 2**20:.2f}",
        "promised": f"{predicted / 2**20:.2f}",
        "measured": f"{found / 2**20:.2f}",
        "estimate / measured": f"{estimated / found:.6f}",
        "promised / measured": f"{predicted / found:.6f}",
        "off, bytes": off.measured - off.predicted,
        "steps off by over 1 %": sum(abs(r.measured - r.predicted) > 0.01 * r.measured for r in rows),
        "names alive or dead against the plan": sum(len(r.missing) + len(r.stray) for r in rows),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "bench"), default="bench")
    parser.add_argument("--modes", nargs="*", choices=("train", "infer"), default=["train", "infer"])
    parser.add_argument("--only", nargs="*", default=NAMES)
    parser.add_argument("--kernels", help="what computes: an option of the backend")
    parser.add_argument("--docs", action="store_true")
    words = parser.parse_args()
    warnings.simplefilter("ignore", FutureWarning)  # of the model libraries
    torch.set_num_threads(2)
    options: dict[str, object] = {} if words.kernels is None else {"kernels": words.kernels}
    rows: dict[str, Row] = json.loads(KEPT.read_text()) if KEPT.exists() and words.docs else {}
    for name in words.only:
        if why := missing(MODELS[name]):
            print(why)
            continue
        for mode in words.modes:
            row = measured(name, mode, words.size, options)
            rows[str(row["model"])] = row
            print(row, flush=True)
            if words.docs:
                KEPT.parent.mkdir(exist_ok=True)
                KEPT.write_text(json.dumps(rows, indent=1))
    wanted = [f"{name}, {mode}" for mode in ("train", "infer") for name in NAMES]
    text = table([rows[x] for x in wanted if x in rows])
    print(f"\n{text}")
    if words.docs:
        when = f"Measured {datetime.date.today()}, torch {torch.__version__}, Python {platform.python_version()}, two threads, "
        when += f"the suite's `{words.size}` sizes, peaks in MiB, by `python -m benchmarks.live --docs`.\n\n"
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        PAGE.write_text(f"{before}{BEGIN}\n{when}{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()

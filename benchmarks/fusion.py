"""Captured graphs through lowering, fusion, order and plan: kernels, peaks and seconds, beside the figures of before.

    python -m benchmarks.fusion                        # the table, new against benchmarks/corpus/fusion.json
    python -m benchmarks.fusion --accept               # and keep the new figures as the old ones
    python -m benchmarks.fusion --only gpt2 --text     # what was fused and what was not, with reasons
    python -m benchmarks.fusion --capture              # write the graphs anew (needs torch and the model libraries)
    python -m benchmarks.fusion --capture infer        # only those of inference

A file of ``benchmarks/corpus/fusion`` is one captured graph (training: forward and backward together) with what was
measured of its operations, in the schedule's JSON form behind gzip. No kernel is compiled here. *Arena* is what the plan
promises; *bound* what the order engine proves of the fused kernels; *aten* and *apart* are the peaks of the same program with
library calls alone and with loops that are not fused, each in its own best order. Seconds are the processor's, of one run.
"""

from __future__ import annotations

import argparse
import gc
import gzip
import json
import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lowtide.codegen.cpp import kernel
from lowtide.core.options import Options
from lowtide.ir.graph import Graph, Origin
from lowtide.lowering.lower import lower
from lowtide.memory.lifetime import timeline
from lowtide.pipeline import inline_within, order_steps
from lowtide.plan.choose import plan_memory
from lowtide.plan.plan import FRESH
from lowtide.plan.refine import refine
from lowtide.schedule.fusion import Fused, fuse_loops
from lowtide.schedule.json import dump, load
from lowtide.schedule.rules import CACHED
from lowtide.schedule.schedule import OpFacts, Schedule, memory_graph, schedule

HERE = Path(__file__).parent / "corpus"
GRAPHS, ACCEPTED = HERE / "fusion", HERE / "fusion.json"
MIB = 1 << 20
LOOPS = Options(kernels="loops")
Row = dict[str, Any]
SAME = (
    "operations", "loops", "kernels", "library", "sources", "buffers", "allocations", "aten", "apart", "peak", "arena", "bound",
)  # fmt: skip


def read(path: Path) -> tuple[Graph, Mapping[str, OpFacts]]:
    """A captured graph, and the facts of its operations."""
    found = load(gzip.decompress(path.read_bytes()).decode(), path.name)
    return found.graph, {s.op.name: s.facts for s in found.steps}


def fused(graph: Graph, facts: Mapping[str, OpFacts]) -> Fused:
    """The graph as the pipeline would fuse it."""
    return fuse_loops(*inline_within(lower(graph), facts, LOOPS, CACHED))


def measure(path: Path) -> Row:
    """One row: counts, bytes, and seconds per stage."""
    graph, facts = read(path)
    aten, _ = order_steps(schedule(graph, facts), LOOPS)
    clock = [time.process_time()]
    lowered, apart = inline_within(lower(graph), facts, LOOPS, CACHED)
    clock.append(time.process_time())
    made = fuse_loops(lowered, apart).lowered
    clock.append(time.process_time())
    scheduled = schedule(made.graph, facts, loops=made.loops)
    clock.append(time.process_time())
    ordered, found = order_steps(scheduled, LOOPS)
    bound = found.lower_bound if found is not None else None
    ordered, plan = refine(ordered, plan_memory(ordered, LOOPS, bound), LOOPS, bound)
    clock.append(time.process_time())
    return {
        "operations": sum(not op.view for op in graph.ops),
        "loops": len(lowered.loops),
        "kernels": len(made.loops),
        "sources": len({kernel(loop).name for loop in made.loops.values()}),
        "library": sum(s.loop is None for s in ordered.steps),
        "buffers": len({p.storage for p in plan.places if p.nbytes}),
        "allocations": sum(p.how == FRESH and p.nbytes > 0 for p in plan.places) + len(plan.slabs),
        "aten": timeline(memory_graph(aten)).peak,
        "apart": timeline(memory_graph(apart)).peak,
        "peak": timeline(memory_graph(ordered)).peak,
        "arena": plan.promised_nbytes,
        "bound": plan.lower_bound,
        "lower_s": round(clock[1] - clock[0], 3),
        "fuse_s": round(clock[2] - clock[1], 3),
        "plan_s": round(clock[4] - clock[3], 3),
    }


def _cells(new: Row, old: Row | None) -> list[str]:
    """The cells of one row; what differs as old -> new."""

    def show(key: str) -> str:
        scale = key in ("aten", "apart", "peak", "arena", "bound")
        text = [f"{r[key] / MIB:.1f}" if scale else str(r[key]) for r in (old, new) if r is not None and key in r]
        return text[-1] if old is None or old.get(key) == new[key] else " -> ".join(text)

    seconds = [f"{sum(r[k] for k in ('lower_s', 'fuse_s', 'plan_s')):.1f}" for r in (old, new) if r is not None]
    return [*map(show, SAME), *map(str, (new["lower_s"], new["fuse_s"], new["plan_s"])), seconds[0]]


def table(new: Mapping[str, Row], old: Mapping[str, Row]) -> str:
    """The rows, and geometric means of what changed."""
    head = ("graph", *SAME, "lower s", "fuse s", "order and plan s", "all, before s")
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    lines += [f"| {' | '.join((name, *_cells(row, old.get(name))))} |" for name, row in new.items()]
    both = [n for n in new if n in old]
    for key in ("kernels", "buffers", "peak", "arena"):
        ratios = [math.log(new[n][key] / old[n][key]) for n in both if old[n][key] and new[n][key]]
        if ratios:
            lines.append(
                f"\n{key}: {math.exp(sum(ratios) / len(ratios)):.3f} of before, geometric mean of {len(ratios)}"
            )
    return "\n".join(lines)


# -- capture -----------------------------------------------------------------------------------------------------------


def _bare(found: Schedule) -> Schedule:
    """In program order and without places in files, which are nobody's business."""
    graph, nowhere = found.graph, Origin()
    sections = tuple(replace(s, ops=tuple(replace(op, origin=nowhere) for op in s.ops)) for s in graph.sections)
    values = tuple(replace(v, origin=nowhere) for v in graph.values)
    graph = replace(graph, values=values, sections=sections)
    facts = {s.op.name: replace(s.facts, note=None) for s in found.steps}
    return schedule(graph, facts, inplace=False)


def _captured(name: str, size: str, train: bool) -> Iterator[Schedule]:
    import torch
    from benchmarks.suite.entry import without_dropout
    from benchmarks.suite.models import MODELS

    import lowtide.backend
    from lowtide.runtime.records import records

    torch._dynamo.reset()
    lowtide.backend._reset()
    case = MODELS[name].build(size)  # type: ignore[arg-type]
    module = without_dropout(case.module).train(train)
    options = {"kernels": "aten", "reorder": False}
    if train:
        torch.compile(lambda **given: case.loss(module(**given)), backend="lowtide", options=options)(**case.inputs)
    else:
        with torch.no_grad():
            torch.compile(module, backend="lowtide", options=options)(**case.inputs)
    for record in records():
        yield from (_bare(p.schedule) for p in record.planned)


def capture(only: list[str] | None, kinds: Sequence[str]) -> None:
    """Write the graphs of the suite's models, of ``kinds`` (train, infer)."""
    import torch
    from benchmarks.suite.models import MODELS, missing

    torch.set_num_threads(2)
    warnings.simplefilter("ignore", FutureWarning)  # of the model libraries
    GRAPHS.mkdir(parents=True, exist_ok=True)
    for name, entry in MODELS.items():
        if only is not None and name not in only:
            continue
        if why := missing(entry):
            sys.exit(why)
        for train in (True, False):
            if ("train" if train else "infer") not in kinds:
                continue
            if not train and not entry.needs:
                continue  # inference of the plain models shows nothing that the others do not
            for k, found in enumerate(_captured(name, "bench", train)):
                file = f"{name}-{'train' if train else 'infer'}{f'.{k}' if k else ''}.json.gz"
                data = gzip.compress(dump(found).encode(), 9, mtime=0)
                (GRAPHS / file).write_bytes(data)
                print(f"{file}: {len(found.steps)} operations, {len(data)} bytes", flush=True)
            gc.collect()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", help="names, or their beginnings")
    parser.add_argument("--capture", nargs="?", const="train,infer", choices=("train,infer", "train", "infer"))
    parser.add_argument("--accept", action="store_true")
    parser.add_argument("--text", action="store_true")
    words = parser.parse_args()
    if words.capture:
        capture(words.only, words.capture.split(","))
        return
    paths = [p for p in sorted(GRAPHS.glob("*.json.gz")) if words.only is None or p.name.startswith(tuple(words.only))]
    if words.text:
        for path in paths:
            print(f"{path.name}\n{fused(*read(path)).text()}")
        return
    old: dict[str, Row] = json.loads(ACCEPTED.read_text(encoding="utf-8")) if ACCEPTED.exists() else {}
    new: dict[str, Row] = {}
    for path in paths:
        name = path.name.removesuffix(".json.gz")
        new[name] = measure(path)
        print(f"{name}: {' '.join(map(str, new[name].values()))}", file=sys.stderr, flush=True)
    print(table(new, old))
    if words.accept:
        ACCEPTED.write_text(json.dumps(old | new, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

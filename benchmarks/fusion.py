"""Captured graphs through the whole pipeline but for the C++ compiler: kernels, peaks and seconds, beside those of before.

    python -m benchmarks.fusion                        # the table, new against benchmarks/corpus/fusion.json
    python -m benchmarks.fusion --accept               # and keep the new figures as the old ones
    python -m benchmarks.fusion --kept                 # the kept figures alone; nothing is measured
    python -m benchmarks.fusion --only gpt2 --text     # what was fused and stored once, what was not, with reasons
    python -m benchmarks.fusion --capture              # write the graphs anew (needs torch and the model libraries)
    python -m benchmarks.fusion --capture infer        # only those of inference

A file of ``benchmarks/corpus/fusion`` is one captured graph (training: forward and backward together) with what was
measured of its operations, in the schedule's JSON form behind gzip. Of a call that is given other strides than were captured
the same is taken to hold. No kernel is compiled here, but a compiler has to be installed: without one there are no loops. *Arena*
is what the plan promises; *bound* what the order engine proves of the fused kernels; *aten* and *apart* are the peaks of the same
program with library calls alone and with loops that are not fused, each in its own best order. Seconds are the processor's, of
one run: of all that decides what the kernels are (lowering, inlining, fusion, layouts), of order and plan, and of everything, the
text of kernels and host program too.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lowtide.codegen.cpp import kernel
from lowtide.codegen.targets import CPU
from lowtide.core import native
from lowtide.core.observe import Observers
from lowtide.core.options import Options
from lowtide.ir.graph import Graph, Origin
from lowtide.lowering.lower import lower
from lowtide.memory.lifetime import timeline
from lowtide.pipeline import Compiled, compile_graph, inline_within, order_steps
from lowtide.plan.plan import FRESH
from lowtide.schedule.json import dump, load
from lowtide.schedule.schedule import OpFacts, Schedule, memory_graph, schedule

HERE = Path(__file__).parent / "corpus"
GRAPHS, ACCEPTED = HERE / "fusion", HERE / "fusion.json"
MIB = 1 << 20
LOOPS = Options(kernels="loops")
TARGET = replace(CPU, sources=lambda kernels, parts: ())  # whose kernels are not built
Row = dict[str, Any]
SAME = (
    "operations", "loops", "kernels", "library", "sources", "buffers", "allocations", "aten", "apart", "peak", "arena", "bound",
)  # fmt: skip


def read(path: Path) -> tuple[Graph, Mapping[str, OpFacts]]:
    """A captured graph, and the facts of its operations."""
    found = load(gzip.decompress(path.read_bytes()).decode(), path.name)
    return found.graph, {s.op.name: s.facts for s in found.steps}


@dataclass(frozen=True)
class _Stages(Observers):
    """The processor's seconds when each stage was done, and what those that decide over kernels said."""

    done: dict[str, float] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)

    def see(
        self, stage: str, text: str | Callable[[], str], seconds: float | None = None, nbytes: int | None = None
    ) -> None:
        self.done[stage] = time.process_time()
        if stage in ("fusion", "layouts"):
            self.said[stage] = text if isinstance(text, str) else text()


def compiled(graph: Graph, facts: Mapping[str, OpFacts]) -> tuple[Compiled, _Stages]:
    """The graph through all stages, without a compiler."""
    seen = _Stages()
    return compile_graph(graph, lambda _: facts, LOOPS, seen, target=TARGET), seen


def measure(path: Path) -> Row:
    """One row: counts, bytes, and seconds per stage."""
    if native.compiler() is None:
        sys.exit("a C++ compiler must be installed, though it is not run")
    graph, facts = read(path)
    made, seen = compiled(graph, facts)
    aten, _ = order_steps(schedule(graph, facts), LOOPS)
    lowered, apart = inline_within(lower(graph), facts, LOOPS, TARGET.rules)
    ordered, plan, done = made.schedule, made.plan, seen.done
    loops = [s.loop for s in ordered.steps if s.loop is not None]
    return {
        "operations": sum(not op.view for op in graph.ops),
        "loops": len(lowered.loops),
        "kernels": len(loops),
        "sources": len({kernel(loop).name for loop in loops}),
        "library": len(ordered.steps) - len(loops),
        "buffers": len({p.storage for p in plan.places if p.nbytes}),
        "allocations": sum(p.how == FRESH and p.nbytes > 0 for p in plan.places) + len(plan.slabs),
        "aten": timeline(memory_graph(aten)).peak,
        "apart": timeline(memory_graph(apart)).peak,
        "peak": timeline(memory_graph(ordered)).peak,
        "arena": plan.promised_nbytes,
        "bound": plan.lower_bound,
        "loops_s": round(done["layouts"] - done["capture"], 3),
        "plan_s": round(done["plan"] - done["schedule"], 3),
        "all_s": round(done["summary"] - done["capture"], 3),
    }


def _cells(new: Row, old: Row | None) -> list[str]:
    """The cells of one row; what differs as old -> new."""

    def show(key: str) -> str:
        scale = key in ("aten", "apart", "peak", "arena", "bound")
        text = [f"{r[key] / MIB:.1f}" if scale else str(r[key]) for r in (old, new) if r is not None and key in r]
        return text[-1] if old is None or old.get(key) == new[key] else " -> ".join(text)

    return list(map(show, (*SAME, "loops_s", "plan_s", "all_s")))


def table(new: Mapping[str, Row], old: Mapping[str, Row]) -> str:
    """The rows, and geometric means of what changed."""
    head = ("graph", *SAME, "what the kernels are, s", "order and plan, s", "all, s")
    lines = [f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    lines += [f"| {' | '.join((name, *_cells(row, old.get(name))))} |" for name, row in new.items()]
    both = [n for n in new if n in old]
    for key in ("kernels", "buffers", "peak", "arena", "all_s"):
        ratios = [math.log(new[n][key] / old[n][key]) for n in both if old[n].get(key) and new[n][key]]
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
    parser.add_argument("--kept", action="store_true")
    parser.add_argument("--text", action="store_true")
    words = parser.parse_args()
    if words.capture:
        capture(words.only, words.capture.split(","))
        return
    paths = [p for p in sorted(GRAPHS.glob("*.json.gz")) if words.only is None or p.name.startswith(tuple(words.only))]
    if words.text:
        for path in paths:
            _, seen = compiled(*read(path))
            print(path.name, *seen.said.values(), sep="\n")
        return
    old: dict[str, Row] = json.loads(ACCEPTED.read_text(encoding="utf-8")) if ACCEPTED.exists() else {}
    if words.kept:
        print(table({n: row for n, row in old.items() if words.only is None or n.startswith(tuple(words.only))}, {}))
        return
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

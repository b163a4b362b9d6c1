"""Step by step: the bytes that a plan predicts beside those that the framework's allocator counts, and what is alive.

Comes in: a step to run, of a program that lowtide compiled before. Goes out: one ``StepBytes`` per step that ran. Promised: the
program runs as it is; its generated lines are followed by Python's own trace hook, so nothing is compiled anew, and
every name that is alive or dead against the plan is told (storages of no bytes are left out).
"""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from lowtide.analysis import iteration_live
from lowtide.codegen.cpp import kernel
from lowtide.core.errors import BugError
from lowtide.plan.plan import MemoryPlan, Place
from lowtide.runtime.load import release_retained
from lowtide.runtime.records import Call, Calls, Planned
from lowtide.schedule.schedule import CALL, Step, memory_graph
from lowtide.torch_compat import mark_event, marked_memory_events

_FILE = "<lowtide program "
_WORD = re.compile(r"[^\W\d]\w*")


@dataclass(frozen=True, slots=True)
class StepBytes:
    """One step. ``predicted``, ``measured``: most bytes held during it, over what was held before the iteration. Slabs that
    are kept from call to call count from where they are first taken.

    missing: storages that the plan has alive after the step and that no name holds; stray: those that a name still
    holds although they ended. ``last``: whether it is the last step of its section.
    """

    graph: str
    section: str
    name: str
    predicted: int
    measured: int
    missing: tuple[str, ...]
    stray: tuple[str, ...]
    last: bool


def by_step(run: Callable[[], Any]) -> tuple[StepBytes, ...]:
    """Run one iteration and compare, step by step. Slabs of earlier calls are given back first, so that they count, and so
    is garbage in cycles, which Python would end somewhere in between.

    Raises:
        BugError: the generated lines do not fit the plan (which of them is in the message).
    """
    gc.collect()
    release_retained()
    watcher = _Watcher()
    before = sys.gettrace()
    with Calls() as log:
        sys.settrace(watcher.entered)
        try:
            _, events = marked_memory_events(run)
        finally:
            sys.settrace(before)
    totals = _most_per_mark(events)
    out: list[StepBytes] = []
    reached: dict[int, tuple[MemoryPlan, int]] = {}  # by program, how far into its plan calls have come
    for call, (at, seen), live in zip(log.calls, watcher.calls, iteration_live(log.calls), strict=True):
        plan, me = call.planned.plan, id(call.planned)
        untaken = sum(_untaken(p, end) for key, (p, end) in reached.items() if key != me)
        out += _rows(call, at, seen, [n - untaken for n in live], totals)
        end = _first_step(call.planned, call.section) + sum(
            s.section == call.section for s in call.planned.schedule.steps
        )
        reached[me] = plan, max(end, reached.get(me, (plan, 0))[1])
    return tuple(out)


def _untaken(plan: MemoryPlan, end: int) -> int:
    """Bytes of the slabs kept from call to call that no step before ``end`` takes."""
    return sum(slab.nbytes for slab in plan.slabs if slab.kept and slab.first >= end)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A line is about to run: its number, and the names that are bound."""

    line: int
    names: frozenset[str]


class _Watcher:
    """Notes the lines of generated functions as they run (short-lived). ``calls``: first mark and lines of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, list[_Seen]]] = []
        self.marks = 0

    def entered(self, frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        """Called by Python for every function that is entered."""
        if event != "call" or not frame.f_code.co_filename.startswith(_FILE):
            return None
        seen: list[_Seen] = []
        self.calls.append((self.marks, seen))

        def line(frame: FrameType, event: str, _: object) -> Callable[..., Any]:
            if event in ("line", "return"):
                # Before the mark: Python keeps what the names of the line before stood for until they are asked for again.
                names = frozenset(frame.f_locals)
                mark_event(str(self.marks))
                self.marks += 1
                seen.append(_Seen(frame.f_lineno if event == "line" else 0, names))
            return line

        return line


def _most_per_mark(events: Sequence[int | str]) -> dict[int, int]:
    """Most bytes held between a mark and the next, over what was held at first."""
    out: dict[int, int] = {}
    total, mark = 0, -1
    for e in events:
        if isinstance(e, str):
            mark = int(e)
        else:
            total += e
        out[mark] = max(out.get(mark, total), total)
    return out


def _rows(
    call: Call, first_mark: int, seen: Sequence[_Seen], live: Sequence[int], totals: dict[int, int]
) -> list[StepBytes]:
    planned, graph = call.planned, call.planned.schedule.graph
    steps = [s for s in planned.schedule.steps if s.section == call.section]
    lines = _lines_of(planned, call.section, steps)
    source = planned.program.source.splitlines()
    at = {s.line: k for k, s in enumerate(seen) if s.line}
    base = _first_step(planned, call.section)
    out: list[StepBytes] = []
    done = next((at[n] for n in range(_body(planned, call.section), max(at, default=0)) if n in at), 0)
    for t, (step, line) in enumerate(zip(steps, lines, strict=True)):
        k = at[line]
        # Lines before it that are no step of their own take slabs and make views: they belong to it.
        measured = max(totals[first_mark + j] for j in range(done, k + 1))
        done = k + 1
        while ".give(" in source[seen[done].line - 1] and seen[done].line:
            done += 1  # what is given back was still there when the step before ended
        missing, stray = _against(planned, call.section, base + t, seen[k + 1].names)
        name = graph.sections[call.section].name
        shift = len(live) - len(steps)  # the call of a section is a step of its own
        predicted = live[t + shift] - _untaken(planned.plan, base + t + 1)
        last = t == len(steps) - 1
        out.append(StepBytes(graph.name, name, step.op.name, predicted, measured, missing, stray, last))
    return out


def _first_step(planned: Planned, section: int) -> int:
    """Position of a section's first step among the plan's."""
    nodes = memory_graph(planned.schedule).nodes
    return [0, *(t + 1 for t, n in enumerate(nodes) if n.name.startswith(CALL))][section]


def _body(planned: Planned, section: int) -> int:
    """Number of the first line behind those that bind the inputs and drop the ones that are not needed."""
    source = planned.program.source.splitlines()
    line = source.index(
        "    args.clear()", source.index(f"def {planned.program.entries[section].function}(args, run):")
    )
    while ".take(" in source[line + 1] or source[line + 1].startswith("    del "):
        line += 1
        if source[line].startswith("    del "):
            break
    return line + 2


def _lines_of(planned: Planned, section: int, steps: Sequence[Step]) -> list[int]:
    """For each step the number of the line that runs it: the first that names its kernel, its operator or its result."""
    source = planned.program.source.splitlines()
    function = planned.program.entries[section].function
    start = source.index(f"def {function}(args, run):")
    line, out = start + 1, list[int]()
    operator = {what: name for name, what in planned.program.bound.items()}
    for step in steps:
        if step.loop is not None:
            k = kernel(step.loop)
            names: set[str | None] = {operator[f"kernel:{k.name}/{k.buffers}"]}
        else:
            forms = (step.op.target, step.facts.out, step.facts.overwrite)
            names = {operator[f"op:{f}"] for f in forms if f"op:{f}" in operator} | {*step.op.outputs}
        while line < len(source) and not source[line].startswith("def "):
            text = source[line].partition("  #")[0]
            line += 1
            if ".take(" not in text and names & {*_WORD.findall(text)}:
                out.append(line)
                break
        else:
            raise BugError(f"no line of {function} runs {step.op.name}")
    return out


def _against(planned: Planned, section: int, t: int, names: frozenset[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(storages alive after step ``t`` that no name holds, storages that ended and that a name holds)."""
    graph = planned.schedule.graph
    held = {graph.value[n].storage for n in names if n in graph.value}
    here = {graph.value[n].storage for n in _names_in(planned, section)}
    missing = [p.storage for p in planned.plan.places if _visible(p, here) and p.first <= t < p.end - 1]
    missing = [s for s in missing if s not in held]
    # A slab's names are bound when it is taken, before their bytes begin to mean something.
    stray = [
        p.storage for p in planned.plan.places if p.storage in held and p.nbytes and p.end <= t + 1 and not p.escapes
    ]
    return tuple(missing), tuple(stray)


def _visible(p: Place, here: set[str]) -> bool:
    return p.storage in here and p.nbytes > 0


def _names_in(planned: Planned, section: int) -> set[str]:
    """Values that a section is given or makes."""
    part = planned.schedule.graph.sections[section]
    given = {i.name for i in part.inputs if hasattr(i, "name")}
    return given | {o for op in part.ops for o in op.outputs if o is not None}

"""A schedule for people to read: a line per step, in order, with how it is called and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator

from lowtide.core.units import format_bytes
from lowtide.ir.task import in_low_precision
from lowtide.schedule.schedule import Schedule, Step, changed_inputs


def print_schedule(schedule: Schedule) -> str:
    """One line per step; a heading where a section begins; the reasons at the end."""
    lines: list[str] = []
    section = -1
    for t, step in enumerate(schedule.steps):
        if step.section != section:
            section = step.section
            found = schedule.graph.sections[section]
            changed = changed_inputs(schedule.graph, found)
            tail = f"  changes inputs {', '.join(map(str, changed))}" if changed else ""
            lines.append(f"section {found.name}{tail}")
        lines.append(f"  {t:>5}  {_step(step)}")
        if members := schedule.members.get(step.op.name):
            lines.append(f"         of {', '.join(members)}")
    lines.extend(f"note: {reason}" for reason in schedule.reasons)
    return "\n".join(lines) + "\n"


def _step(step: Step) -> str:
    made = ", ".join(f"%{o}" if o is not None else "_" for o in step.op.outputs)
    reads = ", ".join(f"%{r}" for r in step.op.reads)
    return f"{made or '-'} = {step.op.target}({reads}){''.join(_notes(step))}"


def _notes(step: Step) -> Iterator[str]:
    facts = step.facts
    if facts.out is not None:
        yield "  out="
    if facts.workspace:
        yield f"  workspace {format_bytes(facts.workspace)}"
    if step.loop is not None and in_low_precision(step.loop):
        yield "  in 16 bits throughout"
    if step.inplace:
        yield f"  may take over {', '.join(f'%{r}' for r, _ in step.inplace)}"
    if step.op.after:
        yield f"  after {', '.join(step.op.after)}"
    if step.op.group:
        yield f"  in group {step.op.group}"
    if step.op.mutates:
        yield f"  changes {', '.join(f'%{m}' for m in step.op.mutates)}"
    if str(step.op.origin):
        yield f"  # {step.op.origin}"

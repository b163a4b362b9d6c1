"""Work beside copies: those between host and device begin early and are waited for late, as far as the promise allows.

Comes in: a schedule in its final order and its plan. Goes out: a schedule and a plan. Promised: on no device more bytes than
before are promised; nothing is done where the order is to stay the program's. Where all copies together would promise more, each
of the first ``_ALONE`` is tried by itself, of fewer in a long schedule, and the others stay where they are.
"""

from __future__ import annotations

from collections.abc import Sequence

from lowtide.core.options import Options
from lowtide.ir.graph import WAIT, Ref
from lowtide.order.beside import Copy, spread
from lowtide.plan.choose import plan_memory
from lowtide.plan.plan import MemoryPlan
from lowtide.schedule.schedule import Schedule, memory_graph, reordered

_ALONE, _WORK = 16, 20_000  # copies that are tried by themselves: so many at most, and so many over the number of steps


def work_beside_copies(
    schedule: Schedule, plan: MemoryPlan, options: Options, lower_bound: int | None = None
) -> tuple[Schedule, MemoryPlan]:
    """The schedule and plan in which copies leave more between their beginning and their end, as far as ``spread`` finds it and
    the promise allows; the same ones where nothing moves."""
    copies = _copies_of(schedule)
    if not copies or not options.reorder:
        return schedule, plan

    def tried(some: Sequence[Copy]) -> tuple[Schedule, MemoryPlan] | None:
        order = spread(memory_graph(schedule), some)
        if order == tuple(range(len(order))):
            return schedule, plan
        moved = reordered(schedule, order)
        found = plan_memory(moved, options, lower_bound)
        more = any(f.promised_nbytes > plan.on(f.device).promised_nbytes for f in found.devices)
        return None if more else (moved, found)

    together = tried(copies)
    if together is not None or len(copies) == 1:
        return together or (schedule, plan)
    for copy in copies[: min(_ALONE, _WORK // len(schedule.steps))]:
        schedule, plan = tried([copy]) or (schedule, plan)
    return schedule, plan


def _copies_of(schedule: Schedule) -> list[Copy]:
    """The copies that are begun and waited for apart, in the order in which they are waited for."""
    begun = {s.begins: s.op.name for s in schedule.steps}
    found: list[Copy] = []
    for step in schedule.steps:
        into = step.op.args[0] if step.op.target == WAIT else None
        if isinstance(into, Ref) and into.name in begun:
            found.append(Copy(begun[into.name], step.op.name))
    return found

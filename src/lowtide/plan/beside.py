"""Work beside copies: those between host and device begin early and are waited for late, as far as the promise allows.

Comes in: a schedule in its final order and its plan. Goes out: a schedule and a plan. Promised: on no device more bytes than
before are promised; nothing is done where the order is to stay the program's.
"""

from __future__ import annotations

from collections.abc import Sequence

from lowtide.core.options import Options
from lowtide.ir.graph import WAIT, Ref
from lowtide.order.beside import Copy, spread
from lowtide.plan.choose import plan_memory
from lowtide.plan.plan import MemoryPlan
from lowtide.schedule.schedule import Schedule, memory_graph, reordered

_ALONE = 16  # copies that are tried one by one, where all together would promise more


def work_beside_copies(
    schedule: Schedule, plan: MemoryPlan, options: Options, lower_bound: int | None = None
) -> tuple[Schedule, MemoryPlan]:
    """The schedule and plan in which every copy leaves as much as can be between its beginning and its end."""
    copies = copies_of(schedule)
    if not copies or not options.reorder:
        return schedule, plan

    def tried(some: Sequence[Copy]) -> tuple[Schedule, MemoryPlan] | None:
        moved = reordered(schedule, spread(memory_graph(schedule), some))
        found = plan_memory(moved, options, lower_bound)
        more = any(f.promised_nbytes > plan.on(f.device).promised_nbytes for f in found.devices)
        return None if more else (moved, found)

    together = tried(copies)
    if together is not None:
        return together
    for copy in copies[:_ALONE]:
        schedule, plan = tried([copy]) or (schedule, plan)
    return schedule, plan


def copies_of(schedule: Schedule) -> list[Copy]:
    """The copies that are begun and waited for apart, in the order in which they are waited for."""
    begun = {s.begins: s.op.name for s in schedule.steps}
    found: list[Copy] = []
    for step in schedule.steps:
        into = step.op.args[0] if step.op.target == WAIT else None
        if isinstance(into, Ref):
            found.append(Copy(begun[into.name], step.op.name))
    return found

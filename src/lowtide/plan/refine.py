"""The order engine asked again, with packed bytes as the objective instead of live bytes.

Comes in: a schedule in the order of least live peak and its plan. Goes out: a schedule and a plan, the same ones unless
others promise fewer bytes. Promised: never a higher peak, on any device; groups stay side by side; nothing is done where the
promise already is the live peak of the order, since no order of the same operations that the engine knows of is below that one.
"""

from __future__ import annotations

from collections.abc import Sequence

from lowtide.core.options import Options
from lowtide.memory.flat import flatten
from lowtide.memory.graph import MemoryGraph
from lowtide.memory.groups import gather
from lowtide.memory.lifetime import timeline
from lowtide.order.check import check_order
from lowtide.order.objective import least_objective
from lowtide.plan.choose import plan_memory
from lowtide.plan.plan import MemoryPlan
from lowtide.schedule.schedule import Schedule, memory_graph, reordered

_CALLS, _WORK = 64, 20_000  # plans that are tried: so many at most, and so many over the number of nodes


def refine(
    schedule: Schedule, plan: MemoryPlan, options: Options, lower_bound: int | None = None
) -> tuple[Schedule, MemoryPlan]:
    """The schedule and plan of the fewest promised bytes that moving single operations, or whole groups, reaches."""
    graph = memory_graph(schedule)
    if not options.reorder or plan.promised_nbytes <= timeline(graph, device=plan.device).peak:
        return schedule, plan

    gathered = gather(graph, plan.device)

    def packed(_: MemoryGraph, order: Sequence[int]) -> int:
        return plan_memory(reordered(schedule, gathered.spelled(order)), options, lower_bound).promised_nbytes

    flat = flatten(gathered.graph, device=plan.device)
    steps = min(_CALLS * flat.n, _WORK)
    units, nbytes, _ = least_objective(gathered.graph, flat, {"live": range(flat.n)}, packed, steps)
    if nbytes >= plan.promised_nbytes:
        return schedule, plan
    order = gathered.spelled(units)
    check_order(graph, order)
    better = reordered(schedule, order)
    found = plan_memory(better, options, lower_bound)
    most = {f.device: f.promised_nbytes for f in plan.others}
    if any(f.promised_nbytes > most.get(f.device, 0) for f in found.others):
        return schedule, plan
    return better, found

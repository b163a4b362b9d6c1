"""Other sizes of a program that is planned already: the decisions stay, the bytes are counted and placed anew.

Comes in: the schedule at new sizes, in program order, and the schedule and plan of the same program at others. Goes out: the
schedule in that order and its plan, with the same way of forming slabs. Promised: no order is searched for, which takes
milliseconds; the plan is as exact as any other and never above program order's without slabs (unless the caller forces one
slab); its lower bound holds for every order. What a search at the new sizes might have found in addition is given up.
"""

from __future__ import annotations

from dataclasses import replace

from lowtide.core.options import Options
from lowtide.memory.flat import flatten, live_bytes
from lowtide.memory.lifetime import lifetimes, timeline
from lowtide.order.bounds import cut_bound, end_bound
from lowtide.order.check import check_order
from lowtide.plan.choose import main_device, plan_memory
from lowtide.plan.plan import MemoryPlan
from lowtide.schedule.schedule import Schedule, memory_graph

_STEPS = 20_000  # of the search for the lower bound


def follow(scheduled: Schedule, before: Schedule, chosen: str, options: Options) -> tuple[Schedule, MemoryPlan] | None:
    """``scheduled`` in the order of ``before``, and its plan in the way ``chosen``; None where the steps are others.

    Raises:
        VerifyError: the order does not hold for this schedule.
    """
    by_name = {s.op.name: s for s in scheduled.steps}
    names = [s.op.name for s in before.steps]
    if len(names) != len(scheduled.steps) or by_name.keys() != set(names):
        return None
    graph = memory_graph(scheduled)
    device = main_device(lifetimes(graph))
    kept = replace(scheduled, steps=tuple(by_name[n] for n in names))
    index = {n.name: i for i, n in enumerate(graph.nodes)}
    order = [index[n.name] for n in memory_graph(kept).nodes]
    check_order(graph, order)
    flat = flatten(graph, device=device)
    live = live_bytes(flat, order)
    lower = max(live, default=0) <= timeline(graph, device=device).peak
    bound, _ = end_bound(flat)
    bound = max(bound, cut_bound(flat, order, live, bound, _STEPS, [-1] * flat.n)[0])
    ordered = kept if lower else scheduled
    return ordered, plan_memory(ordered, options, bound, chosen)

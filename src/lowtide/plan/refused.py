"""What a plan gave no bytes of others, and why: results that overwrite no operand, storages that share no slab.

Comes in: a schedule in its final order and its plan. Goes out: a Reason per refusal, from the very questions that scheduler and
planner ask, so that none of them can be told differently from what was decided. Nothing is kept meanwhile: this is asked of
finished plans.

A pair of a result and an operand was refused where the operand ends in that step and is as large, or where overwriting it was
permitted; that a caller's tensor, or one that is needed again anyway, may not be overwritten either is no decision.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lowtide.core.reason import Reason
from lowtide.core.units import format_bytes
from lowtide.memory.lifetime import Lifetime, lifetimes
from lowtide.plan.plan import DeviceFigures, MemoryPlan
from lowtide.schedule.schedule import Schedule, Step, inplace_refusal, kept_apart, memory_graph, slabbed


def refusals(schedule: Schedule, plan: MemoryPlan) -> tuple[Reason, ...]:
    """Pairs that were not taken, in order of the steps, then storages with an allocation of their own, in the plan's order."""
    return (*_not_over(schedule, plan), *_not_in_slabs(schedule, plan))


def _not_over(schedule: Schedule, plan: MemoryPlan) -> Iterator[Reason]:
    graph, nodes = schedule.graph, memory_graph(schedule)
    at = {n.name: t for t, n in enumerate(nodes.nodes)}
    alive = {x.name: x for x in lifetimes(nodes)}
    taker = {x.takes_over: x.name for x in alive.values() if x.takes_over is not None}
    inside = slabbed(schedule)
    for step in schedule.steps:
        reads = dict.fromkeys(graph.value[r].storage for r in step.op.reads)
        for made in (o for o in step.op.outputs if o is not None and o in plan.place):
            if plan.place[made].over is not None or not graph.nbytes[made]:
                continue
            for s in reads:
                if s not in alive or graph.nbytes[s] < graph.nbytes[made] or alive[s].device != alive[made].device:
                    continue
                ends = alive[s].end == at[step.op.name] + 1 and not alive[s].escapes
                why = inplace_refusal(schedule, step, (s, made), inside)
                if ends or not why:
                    because, knob = (why, None) if why else _untaken(step, alive[s], alive[made], ends, taker, plan)
                    yield Reason(f"%{made} over %{s}", because, knob)


def _untaken(
    step: Step, dying: Lifetime, made: Lifetime, ends: bool, taker: Mapping[str, str], plan: MemoryPlan
) -> tuple[str, str | None]:
    """Why a permitted pair was not taken, and the option that would change that."""
    if (dying.name, made.name) not in step.inplace:
        return "results overwrite nothing where that is switched off", "inplace=True"
    if dying.escapes:
        return f"the caller gets to keep %{dying.name}", None
    if not ends:
        return f"%{dying.name} is needed until step {dying.end - 1}", None
    if dying.allocator or made.allocator:
        return f"memory of allocator {dying.allocator or made.allocator} is not handed on", None
    if made.takes_over != dying.name:
        return f"%{made.takes_over} is better taken" if made.takes_over else f"%{taker[dying.name]} takes it", None
    if made.nbytes < dying.nbytes and plan.place[made.name].slab is None:
        return f"what it leaves of %{dying.name} could not be given back outside a slab", None
    return "the slab is smaller where it lies elsewhere", None


def _not_in_slabs(schedule: Schedule, plan: MemoryPlan) -> Iterator[Reason]:
    apart = kept_apart(schedule)
    maker = {o: step for step in schedule.steps for o in step.op.outputs if o is not None}
    behind = {p.over: p.storage for p in plan.places if p.over is not None}
    for p in plan.places:
        if p.slab is None and p.over is None and p.nbytes:
            names = [p.storage]
            while names[-1] in behind:
                names.append(behind[names[-1]])
            kept = next((n for n in names if n in apart), None)
            if p.storage in maker and maker[p.storage].unplaced:
                because, knob = maker[p.storage].unplaced, None
            elif kept is not None:
                because, knob = apart[kept] if kept == p.storage else f"%{kept} goes on in it: {apart[kept]}", None
            else:
                because, knob = _left_out(plan.on(schedule.graph.value[p.storage].layout.memory))
            yield Reason(f"%{p.storage} in a slab", because, knob)


def _left_out(told: DeviceFigures) -> tuple[str, str | None]:
    """Why a storage that might lie in a slab of its device, whose figures are ``told``, does not."""
    others = [nbytes for name, nbytes in told.candidates if name != told.chosen]
    if told.chosen == "one":
        return "the slabs of 'one' have no room for it", None
    if told.chosen != "none":
        return f"the slabs of {told.chosen!r} are not held as long as it lives, or have no room for it", "slabs='one'"
    if not others:
        return "slabs are switched off", "slabs='auto'"
    least, now = format_bytes(min(others)), format_bytes(told.promised_nbytes)
    return f"slabs would promise {least}, allocations of their own {now}", "slabs='one'"

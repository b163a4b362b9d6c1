"""The pipeline on one screen: from a captured Graph to a Program, one frozen type per stage.

    capture    PyTorch program        -> Graph        frontend (backend.py and aot.py call it)
    schedule   Graph + facts          -> Schedule     steps, in program order
    order      Schedule               -> Schedule     of least peak
    plan       Schedule               -> MemoryPlan   bytes at offsets, the promised peak
    emit       Schedule + MemoryPlan  -> Program      host code
    load       Program                -> callables    runtime

Nothing here imports torch; what needs it (facts about operations, loading) is passed in or done by the callers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lowtide.codegen.host import emit
from lowtide.core.errors import OverBudget
from lowtide.core.options import Options
from lowtide.core.units import format_bytes
from lowtide.ir.graph import Graph
from lowtide.order.engine import OrderResult, reorder
from lowtide.plan.choose import plan_memory
from lowtide.plan.plan import MemoryPlan
from lowtide.plan.replay import replay
from lowtide.program import Program
from lowtide.schedule.schedule import OpFacts, Schedule, memory_graph, reordered, schedule

PROGRAM = "program"
Facts = Callable[[Graph], Mapping[str, OpFacts]]


@dataclass(frozen=True)
class Compiled:
    """All stages of one program, for the report, the checkers and the runtime."""

    schedule: Schedule
    plan: MemoryPlan
    program: Program
    order: OrderResult | None = None


def compile_graph(graph: Graph, facts: Facts, options: Options) -> Compiled:
    """Run the stages on a static graph.

    Raises:
        OverBudget: the promised peak is above ``options.budget``.
        VerifyError: with ``options.verify``, where a checker finds a stage's result wrong.
    """
    scheduled = schedule(graph, facts(graph), inplace=options.inplace)
    scheduled, found = order_steps(scheduled, options)
    plan = plan_memory(scheduled, options, found.lower_bound if found is not None else None)
    if options.verify:
        replay(scheduled, plan)
    program = emit(scheduled, plan)
    _hold_to_budget(graph, plan, options)
    return Compiled(scheduled, plan, program, found)


def order_steps(scheduled: Schedule, options: Options) -> tuple[Schedule, OrderResult | None]:
    """The schedule in an order of least peak; as it is, where program order is no worse or ``options.reorder`` is off."""
    if not options.reorder:
        return scheduled, None
    found = reorder(memory_graph(scheduled))
    if found.peak >= found.candidates[PROGRAM]:
        return scheduled, found
    return reordered(scheduled, found.order), found


def _hold_to_budget(graph: Graph, plan: MemoryPlan, options: Options) -> None:
    if options.budget is None or plan.promised_nbytes <= options.budget:
        return
    least = min((nbytes for _, nbytes in plan.candidates), default=plan.promised_nbytes)
    raise OverBudget(
        f"graph {graph.name} needs {format_bytes(plan.promised_nbytes)} ({plan.promised_nbytes} bytes), the budget is "
        f"{format_bytes(options.budget)}; the smallest peak known is {format_bytes(least)} ({least} bytes)",
        budget_nbytes=options.budget,
        promised_nbytes=plan.promised_nbytes,
    )

"""Who holds the peak of the device that a plan is for: storages there that are alive in the peak step, largest first, with the
operation and the user's line."""

from __future__ import annotations

from dataclasses import dataclass

from lowtide.core.units import format_bytes
from lowtide.plan.plan import MemoryPlan
from lowtide.schedule.schedule import Schedule


@dataclass(frozen=True, slots=True)
class Holder:
    """``nbytes`` of storage ``name``, made by ``made_by`` (an ATen overload, or ``lowtide.loop.default``: a kernel of
    ours) at ``origin`` (file:line module)."""

    nbytes: int
    name: str
    made_by: str
    origin: str

    def __str__(self) -> str:
        return f"{format_bytes(self.nbytes)} %{self.name} {self.made_by} {self.origin}".rstrip()


def holders(schedule: Schedule, plan: MemoryPlan, top: int = 5) -> tuple[Holder, ...]:
    """The ``top`` largest storages of ``plan.device`` that are alive in its peak step. Ties: order of definition."""
    at = plan.peak_step
    graph = schedule.graph
    here = {p.storage for p in plan.places if graph.value[p.storage].layout.memory == plan.device}
    made_by = {name: op.target for name, op in graph.maker.items()}
    alive = sorted((p for p in plan.places if p.storage in here and p.first <= at < p.end), key=lambda p: -p.nbytes)
    return tuple(
        Holder(p.nbytes, p.storage, made_by.get(p.storage, "input"), str(graph.value[p.storage].origin))
        for p in alive[:top]
    )

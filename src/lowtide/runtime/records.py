"""What was compiled in this process and what it promised: the source of ``memory_analysis``.

Records are made by the backend and read by ``lowtide.analysis``. They hold plans, no tensors.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

from lowtide.core.reason import Reason
from lowtide.plan.plan import MemoryPlan
from lowtide.program import Program
from lowtide.schedule.schedule import Schedule


@dataclass(frozen=True)
class Planned:
    """One variant: a program for given sizes."""

    schedule: Schedule
    plan: MemoryPlan
    program: Program


@dataclass
class Record:
    """One captured graph: its variants in the order in which they were built, or why it runs unplanned."""

    name: str
    planned: list[Planned] = field(default_factory=list)
    fallback: Reason | None = None
    capture_seconds: float = 0.0
    compile_seconds: float = 0.0


_lock = threading.Lock()
_records: list[Record] = []


def _listed(record: Record) -> None:
    if record not in _records:
        _records.append(record)


def note_program(record: Record, schedule: Schedule, plan: MemoryPlan, program: Program) -> None:
    """A variant was built."""
    with _lock:
        _listed(record)
        record.planned.append(Planned(schedule, plan, program))


def note_fallback(record: Record, reason: Reason) -> None:
    """The graph runs as captured."""
    with _lock:
        _listed(record)
        record.fallback = reason


def records() -> tuple[Record, ...]:
    """All graphs since the process began or ``forget``."""
    with _lock:
        return tuple(_records)


def forget() -> None:
    """Drop all records."""
    with _lock:
        _records.clear()

"""What was compiled in this process and what it promised: the source of ``memory_analysis``.

Records are made by the backend and read by ``lowtide.analysis``. They hold plans, no tensors.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

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


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a section. ``died``: (position, address, bytes) of inputs whose storage nobody held any more when the
    call ended; ``returned``: (address, bytes) of the storages of its results."""

    planned: Planned
    section: int
    died: tuple[tuple[int, int, int], ...]
    returned: tuple[tuple[int, int], ...]


class Calls:
    """While entered, remembers which sections ran, in order."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __enter__(self) -> Calls:
        _logs.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _logs.remove(self)


_logs: list[Calls] = []


def watch(planned: Planned, section: int, args: list[Any]) -> Callable[[Sequence[Any]], None] | None:
    """A section is about to run. Where somebody listens: what to call with its results."""
    if not _logs:
        return None
    tensors = [(i, t) for i, t in enumerate(args) if isinstance(t, torch.Tensor)]
    seen = [(i, StorageWeakRef(t.untyped_storage()), t.data_ptr(), t.untyped_storage().nbytes()) for i, t in tensors]
    del tensors

    def ended(results: Sequence[Any]) -> None:
        died = tuple((i, at, nbytes) for i, ref, at, nbytes in seen if ref.expired())
        made = [t.untyped_storage() for t in results if isinstance(t, torch.Tensor)]
        call = Call(planned, section, died, tuple((s.data_ptr(), s.nbytes()) for s in made))
        for log in _logs:
            log.calls.append(call)

    return ended


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


def note_program(record: Record, planned: Planned) -> None:
    """A variant was built."""
    with _lock:
        _listed(record)
        record.planned.append(planned)


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

"""What was compiled in this process and what it promised: the source of ``memory_analysis``.

Records are made by the backend and read by ``lowtide.analysis``. They hold plans, no tensors.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from lowtide.core.reason import Reason
from lowtide.ir.graph import PINNED
from lowtide.ir.lowered import Coverage
from lowtide.plan.plan import MemoryPlan
from lowtide.program import Program
from lowtide.schedule.schedule import Schedule
from lowtide.torch_compat import left_to_python


@dataclass(frozen=True)
class Planned:
    """One variant: a program for given sizes; ``coverage``: what became loops, None where library calls compute it all;
    ``apart``: why pairs of loops stay two kernels, and storages of the same elements two."""

    schedule: Schedule
    plan: MemoryPlan
    program: Program
    coverage: Coverage | None = None
    apart: tuple[Reason, ...] = ()


class Held(NamedTuple):
    """A storage that somebody holds, or held: where it begins, how long it is, and on which device it lies (or ``PINNED``)."""

    address: int
    nbytes: int
    device: str


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a section, with the storages of results of earlier calls whose end was seen.

    gone: those that nobody held any more when the call began. died: (input position, storage) of those that ended during
    the call. returned: of its own results.
    """

    planned: Planned
    section: int
    gone: tuple[Held, ...]
    died: tuple[tuple[int, Held], ...]
    returned: tuple[Held, ...]


class Calls:
    """While entered, remembers which sections ran, in order."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.held: list[tuple[StorageWeakRef, Held]] = []

    def __enter__(self) -> Calls:
        _logs.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        _logs.remove(self)

    def ended(self) -> tuple[Held, ...]:
        """Returned storages that ended since this was last asked."""
        gone = tuple(held for ref, held in self.held if ref.expired())
        self.held = [h for h in self.held if not h[0].expired()]
        return gone


_logs: list[Calls] = []


def watch(planned: Planned, section: int, args: list[Any]) -> Callable[[Sequence[Any]], None] | None:
    """A section is about to run. Where somebody listens: what to call with its results."""
    if not _logs:
        return None
    gone = [log.ended() for log in _logs]
    tensors = [(i, t.untyped_storage()) for i, t in enumerate(args) if isinstance(t, torch.Tensor)]
    pins = any(d.device == PINNED for d in planned.plan.devices)
    seen = [(i, StorageWeakRef(s), _held(s, pins)) for i, s in tensors]
    del tensors

    def ended(results: Sequence[Any]) -> None:
        died = tuple((i, held) for i, ref, held in seen if ref.expired())
        made = [t.untyped_storage() for t in results if isinstance(t, torch.Tensor)]
        returned = tuple(_held(s, pins) for s in made)
        for log, before in zip(_logs, gone, strict=True):
            log.calls.append(Call(planned, section, before, died, returned))
            log.held.extend((StorageWeakRef(s), held) for s, held in zip(made, returned, strict=True))

    return ended


def _held(storage: torch.UntypedStorage, pins: bool) -> Held:
    """``pins``: whether the program has pinned memory, so that it is worth asking."""
    pinned = pins and storage.device.type == "cpu" and storage.is_pinned()
    return Held(storage.data_ptr(), storage.nbytes(), PINNED if pinned else str(storage.device))


class Runs(Protocol):
    """What tells of a graph that is planned as it runs."""

    @property
    def runs(self) -> int:
        """How often it ran."""
        ...


def _now() -> int:
    return _forgotten


@dataclass(eq=False)
class Record:
    """One captured graph: its variants in the order in which they were built, or why all of it runs unplanned.

    captured: what of it runs as captured although the rest is planned, by its sizes, each with why, last found last.
    since: how often all was forgotten before it; what it builds after the next time is listed no more.
    at_run_time: of a graph that is planned as it runs, what tells how that goes, one per call; ``because``: why it is.
    """

    name: str
    planned: list[Planned] = field(default_factory=list)
    fallback: Reason | None = None
    captured: dict[str, Reason] = field(default_factory=dict[str, Reason])
    at_run_time: list[Callable[[], Runs]] = field(default_factory=list)
    because: Reason | None = None
    capture_seconds: float = 0.0
    compile_seconds: float = 0.0
    since: int = field(default_factory=_now)


_lock = threading.Lock()
_records: list[Record] = []
_forgotten = 0  # times
_left_before: Counter[tuple[str, str]] = Counter()


def _listed(record: Record) -> None:
    if record.since == _forgotten and record not in _records:
        _records.append(record)


def note_program(record: Record, planned: Planned, recent: int) -> None:
    """A variant was built. Of a graph whose sizes vary, the ``recent`` last ones are remembered."""
    with _lock:
        _listed(record)
        record.planned.append(planned)
        del record.planned[:-recent]


def note_fallback(record: Record, reason: Reason) -> None:
    """The graph runs as captured."""
    with _lock:
        _listed(record)
        record.fallback = reason


def note_captured(record: Record, sizes: str, reason: Reason, recent: int) -> None:
    """One variant runs as captured. The ``recent`` last ones are remembered."""
    with _lock:
        _listed(record)
        record.captured.pop(sizes, None)
        record.captured[sizes] = reason
        for old in list(record.captured)[:-recent]:
            del record.captured[old]


def note_run_time(record: Record, because: Reason | None, tell: Callable[[], Runs]) -> None:
    """The graph is planned as it runs."""
    with _lock:
        _listed(record)
        record.because = because
        record.at_run_time.append(tell)


def runs_so_far(record: Record) -> int:
    """Of a graph that is planned as it runs, how often it ran."""
    return sum(tell().runs for tell in record.at_run_time)


def records() -> tuple[Record, ...]:
    """All graphs since the process began or ``forget``."""
    with _lock:
        return tuple(_records)


def forget() -> None:
    """Drop all records. Programs of before that are still held, and run or build a variant, are not listed again."""
    global _forgotten
    with _lock:
        _forgotten += 1
        _records.clear()
        _left_before.clear()
        _left_before.update(left_to_python())


def left_out() -> tuple[str, ...]:
    """Why Dynamo left code to Python since the process began or ``forget``, one line each, most often first."""
    found: Counter[str] = Counter()
    for (kind, why), times in left_to_python().items():
        before = _left_before[kind, why]
        found[why] = max(found[why], times - before if times >= before else times)  # less: the count was cleared
    return tuple(f"{why} ({times} times)" for why, times in found.most_common() if times)

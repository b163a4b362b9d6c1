"""The packing problem and its answer as frozen data: which bytes are alive when, and where they are put.

Comes in: buffers with half-open lifetimes in steps and sizes in bytes, from a memory plan, from JSON or from CSV.
Goes out: a ``PackResult`` with one offset per buffer. Promised: nothing here computes a placement; the meaning of every
field is stated here and the checker (``plan.check``) is the authority on what a correct placement is.

Terms. A *segment* is one interval of a buffer with the part of the buffer that is occupied in it (its window). Two
buffers *conflict* where two of their segments overlap in time, unless they are excluded from each other (the
``exclusions`` of the problem, or different arms of one conditional).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from lowtide.core.errors import FileError
from lowtide.core.units import align_up

OPTIMAL = "OPTIMAL"
FEASIBLE = "FEASIBLE"
INFEASIBLE = "INFEASIBLE"
UNKNOWN = "UNKNOWN"


@dataclass(frozen=True, slots=True)
class PackBuffer:
    """``size`` bytes, alive in every half-open ``(first, end)`` of ``intervals`` (steps, ascending, disjoint).

    ``alignment``: the offset is a multiple of it (bytes). ``offset``: a place that the caller has fixed.
    ``windows``: one entry per interval, ``(low, high)`` within ``[0, size]`` where only those bytes are occupied in
    that interval, or None for all of them; empty means all of every interval.
    ``arms``: ``(conditional, arm)`` from the outermost in; two buffers in different arms of one conditional never live
    at once. ``hint`` is a wished offset (bytes), no duty. ``line`` is the user's source line, for messages and
    pictures.
    """

    id: str
    size: int
    intervals: tuple[tuple[int, int], ...]
    alignment: int = 64
    offset: int | None = None
    windows: tuple[tuple[int, int] | None, ...] = ()
    arms: tuple[tuple[str, int], ...] = ()
    hint: int | None = None
    line: str | None = None

    def segments(self) -> Iterator[tuple[int, int, int, int]]:
        """``(first, end, low, high)`` of every segment that occupies at least one byte."""
        for i, (first, end) in enumerate(self.intervals):
            low, high = (self.windows[i] if self.windows else None) or (0, self.size)
            if low < high and first < end:
                yield first, end, low, high


@dataclass(frozen=True, slots=True)
class PackProblem:
    """Buffers to place, and the most bytes there are (None: as few as possible).

    ``exclusions``: pairs of ids that never hold bytes at the same moment although their lifetimes overlap.
    ``merges``: pairs ``(dying, born)`` of ids: ``born`` is allowed (not obliged) to begin at the offset of ``dying``
    although both are alive in the step where one hands over to the other; ``born`` is not larger than ``dying``.
    """

    buffers: tuple[PackBuffer, ...]
    capacity: int | None = None
    exclusions: tuple[tuple[str, str], ...] = ()
    merges: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class PackResult:
    """Where every buffer goes.

    ``status``: OPTIMAL (no placement is lower), FEASIBLE (correct, perhaps not least), INFEASIBLE (proved not to fit
    the capacity; ``conflict`` names few buffers that cannot fit together), UNKNOWN (neither found nor excluded in
    time).
    ``offsets``: id -> bytes; the lowest placement found, also where it is above the capacity.
    ``height``: bytes needed; ``lower_bound``: no placement needs fewer bytes; ``seconds``: wall clock.
    ``packer``: who found it; ``tried``: every packer asked with the height it reached; ``nodes``: steps of the search.
    """

    offsets: dict[str, int]
    height: int
    lower_bound: int
    packer: str
    status: str = FEASIBLE
    seconds: float = 0.0
    tried: tuple[tuple[str, int], ...] = ()
    conflict: tuple[str, ...] = ()
    nodes: int = 0
    notes: tuple[str, ...] = field(default=())

    @property
    def gap(self) -> float:
        """Height over lower bound, less one; 0.0 where there is nothing to place."""
        return self.height / self.lower_bound - 1.0 if self.lower_bound else 0.0


def total_size(problem: PackProblem) -> int:
    """Sum of all sizes in bytes, each rounded up to its alignment: what no sharing at all would take."""
    return sum(align_up(b.size, b.alignment) for b in problem.buffers)


def validate(problem: PackProblem, file: str = "problem") -> None:
    """Refuse nonsense before anything is computed.

    Raises:
        FileError: with the place, e.g. ``buffers[3].size``, and the reason.
    """
    seen: set[str] = set()
    if problem.capacity is not None and problem.capacity < 0:
        raise FileError(file, "capacity", f"{problem.capacity} is below 0")
    for i, b in enumerate(problem.buffers):
        fault = _fault(b)
        if fault is None and b.id in seen:
            fault = "id", f"{b.id!r} stands twice"
        if fault is not None:
            raise FileError(file, f"buffers[{i}].{fault[0]}", fault[1])
        seen.add(b.id)
    size = {b.id: b.size for b in problem.buffers}
    for what, pairs in (("exclusions", problem.exclusions), ("merges", problem.merges)):
        for i, (a, b) in enumerate(pairs):
            for name in (a, b):
                if name not in seen:
                    raise FileError(file, f"{what}[{i}]", f"no buffer has the id {name!r}")
            if a == b:
                raise FileError(file, f"{what}[{i}]", f"{a!r} is paired with itself")
            if what == "merges" and size[b] > size[a]:
                raise FileError(file, f"{what}[{i}]", f"{b!r} ({size[b]} bytes) is larger than {a!r} ({size[a]} bytes)")


def _fault(b: PackBuffer) -> tuple[str, str] | None:
    """Field and reason of the first thing wrong with one buffer."""
    if b.size < 0:
        return "size", f"{b.size} is below 0"
    if b.alignment < 1:
        return "alignment", f"{b.alignment} is below 1"
    before: int | None = None
    for first, end in b.intervals:
        if first >= end:
            return "intervals", f"[{first}, {end}) is empty or runs backwards"
        if before is not None and first < before:
            return "intervals", f"[{first}, {end}) begins before the one ahead of it ends"
        before = end
    if b.windows and len(b.windows) != len(b.intervals):
        return "windows", f"{len(b.windows)} windows for {len(b.intervals)} intervals"
    for window in b.windows:
        if window is not None and not 0 <= window[0] <= window[1] <= b.size:
            return "windows", f"{window[0]}:{window[1]} is not within 0:{b.size}"
    if b.offset is not None and b.offset < 0:
        return "offset", f"{b.offset} is below 0"
    if b.offset is not None and b.offset % b.alignment:
        return "offset", f"{b.offset} is not a multiple of the alignment {b.alignment}"
    names = [name for name, _ in b.arms]
    if len(set(names)) != len(names):
        return "arms", "one conditional stands twice"
    return None

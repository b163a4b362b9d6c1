"""The checker that every plan passes before it is used: fast, where ``plan.replay`` and ``plan.check`` are thorough.

Comes in: a finished MemoryPlan with its schedule, or the places of a placement at run time. Goes out: nothing, or VerifyError
with a clause. Promised: of what passes, no storage is written over while somebody still reads it, lies outside its slab, or is
read where the plan has ended it; shares no code with packers, chains or lifetimes, whose results it does not trust: what is
alive when is read off the nodes' reads and writes once more. Time n log n in storages and linear in reads, without pair lists:
in a sweep over time the rows alive are kept by offset, and since those were found to be apart, a new row can only meet its two
neighbours. Left to ``plan.replay``: what an operation is able to overwrite, promised bytes, results that a library allocates,
storages that are copied whole, allocators, and the order of steps.

Clauses: ``missing`` (a storage has no place), ``twice`` (or two), ``input`` (a place for what nothing makes), ``undefined``
(read before it is written, or the place begins at another step), ``freed`` (the place ends before the last read), ``bounds``
(outside its slab, or smaller than the storage), ``misaligned``, ``held`` (longer than its slab; or a slab that is not on the
CPU is kept for the next call with saved tensors in it), ``device`` (not that of its slab), ``escape`` (the caller would keep
part of a slab, or keep what is freed), ``inplace`` (takes over what is not permitted, goes on or lies elsewhere), ``overlap``
(two that live at once share bytes).
"""

from __future__ import annotations

import ctypes
from array import array
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import cache

from lowtide.core import native
from lowtide.core.errors import VerifyError
from lowtide.memory.graph import MemoryGraph
from lowtide.plan.plan import MemoryPlan, Place, alignment_of
from lowtide.schedule.schedule import CALL, Schedule, memory_graph

_LIBRARY = native.Library("disjoint", "lowtide.plan", ("disjoint.cpp",), native.FLAGS)


def check_plan(schedule: Schedule, plan: MemoryPlan) -> None:
    """Raise VerifyError unless places are as the schedule needs them."""
    graph = memory_graph(schedule)
    place = _by_storage(plan)
    _check_kept(graph, plan)
    _check_lives(graph, place)
    inside: list[list[Place]] = [[] for _ in plan.slabs]
    taken: set[str] = set()
    for p in plan.places:
        if p.nbytes < graph.buffer[p.storage].nbytes:
            raise VerifyError("bounds", f"%{p.storage} needs {graph.buffer[p.storage].nbytes} bytes and has {p.nbytes}")
        if p.over is not None:
            _check_handover(graph, place, p, taken)
        if p.slab is not None:
            _check_inside(graph, plan, p)
            inside[p.slab].append(p)
    for slab, places in enumerate(inside):
        # In the step of a handover the bytes are still those of the one before.
        sweep = Sweep([(p.first + (p.over is not None), p.end) for p in places])
        rows = array("q", [p.offset for p in places]), array("q", [p.nbytes for p in places])
        met = sweep.fault(*rows, plan.slabs[slab].nbytes)
        if met is not None:
            a, b = (places[i] for i in met)
            if a is b:
                raise VerifyError(
                    "bounds",
                    f"%{a.storage} at {a.offset}, {a.nbytes} bytes, of slab {slab} of {plan.slabs[slab].nbytes}",
                )
            raise VerifyError("overlap", f"%{a.storage} and %{b.storage} share bytes of slab {slab} in step {b.first}")


class Sweep:
    """Lives in steps, in which rows of bytes may lie anywhere: tells whether two of them meet. The order of events is found
    once, so that other sizes and places of the same lives cost one pass."""

    def __init__(self, lives: Sequence[tuple[int, int]]) -> None:
        """``lives``: ``(first, end)`` per row; one with ``first >= end`` is never alive."""
        held = [i for i, (first, end) in enumerate(lives) if first < end]
        moments = [(lives[i][1], 0, ~i) for i in held] + [(lives[i][0], 1, i) for i in held]  # ends before beginnings
        self.rows = len(lives)
        self.events = array("q", [event for _, _, event in sorted(moments)])

    def fault(self, low: array[int], room: array[int], nbytes: int, *, compiled: bool = True) -> tuple[int, int] | None:
        """Two rows (by index, the later born second) that share bytes ``[low, low + room)`` while both live; the same one twice,
        if it is not within ``[0, nbytes)``; or None. ``compiled``: use the compiled twin, once it is built."""
        library = _library() if compiled else None
        if library is not None:
            found = array("q", (0, 0))
            events, rows, told = (ctypes.c_void_p(x.buffer_info()[0]) for x in (self.events, low, found))
            sizes, count = ctypes.c_void_p(room.buffer_info()[0]), ctypes.c_int64(len(self.events))
            wrong = library.lowtide_fault(count, events, rows, sizes, ctypes.c_int64(nbytes), told)
            return (found[0], found[1]) if wrong else None
        lows: list[int] = []  # of what is alive, ascending; ``alive``: the same by index
        alive: list[int] = []
        for event in self.events:
            i = event if event >= 0 else ~event
            at, end = low[i], low[i] + room[i]
            if at >= end:
                continue
            k = bisect_left(lows, at)
            if event < 0:
                del lows[k], alive[k]
                continue
            if at < 0 or end > nbytes:
                return i, i
            if k and lows[k - 1] + room[alive[k - 1]] > at:
                return alive[k - 1], i
            if k < len(lows) and lows[k] < end:
                return alive[k], i
            lows.insert(k, at)
            alive.insert(k, i)
        return None


def check_rows(sweep: Sweep, offsets: array[int], room: array[int], nbytes: int) -> None:
    """Raise VerifyError (``missing``, ``bounds``, ``overlap``) unless values with the lives of ``sweep``, each with ``room``
    bytes from its offset on, lie apart within a slab of ``nbytes``."""
    if not len(offsets) == len(room) == sweep.rows:
        raise VerifyError("missing", f"{sweep.rows} values have {len(offsets)} offsets and {len(room)} sizes")
    met = sweep.fault(offsets, room, nbytes)
    if met is None:
        return
    a, b = met
    if a == b:
        raise VerifyError("bounds", f"value {a} at {offsets[a]}, {room[a]} bytes, of a slab of {nbytes}")
    raise VerifyError("overlap", f"values {a} and {b} share bytes of the slab")


@cache
def _begin() -> None:
    native.build_beside(_LIBRARY)


def _library() -> ctypes.CDLL | None:
    """The compiled twin; None while it is being built, or where it cannot be."""
    _begin()
    return None if native.being_built(_LIBRARY) else native.opened(_LIBRARY)[0]


def _by_storage(plan: MemoryPlan) -> Mapping[str, Place]:
    place: dict[str, Place] = {}
    for p in plan.places:
        if p.storage in place:
            raise VerifyError("twice", f"%{p.storage} has two places")
        place[p.storage] = p
    return place


def _check_kept(graph: MemoryGraph, plan: MemoryPlan) -> None:
    """Only on the CPU does a second forward call get another slab while the first one's saved tensors are in use."""
    borders = [t for t, node in enumerate(graph.nodes) if node.name.startswith(CALL)]
    for k, slab in enumerate(plan.slabs):
        if slab.kept and slab.device != "cpu" and any(slab.first < t < slab.end for t in borders):
            raise VerifyError("held", f"slab {k} on {slab.device} is kept for the next call with saved tensors in it")


def _check_lives(graph: MemoryGraph, place: Mapping[str, Place]) -> None:
    """Every storage that a node makes has a place from that node's step to behind the last that reads it."""
    made: set[str] = set()
    buffer = graph.buffer
    for t, node in enumerate(graph.nodes):
        for name in node.reads:
            p = place.get(name)
            if p is None:
                if not buffer[name].input:
                    raise VerifyError("missing", f"%{name}, read by {node.name}, has no place")
            elif name not in made:
                raise VerifyError("undefined", f"{node.name} reads %{name} before it is written")
            elif t >= p.end:
                raise VerifyError("freed", f"{node.name} reads %{name} in step {t}, freed after {p.end - 1}")
        for name in node.writes:
            p = place.get(name)
            if p is None:
                raise VerifyError("missing", f"%{name}, made by {node.name}, has no place")
            if not p.first == t < p.end:
                raise VerifyError("undefined", f"%{name} is made in step {t}, its place is for {p.first}..{p.end}")
            if buffer[name].output and (p.slab is not None or not p.escapes or p.end < len(graph.nodes)):
                raise VerifyError("escape", f"%{name} is returned, but its place is not its own for good")
            made.add(name)
    for name in place:
        if name not in made:
            raise VerifyError("input", f"%{name} has a place, but no operation makes it")


def _check_handover(graph: MemoryGraph, place: Mapping[str, Place], p: Place, taken: set[str]) -> None:
    """The one before ends in that step, nobody else takes it, and it has all the bytes in the same place."""
    before = place.get(p.over or "")
    permitted = (p.over, p.storage) in graph.nodes[p.first].inplace
    if before is None or not permitted or before.storage in taken or before.end != p.first + 1:
        raise VerifyError("inplace", f"%{p.storage} may not take over %{p.over} in step {p.first}")
    if (before.slab, before.offset) != (p.slab, p.offset) or before.nbytes < p.nbytes:
        raise VerifyError("inplace", f"%{p.storage} takes over %{p.over}, but lies elsewhere or is larger")
    taken.add(before.storage)


def _check_inside(graph: MemoryGraph, plan: MemoryPlan, p: Place) -> None:
    assert p.slab is not None
    if not 0 <= p.slab < len(plan.slabs):
        raise VerifyError("bounds", f"%{p.storage} lies in slab {p.slab}, there are {len(plan.slabs)}")
    slab = plan.slabs[p.slab]
    if slab.device != graph.buffer[p.storage].device:
        raise VerifyError("device", f"%{p.storage} is on {graph.buffer[p.storage].device}, its slab on {slab.device}")
    alignment = alignment_of(slab.device)
    if p.offset % alignment:
        raise VerifyError("misaligned", f"%{p.storage} at {p.offset}, which is no multiple of {alignment}")
    if not slab.first <= p.first < p.end <= slab.end:
        raise VerifyError("held", f"%{p.storage} in steps {p.first}..{p.end} of a slab held {slab.first}..{slab.end}")

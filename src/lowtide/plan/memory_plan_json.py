"""Reads a MemoryPlan from the version-1 JSON that ``MemoryPlan.to_json`` writes.

Comes in: JSON. Goes out: the MemoryPlan. Promised: ``load(dumps(p.to_json())) == p``; what a plan of one device and no
allocators has nothing of (``others``, a slab's ``allocator``) may be left out; JSON that is no plan is refused
with the JSON path of the fault, a promise that its own ``live`` does not keep included. Whether the plan is right for a
schedule is for ``plan.replay`` to say.
"""

from __future__ import annotations

from lowtide.core.codec import Cursor, loads
from lowtide.plan.plan import FRESH, OVER, SLAB, DeviceFigures, MemoryPlan, Place, Slab

_PLACE = ("storage", "nbytes", "first", "end", "how", "over", "slab", "offset", "escapes")
_FIGURES = ("device", "promised_nbytes", "lower_bound", "sum_nbytes", "chosen", "candidates", "live")


def load(text: str, file: str = "<text>") -> MemoryPlan:
    """The plan of a JSON text. Raises FileError with the place of the first fault."""
    return read_memory_plan(loads(text, file))


def read_memory_plan(at: Cursor) -> MemoryPlan:
    """The plan of a JSON object. Raises FileError with the place of the first fault."""
    f = at.fields(("version", *_FIGURES, "slabs", "places"), ("others",))
    f["version"].version()
    slabs = tuple(_slab(c) for c in f["slabs"].items())
    main = _figures(f)
    return MemoryPlan(
        device=main.device,
        places=tuple(_place(c, len(slabs)) for c in f["places"].items()),
        slabs=slabs,
        live=main.live,
        lower_bound=main.lower_bound,
        sum_nbytes=main.sum_nbytes,
        chosen=main.chosen,
        candidates=main.candidates,
        others=tuple(_figures(c.fields(_FIGURES)) for c in (f["others"].items() if "others" in f else ())),
    )


def _figures(f: dict[str, Cursor]) -> DeviceFigures:
    found = DeviceFigures(
        f["device"].text(),
        tuple(c.whole() for c in f["live"].items()),
        f["lower_bound"].whole(),
        f["sum_nbytes"].whole(),
        f["chosen"].text(),
        tuple((name, c.whole()) for name, c in f["candidates"].members()),
    )
    if f["promised_nbytes"].whole() != found.promised_nbytes:
        f["promised_nbytes"].fail(f"the most of 'live' is {found.promised_nbytes}")
    return found


def _slab(at: Cursor) -> Slab:
    f = at.fields(("nbytes", "device", "first", "end", "kept"), ("allocator",))
    first, end = _span(f)
    allocator = f["allocator"].text() if "allocator" in f else ""
    return Slab(f["nbytes"].whole(), f["device"].text(), first, end, f["kept"].flag(), allocator)


def _place(at: Cursor, slabs: int) -> Place:
    f = at.fields(_PLACE)
    first, end = _span(f)
    how = f["how"].text()
    if how not in (FRESH, OVER, SLAB):
        f["how"].fail(f"{FRESH}, {OVER} or {SLAB} is expected, not {how!r}")
    slab = None if f["slab"].value is None else f["slab"].whole()
    if slab is not None and slab >= slabs:
        f["slab"].fail(f"there are {slabs} slabs")
    over = None if f["over"].value is None else f["over"].text()
    return Place(
        f["storage"].text(),
        f["nbytes"].whole(),
        first,
        end,
        how,
        over,
        slab,
        f["offset"].whole(),
        f["escapes"].flag(),
    )


def _span(f: dict[str, Cursor]) -> tuple[int, int]:
    first, end = f["first"].whole(), f["end"].whole()
    if end < first:
        f["end"].fail(f"[{first}, {end}) runs backwards")
    return first, end

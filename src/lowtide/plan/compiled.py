"""The compiled twin (``search.cpp``): built on first use, called through ctypes.

Comes in: ``Flat`` and ``Sections``. Goes out: what the Python twins give. Promised: ``library()`` is None where no compiler
is to be had (the reason is kept in ``why_not()``), and callers then use the Python twins.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from itertools import chain

from lowtide.core.errors import BuildError, UserError
from lowtide.core.native import load
from lowtide.plan.flat import Flat
from lowtide.plan.sections import Sections

_NUMBERS = ctypes.POINTER(ctypes.c_int64)


class _Flat(ctypes.Structure):
    _fields_ = [("count", ctypes.c_int64)] + [
        (name, _NUMBERS)
        for name in ("size", "alignment", "fixed", "segment_of", "first", "end", "low", "high", "excluded_of", "excluded")
    ]


_ROWS = ("size", "alignment", "limit", "range_of", "lo", "hi", "obstacle_of", "obstacle_lo", "obstacle_hi")


class _Sections(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("count", "sections", "orders")),
        *((name, _NUMBERS) for name in (*_ROWS, "rule", "rank", "before")),
        ("capacity", ctypes.c_int64),
    ]


@cache
def _library() -> tuple[ctypes.CDLL | None, str]:
    source = files("lowtide.plan").joinpath("search.cpp").read_text(encoding="utf-8")
    try:
        return load(source, "plan"), ""
    except BuildError as e:
        return None, str(e)


def library() -> ctypes.CDLL | None:
    """The loaded library, or None."""
    return _library()[0]


def why_not() -> str:
    """Why there is no library (empty where there is one)."""
    return _library()[1]


def _pointer(numbers: array[int]) -> object:
    return ctypes.cast(numbers.buffer_info()[0], _NUMBERS)


class CompiledFlat:
    """A ``Flat`` held in C arrays for as many calls as wanted."""

    def __init__(self, lib: ctypes.CDLL, flat: Flat) -> None:
        self._lib, self._flat = lib, flat
        names = [name for name, _ in _Flat._fields_[1:]]
        self._kept = {name: array("q", getattr(flat, name)) for name in names}
        self._struct = _Flat(flat.count, *(_pointer(self._kept[name]) for name in names))

    def place(self, order: Sequence[int], *, best: bool = False) -> list[int]:
        """As ``greedy.place``."""
        wanted, offsets = array("q", order), array("q", bytes(8 * self._flat.count))
        fault = self._lib.lowtide_place(
            ctypes.byref(self._struct), _pointer(wanted), ctypes.c_int64(len(wanted)), int(best), _pointer(offsets)
        )
        if fault >= 0:
            raise UserError(f"the fixed place of buffer number {fault} ({self._flat.fixed[fault]}) is taken by another one")
        return offsets.tolist()


def search(
    lib: ctypes.CDLL, sections: Sections, capacity: int, budget: int, seconds: float
) -> tuple[bool | None, list[int], int]:
    """As ``search.search``: whether it fits (None: budget spent), offsets per row in bytes, nodes."""
    rows = [sections.limits(capacity) if name == "limit" else getattr(sections, name) for name in _ROWS]
    ranks, before = (list(chain.from_iterable(lists)) for lists in (sections.ranks, sections.before))
    kept = [array("q", numbers) for numbers in (*rows, sections.rules, ranks, before)]
    count = len(sections.size)
    numbers = (_pointer(numbers) for numbers in kept)
    struct = _Sections(count, sections.sections, len(sections.rules), *numbers, sections.room(capacity))
    offsets, nodes = array("q", bytes(8 * count)), ctypes.c_int64(0)
    answer = lib.lowtide_search(
        ctypes.byref(struct), ctypes.c_int64(budget), ctypes.c_double(seconds), ctypes.byref(nodes), _pointer(offsets)
    )
    fits = None if answer < 0 else bool(answer)
    return fits, [x * sections.unit for x in offsets], nodes.value

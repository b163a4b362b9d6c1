"""The allocator hook from Python: regions that note or place what the CPU allocator is asked for on this thread.

Comes in: nothing, or planned places. Goes out: events, or bytes at their places. Promised: outside a region nothing changes;
regions nest; where the hook cannot be built ``available`` says why, and nothing else here may be called.
"""

from __future__ import annotations

import ctypes
import functools
import weakref
from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files

from lowtide.core.errors import BuildError
from lowtide.core.native import load
from lowtide.core.reason import Reason
from lowtide.executor.placing import ITEM
from lowtide.executor.shaping import c10_flags


@functools.cache
def _library() -> ctypes.CDLL:
    source = files("lowtide.executor").joinpath("place.cpp").read_text(encoding="utf-8")
    made = load(source, "place", c10_flags())
    whole, pointer = ctypes.c_int64, ctypes.c_void_p
    for name, result, arguments in (
        ("region_new", pointer, []),
        ("region_drop", None, [pointer]),
        ("region_record", None, [pointer, whole]),
        ("region_mark", None, [pointer, whole]),
        ("region_plan", None, [pointer, whole, pointer, pointer, whole]),
        ("region_events", whole, [pointer, pointer]),
        ("region_told", None, [pointer, pointer]),
        ("region_release", whole, [pointer]),
        ("enter", pointer, [pointer]),
        ("leave", None, [pointer]),
    ):
        function = getattr(made, f"lowtide_{name}")
        function.restype, function.argtypes = result, arguments
    return made


@functools.cache
def unavailable() -> Reason | None:
    """Why allocations cannot be noted or placed here; None where they can."""
    try:
        _library()
    except BuildError as e:
        return Reason("allocations cannot be noted or placed", str(e).splitlines()[0])
    return None


@dataclass(frozen=True, slots=True)
class Event:
    """``nbytes`` were allocated as block ``id`` while ``mark`` was the latest mark; negative: the block was freed."""

    id: int
    nbytes: int
    mark: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Of a region: allocations placed, those that got ordinary memory though not planned so, their bytes; blocks alive in
    the slab, and its address (0: none)."""

    placed: int
    escaped: int
    escaped_nbytes: int
    alive: int
    address: int


class Region:
    """One region; may be entered again and again, by one thread at a time."""

    def __init__(self) -> None:
        self.library = _library()
        self.at = self.library.lowtide_region_new()
        weakref.finalize(self, self.library.lowtide_region_drop, self.at).atexit = False

    @contextmanager
    def active(self) -> Iterator[Region]:
        """While entered, this thread's allocations go through the region."""
        before = self.library.lowtide_enter(self.at)
        try:
            yield self
        finally:
            self.library.lowtide_leave(before)

    def record(self, on: bool) -> None:
        """Note allocations instead of placing them."""
        self.library.lowtide_region_record(self.at, int(on))

    def mark(self, number: int) -> None:
        """What is noted from here on carries ``number``."""
        self.library.lowtide_region_mark(self.at, number)

    def plan(self, sizes: Sequence[int], offsets: Sequence[int], nbytes: int) -> None:
        """Places of the allocations in their order: bytes, offset in a slab of ``nbytes`` (-1: ordinary memory)."""
        given = array(ITEM, sizes), array(ITEM, offsets)
        self.library.lowtide_region_plan(
            self.at, len(sizes), given[0].buffer_info()[0], given[1].buffer_info()[0], nbytes
        )

    def events(self) -> list[Event]:
        """What was noted."""
        count = self.library.lowtide_region_events(self.at, None)
        out = array(ITEM, [0] * (3 * count))
        self.library.lowtide_region_events(self.at, out.buffer_info()[0])
        return [Event(*out[i : i + 3]) for i in range(0, 3 * count, 3)]

    def told(self) -> Standing:
        """How it stands."""
        out = array(ITEM, [0] * 5)
        self.library.lowtide_region_told(self.at, out.buffer_info()[0])
        return Standing(*out)

    def release(self) -> bool:
        """Free the slab, if nothing lies in it."""
        return bool(self.library.lowtide_region_release(self.at))

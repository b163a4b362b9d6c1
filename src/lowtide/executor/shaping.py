"""Sizes -> headers: gives all headers of a segment their sizes, strides and places, in one compiled call where possible.

Comes in: headers that stand on slabs, how the layouts of each segment follow from sizes, the placement, and the sizes as
they become known. Goes out: which headers do not fit their place (these are left alone), and whether anything is larger
than was learned. Promised: no header is given an element outside its storage, nor outside what it is a view of; the compiled
part and its Python twin do the same; without a compiler (or without torch's C++ headers) the twin serves.
"""

from __future__ import annotations

import ctypes
import functools
import itertools
import operator
import struct
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import torch

from lowtide.core.errors import BugError, BuildError
from lowtide.core.native import FLAGS, load
from lowtide.executor.arithmetic import Arithmetic
from lowtide.executor.emit import Slot
from lowtide.executor.placing import ITEM, Placement
from lowtide.torch_compat import header_address

Geometry = Callable[[tuple[Any, ...]], list[int]]


def c10_flags() -> tuple[str, ...]:
    """Compiler flags for a source that uses torch's lowest C++ layer.

    Raises:
        BuildError: this torch came without its headers.
    """
    root = Path(torch.__file__).parent
    if not (root / "include/c10/core/TensorImpl.h").exists():
        raise BuildError(f"{root} holds no C++ headers")
    abi = f"-D_GLIBCXX_USE_CXX11_ABI={int(torch.compiled_with_cxx11_abi())}"
    own = (
        *tuple(f for f in FLAGS if not f.startswith("-std")),
        "-std=c++20",
        abi,
        f"-DLOWTIDE_TORCH={torch.__version__}",
    )
    link = (f"-L{root / 'lib'}", f"-Wl,-rpath,{root / 'lib'}", "-Wl,--no-as-needed", "-lc10")
    return (*own, f"-I{root / 'include'}", *link)


@functools.cache
def compiled() -> ctypes.PyDLL | None:
    """The compiled part; None where it cannot be built. Called with the interpreter's lock held: it takes a microsecond."""
    try:
        source = files("lowtide.executor").joinpath("shape.cpp").read_text(encoding="utf-8")
        built = load(source, "shape", c10_flags())
    except BuildError:
        return None
    library = ctypes.PyDLL(built._name, handle=built._handle)
    library.lowtide_shape.restype = ctypes.c_int64
    library.lowtide_shape.argtypes = [ctypes.c_void_p, ctypes.c_void_p]
    return library


@dataclass(frozen=True, slots=True)
class Shapes:
    """What headers of a block look like, for any frame: per header its slot and buffer; per segment its headers, the sizes
    that it is told, and its layouts as a function of these, as Python and as numbers; per buffer its device."""

    slots: Sequence[Slot]
    buffer: Sequence[int]
    by_segment: Sequence[Sequence[int]]
    symbols: Sequence[Sequence[str]]
    geometry: Sequence[Geometry]
    arithmetic: Sequence[Arithmetic]
    devices: Sequence[str]


class Where(NamedTuple):
    """Where a signature's buffers lie, in slabs of ``nbytes`` in all, and the sizes (bytes) up to which there is nothing to learn
    of them. ``version``: of what was learned when it was found; both are read at once. Never changed, so that compiled code may
    hold the ``address`` (of the last of ``numbers``, which tells where the others are) as long as one holds the whole."""

    placement: Placement
    nbytes: int
    version: int
    limit: array[int]
    numbers: tuple[array[int], ...]
    address: int


def where(placement: Placement, limit: Sequence[int], version: int = -1) -> Where:
    """The same with the addresses of its numbers."""
    held = (*placement.arrays, array(ITEM, limit))
    table = array(ITEM, map(_at, held))
    return Where(placement, placement.nbytes, version, held[-1], (*held, table), _at(table))


NO_SHAPES = Shapes((), (), (), (), (), (), ())


class Shaper:
    """The Python twin, and what both have in common. Sizes in bytes per buffer: ``sizes`` of this run, ``high`` the largest
    since they were last asked for. ``over``: one of them is above what was learned. ``count``: headers that did not fit when
    a segment was shaped last."""

    def __init__(self, headers: Sequence[torch.Tensor], shapes: Shapes) -> None:
        self.headers, self.shapes = headers, shapes
        self.sizes, self.high, self.starts = (array(ITEM, bytes(8 * len(shapes.devices))) for _ in range(3))
        self.where = where(Placement((), (), 0, 0), self.sizes)
        self.started: Mapping[str, int] = {}
        self.count = 0
        self.over = False
        self.outgrown: list[int] = []

    def start_at(self, starts: Mapping[str, int]) -> None:
        """By device, how many bytes into the slab there the block's bytes begin; where nothing is said, at its beginning."""
        if starts != self.started:
            self.started = dict(starts)
            self.starts[:] = array(ITEM, [starts.get(d, 0) for d in self.shapes.devices])

    def place(self, where: Where) -> None:
        """New places, and what is known of the sizes there."""
        self.where = where

    def need(self, buffer: int, nbytes: int) -> None:
        """A buffer without header needs that much."""
        if nbytes > self.high[buffer]:
            self.high[buffer] = self.sizes[buffer] = nbytes
            self.over = self.over or nbytes > self.where.limit[buffer]

    def learned(self) -> tuple[int, ...]:
        """The largest sizes since this was last asked."""
        found = tuple(self.high)
        self.high[:] = self.sizes
        self.over = False
        return found

    def escaped(self, segment: int) -> list[int]:
        """The headers that did not fit when the segment was shaped last."""
        return self.outgrown

    def begin(self, where: Where, key: tuple[Any, ...]) -> bool:
        """New places, and shape what is known at the start; nothing is known of this run's other sizes yet. Returns whether
        anything does not fit or is above what was learned.

        Raises:
            BugError: a header would reach beyond its bytes.
        """
        self.where, self.over = where, False
        self.sizes[:] = self.high[:] = array(ITEM, bytes(8 * len(self.sizes)))
        return self(0, key)

    def __call__(self, segment: int, key: tuple[Any, ...]) -> bool:
        """Shape a segment's headers. Returns whether anything does not fit or is above what was learned.

        Raises:
            BugError: a header would reach beyond its bytes.
        """
        layouts, placement, limit = self.shapes.geometry[segment](key), self.where.placement, self.where.limit
        self.outgrown, over = list[int](), False
        for i in self.shapes.by_segment[segment]:
            slot, header, b = self.shapes.slots[i], self.headers[i], self.shapes.buffer[i]
            at, rank = slot.where, slot.rank
            nbytes, offset, *dims = layouts[at : at + 2 + 2 * rank]
            size, stride = dims[:rank], dims[rank:]
            if not _within(offset, size, stride, header.element_size(), nbytes):
                raise _wrong()
            self.sizes[b] = nbytes
            self.high[b] = max(self.high[b], nbytes)
            over = over or nbytes > limit[b]
            if nbytes > placement.capacity[b]:
                self.outgrown.append(i)
                continue
            begin = self.starts[b] + placement.offsets[b]
            if nbytes and begin + nbytes > header.untyped_storage().nbytes():
                raise _wrong()
            header.as_strided_(size, stride, begin // header.element_size() + offset)
        self.over, self.count = self.over or over, len(self.outgrown)
        return over or self.count > 0


_LARGEST = (1 << 63) - 1
_OVER = 1 << 32  # what the compiled part adds to its count where a size is above the limit


class _Compiled(Shaper):
    """The same, in one call."""

    def __init__(self, headers: Sequence[torch.Tensor], shapes: Shapes) -> None:
        super().__init__(headers, shapes)
        library = compiled()
        assert library is not None
        self.call = library.lowtide_shape
        self.out = array(ITEM, [0] * max(len(headers), 1))
        self.shared = array(
            ITEM,
            [self.where.address, len(self.starts), _at(self.starts), _at(self.sizes), _at(self.high), _at(self.out)],
        )
        made = [self._segment(k) for k in range(len(shapes.by_segment))]
        self.tables = [tables for tables, _, _ in made]
        self.segments = [(tell, _at(control)) for _, tell, control in made]
        self.controls = [control for _, _, control in made]
        self.tell, self.at = self.segments[0] if made else (_nothing, 0)

    def _segment(self, k: int) -> tuple[list[array[int]], Callable[[tuple[Any, ...]], None], array[int]]:
        shapes, a = self.shapes, self.shapes.arithmetic[k]
        inside = shapes.by_segment[k]
        values = array(ITEM, a.values)
        code, rows, starts, wheres = (array(ITEM, x) for x in (a.code, a.rows, a.starts, a.wheres))
        layouts = array(ITEM, bytes(8 * max(a.count, 1)))
        of_headers = [
            array(ITEM, [header_address(self.headers[i]) for i in inside]),
            array(ITEM, [shapes.slots[i].where for i in inside]),
            array(ITEM, [shapes.slots[i].rank for i in inside]),
            array(ITEM, [shapes.buffer[i] for i in inside]),
            array(ITEM, [self.headers[i].element_size() for i in inside]),
        ]
        control = array(
            ITEM,
            [_at(self.shared), _at(values), _at(code), len(a.code) // 3, a.first_result, _at(rows), _at(starts),
             _at(wheres), len(a.starts), _at(layouts), len(inside), *map(_at, of_headers)],
        )  # fmt: skip
        tell = _teller(values, a.first_key, a.taken, len(shapes.symbols[k]))
        return [values, code, rows, starts, wheres, layouts, *of_headers], tell, control

    def place(self, where: Where) -> None:
        """New places, and what is known of the sizes there."""
        self.where = where
        self.shared[0] = where.address

    def escaped(self, segment: int) -> list[int]:
        """The headers that did not fit when the segment was shaped last."""
        inside = self.shapes.by_segment[segment]
        return [inside[k] for k in self.out[: self.count]]

    def begin(self, where: Where, key: tuple[Any, ...]) -> bool:
        """New places, and shape what is known at the start; nothing is known of this run's other sizes yet. Returns whether
        anything does not fit or is above what was learned.

        Raises:
            BugError: a header would reach beyond its bytes.
        """
        self.where = where
        self.tell(key)
        found = self.call(self.at, where.address)
        if not found:
            self.over, self.count = False, 0
            return False
        if found < 0:
            raise _wrong()
        self.over, self.count = found >= _OVER, found % _OVER
        return True

    def __call__(self, segment: int, key: tuple[Any, ...]) -> bool:
        """Shape a segment's headers. Returns whether anything does not fit or is above what was learned.

        Raises:
            BugError: a header would reach beyond its bytes.
        """
        tell, at = self.segments[segment]
        tell(key)
        found = self.call(at, None)
        if not found:
            self.count = 0
            return False
        if found < 0:
            raise _wrong()
        self.over, self.count = self.over or found >= _OVER, found % _OVER
        return True


def _wrong() -> BugError:
    return BugError("a value of a program planned at run time would reach beyond its bytes; nothing was written")


def _within(offset: int, size: Sequence[int], stride: Sequence[int], itemsize: int, whole: int) -> bool:
    """Whether every element of a layout lies in the first ``whole`` bytes of what it stands on."""
    if min((offset, *size, *stride)) < 0 or max(itertools.accumulate(size, operator.mul), default=1) > _LARGEST:
        return False
    reach = offset + sum((n - 1) * s for n, s in zip(size, stride, strict=True)) + 1
    return 0 in size or reach * itemsize <= whole


def _nothing(_: tuple[Any, ...]) -> None:
    """There is no segment to be told sizes."""


def _at(numbers: array[int]) -> int:
    return numbers.buffer_info()[0]


def _teller(values: array[int], first: int, taken: Sequence[int], count: int) -> Callable[[tuple[Any, ...]], None]:
    """What writes the sizes that matter into the numbers of a segment."""
    pack, at = struct.Struct(f"{len(taken)}q").pack_into, 8 * first
    if len(taken) == count:
        return lambda key: pack(values, at, *key)
    return lambda key: pack(values, at, *[key[i] for i in taken])


def shaper(headers: Sequence[torch.Tensor], shapes: Shapes, *, native: bool = True) -> Shaper:
    """The compiled one where there is one."""
    kind = _Compiled if native and headers and compiled() is not None else Shaper
    return kind(headers, shapes)

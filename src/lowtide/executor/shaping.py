"""Sizes -> headers: gives all headers of a segment their sizes, strides and places, in one compiled call where possible.

Comes in: headers that stand on one slab, the layouts of a segment as one list of numbers, and the placement. Goes out: the
indices of headers that do not fit their place, which are left alone. Promised: the compiled part and its Python twin do
the same; without a compiler (or without torch's C++ headers) the twin serves.
"""

from __future__ import annotations

import ctypes
import functools
from array import array
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import torch

from lowtide.core.errors import BuildError
from lowtide.core.native import FLAGS, load
from lowtide.executor.emit import Slot
from lowtide.executor.learned import Recent
from lowtide.executor.placing import Placement
from lowtide.torch_compat import header_address

ITEM = "q"


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
def compiled() -> ctypes.CDLL | None:
    """The compiled part; None where it cannot be built."""
    try:
        source = files("lowtide.executor").joinpath("shape.cpp").read_text(encoding="utf-8")
        library = load(source, "shape", c10_flags())
    except BuildError:
        return None
    whole = ctypes.c_int64
    pointer = ctypes.c_void_p
    library.lowtide_shape.restype = whole
    library.lowtide_shape.argtypes = [whole, *[pointer] * 8, whole, *[pointer] * 3]
    return library


class Shaper:
    """What is the same at every call, for the headers of one block. ``buffer``: per header. Sizes in bytes per buffer:
    ``sizes`` of this run, ``high`` the largest since they were last asked for."""

    def __init__(
        self,
        headers: Sequence[torch.Tensor],
        slots: Sequence[Slot],
        buffer: Sequence[int],
        by_segment: Sequence[Sequence[int]],
    ) -> None:
        self.headers, self.slots, self.buffer, self.by_segment = headers, slots, buffer, by_segment
        count = max(buffer, default=-1) + 1
        self.sizes, self.high = array(ITEM, [0] * count), array(ITEM, [0] * count)
        self.placement = Placement((), (), 0, 0)

    def place(self, placement: Placement) -> None:
        """New places; all sizes are to be told anew."""
        self.placement = placement
        count = len(placement.offsets)
        self.sizes, self.high = array(ITEM, bytes(8 * count)), array(ITEM, bytes(8 * count))

    def need(self, buffer: int, nbytes: int) -> bool:
        """A buffer without header needs that much. True where that is more than before."""
        more = nbytes > self.high[buffer]
        if more:
            self.high[buffer] = self.sizes[buffer] = nbytes
        return more

    def learned(self) -> tuple[int, ...]:
        """The largest sizes since this was last asked."""
        found = tuple(self.high)
        self.high[:] = self.sizes
        return found

    def __call__(self, segment: int, layouts: list[int], start: int) -> list[int]:
        """Shape a segment's headers. ``start``: where the block's bytes begin in the slab."""
        escaped: list[int] = []
        for i in self.by_segment[segment]:
            slot, header, b = self.slots[i], self.headers[i], self.buffer[i]
            at, rank = slot.where, slot.rank
            nbytes = layouts[at]
            self.sizes[b] = nbytes
            self.high[b] = max(self.high[b], nbytes)
            if nbytes > self.placement.capacity[b]:
                escaped.append(i)
                continue
            begin = (start + self.placement.offsets[b]) // header.element_size() + layouts[at + 1]
            header.as_strided_(layouts[at + 2 : at + 2 + rank], layouts[at + 2 + rank : at + 2 + 2 * rank], begin)
        return escaped


class _Compiled(Shaper):
    """The same, in one call."""

    def __init__(
        self,
        headers: Sequence[torch.Tensor],
        slots: Sequence[Slot],
        buffer: Sequence[int],
        by_segment: Sequence[Sequence[int]],
    ) -> None:
        super().__init__(headers, slots, buffer, by_segment)
        library = compiled()
        assert library is not None
        self.call = library.lowtide_shape
        self.tables = [
            [
                array(ITEM, [header_address(headers[i]) for i in inside]),
                array(ITEM, [slots[i].where for i in inside]),
                array(ITEM, [slots[i].rank for i in inside]),
                array(ITEM, [buffer[i] for i in inside]),
                array(ITEM, [headers[i].element_size() for i in inside]),
            ]
            for inside in by_segment
        ]
        self.at = [[t.buffer_info()[0] for t in tables] for tables in self.tables]
        self.out = array(ITEM, [0] * max(len(headers), 1))
        self.kept: Recent[int, tuple[Placement, array[int], array[int]]] = Recent(64)

    def place(self, placement: Placement) -> None:
        """New places; all sizes are to be told anew."""
        super().place(placement)
        held = self.kept.get(id(placement))
        if held is None or held[0] is not placement:
            held = self.kept.put(
                id(placement), (placement, array(ITEM, placement.offsets), array(ITEM, placement.capacity))
            )
        self.places = held  # while it is in use
        self.fixed = [a.buffer_info()[0] for a in held[1:]]
        self.told = [a.buffer_info()[0] for a in (self.sizes, self.high, self.out)]

    def __call__(self, segment: int, layouts: list[int], start: int) -> list[int]:
        """Shape a segment's headers. ``start``: where the block's bytes begin in the slab."""
        inside = self.by_segment[segment]
        given = array(ITEM, layouts)
        headers, *tables = self.at[segment]
        count = self.call(
            len(inside), headers, given.buffer_info()[0], *tables, *self.fixed, start, *self.told
        )  # fmt: skip
        return [inside[k] for k in self.out[:count]] if count else []


def shaper(
    headers: Sequence[torch.Tensor],
    slots: Sequence[Slot],
    buffer: Sequence[int],
    by_segment: Sequence[Sequence[int]],
    *,
    native: bool = True,
) -> Shaper:
    """The compiled one where there is one."""
    kind = _Compiled if native and headers and compiled() is not None else Shaper
    return kind(headers, slots, buffer, by_segment)

"""Layouts that are still open, the ways to decide them, and what others ask of them.

Comes in: an ``Open``, and the strides that somebody wants of it; or a ``Layout``, and a ``Request``. Goes out: a ``Layout``.
Promised: an open layout has no strides but those that it would get if nobody wanted others, in which loops touch it until it is
decided; so no element of it has a place, and a trial is a ``Layout`` that nobody keeps. Deciding changes neither size nor dtype,
and neither brings in an unknown size nor loses one; what is decided is a ``Layout``, which no function here changes. A question
that unknown sizes leave open is answered no, and nothing is asked of anybody.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lowtide.ir.graph import ITEMSIZE, Layout, int_of
from lowtide.ir.index import Ranges, add, affine, flatten, known_less, known_multiple, mul, unflatten
from lowtide.ir.strides import Order, channels_last, fill_order, filled, inverse, same_places
from lowtide.ir.symbolic import Dim, symbol, symbols_of

_LINE = 16  # elements side by side that a loop walks as well as all of a row


@dataclass(frozen=True, slots=True)
class Open:
    """A tensor whose strides nobody has decided. ``natural``: those that its maker would give it, in elements. ``pinned``: as
    ``Layout`` says."""

    dtype: str
    device: str
    size: tuple[Dim, ...]
    natural: tuple[Dim, ...]
    pinned: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """How far apart a target wants lines of memory: strides of more than ``above`` elements are multiples of ``nbytes``."""

    nbytes: int
    above: int


# -- deciding ----------------------------------------------------------------------------------------------------------


def opened(layout: Layout) -> Open:
    """What is left of a layout when its strides are only a wish.

    Raises:
        ValueError: it does not begin where its storage begins, which nothing open can say.
    """
    if layout.offset != 0:
        raise ValueError(f"begins at element {layout.offset} of its storage")
    return Open(layout.dtype, layout.device, layout.size, layout.stride, layout.pinned)


def as_it_is(x: Open | Layout) -> Layout:
    """With the strides that its maker would give; what is decided stays."""
    return exactly(x, x.natural) if isinstance(x, Open) else x


def exactly(x: Open, stride: Sequence[Dim]) -> Layout:
    """With just these strides.

    Raises:
        ValueError: not one stride per dimension, or they depend on other unknown sizes than this tensor does.
    """
    if len(stride) != len(x.size):
        raise ValueError(f"{len(stride)} strides for {len(x.size)} dimensions")
    inside = {s for d in x.size for s in symbols_of(d)}
    known = inside.union(*map(symbols_of, x.natural))
    now = inside.union(*map(symbols_of, stride))
    if now != known:
        raise ValueError(f"of the strides and the tensor only one depends on {min(now ^ known)}")
    return Layout(x.dtype, x.device, x.size, tuple(stride), pinned=x.pinned)


def in_fill_order(x: Open, order: Sequence[int], padding: Padding | None = None) -> Layout:
    """Dense, filling memory in ``order`` (``ir.strides``); with its lines apart as ``padding`` says.

    Raises:
        ValueError: no order of its dimensions; or as ``exactly``.
    """
    dense = exactly(x, filled(x.size, order))
    return dense if padding is None else padded(dense, padding)


def in_stride_order(x: Open, places: Sequence[int]) -> Layout:
    """Dense, each dimension in its place (``ir.strides``) among the strides.

    Raises:
        ValueError: no places of its dimensions; or as ``exactly``.
    """
    return in_fill_order(x, inverse(places))


def like(x: Open, other: Layout, padding: Padding | None = None) -> Layout:
    """Dense, filling memory in the order in which another tensor of known strides does; with its lines apart as ``padding`` says.

    Raises:
        ValueError: the other has another number of dimensions; or as ``exactly``.
    """
    return in_fill_order(x, fill_order(other.size, other.stride), padding)


def padded(x: Layout, padding: Padding) -> Layout:
    """A dense layout with its lines further apart, its dimensions in the same order. The same object where nothing changes, and
    of what is not padded: unknown sizes, layouts that have gaps already, images with their channels last, no elements."""
    if not x.static or 0 in x.size or channels_last(x.size, x.stride):
        return x
    order = fill_order(x.size, x.stride)
    if not same_places(x.size, x.stride, filled(x.size, order)):
        return x
    whole = padding.nbytes // math.gcd(padding.nbytes, ITEMSIZE[x.dtype])
    stride, step = list(x.stride), 1
    for dim in order:
        step += -step % whole if step > padding.above else 0
        stride[dim] = step
        step *= int_of(x.size[dim])
    return x if same_places(x.size, x.stride, stride) else replace(x, stride=tuple(stride))


def aligned(x: Layout, nbytes: int) -> bool:
    """Whether every line of a tensor begins at a multiple of ``nbytes`` from where its storage begins, as far as we can tell: its
    offset and all its strides are such multiples, but for one dimension whose elements lie side by side. Dimensions of one
    element or none have no say."""
    strides = [s for n, s in zip(x.size, x.stride, strict=True) if n not in (0, 1)]
    if 1 in strides:
        strides.remove(1)
    elif strides:
        return False
    return all(known_multiple(mul(d, ITEMSIZE[x.dtype]), nbytes) for d in (x.offset, *strides))


# -- requests ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Exact:
    """A request: every element where ``stride`` puts it."""

    stride: tuple[Dim, ...]


@dataclass(frozen=True, slots=True)
class Ordered:
    """A request: dense, with dimensions in these ``places`` among the strides; places that descend are row by row."""

    places: Order


@dataclass(frozen=True, slots=True)
class Lines:
    """A request: of the last ``among`` dimensions the elements of one lie side by side, and its lines do not overlap. Of several,
    strides of single elements count as well: a product looks at both strides of a matrix, whatever its size."""

    among: int


Request = Exact | Ordered | Lines


def fits(x: Layout, request: Request) -> bool:
    """Whether a layout is as somebody asks. Strides of dimensions of one element are as anybody likes, but for ``Lines`` among
    several; so are all where there are no elements."""
    match request:
        case Exact(stride):
            return len(stride) == len(x.size) and same_places(x.size, x.stride, stride)
        case Ordered(places):
            return len(places) == len(x.size) and same_places(x.size, x.stride, filled(x.size, inverse(places)))
        case Lines(among):
            return 0 in x.size or _in_lines(x.size[-among:], x.stride[-among:])


def _in_lines(size: Sequence[Dim], stride: Sequence[Dim]) -> bool:
    dims = list(zip(size, stride, strict=True))
    return any(
        (s == 1 or (n == 1 and len(dims) == 1))
        and all(j == k or known_less(n, add(t, 1)) for j, (_, t) in enumerate(dims))
        for k, (n, s) in enumerate(dims)
    )


def granted(x: Open | Layout, request: Request) -> Layout | None:
    """A layout as somebody asks: the one that is decided or would be, where that fits; of an open one the one that does; None
    where only a copy does.

    Raises:
        ValueError: an open one has not the dimensions that are asked for; or as ``exactly``.
    """
    natural = as_it_is(x)
    if fits(natural, request):
        return natural
    if not isinstance(x, Open):
        return None
    match request:
        case Exact(stride):
            return exactly(x, stride)
        case Ordered(places):
            return in_stride_order(x, places)
        case Lines():
            return in_fill_order(x, tuple(reversed(range(len(x.size)))))


# -- from one layout to another ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Move:
    """From the elements of a dense storage to those of another, or to its own in other strides: for all i below ``size``,
    element ``sum(i * was)`` of the one is element ``sum(i * now)`` of the other. ``move_of`` makes one, with as few dimensions
    as that takes."""

    size: tuple[int, ...]
    was: tuple[int, ...]
    now: tuple[int, ...]

    @property
    def still(self) -> bool:
        """Whether no element moves."""
        return self.was == self.now

    @property
    def in_lines(self) -> bool:
        """Whether neighbours stay neighbours, so that no loop begins to run across memory."""
        return any(n >= _LINE and a == b == 1 for n, a, b in zip(self.size, self.was, self.now, strict=True))

    @property
    def back(self) -> Move:
        """The move the other way, between dense storages."""
        return Move(self.size, self.now, self.was)

    def element(self, at: Dim, ranges: Ranges) -> Dim:
        """Of the other the element that ``at`` is."""
        if self.still:
            return at
        index = unflatten(at, self.size, self.was, ranges)
        assert index is not None
        return flatten(index, self.now)

    def layout(self, x: Layout) -> Layout | None:
        """How that lies in the other which lies as ``x`` in the storage; None where strides cannot say that."""
        names = [f"d{k}" for k in range(len(x.size))]
        ranges = dict(zip(names, map(int_of, x.size), strict=True))
        found = affine(self.element(flatten(map(symbol, names), x.stride, x.offset), ranges))
        if found is None:
            return None
        step, offset = found
        return replace(x, stride=tuple(step.get(n, 0) for n in names), offset=offset)


def move_of(size: Sequence[int], was: Sequence[int], now: Sequence[int], *, gaps: bool = False) -> Move | None:
    """The move between two layouts of the same elements; None where one of them says an element twice, or has gaps, which with
    ``gaps`` the second may have."""
    order = sorted((k for k, n in enumerate(size) if n != 1), key=lambda k: was[k])
    merged: list[tuple[int, int, int]] = []
    for k in order:
        if merged:
            n, a, b = merged[-1]
            if (was[k], now[k]) == (n * a, n * b):
                merged[-1] = (n * size[k], a, b)
                continue
        merged.append((size[k], was[k], now[k]))
    move = Move(*(tuple(x[j] for x in merged) for j in range(3)))
    dense = all(unflatten(0, move.size, s, {}) is not None for s in (move.was, *(() if gaps else (move.now,))))
    return move if dense and _far_enough(move.size, move.now) else None


def _far_enough(size: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether each dimension steps over all that those of smaller strides reach, so that no two elements share a place."""
    reach = 0
    for step, n in sorted(zip(stride, size, strict=True)):
        if n > 1 and step <= reach:
            return False
        reach += step * (n - 1)
    return True

"""Strides: the order in which a dense tensor fills memory, and whether two lists of strides say the same.

Comes in: sizes and strides in elements, some of them perhaps expressions over unknown sizes. Goes out: strides, orders,
answers. Promised: for known sizes ``filled`` and ``fill_order`` undo one another; a question that unknown sizes leave open is
answered no, and nothing is asked of anybody; the stride of a dimension of one element says nothing and is not looked at.

An *order* lists the dimensions as they fill memory: neighbours along the first one lie side by side. Three dimensions row by
row are (2, 1, 0), images with their channels last (1, 3, 2, 0). The *places* of dimensions are its inverse: of those images
(3, 0, 2, 1), since their channels come first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lowtide.ir.graph import Layout, int_of
from lowtide.ir.index import known_equal, mul
from lowtide.ir.symbolic import Dim

Order = tuple[int, ...]

# Places of dimensions, by their number, where channels lie side by side.
CHANNELS_LAST: Mapping[int, Order] = {4: (3, 0, 2, 1), 5: (4, 0, 3, 2, 1)}

# Operations that take elements by where they lie in memory, or that say themselves where: what they read depends on the
# strides of what they are given, and may lie outside of it.
BY_STORAGE = frozenset(
    f"aten.{name}"
    for name in (
        "as_strided.default", "as_strided_copy.default", "as_strided_scatter.default", "view.dtype", "view_copy.dtype",
        "_reshape_alias.default", "_reshape_alias_copy.default",
    )
)  # fmt: skip


def inverse(order: Sequence[int]) -> Order:
    """The permutation that undoes ``order``; of an order of filling, the place of each dimension in it.

    Raises:
        ValueError: a dimension is missing, or stands twice.
    """
    out = [-1] * len(order)
    for place, dim in enumerate(order):
        if not 0 <= dim < len(order) or out[dim] >= 0:
            raise ValueError(f"{tuple(order)} is no permutation")
        out[dim] = place
    return tuple(out)


def filled(size: Sequence[Dim], order: Sequence[int] | None = None) -> tuple[Dim, ...]:
    """Strides of the dense tensor that fills memory in ``order`` (None: row by row). No elements count as one, as torch
    counts them.

    Raises:
        ValueError: ``order`` is no permutation of the dimensions.
    """
    order = range(len(size) - 1, -1, -1) if order is None else order
    if sorted(order) != list(range(len(size))):
        raise ValueError(f"{tuple(order)} does not order {len(size)} dimensions")
    stride: list[Dim] = [1] * len(size)
    step: Dim = 1
    for dim in order:
        stride[dim] = step
        step = step if size[dim] == 0 else mul(step, size[dim])
    return tuple(stride)


def fill_order(size: Sequence[Dim], stride: Sequence[Dim]) -> Order:
    """The order in which known strides fill memory. Of equal strides that of a single element comes first, and of several
    that of the last dimension."""
    known = tuple(map(int_of, stride))
    return tuple(sorted(range(len(known)), key=lambda k: (known[k], size[k] not in (0, 1), -k)))


def same_places(size: Sequence[Dim], a: Sequence[Dim], b: Sequence[Dim]) -> bool:
    """Whether both strides put every element in the same place, as far as we can tell."""
    return 0 in size or all(n == 1 or known_equal(x, y) for n, x, y in zip(size, a, b, strict=True))


def in_rows(layout: Layout) -> bool:
    """Whether a layout begins where its storage begins and fills memory row by row."""
    return layout.offset == 0 and same_places(layout.size, layout.stride, filled(layout.size))


def channels_last(size: Sequence[Dim], stride: Sequence[Dim]) -> bool:
    """Whether images or volumes are dense with the channels of a point side by side, as far as we can tell. Of a single channel,
    and of a number of channels that is not known, nobody can: no."""
    places = CHANNELS_LAST.get(len(size))
    if places is None or size[1] == 1 or not isinstance(size[1], int):
        return False
    return same_places(size, stride, filled(size, inverse(places)))


def reshaped(size: Sequence[Dim], stride: Sequence[Dim], new: Sequence[Dim]) -> tuple[Dim, ...] | None:
    """Strides under which the elements of known ``size`` and ``stride``, counted row by row, have another size; None where no
    strides do, and where there are no elements."""
    runs: list[tuple[int, int]] = []  # what walks memory in equal steps, innermost first: how many steps, how far each
    for n, step in zip(map(int_of, reversed(size)), map(int_of, reversed(stride)), strict=True):
        if runs and step == runs[-1][0] * runs[-1][1]:
            runs[-1] = runs[-1][0] * n, runs[-1][1]
        elif n != 1:
            runs.append((n, step))
    out: list[Dim] = []
    left, step = 1, 1
    for n in map(int_of, reversed(new)):
        if n != 1 and left == 1:
            left, step = runs.pop(0) if runs else (1, 1)
        if n == 0 or left % n:
            return None
        out.append(step)
        left, step = left // n, step * n
    return tuple(reversed(out)) if left == 1 and not runs else None

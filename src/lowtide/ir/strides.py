"""Strides: the order in which a dense tensor fills memory, and whether two lists of strides say the same.

Comes in: sizes and strides in elements, some of them perhaps expressions over unknown sizes. Goes out: strides, orders,
answers. Promised: for known sizes ``filled`` and ``fill_order`` undo one another; a question that unknown sizes leave open is
answered no, and nothing is asked of anybody; the stride of a dimension of one element says nothing and is not looked at.

An *order* lists the dimensions as they fill memory: neighbours along the first one lie side by side. Three dimensions row by
row are (2, 1, 0), images with their channels last (1, 3, 2, 0).
"""

from __future__ import annotations

from collections.abc import Sequence

from lowtide.ir.graph import int_of
from lowtide.ir.index import known_equal, mul
from lowtide.ir.symbolic import Dim

Order = tuple[int, ...]


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

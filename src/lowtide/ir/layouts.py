"""Layouts that are still open: what is known of a tensor before its strides are decided, and the ways to decide them.

Comes in: an ``Open``, and the strides that somebody wants of it. Goes out: a ``Layout``. Promised: an open layout has no strides
but those that it would get if nobody wanted others, in which loops touch it until it is decided; deciding changes neither size
nor dtype, and brings in no unknown size that was not there; what is decided is a ``Layout``, which no function here changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowtide.ir.graph import Layout
from lowtide.ir.symbolic import Dim, symbols_of


@dataclass(frozen=True, slots=True)
class Open:
    """A tensor whose strides nobody has decided. ``natural``: those that its maker would give it, in elements."""

    dtype: str
    device: str
    size: tuple[Dim, ...]
    natural: tuple[Dim, ...]


def opened(layout: Layout) -> Open:
    """What is left of a layout when its strides are only a wish."""
    return Open(layout.dtype, layout.device, layout.size, layout.stride)


def as_it_is(x: Open | Layout) -> Layout:
    """With the strides that its maker would give; what is decided stays."""
    return exactly(x, x.natural) if isinstance(x, Open) else x


def exactly(x: Open, stride: Sequence[Dim]) -> Layout:
    """With just these strides.

    Raises:
        ValueError: not one stride per dimension, or one that depends on a size that this tensor knows nothing of.
    """
    if len(stride) != len(x.size):
        raise ValueError(f"{len(stride)} strides for {len(x.size)} dimensions")
    known = {s for d in (*x.size, *x.natural) for s in symbols_of(d)}
    strange = {s for d in stride for s in symbols_of(d)} - known
    if strange:
        raise ValueError(f"the strides depend on {min(strange)}, the tensor does not")
    return Layout(x.dtype, x.device, x.size, tuple(stride))

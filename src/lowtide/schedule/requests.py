"""What library calls ask of the layouts that they are given.

Comes in: an operation of a static graph, and one of its arguments. Goes out: a ``Request``. Promised: a call that is given what
it asks for copies nothing of it, and computes what it computed with the layout that was captured.

Matrix products take matrices by rows and by columns. Attention takes keys and values by rows. A convolution of which image or
weight has its channels last takes everything so, and copies what has not; otherwise it is given what was captured, as is any
other call.
"""

from __future__ import annotations

from collections.abc import Mapping

from lowtide.ir.graph import Layout, Op, Ref, Value, int_of, refs_in
from lowtide.ir.layouts import Exact, Lines, Ordered, Request, fits
from lowtide.ir.strides import BY_STORAGE, CHANNELS_LAST, inverse

# Matrix products, and which of their arguments are matrices, or stacks of them.
_PRODUCTS: Mapping[str, tuple[int, ...]] = {
    "aten.mm.default": (0, 1), "aten.bmm.default": (0, 1), "aten.addmm.default": (1, 2), "aten.baddbmm.default": (1, 2),
}  # fmt: skip
# Attention, and which of its arguments it reads by rows, whatever the strides between rows: keys and values. Results lie as
# the queries do.
_ATTENTION = {"aten._scaled_dot_product_flash_attention_for_cpu.default": (1, 2)}
# Convolutions: their images and gradients of such, which of those and of the weight decides how they lie, and the weight.
_CONVOLUTIONS: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "aten.convolution.default": ((0, 1), (0, 1)), "aten.convolution_backward.default": ((0, 1, 2), (1, 2)),
}  # fmt: skip


def asked(op: Op, place: int, values: Mapping[str, Value]) -> Request:
    """What a call asks of its argument at a place, which is a value."""
    given = op.args[place]
    assert isinstance(given, Ref)
    x = values[given.name].layout
    if place in _PRODUCTS.get(op.target, ()):
        return Lines(2)
    if place in _ATTENTION.get(op.target, ()):
        return Lines(1)
    images, deciding = _CONVOLUTIONS.get(op.target, ((), ()))
    if place in images and len(x.size) in CHANNELS_LAST:
        others = [op.args[k] for k in deciding]
        if any(isinstance(a, Ref) and _leads(values[a.name].layout) for a in others):
            return Ordered(CHANNELS_LAST[len(x.size)])
    return Exact(x.stride)


def _leads(x: Layout) -> bool:
    """Whether torch takes a layout for one with its channels last: strides of dimensions of one element count there too, and
    must rise in that order."""
    places = CHANNELS_LAST.get(len(x.size))
    if places is None:
        return False
    least = 0
    for dim in inverse(places):
        n, step = int_of(x.size[dim]), int_of(x.stride[dim])
        if n == 0 or step < least or (dim == 1 and step == 0) or (dim == 0 and least == x.stride[1]):
            return False
        least = step * max(n, 1)
    return True


def agrees(op: Op, name: str, now: Layout, values: Mapping[str, Value]) -> bool:
    """Whether an operation that reads a value can do with another layout of it. Views can, but for those that are of memory
    rather than of elements: their results lie around what they read."""
    was = values[name].layout
    if op.target in BY_STORAGE or (op.view and any(values[o].layout.dtype != was.dtype for o in op.outputs if o)):
        return False
    if not _decides_alike(op, name, now, values):
        return False
    if op.view or fits(now, Exact(was.stride)):
        return True
    places = places_of(op, name)
    return bool(places) and all(fits(now, asked(op, k, values)) for k in places)


def _decides_alike(op: Op, name: str, now: Layout, values: Mapping[str, Value]) -> bool:
    """Whether a convolution takes everything with channels last, or not, as it does with the layout that a value has."""
    _, deciding = _CONVOLUTIONS.get(op.target, ((), ()))
    given = [a.name for a in (op.args[k] for k in deciding) if isinstance(a, Ref)]
    if name not in given or _leads(now) == _leads(values[name].layout):
        return True
    return any(_leads(values[n].layout) for n in given if n != name)


def in_product(op: Op, name: str) -> bool:
    """Whether an operation is a product of matrices, and a value is one of them."""
    return any(k in _PRODUCTS.get(op.target, ()) for k in places_of(op, name))


def places_of(op: Op, name: str) -> tuple[int, ...]:
    """Places at which a call is given a value; none where it is given it in a list, or by name, as well."""
    places = tuple(k for k, a in enumerate(op.args) if isinstance(a, Ref) and a.name == name)
    others = [a for k, a in enumerate(op.args) if k not in places] + [a for _, a in op.kwargs]
    return () if any(name in refs_in(a) for a in others) else places

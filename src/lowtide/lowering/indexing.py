"""Look-ups: embedding, gather, index, take. A negative index counts from the end, as torch has it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lowtide.ir.graph import Arg
from lowtide.ir.index import add, mul
from lowtide.ir.symbolic import Dim, Expr
from lowtide.lowering.movement import fill_with
from lowtide.lowering.scalars import Number, Scalar, computed_in, where
from lowtide.lowering.site import Nest, Refused, Site
from lowtide.lowering.table import promoted, register


def wrapped(n: Nest, i: Scalar, size: int) -> Scalar:
    """An index from 0, of one that may count from the end."""
    i = i.to("i64")
    return where(i < 0, i + n.count(size, "i64"), i)


@register("indexing", "embedding.default")
def _embedding(
    site: Site, weight: Arg, indices: Arg, padding_idx: int = -1, scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> None:  # fmt: skip
    out = site.output()
    if out is None:
        return
    n = site.loop()
    *at, column = n.stage(*site.size(out))
    row = n.load(indices, at).to("i64")
    n.store(out, [*at, column], n.load(weight, [n.checked(row, site.size(weight)[0]), column]))
    n.done()


def _picked(site: Site, self: Arg, dim: int, position: Callable[[Nest, list[Dim], int], Scalar]) -> None:
    """Every element of the one result: that of ``self`` at its own index, but at ``position`` along a dimension."""
    out = site.output()
    if out is None:
        return
    size = site.size(self)
    if 0 in site.size(out):
        fill_with(site, lambda n, _at: n.const(site.dtype(out), 0))
        return
    d = along(size, dim)
    n = site.loop()
    at = list(n.stage(*site.size(out)))
    i = n.checked(position(n, at, d), extent(size, d))
    n.store(out, at, n.load(self, moved(size, at, d, i)))
    n.done()


@register("indexing", "gather.default")
def _gather(site: Site, self: Arg, dim: int, index: Arg, *, sparse_grad: bool = False) -> None:
    _picked(site, self, dim, lambda n, at, _d: n.load(index, at))


def along(size: Sequence[int], dim: int) -> int:
    """A dimension, counted from 0; 0 of a tensor without any, which counts as one of one element."""
    return dim % len(size) if size else 0


def extent(size: Sequence[int], d: int) -> int:
    """How many elements there are along a dimension."""
    return size[d] if size else 1


def moved(size: Sequence[int], at: Sequence[Dim], d: int, to: Dim) -> list[Dim]:
    """An index into a tensor of that size, with another position along ``d``."""
    return [*at[:d], to, *at[d + 1 :]] if size else []


@register("indexing", "index.Tensor", "_unsafe_index.Tensor")
def _index(site: Site, self: Arg, indices: tuple[Arg, ...]) -> None:
    out = site.output()
    if out is None:
        return
    n = site.loop()
    at = list(n.stage(*site.size(out)))
    n.store(out, at, n.load(self, looked_up(site, n, self, indices, at)))
    n.done()


@register("indexing", "_unsafe_masked_index.default")
def _masked_index(site: Site, self: Arg, mask: Arg, indices: tuple[Arg, ...], fill: Number) -> None:
    out = site.output()
    if out is None:
        return
    n = site.loop()
    at = list(n.stage(*site.size(out)))
    here = n.spread(mask, at)
    found = n.load(self, looked_up(site, n, self, indices, at, here))
    to = computed_in(found.dtype)
    n.store(out, at, where(here, found.to(to), n.const(to, fill)))
    n.done()


@register("indexing", "index_select.default")
def _index_select(site: Site, self: Arg, dim: int, index: Arg) -> None:
    one = not site.size(index)
    _picked(site, self, dim, lambda n, at, d: n.load(index, [] if one else [at[d] if at else 0]))


def _boundary(site: Site, boundaries: Arg, self: Arg, right: bool, sorter: Arg = None) -> None:
    """How many boundaries are less than a value (``right``: not greater). They ascend, so that is its place. ``sorter``: in
    which order they ascend; its range is checked where the search looks.

    By halves, as ATen takes them, so that boundaries that do not ascend, and NaN among them, give its results too: as often
    as any value needs."""
    out = site.output()
    if out is None:
        return
    many = site.size(boundaries)[-1]
    common = promoted(site, (boundaries, self))

    def compared(x: Scalar) -> Scalar:
        return x.to(common).to(computed_in(common))

    n = site.loop()
    at = n.stage(*site.size(out))
    lead = [] if len(site.size(boundaries)) == 1 else list(at[:-1])
    v = compared(n.load(self, at))
    low, high = n.const("i64", 0), n.count(many, "i64")
    for _ in range(many.bit_length()):
        middle = low + (high - low).of("shr", 1)
        searched = low < high
        k = n.at(middle.min(n.count(many - 1, "i64")))
        place = k if sorter is None else n.checked(n.load(sorter, [*lead, k]), many)
        b = compared(n.load(boundaries, [*lead, place]))
        up = searched & ~(b > v if right else b >= v)
        low, high = where(up, middle + 1, low), where(up, high, where(searched, middle, high))
    n.store(out, at, low)
    n.done()


@register("indexing", "bucketize.Tensor")
def _bucketize(site: Site, self: Arg, boundaries: Arg, *, out_int32: bool = False, right: bool = False) -> None:
    _boundary(site, boundaries, self, right)


@register("indexing", "searchsorted.Tensor")
def _searchsorted(
    site: Site, sorted_sequence: Arg, self: Arg, *, out_int32: bool = False, right: bool = False,
    side: str | None = None, sorter: Arg = None,
) -> None:  # fmt: skip
    _boundary(site, sorted_sequence, self, right or side == "right", sorter)


@register("indexing", "take.default")
def _take(site: Site, self: Arg, index: Arg) -> None:
    out = site.output()
    if out is None:
        return
    size = site.size(self)
    whole = math.prod(size)
    if 0 in site.size(out):
        fill_with(site, lambda n, _at: n.const(site.dtype(out), 0))
        return
    n = site.loop()
    at = n.stage(*site.size(out))
    position = n.checked(wrapped(n, n.load(index, at), whole), whole)
    place = spread_out(position, size)
    n.store(out, at, n.load(self, place))
    n.done()


def flat(index: Sequence[Dim], size: Sequence[int]) -> Dim:
    """The position of an index, counted through all dimensions."""
    out: Dim = 0
    for i, m in zip(index, size, strict=True):
        out = add(mul(out, m), i)
    return out


def spread_out(position: Dim, size: Sequence[int]) -> list[Dim]:
    """The index of a position counted through all dimensions."""
    out: list[Dim] = []
    for k in range(len(size) - 1, -1, -1):
        out.insert(0, Expr("%", (position, size[k])) if k else position)
        position = Expr("//", (position, size[k]))
    return out


def looked_up(
    site: Site, n: Nest, x: Arg, indices: Sequence[Arg], at: Sequence[Dim], where_: Scalar | None = None
) -> list[Dim]:
    """Index into ``x`` of a point of the result: dimensions that are looked up together, and others as they come.
    ``where_``: only there is an index looked at; elsewhere it is 0."""
    given = [i for i in indices if i is not None]
    if any(site.dtype(i) in ("bool", "u8") for i in given):
        raise Refused("is indexed by a mask, so its size depends on data")
    rank = max(len(site.size(i)) for i in given)
    places = [k for k, i in enumerate(indices) if i is not None]
    together = places == list(range(places[0], places[-1] + 1))
    first = places[0] if together else 0
    looked, rest = list(at[first : first + rank]), [*at[:first], *at[first + rank :]]
    out: list[Dim] = []
    for k, size in enumerate(site.size(x)):
        i = indices[k] if k < len(indices) else None
        if i is None:
            out.append(rest.pop(0))
            continue
        v = wrapped(n, n.spread(i, looked), size)
        out.append(n.checked(v if where_ is None else where(where_, v, 0), size))
    return out

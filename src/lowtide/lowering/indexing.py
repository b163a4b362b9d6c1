"""Look-ups: embedding and its gradient, gather, index, take.

A negative index counts from the end, as torch has it. Where several values meet in one place and are added, one thread
owns the place, so sums do not depend on the number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from lowtide.ir.graph import Arg
from lowtide.ir.symbolic import Dim, Expr
from lowtide.lowering.scalars import Number, Scalar, computed_in, where
from lowtide.lowering.site import Nest, Refused, Site
from lowtide.lowering.table import register


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


@register("indexing", "embedding_dense_backward.default")
def _embedding_backward(
    site: Site, grad_output: Arg, indices: Arg, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> None:
    out = site.output()
    if out is None:
        return
    if scale_grad_by_freq or site.dtype(out) in ("f16", "bf16"):
        raise Refused("is scaled by frequency, or sums in a half type")
    _, width = site.size(out)
    n = site.loop((width,))
    (column,) = n.rows
    (row,) = n.stage(num_weights)
    n.store(out, [row, column], n.const(site.dtype(out), 0))
    at = n.stage(*site.size(indices))
    row = n.load(indices, at).to("i64")
    keep = row.differs(padding_idx) if padding_idx >= 0 else None
    n.store(out, [n.checked(row, num_weights), column], n.load(grad_output, [*at, column]), add=True, where=keep)
    n.done()


@register("indexing", "gather.default")
def _gather(site: Site, self: Arg, dim: int, index: Arg, *, sparse_grad: bool = False) -> None:
    out = site.output()
    if out is None:
        return
    n = site.loop()
    at = list(n.stage(*site.size(out)))
    if not at:
        raise Refused("has no dimension")
    if not site.size(self):
        raise Refused("gathers from a scalar")
    d = dim % len(at)
    i = n.checked(n.load(index, at), site.size(self)[d])
    n.store(out, at, n.load(self, [*at[:d], i, *at[d + 1 :]]))
    n.done()


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
    out = site.output()
    if out is None:
        return
    size = site.size(self)
    if not size:
        raise Refused("has no dimension")
    d = dim % len(size)
    n = site.loop()
    at = list(n.stage(*site.size(out)))
    i = n.load(index, [at[d]] if site.size(index) else [])
    n.store(out, at, n.load(self, [*at[:d], n.checked(i, size[d]), *at[d + 1 :]]))
    n.done()


@register("indexing", "take.default")
def _take(site: Site, self: Arg, index: Arg) -> None:
    out = site.output()
    if out is None:
        return
    size = site.size(self)
    whole = math.prod(size)
    n = site.loop()
    at = n.stage(*site.size(out))
    position = n.checked(wrapped(n, n.load(index, at), whole), whole)
    place = spread_out(position, size)
    n.store(out, at, n.load(self, place))
    n.done()


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

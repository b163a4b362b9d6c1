"""Look-ups and scatters: embedding, gather, index, index_put, scatter_add, and the gradients of look-ups.

A negative index counts from the end, as torch has it. Where several values meet in one place and are added, one thread
owns the place, so sums do not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Sequence

from lowtide.ir.graph import Arg
from lowtide.ir.symbolic import Dim
from lowtide.lowering.scalars import Scalar, where
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
    n.store(out, at, n.load(self, _looked_up(site, n, self, indices, at)))
    n.done()


def _looked_up(site: Site, n: Nest, x: Arg, indices: Sequence[Arg], at: Sequence[Dim]) -> list[Dim]:
    """Index into ``x`` of a point of the result: dimensions that are looked up together, and others as they come."""
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
        out.append(rest.pop(0) if i is None else n.checked(wrapped(n, n.spread(i, looked), size), size))
    return out


@register("indexing", "index_put.default", "_unsafe_index_put.default")
def _index_put(site: Site, self: Arg, indices: tuple[Arg, ...], values: Arg, accumulate: bool = False) -> None:
    out = site.output()
    if out is None:
        return
    given = [site.size(i) for i in indices if i is not None]
    places = [k for k, i in enumerate(indices) if i is not None]
    if accumulate and site.dtype(out) in ("f16", "bf16"):
        raise Refused("sums in a half type")
    if places != list(range(places[0], places[-1] + 1)):
        raise Refused("looks up dimensions that are not side by side")
    rank = max(map(len, given))
    shape = [max((s[len(s) - rank + d] for s in given if len(s) - rank + d >= 0), default=1) for d in range(rank)]
    size = site.size(self)
    result = [*size[: places[0]], *shape, *size[places[-1] + 1 :]]
    tail = len(size) - places[-1] - 1
    rows = result[len(result) - tail :] if tail else []
    n = site.loop(rows)
    first = n.stage(*size[: places[-1] + 1])
    whole = [*first, *n.rows]
    n.store(out, whole, n.load(self, whole))
    inner = n.stage(*result[: len(result) - tail])
    at = [*inner, *n.rows]
    to = _looked_up(site, n, self, indices, at)
    n.store(out, to, n.spread(values, at).to(site.dtype(out)), add=accumulate)
    n.done()


@register("indexing", "scatter_add.default")
def _scatter_add(site: Site, self: Arg, dim: int, index: Arg, src: Arg) -> None:
    out = site.output()
    if out is None:
        return
    size, part = site.size(out), site.size(index)
    if site.dtype(out) in ("f16", "bf16") or not size:
        raise Refused("sums in a half type, or has no dimension")
    d = dim % len(size)
    # rows: the dimensions before ``dim``, where the part is as large as the whole, so that each has its own places
    rows = 0
    while rows < d and size[rows] == part[rows]:
        rows += 1
    n = site.loop(size[:rows])
    at = [*n.rows, *n.stage(*size[rows:])]
    n.store(out, at, n.load(self, at))
    at = [*n.rows, *n.stage(*part[rows:])]
    i = n.checked(n.load(index, at), size[d])
    n.store(out, [*at[:d], i, *at[d + 1 :]], n.load(src, at), add=True)
    n.done()

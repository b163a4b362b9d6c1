"""Scatters: writes to elements that are looked up, and sums, products and extremes of what meets there.

Whatever several values may meet in belongs to one thread, and they meet in the order of the source, so that neither sums
nor the last writer depend on the number of threads. Half types are summed in f32, beside.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lowtide.ir.graph import Arg, Ref
from lowtide.ir.index import add, mul
from lowtide.ir.symbolic import Dim, Expr
from lowtide.lowering.indexing import along, extent, flat, looked_up, moved, spread_out, wrapped
from lowtide.lowering.movement import constant, fill_with
from lowtide.lowering.scalars import HALVES, Number, Scalar, computed_in, where
from lowtide.lowering.site import Nest, Refused, Site
from lowtide.lowering.table import register

_SHARED = 1 << 15  # elements that threads share; fewer are one thread's
Write = Callable[[Nest, Ref], None]
Start = Callable[[Nest, Sequence[Dim]], Scalar]


def scattered(site: Site, own: Sequence[int], start: Start, write: Write) -> None:
    """The one result: first ``start`` everywhere, then what ``write`` adds. ``own``: dimensions of which every index is
    written from its like alone; they run outside. Sums in half types are held in f32 until the end. Where threads share columns,
    what they start from is a loop of its own, in which they share rows: two that write parts of the same rows at the same time
    wait for each other."""
    out = site.output()
    if out is None:
        return
    size = site.size(out)
    half = site.dtype(out) in HALVES
    held = site.temporary("f32", size) if half else out
    columns = 0 < len(own) < len(size) and list(own) == list(range(len(size) - len(own), len(size)))
    apart = columns and not half and math.prod(size) >= _SHARED
    n = site.loop([] if apart else [size[d] for d in own])

    def everywhere() -> list[Dim]:
        return placed(n, own, list(n.stage(*(m for d, m in enumerate(size) if d not in own))))

    at = list(n.stage(*size)) if apart else everywhere()
    n.store(held, at, start(n, at).to(computed_in(site.dtype(out))))
    if apart:
        n.done()
        n = site.loop([size[d] for d in own])
    write(n, held)
    if half:
        at = everywhere()
        n.store(out, at, n.load(held, at))
    n.done()


def placed(n: Nest, own: Sequence[int], inner: Sequence[Dim]) -> list[Dim]:
    """An index from the outer variables at the dimensions ``own`` and the inner ones at the others."""
    rest = iter(inner)
    rows = dict(zip(own, n.rows, strict=True))
    return [rows[d] if d in rows else next(rest) for d in range(len(own) + len(inner))]


def _zero(site: Site) -> Start:
    out = Ref(str(site.op.outputs[0]))
    return lambda n, _at: n.const(computed_in(site.dtype(out)), 0)


def zeros_and(site: Site, own: Sequence[int], write: Write) -> None:
    """``scattered`` onto zeros."""
    scattered(site, own, _zero(site), write)


def _copied(x: Arg) -> Start:
    return lambda n, at: n.load(x, at)


def meet(n: Nest, held: Ref, at: Sequence[Dim], v: Scalar, *, add: bool, keep: Scalar | None = None) -> None:
    """Write a value, or add it to what is there; truth values add up to whether any is true. ``keep``: only there."""
    if add and v.dtype == "bool":
        n.store(held, at, n.const("bool", True), where=v if keep is None else v & keep)
    else:
        n.store(held, at, v.to(computed_in(v.dtype)), add=add, where=keep)


# -- by an index of the source's own size


def _shape(site: Site, self: Arg, index: Arg, dim: int) -> tuple[int, list[int], list[int]]:
    """The dimension, those that run outside, and the sizes of those inside."""
    size, part = site.size(self), site.size(index)
    d = along(size, dim)
    own = [k for k in range(len(size)) if k != d and size[k] == part[k]]
    return d, own, [m for k, m in enumerate(part) if k not in own]


def _scatter(add: bool, source: Callable[[Site, Nest, Sequence[Dim], Arg], Scalar]) -> Callable[..., None]:
    def rule(site: Site, self: Arg, dim: int, index: Arg, src: Arg) -> None:
        d, own, inner = _shape(site, self, index, dim)

        def write(n: Nest, held: Ref) -> None:
            if 0 in site.size(index):
                return
            at = placed(n, own, n.stage(*inner))
            size = site.size(self)
            to = n.checked(n.load(index, at), extent(size, d))
            meet(n, held, moved(size, at, d, to), source(site, n, at, src), add=add)

        scattered(site, own, _copied(self), write)

    return rule


register("scatter", "scatter.src")(_scatter(False, lambda _s, n, at, src: n.load(src, at)))
register("scatter", "scatter.value")(_scatter(False, lambda s, n, _at, value: constant(s, n, value)))
register("scatter", "scatter_add.default")(_scatter(True, lambda _s, n, at, src: n.load(src, at)))

_MEET: dict[str, Callable[[Scalar, Scalar], Scalar]] = {
    "sum": lambda a, b: a + b, "mean": lambda a, b: a + b, "prod": lambda a, b: a * b, "amax": lambda a, b: a.max(b),
    "amin": lambda a, b: a.min(b),
}  # fmt: skip
_OLD_NAMES = {"add": "sum", "multiply": "prod"}


def _neutral(kind: str, dtype: str) -> Number:
    if kind in ("sum", "mean"):
        return 0
    if kind == "prod":
        return 1
    if dtype in ("f32", "f64"):
        return -math.inf if kind == "amax" else math.inf
    bits = int(dtype[1:])
    low, high = (0, 2**bits - 1) if dtype[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return low if kind == "amax" else high


def _combined(
    site: Site, self: Arg, own: Sequence[int], inner: Sequence[int], d: int, index: Callable[[Nest, list[Dim]], Scalar],
    source: Callable[[Nest, list[Dim]], Scalar], kind: str, include_self: bool,
) -> None:  # fmt: skip
    """What meets in an element of the one result, combined. ``index``: where along ``d`` a point of the source goes."""
    out = site.output()
    if out is None:
        return
    truth = site.dtype(out) == "bool"
    if truth and kind == "mean":
        raise Refused("averages truth values")
    kind = "amax" if truth and kind == "sum" else kind
    to = "u8" if truth else computed_in(site.dtype(out))
    size = site.size(out)
    held = site.temporary(to, size)
    counted = kind == "mean" or not include_self
    counts = site.temporary("i64", size) if counted else None
    n = site.loop([size[k] for k in own])
    others = [m for k, m in enumerate(size) if k not in own]
    at = placed(n, own, n.stage(*others))
    n.store(held, at, n.load(self, at).to(to) if include_self else n.const(to, _neutral(kind, to)))
    n.store(counts, at, n.const("i64", int(include_self)))
    if extent(size, d):
        at = placed(n, own, n.stage(*inner))
        place = moved(size, at, d, n.checked(index(n, at), extent(size, d)))
        n.store(held, place, _MEET[kind](n.load(held, place), source(n, at).to(to)))
        n.store(counts, place, n.const("i64", 1), add=True)
    at = placed(n, own, n.stage(*others))
    v = n.load(held, at)
    if counts is not None:
        many = n.load(counts, at)
        if kind == "mean":
            divisor = many.max(1).to(to)
            v = v / divisor if to in ("f32", "f64") else v.of("floordiv", divisor)
        v = where(many.equals(0), n.load(self, at).to(to), v)
    n.store(out, at, v)
    n.done()


@register("scatter", "scatter_reduce.two")
def _scatter_reduce(
    site: Site, self: Arg, dim: int, index: Arg, src: Arg, reduce: str, *, include_self: bool = True
) -> None:
    _scattered_with(site, self, dim, index, lambda n, at: n.load(src, at), reduce, include_self)


def _scattered_with(
    site: Site, self: Arg, dim: int, index: Arg, source: Callable[[Nest, list[Dim]], Scalar], kind: str, own: bool
) -> None:
    if not site.size(self):
        raise Refused("has no dimension, where ATen takes the source alone")
    d, outside, inner = _shape(site, self, index, dim)
    _combined(site, self, outside, inner, d, lambda n, at: n.load(index, at), source, kind, own)


@register("scatter", "scatter.reduce")
def _scatter_with(site: Site, self: Arg, dim: int, index: Arg, src: Arg, *, reduce: str) -> None:
    _scattered_with(site, self, dim, index, lambda n, at: n.load(src, at), _OLD_NAMES[reduce], True)


@register("scatter", "scatter.value_reduce")
def _scatter_value_with(site: Site, self: Arg, dim: int, index: Arg, value: Arg, *, reduce: str) -> None:
    _scattered_with(site, self, dim, index, lambda n, _at: constant(site, n, value), _OLD_NAMES[reduce], True)


# -- by one index along a dimension


def _along(site: Site, self: Arg, dim: int) -> tuple[int, list[int]]:
    size = site.size(self)
    d = along(size, dim)
    return d, [k for k in range(len(size)) if k != d]


def _by_index(
    site: Site, self: Arg, dim: int, index: Arg, value: Callable[[Nest, list[Dim]], Scalar], add: bool, *, wrap: bool
) -> None:
    d, own = _along(site, self, dim)
    many = math.prod(site.size(index))

    def write(n: Nest, held: Ref) -> None:
        if not many:
            return
        (k,) = n.stage(many)
        i = n.load(index, [k] if site.size(index) else [])
        size = site.size(self)
        length = extent(size, d)
        to = n.checked(wrapped(n, i, length) if wrap else i, length)
        at = placed(n, own, [k])
        meet(n, held, moved(size, at, d, to), value(n, at), add=add)

    scattered(site, own, _copied(self), write)


@register("scatter", "index_add.default")
def _index_add(site: Site, self: Arg, dim: int, index: Arg, source: Arg, *, alpha: Number = 1) -> None:
    def value(n: Nest, at: list[Dim]) -> Scalar:
        v = n.load(source, at if site.size(source) else [])
        v = v.to(computed_in(v.dtype))
        return v if alpha == 1 else v * alpha

    _by_index(site, self, dim, index, value, True, wrap=False)


@register("scatter", "index_copy.default")
def _index_copy(site: Site, self: Arg, dim: int, index: Arg, source: Arg) -> None:
    _by_index(site, self, dim, index, lambda n, at: n.load(source, at if site.size(source) else []), False, wrap=False)


@register("scatter", "index_reduce.default")
def _index_reduce(
    site: Site, self: Arg, dim: int, index: Arg, source: Arg, reduce: str, *, include_self: bool = True
) -> None:
    d, own = _along(site, self, dim)
    many = math.prod(site.size(index))

    def place(n: Nest, at: list[Dim]) -> Scalar:
        return n.load(index, [at[d]] if site.size(index) else [])

    _combined(
        site,
        self,
        own,
        [many],
        d,
        place,
        lambda n, at: n.load(source, at if site.size(source) else []),
        reduce,
        include_self,
    )


@register("scatter", "index_fill.int_Scalar")
def _index_fill(site: Site, self: Arg, dim: int, index: Arg, value: Arg) -> None:
    _by_index(site, self, dim, index, lambda n, _at: constant(site, n, value), False, wrap=True)


@register("scatter", "index_fill.int_Tensor")
def _index_fill_tensor(site: Site, self: Arg, dim: int, index: Arg, value: Arg) -> None:
    to = site.dtype(self)
    _by_index(site, self, dim, index, lambda n, _at: n.load(value, ()).to(to), False, wrap=True)


@register("scatter", "embedding_dense_backward.default")
def _embedding_backward(
    site: Site, grad_output: Arg, indices: Arg, num_weights: int, padding_idx: int, scale_grad_by_freq: bool
) -> None:
    if scale_grad_by_freq:
        raise Refused("is scaled by frequency")

    def write(n: Nest, held: Ref) -> None:
        (column,) = n.rows
        at = n.stage(*site.size(indices))
        row = n.load(indices, at).to("i64")
        keep = row.differs(padding_idx) if padding_idx >= 0 else None
        g = n.load(grad_output, [*at, column])
        n.store(held, [n.checked(row, num_weights), column], g.to(computed_in(g.dtype)), add=True, where=keep)

    zeros_and(site, [1], write)


# -- by several indices


def _put(
    site: Site, self: Arg, indices: tuple[Arg, ...], values: Arg, accumulate: bool, mask: Arg | None = None
) -> None:
    out = site.output()
    if out is None:
        return
    given = [site.size(i) for i in indices if i is not None]
    places = [k for k, i in enumerate(indices) if i is not None]
    if mask is not None:
        given.append(site.size(mask))
    rank = max(map(len, given))
    sizes = [[s[len(s) - rank + d] for s in given if len(s) - rank + d >= 0] for d in range(rank)]
    shape = [0 if 0 in found else max(found, default=1) for found in sizes]
    size = site.size(self)
    together = places == list(range(places[0], places[-1] + 1))
    first = places[0] if together else 0
    others = [m for k, m in enumerate(size) if k not in places]
    result = [*others[:first], *shape, *others[first:]]
    own = list(range(places[-1] + 1, len(size))) if together else []  # dimensions behind, which stay where they are
    inner = result[: len(result) - len(own)]

    def write(n: Nest, held: Ref) -> None:
        at = [*n.stage(*inner), *n.rows]
        keep = n.spread(mask, at[first : first + rank]) if mask is not None else None
        to = looked_up(site, n, self, indices, at, keep)
        meet(n, held, to, n.spread(values, at).to(site.dtype(out)), add=accumulate, keep=keep)

    scattered(site, own, _copied(self), write)


def _put_where(site: Site, self: Arg, first: int, mask: Arg, values: Arg, accumulate: bool) -> None:
    """A mask over the dimensions from ``first`` on: every element asks whether it is taken. How many are is not known, so
    the values must not differ along them."""
    size, taken, given = site.size(self), len(site.size(mask)), site.size(values)
    behind = len(size) - first - taken
    if len(given) > behind and given[len(given) - behind - 1] != 1:
        raise Refused("is indexed by a mask and takes as many values")

    def element(n: Nest, at: Sequence[Dim]) -> Scalar:
        here = n.load(mask, at[first : first + taken])
        x, v = n.load(self, at), n.spread(values, [*at[:first], 0, *at[first + taken :]]).to(site.dtype(self))
        to = computed_in(x.dtype)
        x, v = x.to(to), v.to(to)
        return where(here, x | v if accumulate and to == "bool" else x + v if accumulate else v, x)

    fill_with(site, element)


@register("scatter", "index_put.default", "_unsafe_index_put.default")
def _index_put(site: Site, self: Arg, indices: tuple[Arg, ...], values: Arg, accumulate: bool = False) -> None:
    given = [k for k, i in enumerate(indices) if i is not None]
    if len(given) == 1 and site.dtype(indices[given[0]]) == "bool":
        _put_where(site, self, given[0], indices[given[0]], values, accumulate)
    else:
        _put(site, self, indices, values, accumulate)


@register("scatter", "_unsafe_masked_index_put_accumulate.default")
def _masked_put(site: Site, self: Arg, mask: Arg, indices: tuple[Arg, ...], values: Arg) -> None:
    _put(site, self, indices, values, True, mask)


@register("scatter", "put.default")
def _put_flat(site: Site, self: Arg, index: Arg, source: Arg, accumulate: bool = False) -> None:
    size, many = site.size(self), site.size(index)
    if math.prod(site.size(source)) != math.prod(many):
        raise Refused("takes a source of another number of elements than the index")

    def write(n: Nest, held: Ref) -> None:
        if 0 in many:
            return
        at = n.stage(*many)
        whole = math.prod(size)
        to = n.checked(wrapped(n, n.load(index, at), whole), whole)
        v = n.load(source, spread_out(flat(at, many), site.size(source)))
        meet(n, held, spread_out(to, size), v, add=accumulate)

    scattered(site, [], _copied(self), write)


def _taken(site: Site, mask: Arg, size: Sequence[int]) -> Callable[[Nest, Sequence[Dim], int], tuple[Scalar, Expr]]:
    """A loop that counts how many the mask (broadcast to ``size``) takes up to each element. Gives, for a later loop,
    whether an element is taken and the how-manieth of ``whole`` it then is."""
    counts = site.temporary("i64", size)
    n = site.loop()
    (k,) = n.stage(math.prod(size))
    at = spread_out(k, size)
    n.store(counts, at, n.scan("sum", n.spread(mask, at).to("i64")))
    n.done()

    def place(n: Nest, at: Sequence[Dim], whole: int) -> tuple[Scalar, Expr]:
        here = n.spread(mask, at)
        return here, n.checked(where(here, n.load(counts, at) - 1, 0), whole)

    return place


@register("scatter", "masked_scatter.default")
def _masked_scatter(site: Site, self: Arg, mask: Arg, source: Arg) -> None:
    """Two loops: how many are taken before each element, then the elements."""
    out = site.output()
    if out is None:
        return
    size, given = site.size(out), site.size(source)
    if not size or 0 in given or 0 in size:
        raise Refused("takes from nothing, or for one element")
    taken = _taken(site, mask, size)
    n = site.loop()
    at = n.stage(*size)
    here, to = taken(n, at, math.prod(given))
    n.store(out, at, where(here, n.load(source, spread_out(to, given)), n.spread(self, at)))
    n.done()


@register("scatter", "unfold_backward.default")
def _unfold_backward(site: Site, grad_in: Arg, input_sizes: tuple[int, ...], dim: int, size: int, step: int) -> None:
    """Every window's gradient goes back to the points of the window, which may overlap."""
    rank = len(input_sizes)
    if not rank:
        raise Refused("has no dimension")
    d = dim % rank
    own = [k for k in range(rank) if k != d]
    windows = site.size(grad_in)[d]

    def write(n: Nest, held: Ref) -> None:
        w, k = n.stage(windows, size)
        at = placed(n, own, [w])
        v = n.load(grad_in, [*at, k])
        n.store(held, [*at[:d], add(mul(w, step), k), *at[d + 1 :]], v.to(computed_in(v.dtype)), add=True)

    zeros_and(site, own, write)


@register("scatter", "masked_scatter_backward.default")
def _masked_scatter_backward(site: Site, grad_output: Arg, mask: Arg, sizes: tuple[int, ...]) -> None:
    """The k-th element that the mask takes goes to position k; zeros where it takes no more."""
    out = site.output()
    if out is None:
        return
    size, whole = site.size(mask), site.size(out)
    if site.size(grad_output) != size or not size or 0 in size or 0 in whole:
        raise Refused("has a mask of another size")
    taken = _taken(site, mask, size)
    n = site.loop()
    at = n.stage(*whole)
    n.store(out, at, n.const(computed_in(site.dtype(out)), 0))
    at = n.stage(*size)
    here, to = taken(n, at, math.prod(whole))
    n.store(out, spread_out(to, whole), n.load(grad_output, at), where=here)
    n.done()

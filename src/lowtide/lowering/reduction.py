"""Reductions along dimensions: sums and extremes, means and variances, scans, positions of extremes.

Half types are summed in f32. A variance takes the mean first and then the squares of what differs from it, in a second
pass over a row that is then in cache; of a row that is too long for that, in one pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lowtide.ir.graph import ITEMSIZE, Arg, Ref, int_of
from lowtide.ir.index import add, mul
from lowtide.ir.symbolic import Dim
from lowtide.lowering.scalars import FLOATS, Scalar, computed_in, where
from lowtide.lowering.site import Nest, Refused, Site
from lowtide.lowering.table import promoted, register


def axes(dim: Arg, rank: int) -> tuple[int, ...]:
    """Dimensions that an argument names, as numbers from 0, in order; all for None or an empty list."""
    given = (dim,) if isinstance(dim, int) else dim
    if not isinstance(given, tuple) or not given:
        return tuple(range(rank))
    return tuple(sorted({int(str(d)) % max(rank, 1) for d in given})) if rank else ()


class Over:
    """A loop whose rows are the dimensions that stay, and whose stages run over the others."""

    def __init__(self, site: Site, x: Arg, dims: Sequence[int]) -> None:
        self.size = site.size(x)
        self.dims = tuple(dims)
        self.kept = [d for d in range(len(self.size)) if d not in dims]
        self.nest: Nest = site.loop([self.size[d] for d in self.kept])
        self.count = math.prod(self.size[d] for d in dims)
        self.x = x

    def index(self, inner: Sequence[Dim]) -> list[Dim]:
        """Index into the whole tensor from a stage's inner variables."""
        out: list[Dim] = [0] * len(self.size)
        for d, v in zip(self.kept, self.nest.rows, strict=True):
            out[d] = v
        for d, v in zip(self.dims, inner, strict=True):
            out[d] = v
        return out

    def stage(self) -> list[Dim]:
        """Begin a stage over the reduced dimensions; the index of its point."""
        return self.index(self.nest.stage(*(self.size[d] for d in self.dims)))

    def result(self, site: Site, k: int, value: Scalar) -> None:
        """Store a row's result, with or without the reduced dimensions, as the output has them."""
        out = site.output(k)
        if out is not None:
            full = len(site.size(out)) == len(self.size)
            rows = self.nest.rows
            self.nest.store(out, self.index([0] * len(self.dims)) if full and self.dims else rows, value)

    def done(self) -> None:
        """End the loop."""
        self.nest.done()


Fold = Callable[[Over, Scalar], Scalar]


def _plain(site: Site, x: Arg, dims: Sequence[int], kind: str, dtype: str, finish: Fold | None = None) -> None:
    whole = Over(site, x, dims)
    _store(site, whole, whole.nest.reduce(kind, whole.nest.load(x, whole.stage()).to(dtype)), finish)
    cut = parts(site.size(x), site.value(x).layout.stride, dims)
    if cut is None:
        whole.done()
        return
    site.whole = whole.nest.ended()
    over = Over(site, x, dims)
    _store(site, over, _in_parts(site, over, kind, dtype, cut), finish)
    over.done()


def _store(site: Site, over: Over, total: Scalar, finish: Fold | None) -> None:
    over.nest.stage()
    over.result(site, 0, total if finish is None else finish(over, total))


_FEW_COLUMNS = 128  # so many or more are enough for all threads, and for vectors
_WIDE = 512  # results of all parts, at least; and 8 parts
_LONG = 1 << 17  # elements; fewer are not worth a second loop
_COMBINED = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}


class Parts(NamedTuple):
    """A reduction of columns in two steps: into how many parts which dimension is cut. Neighbours belong to different parts,
    so that the parts of few columns are many columns."""

    dim: int
    many: int


def parts(size: Sequence[int], stride: Sequence[Dim], dims: Sequence[int]) -> Parts | None:
    """How a reduction of ``dims`` is cut, if it is one of few long columns; else None. It follows from the layout alone, so
    that the result does not depend on the number of threads. Few long rows are not cut: that gained nothing."""
    kept = [d for d in range(len(size)) if d not in dims and size[d] > 1]
    columns = math.prod(size[d] for d in kept)
    if not 1 < columns < _FEW_COLUMNS or math.prod(size) < _LONG:
        return None
    longest, many = max(dims, key=lambda d: size[d]), max(8, _WIDE // columns)
    rows = int_of(stride[longest]) < min(int_of(stride[d]) for d in kept)
    return Parts(longest, many) if not rows and size[longest] >= 8 * many else None


def _in_parts(site: Site, over: Over, kind: str, dtype: str, cut: Parts) -> Scalar:
    """A loop that reduces every part, and in ``over`` the reduction of those and of what is left over."""
    size, d = over.size, cut.dim
    each = size[d] // cut.many
    others = [k for k in over.dims if k != d]
    held = site.temporary(dtype, (cut.many, *(size[k] for k in over.kept)))

    def element(n: Nest, rows: Sequence[Dim], inner: Sequence[Dim], at: Dim) -> Scalar:
        place = dict(zip((*over.kept, *others), (*rows, *inner), strict=True)) | {d: at}
        return n.load(over.x, [place[k] for k in range(len(size))]).to(dtype)

    n = site.loop((cut.many, *(size[k] for k in over.kept)))
    part, *rows = n.rows
    step, *inner = n.stage(each, *(size[k] for k in others))
    total = n.reduce(kind, element(n, rows, inner, add(mul(step, cut.many), part)))
    n.stage()
    n.store(held, n.rows, total)
    n.done()
    n = over.nest
    (part,) = n.stage(cut.many)
    total = n.reduce(kind, n.load(held, [part, *n.rows]))
    if left := size[d] % cut.many:
        step, *inner = n.stage(left, *(size[k] for k in others))
        rest = n.reduce(kind, element(n, n.rows, inner, add(step, each * cut.many)))
        n.stage()
        total = total.of(_COMBINED[kind], rest)
    return total


def _rank(site: Site, x: Arg) -> int:
    return len(site.size(x))


@register("reduction", "sum.default", "sum.dim_IntList")
def _sum(site: Site, self: Arg, dim: Arg = None, keepdim: bool = False, *, dtype: Arg = None) -> None:
    out = site.dtype(Ref(str(site.op.outputs[0])))
    _plain(site, self, axes(dim, _rank(site, self)), "sum", computed_in(out))


@register("reduction", "mean.default", "mean.dim")
def _mean(site: Site, self: Arg, dim: Arg = None, keepdim: bool = False, *, dtype: Arg = None) -> None:
    to = computed_in(site.dtype(Ref(str(site.op.outputs[0]))))
    _plain(
        site, self, axes(dim, _rank(site, self)), "sum", to, lambda o, v: v / o.nest.count(o.count, to)
    )  # fmt: skip


@register("reduction", "prod.default", "prod.dim_int")
def _prod(site: Site, self: Arg, dim: Arg = None, keepdim: bool = False, *, dtype: Arg = None) -> None:
    out = site.dtype(Ref(str(site.op.outputs[0])))
    _plain(site, self, axes(dim, _rank(site, self)), "prod", computed_in(out))


def _nonempty(site: Site, x: Arg, dims: Sequence[int]) -> None:
    if any(site.size(x)[d] == 0 for d in dims):
        raise Refused("has no element to choose from")


def _extreme(kind: str) -> Callable[..., None]:
    def rule(site: Site, self: Arg, dim: Arg = None, keepdim: bool = False) -> None:
        dims = axes(dim, _rank(site, self))
        _nonempty(site, self, dims)
        _plain(site, self, dims, kind, computed_in(site.dtype(self)))

    return rule


register("reduction", "amax.default", "max.default")(_extreme("max"))
register("reduction", "amin.default", "min.default")(_extreme("min"))


def _truth(all_: bool) -> Callable[..., None]:
    def rule(site: Site, self: Arg, dim: Arg = None, keepdim: bool = False) -> None:
        over = Over(site, self, axes(dim, _rank(site, self)))
        x = over.nest.load(self, over.stage())
        x = x.to(computed_in(x.dtype)).differs(0)
        found = over.nest.reduce("any", ~x if all_ else x)
        over.nest.stage()
        over.result(site, 0, ~found if all_ else found)
        over.done()

    return rule


register("reduction", "any.default", "any.dim", "any.dims")(_truth(False))
register("reduction", "all.default", "all.dim", "all.dims")(_truth(True))


def _position(kind: str) -> Callable[..., None]:
    def rule(site: Site, self: Arg, dim: Arg = None, keepdim: bool = False) -> None:
        dims = axes(dim, _rank(site, self))
        _nonempty(site, self, dims)
        over = Over(site, self, dims)
        x = over.nest.load(self, over.stage())
        at = over.nest.reduce(f"arg{kind}", x.to(computed_in(x.dtype)))
        over.nest.stage()
        over.result(site, 0, at)
        over.done()

    return rule


register("reduction", "argmax.default")(_position("max"))
register("reduction", "argmin.default")(_position("min"))


def _with_position(kind: str) -> Callable[..., None]:
    def rule(site: Site, self: Arg, dim: int, keepdim: bool = False) -> None:
        dims = axes(dim, _rank(site, self))
        _nonempty(site, self, dims)
        over = Over(site, self, dims)
        x = over.nest.load(self, over.stage())
        x = x.to(computed_in(x.dtype))
        best, at = over.nest.reduce(kind, x), over.nest.reduce(f"arg{kind}", x)
        over.nest.stage()
        over.result(site, 0, best)
        over.result(site, 1, at)
        over.done()

    return rule


register("reduction", "max.dim")(_with_position("max"))
register("reduction", "min.dim")(_with_position("min"))


_IN_NO_CACHE = 1 << 24  # bytes of a row that is read from memory once per stage


class Moments(NamedTuple):
    """Of each row: the mean as its dtype has it, what that leaves of the mean (None where it is not known), and the sum of
    squares of what differs from the mean."""

    mean: Scalar
    left: Scalar | None
    squares: Scalar

    def away(self, x: Scalar) -> Scalar:
        """How far an element is from the mean."""
        d = x - self.mean
        return d if self.left is None else d - self.left


def moments(n: Nest, x: Callable[[], Scalar], count: int, dtype: str) -> Moments:
    """Of ``x()``, which begins a stage over a row of ``count`` elements and gives an element; another stage is open then.

    Two stages, of which the second finds the row in cache, and mends what the mean lacks in its dtype (a mean of 1e4 has a
    unit of 1e-3 in f32). Where no cache holds the row, one stage by Welford's method.
    """
    if count * ITEMSIZE[dtype] >= _IN_NO_CACHE:
        mean, squares, _ = n.several("welford", x())
        n.stage()
        return Moments(mean, None, squares)
    total = n.reduce("sum", x())
    n.stage()
    mean = total / n.count(count, dtype)
    d = x() - mean
    squares, rest = n.reduce("sum", d * d), n.reduce("sum", d)
    n.stage()
    left = rest / n.count(count, dtype)
    return Moments(mean, left, squares - rest * left)


def _variance(root: bool, with_mean: bool) -> Callable[..., None]:
    def rule(site: Site, self: Arg, dim: Arg = None, *, correction: Arg = None, keepdim: bool = False) -> None:
        dtype = site.dtype(self)
        if dtype not in FLOATS:
            raise Refused(f"variance of {dtype}")
        over = Over(site, self, axes(dim, _rank(site, self)))
        to = computed_in(dtype)
        mean, _, squares = moments(over.nest, lambda: over.nest.load(self, over.stage()).to(to), over.count, to)
        less = 1.0 if correction is None else float(str(correction))
        divisor = over.nest.count(over.count, to) - less
        v = squares / divisor.max(0.0)
        over.result(site, 0, v.of("sqrt") if root else v)
        if with_mean:
            over.result(site, 1, mean)
        over.done()

    return rule


register("reduction", "var.correction")(_variance(False, False))
register("reduction", "std.correction")(_variance(True, False))
register("reduction", "var_mean.correction")(_variance(False, True))
register("reduction", "std_mean.correction")(_variance(True, True))


def exponents(over: Over, dtype: str, *, safe: bool = False) -> tuple[Scalar, Scalar]:
    """Of each row: its greatest element, and the sum of e^(x - greatest); another stage is open then.

    Two stages, of which the second finds the row in cache; where no cache holds it, one. ``safe``: of a row of nothing but
    -inf the greatest is 0 and the sum 0.
    """
    n, x = over.nest, over.x
    if over.count * ITEMSIZE[dtype] >= _IN_NO_CACHE:
        most, total = n.several("softmax", n.load(x, over.stage()).to(dtype))
        n.stage()
        return (where(most.equals(-math.inf), 0.0, most) if safe else most), total
    most = n.reduce("max", n.load(x, over.stage()).to(dtype))
    n.stage()
    if safe:
        most = where(most.equals(-math.inf), 0.0, most)
    total = n.reduce("sum", (n.load(x, over.stage()).to(dtype) - most).of("exp"))
    n.stage()
    return most, total


@register("reduction", "logsumexp.default")
def _logsumexp(site: Site, self: Arg, dim: Arg, keepdim: bool = False) -> None:
    over = Over(site, self, axes(dim, _rank(site, self)))
    most, total = exponents(over, computed_in(site.dtype(Ref(str(site.op.outputs[0])))))
    over.result(site, 0, where(most.of("abs").equals(math.inf), most, total.of("log") + most))
    over.done()


@register("reduction", "linalg_vector_norm.default")
def _norm(site: Site, self: Arg, ord: float = 2, dim: Arg = None, keepdim: bool = False, *, dtype: Arg = None) -> None:
    to = computed_in(site.dtype(Ref(str(site.op.outputs[0]))))
    over = Over(site, self, axes(dim, _rank(site, self)))
    n = over.nest
    a = n.load(self, over.stage()).to(to).of("abs")
    if abs(ord) == math.inf:
        _nonempty(site, self, over.dims)
        total = n.reduce("max" if ord > 0 else "min", a)
    elif ord == 0:
        total = n.reduce("sum", a.differs(0).to(to))
    else:
        total = n.reduce("sum", a if ord == 1 else a * a if ord == 2 else a.of("pow", ord))
    n.stage()
    if ord not in (0, 1, math.inf, -math.inf):
        total = total.of("sqrt") if ord == 2 else total.of("pow", 1 / ord)
    over.result(site, 0, total)
    over.done()


def _cumulative(kind: str, dtype_of: Callable[[str], str] = lambda t: t) -> Callable[..., None]:
    """A running reduction, in what ``dtype_of`` makes of the result's dtype."""

    def rule(site: Site, self: Arg, dim: int, *, dtype: Arg = None) -> None:
        out = site.output()
        if out is None:
            return
        to = dtype_of(computed_in(site.dtype(out)))
        over = Over(site, self, axes(dim, _rank(site, self)))
        at = over.stage()
        over.nest.store(out, at, over.nest.scan(kind, over.nest.load(self, at).to(to)))
        over.done()

    return rule


register("reduction", "cumsum.default")(_cumulative("sum"))
register("reduction", "cumprod.default")(_cumulative("prod"))
register("reduction", "logcumsumexp.default")(_cumulative("logaddexp", lambda _t: "f64"))  # as ATen does


def _running_extreme(kind: str) -> Callable[..., None]:
    """The extreme so far and where it stands: of equal ones the last, and of NaN, once there is one."""

    def rule(site: Site, self: Arg, dim: int) -> None:
        over = Over(site, self, axes(dim, _rank(site, self)))
        at = over.stage()
        n = over.nest
        x = n.load(self, at)
        x = x.to(computed_in(x.dtype))
        best = n.scan(kind, x)
        place = n.index(at[over.dims[0]]) if over.dims else n.const("i64", 0)
        n.store(site.output(0), at, best)
        n.store(site.output(1), at, n.scan("max", where(x.differs(x) | x.equals(best), place, 0)))
        over.done()

    return rule


register("reduction", "cummax.default")(_running_extreme("max"))
register("reduction", "cummin.default")(_running_extreme("min"))


def softmax_rows(site: Site, x: Arg, dim: int, log: bool, *, safe: bool = False) -> None:
    """softmax or its logarithm along ``dim``. ``safe``: a row of nothing but -inf gives zeros."""
    out = site.output()
    if out is None:
        return
    to = computed_in(site.dtype(out))
    over = Over(site, x, axes(dim, _rank(site, x)))
    n = over.nest
    most, total = exponents(over, to, safe=safe)
    last = total.of("log") if log else where(total.equals(0), 0.0, 1 / total) if safe else 1 / total
    at = over.stage()
    d = n.load(x, at).to(to) - most
    n.store(out, at, d - last if log else d.of("exp") * last)
    over.done()


@register("reduction", "_softmax.default")
def _softmax(site: Site, self: Arg, dim: int, half_to_float: bool = False) -> None:
    softmax_rows(site, self, dim, False)


@register("reduction", "_log_softmax.default")
def _log_softmax(site: Site, self: Arg, dim: int, half_to_float: bool = False) -> None:
    softmax_rows(site, self, dim, True)


@register("reduction", "_safe_softmax.default")
def _safe_softmax(site: Site, self: Arg, dim: int, dtype: Arg = None) -> None:
    softmax_rows(site, self, dim, False, safe=True)


def _softmax_backward(log: bool) -> Callable[..., None]:
    def rule(site: Site, grad_output: Arg, output: Arg, dim: int, input_dtype: Arg) -> None:
        out = site.output()
        if out is None:
            return
        to = computed_in(site.dtype(output))
        over = Over(site, output, axes(dim, _rank(site, output)))
        n = over.nest
        at = over.stage()
        g, y = n.load(grad_output, at).to(to), n.load(output, at).to(to)
        total = n.reduce("sum", g if log else g * y)
        at = over.stage()
        g, y = n.load(grad_output, at).to(to), n.load(output, at).to(to)
        n.store(out, at, g - y.of("exp") * total if log else y * (g - total))
        over.done()

    return rule


register("reduction", "_softmax_backward_data.default")(_softmax_backward(False))
register("reduction", "_log_softmax_backward_data.default")(_softmax_backward(True))


@register("reduction", "dist.default")
def _distance(site: Site, self: Arg, other: Arg, p: float = 2) -> None:
    """The norm of the difference of all elements, broadcast."""
    if p in (0, math.inf, -math.inf):
        raise Refused(f"is the norm of order {p}")
    out = site.output()
    if out is None:
        return
    to = computed_in(site.dtype(out))
    n = site.loop()
    a, b = site.size(self), site.size(other)
    rank = max(len(a), len(b))
    whole = zip((1,) * (rank - len(a)) + a, (1,) * (rank - len(b)) + b, strict=True)
    at = n.stage(*(m if m != 1 else k for m, k in whole))
    away = (n.spread(self, at).to(to) - n.spread(other, at).to(to)).of("abs")
    total = n.reduce("sum", away if p == 1 else away * away if p == 2 else away.of("pow", p))
    n.stage()
    n.store(out, (), total if p == 1 else total.of("sqrt") if p == 2 else total.of("pow", 1 / p))
    n.done()


@register("reduction", "norm.ScalarOpt_dim")
def _norm_along(site: Site, self: Arg, p: float | None, dim: Arg, keepdim: bool = False) -> None:
    _norm(site, self, 2 if p is None else p, dim, keepdim)


@register("reduction", "aminmax.default")
def _least_and_greatest(site: Site, self: Arg, *, dim: Arg = None, keepdim: bool = False) -> None:
    dims = axes(dim, _rank(site, self))
    _nonempty(site, self, dims)
    over = Over(site, self, dims)
    x = over.nest.load(self, over.stage())
    x = x.to(computed_in(x.dtype))
    least, most = over.nest.reduce("min", x), over.nest.reduce("max", x)
    over.nest.stage()
    over.result(site, 0, least)
    over.result(site, 1, most)
    over.done()


@register("reduction", "count_nonzero.default", "count_nonzero.dim_IntList")
def _count(site: Site, self: Arg, dim: Arg = None) -> None:
    over = Over(site, self, axes(dim, _rank(site, self)))
    x = over.nest.load(self, over.stage())
    total = over.nest.reduce("sum", x.to(computed_in(x.dtype)).differs(0).to("i64"))
    over.nest.stage()
    over.result(site, 0, total)
    over.done()


@register("reduction", "nansum.default")
def _sum_of_numbers(site: Site, self: Arg, dim: Arg = None, keepdim: bool = False, *, dtype: Arg = None) -> None:
    to = computed_in(site.dtype(Ref(str(site.op.outputs[0]))))
    over = Over(site, self, axes(dim, _rank(site, self)))
    x = over.nest.load(self, over.stage()).to(to)
    total = over.nest.reduce("sum", where(x.differs(x), 0, x))
    over.nest.stage()
    over.result(site, 0, total)
    over.done()


@register("reduction", "isin.Tensor_Tensor")
def _among(site: Site, elements: Arg, test_elements: Arg, *, assume_unique: bool = False, invert: bool = False) -> None:
    out = site.output()
    if out is None:
        return
    n = site.loop(site.size(elements))
    to = computed_in(promoted(site, (elements, test_elements)))
    at = n.stage(*site.size(test_elements))
    found = n.reduce("any", n.load(elements, n.rows).to(to).equals(n.load(test_elements, at).to(to)))
    n.stage()
    n.store(out, n.rows, ~found if invert else found)
    n.done()


@register("reduction", "trace.default")
def _trace(site: Site, self: Arg) -> None:
    out = site.output()
    if out is None:
        return
    n, to = site.loop(), computed_in(site.dtype(out))
    (k,) = n.stage(min(site.size(self)))
    total = n.reduce("sum", n.load(self, [k, k]).to(to))
    n.stage()
    n.store(out, (), total)
    n.done()

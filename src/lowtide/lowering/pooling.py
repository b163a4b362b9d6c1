"""Pooling over windows, and its gradients: averages and greatest values, fixed and adaptive, in one to three dimensions.

A window of few points is written out, so that vectors run along the results; a large one is a reduction. A gradient
gathers: every point of the input asks the windows that it lies in, so nothing is added up across threads; where those are
many, that of a greatest value goes to the position that was noted for it.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lowtide.ir.graph import Arg, Ref
from lowtide.ir.index import add, floordiv, mul
from lowtide.ir.symbolic import Dim
from lowtide.lowering.indexing import flat, spread_out
from lowtide.lowering.movement import fill_with
from lowtide.lowering.scalars import FLOATS, Scalar, computed_in, where
from lowtide.lowering.scatter import zeros_and
from lowtide.lowering.site import Nest, Refused, Site
from lowtide.lowering.table import register

WRITTEN_OUT = 32  # points of a window, or windows of a point, that are written one by one


@dataclass(frozen=True, slots=True)
class _Axis:
    """One dimension: ``many`` windows of ``width`` points ``apart``, one every ``step``, over ``n`` points of which
    ``before`` stand before the first."""

    n: int
    many: int
    width: int
    step: int
    before: int
    apart: int = 1

    def point(self, window: Dim, k: Dim) -> Dim:
        """Position of a window's k-th point."""
        return add(mul(window, self.step), mul(k, self.apart), -self.before)

    @property
    def shared(self) -> int:
        """How many windows a point may lie in."""
        return ((self.width - 1) * self.apart) // self.step + 1


def _spread(given: Arg, rank: int) -> tuple[int, ...]:
    values = given if isinstance(given, tuple) else (given,)
    return tuple(int(str(v)) for v in (values * rank if len(values) == 1 else values))


def _axes(
    size: Sequence[int], result: Sequence[int], kernel: Arg, stride: Arg, padding: Arg, dilation: Arg, rank: int
) -> list[_Axis]:
    width = _spread(kernel, rank)
    step = _spread(stride, rank) if isinstance(stride, int) or (isinstance(stride, tuple) and stride) else width
    before, apart = _spread(padding, rank), _spread(dilation, rank)
    return [
        _Axis(size[d - rank], result[d - rank], width[d], step[d], before[d], apart[d]) for d in range(rank)
    ]  # fmt: skip


def _worst(dtype: str) -> float:
    if dtype in ("f32", "f64"):
        return -math.inf
    return {"u8": 0, "i8": -128, "i16": -(2**15), "i32": -(2**31)}.get(dtype, -(2**63))


@dataclass(frozen=True, slots=True)
class _Window:
    """The window of one result. ``first``: position in the plane of its first point that lies inside. ``point``: index
    into the plane of a point, and whether it lies inside (None: it does)."""

    first: Scalar
    point: Callable[[Sequence[Dim]], tuple[list[Dim], Scalar | None]]


def _over(site: Site, shape: Arg, widths: Sequence[int]) -> tuple[Nest, list[Dim], bool]:
    """A loop over results, the index of one, and whether a window's points are written out; else they are a stage."""
    short = math.prod(widths) <= WRITTEN_OUT
    n = site.loop(() if short else site.size(shape))
    if short:
        return n, list(n.stage(*site.size(shape))), True
    n.stage()
    return n, list(n.rows), False


def _greatest(
    site: Site, self: Arg, shape: Arg, widths: Sequence[int], window: Callable[[Nest, Sequence[Dim]], _Window]
) -> None:
    """The greatest point of every window and its position in the plane: of equal ones the first, of NaN the last."""
    rank, to = len(widths), computed_in(site.dtype(self))
    plane = site.size(self)[-rank:]
    n, at, short = _over(site, shape, widths)
    w = window(n, at[-rank:])

    def element(k: Sequence[Dim]) -> tuple[Scalar, Scalar | None, list[Dim]]:
        place, inside = w.point(k)
        return n.load(self, [*at[:-rank], *place], inside).to(to), inside, place

    if short:
        best, position = n.const(to, _worst(to)), w.first
        for k in itertools.product(*map(range, widths)):
            v, inside, place = element(k)
            better = (v > best) | v.differs(v)
            better = better if inside is None else better & inside
            best, position = where(better, v, best), where(better, n.index(flat(place, plane)), position)
    else:
        v, inside, place = element(n.stage(*widths))
        v = v if inside is None else where(inside, v, _worst(to))
        best, which = n.reduce("max", v), n.reduce("argmax", v)
        last = n.reduce("max", where(v.differs(v), n.index(flat(place, plane)), -1))
        n.stage()
        place, _ = w.point(spread_out(n.at(which), widths))
        position = where(best.equals(_worst(to)), w.first, n.index(flat(place, plane)))
        position = where(last >= 0, last, position)
    n.store(site.output(0), at, best)
    n.store(site.output(1), at, position)
    n.done()


def _max_pool(rank: int) -> Callable[..., None]:
    def rule(
        site: Site, self: Arg, kernel_size: Arg, stride: Arg = (), padding: Arg = 0, dilation: Arg = 1,
        ceil_mode: bool = False,
    ) -> None:  # fmt: skip
        shape = site.output() or site.output(1)
        if shape is None:
            return
        size = site.size(self)
        axes = _axes(size, site.size(shape), kernel_size, stride, padding, dilation, rank)

        def window(n: Nest, windows: Sequence[Dim]) -> _Window:
            def point(k: Sequence[Dim]) -> tuple[list[Dim], Scalar | None]:
                place = [a.point(w, i) for a, w, i in zip(axes, windows, k, strict=True)]
                return place, n.within(place, size[-rank:])

            return _Window(_first(n, axes, windows), point)

        _greatest(site, self, shape, [a.width for a in axes], window)

    return rule


def _first(n: Nest, axes: Sequence[_Axis], windows: Sequence[Dim]) -> Scalar:
    """Position of a window's first point that lies inside, in a plane."""
    out = n.const("i64", 0)
    for a, w in zip(axes, windows, strict=True):
        begin = n.index(a.point(w, 0))
        if a.before:
            short = where(begin < 0, (n.const("i64", a.apart - 1) - begin).of("truncdiv", a.apart), 0)
            begin = begin + short * a.apart
        out = out * a.n + begin
    return out


register("pooling", "max_pool2d_with_indices.default")(_max_pool(2))
register("pooling", "max_pool3d_with_indices.default")(_max_pool(3))


def _max_pool_backward(rank: int) -> Callable[..., None]:
    def rule(
        site: Site, grad_output: Arg, self: Arg, kernel_size: Arg, stride: Arg, padding: Arg, dilation: Arg,
        ceil_mode: bool, indices: Arg,
    ) -> None:  # fmt: skip
        size, result = site.size(self), site.size(grad_output)
        axes = _axes(size, result, kernel_size, stride, padding, dilation, rank)
        if math.prod(a.shared for a in axes) > WRITTEN_OUT:
            scatter_planes(site, grad_output, indices, rank)
            return

        def share(n: Nest, at: Sequence[Dim], window: Sequence[Dim], inside: Scalar | None) -> Scalar:
            from_ = [*at[:-rank], *window]
            mine = n.load(indices, from_, inside).equals(n.index(flat(at[-rank:], size[-rank:])))
            mine = mine if inside is None else mine & inside
            g = n.load(grad_output, from_, inside)
            return where(mine, g.to(computed_in(g.dtype)), 0)

        _gathered_by_steps(site, axes, share)

    return rule


register("pooling", "max_pool2d_with_indices_backward.default")(_max_pool_backward(2))
register("pooling", "max_pool3d_with_indices_backward.default")(_max_pool_backward(3))

Share = Callable[[Nest, Sequence[Dim], Sequence[Dim], Scalar | None], Scalar]


def _gathered(
    site: Site, shared: Sequence[int], many: Sequence[int], window: Callable[[Nest, Dim, int, Dim], Dim], share: Share
) -> None:
    """Every point of the one result: the sum of the shares of the windows that it may lie in, of ``shared`` in each
    dimension. ``window``: the number of the k-th of them in a dimension, given the point; ``many``: how many there are."""
    out = site.output()
    if out is None:
        return
    rank = len(shared)
    n, at, short = _over(site, out, shared)

    def part(k: Sequence[Dim]) -> Scalar:
        found = [window(n, i, d, j) for d, (i, j) in enumerate(zip(at[-rank:], k, strict=True))]
        return share(n, at, found, n.within(found, many))

    if short:
        first, *others = (part(k) for k in itertools.product(*map(range, shared)))
        total = sum(others, first)
    else:
        total = n.reduce("sum", part(n.stage(*shared)))
        n.stage()
    n.store(out, at, total)
    n.done()


def _gathered_by_steps(site: Site, axes: Sequence[_Axis], share: Share) -> None:
    """``_gathered`` of windows that begin at even distances: backwards from the last one that begins at or before the
    point."""

    def window(n: Nest, i: Dim, d: int, k: Dim) -> Dim:
        return add(floordiv(add(i, axes[d].before), axes[d].step, n.b.ranges), mul(k, -1))

    _gathered(site, [a.shared for a in axes], [a.many for a in axes], window, share)


def scatter_planes(site: Site, grad_output: Arg, indices: Arg, rank: int, *, add: bool = True) -> None:
    """What was chosen goes back to the position in its plane that was noted for it."""
    out = site.output()
    if out is None:
        return
    size, part = site.size(out), site.size(grad_output)
    lead, plane = len(size) - rank, size[-rank:]

    def write(n: Nest, held: Ref) -> None:
        at = [*n.rows, *n.stage(*part[-rank:])]
        to = n.checked(n.load(indices, at), math.prod(plane))
        g = n.load(grad_output, at)
        n.store(held, [*n.rows, *spread_out(to, plane)], g.to(computed_in(g.dtype)), add=add)

    zeros_and(site, range(lead), write)


@dataclass(frozen=True, slots=True)
class _Adaptive:
    """One dimension: ``many`` windows that share ``n`` points as evenly as they can."""

    n: int
    many: int

    def begin(self, w: int) -> int:
        """First point of a window."""
        return w * self.n // self.many

    def end(self, w: int) -> int:
        """Behind its last point."""
        return -(-(w + 1) * self.n // self.many)

    @property
    def width(self) -> int:
        """Of the widest window."""
        return max((self.end(w) - self.begin(w) for w in range(self.many)), default=0)

    @property
    def shared(self) -> int:
        """How many windows a point may lie in."""
        inside = [0] * self.n
        for w in range(self.many):
            for k in range(self.begin(w), self.end(w)):
                inside[k] += 1
        return max(inside, default=0)

    def at(self, n: Nest, w: Dim) -> tuple[Dim, Scalar]:
        """A window's first point, and how many it has."""
        begin = floordiv(mul(w, self.n), self.many, n.b.ranges)
        end = floordiv(add(mul(w, self.n), self.n + self.many - 1), self.many, n.b.ranges)
        return begin, n.index(add(end, mul(-1, begin)))


@dataclass(frozen=True, slots=True)
class _Shares:
    """A window of each of several dimensions: first points and numbers of points."""

    n: Nest
    axes: Sequence[_Adaptive]
    held: Sequence[tuple[Dim, Scalar]]

    @staticmethod
    def of(n: Nest, axes: Sequence[_Adaptive], windows: Sequence[Dim]) -> _Shares:
        """Of the windows with these numbers."""
        return _Shares(n, axes, [a.at(n, w) for a, w in zip(axes, windows, strict=True)])

    @property
    def begin(self) -> list[Dim]:
        """Index into the plane of the first point."""
        return [b for b, _ in self.held]

    def point(self, k: Sequence[Dim]) -> tuple[list[Dim], Scalar | None]:
        """Index into the plane of a point, and whether it lies in the window, whose points are at most as many as those
        of the widest one."""
        inside: Scalar | None = None
        for (_, many), a, j in zip(self.held, self.axes, k, strict=True):
            if a.n % a.many and j != 0:
                test = self.n.index(j) < many
                inside = test if inside is None else inside & test
        return [add(b, j) for (b, _), j in zip(self.held, k, strict=True)], inside

    def count(self, to: str) -> Scalar:
        """How many points there are, as a number to divide by."""
        first, *others = (many for _, many in self.held)
        return math.prod(others, start=first).to(to)


def _adaptive(size: Sequence[int], result: Sequence[int], rank: int) -> list[_Adaptive]:
    return [_Adaptive(a, b) for a, b in zip(size[-rank:], result[-rank:], strict=True)]


def _adaptive_average(rank: int) -> Callable[..., None]:
    def rule(site: Site, self: Arg, output_size: Arg) -> None:
        out = site.output()
        if out is None:
            return
        if 0 in site.size(out):
            fill_with(site, lambda n, _at: n.const(site.dtype(out), 0))
            return
        to = computed_in(site.dtype(self))
        axes = _adaptive(site.size(self), site.size(out), rank)
        n = site.loop(site.size(out))
        n.stage()
        window = _Shares.of(n, axes, n.rows[-rank:])
        place, inside = window.point(n.stage(*(a.width for a in axes)))
        total = n.reduce("sum", n.load(self, [*n.rows[:-rank], *place], inside).to(to))
        n.stage()
        n.store(out, n.rows, total / window.count(to))
        n.done()

    return rule


register("pooling", "_adaptive_avg_pool2d.default")(_adaptive_average(2))
register("pooling", "_adaptive_avg_pool3d.default")(_adaptive_average(3))


def _adaptive_average_backward(rank: int) -> Callable[..., None]:
    def rule(site: Site, grad_output: Arg, self: Arg) -> None:
        if 0 in site.size(grad_output):
            fill_with(site, lambda n, _at: n.const(site.dtype(grad_output), 0))
            return
        to = computed_in(site.dtype(grad_output))
        axes = _adaptive(site.size(self), site.size(grad_output), rank)

        def window(n: Nest, i: Dim, d: int, k: Dim) -> Dim:  # from the first one whose end is behind the point
            return add(floordiv(mul(i, axes[d].many), axes[d].n, n.b.ranges), k)

        def share(n: Nest, at: Sequence[Dim], found: Sequence[Dim], inside: Scalar | None) -> Scalar:
            shares = _Shares.of(n, axes, found)
            for (begin, many), i, a in zip(shares.held, at[-rank:], axes, strict=True):
                if a.shared > 1:
                    test = (n.index(i) >= n.index(begin)) & (n.index(add(i, mul(-1, begin))) < many)
                    inside = test if inside is None else inside & test
            return n.load(grad_output, [*at[:-rank], *found], inside).to(to) / shares.count(to)

        _gathered(site, [a.shared for a in axes], [a.many for a in axes], window, share)

    return rule


register("pooling", "_adaptive_avg_pool2d_backward.default")(_adaptive_average_backward(2))
register("pooling", "_adaptive_avg_pool3d_backward.default")(_adaptive_average_backward(3))


def _adaptive_max(rank: int) -> Callable[..., None]:
    def rule(site: Site, self: Arg, output_size: Arg) -> None:
        shape = site.output() or site.output(1)
        if shape is None:
            return
        if 0 in site.size(shape):
            raise Refused("has no windows")
        size = site.size(self)
        axes = _adaptive(size, site.size(shape), rank)

        def window(n: Nest, windows: Sequence[Dim]) -> _Window:
            held = _Shares.of(n, axes, windows)
            return _Window(n.index(flat(held.begin, size[-rank:])), held.point)

        _greatest(site, self, shape, [a.width for a in axes], window)

    return rule


register("pooling", "adaptive_max_pool2d.default")(_adaptive_max(2))
register("pooling", "adaptive_max_pool3d.default")(_adaptive_max(3))


def _adaptive_max_backward(rank: int) -> Callable[..., None]:
    def rule(site: Site, grad_output: Arg, self: Arg, indices: Arg) -> None:
        scatter_planes(site, grad_output, indices, rank)

    return rule


register("pooling", "adaptive_max_pool2d_backward.default")(_adaptive_max_backward(2))
register("pooling", "adaptive_max_pool3d_backward.default")(_adaptive_max_backward(3))


register("pooling", "fractional_max_pool2d_backward.default")(
    lambda site, grad_output, self, kernel_size, output_size, indices: scatter_planes(site, grad_output, indices, 2)
)
register("pooling", "fractional_max_pool3d_backward.default")(
    lambda site, grad_output, self, kernel_size, output_size, indices: scatter_planes(site, grad_output, indices, 3)
)


@register("pooling", "max_unpool2d.default")
def _unpool(site: Site, self: Arg, indices: Arg, output_size: Arg) -> None:
    scatter_planes(site, self, indices, 2, add=False)


@register("pooling", "max_unpool3d.default")
def _unpool3d(site: Site, self: Arg, indices: Arg, output_size: Arg, stride: Arg, padding: Arg) -> None:
    scatter_planes(site, self, indices, 3, add=False)


@dataclass(frozen=True, slots=True)
class _Average:
    """What an average divides by: a number, or how many points of the window count."""

    axes: Sequence[_Axis]
    padded: bool
    override: int | None

    def divisor(self, n: Nest, windows: Sequence[Dim], to: str) -> Scalar:
        """Of a window."""
        whole = math.prod(a.width for a in self.axes)
        if self.override is not None:
            return n.const(to, self.override)
        plain = all(a.before == 0 and (a.many - 1) * a.step + a.width <= a.n for a in self.axes)
        if plain:
            return n.count(whole, to)
        count: Scalar | None = None
        for a, w in zip(self.axes, windows, strict=True):
            begin = n.index(a.point(w, 0))
            # padding counts as far as it was asked for, what a rounded-up size adds behind it never does
            end = (begin + a.width).min(a.n + a.before if self.padded else a.n)
            here = end - (begin if self.padded else begin.max(0))
            count = here if count is None else count * here
        assert count is not None
        return count.to(to)


def _average_pool(rank: int) -> Callable[..., None]:
    def rule(
        site: Site, self: Arg, kernel_size: Arg, stride: Arg = (), padding: Arg = 0, ceil_mode: bool = False,
        count_include_pad: bool = True, divisor_override: int | None = None,
    ) -> None:  # fmt: skip
        out = site.output()
        if out is None:
            return
        size, to = site.size(self), computed_in(site.dtype(self))
        axes = _axes(size, site.size(out), kernel_size, stride, padding, 1, rank)
        rule_of = _Average(axes, count_include_pad, divisor_override)
        n, at, short = _over(site, out, [a.width for a in axes])
        lead, windows = at[:-rank], at[-rank:]

        def element(k: Sequence[Dim]) -> Scalar:
            place = [a.point(w, i) for a, w, i in zip(axes, windows, k, strict=True)]
            return n.load(self, [*lead, *place], n.within(place, size[-rank:])).to(to)

        if short:
            first, *others = (element(k) for k in itertools.product(*(range(a.width) for a in axes)))
            total = sum(others, first)
        else:
            total = n.reduce("sum", element(n.stage(*(a.width for a in axes))))
            n.stage()
        divisor = rule_of.divisor(n, windows, to)
        n.store(out, at, total / divisor if to in FLOATS else total.of("truncdiv", divisor))
        n.done()

    return rule


register("pooling", "avg_pool2d.default")(_average_pool(2))
register("pooling", "avg_pool3d.default")(_average_pool(3))


def _average_pool_backward(rank: int) -> Callable[..., None]:
    def rule(
        site: Site, grad_output: Arg, self: Arg, kernel_size: Arg, stride: Arg, padding: Arg, ceil_mode: bool,
        count_include_pad: bool, divisor_override: int | None,
    ) -> None:  # fmt: skip
        size, result = site.size(self), site.size(grad_output)
        to = computed_in(site.dtype(grad_output))
        axes = _axes(size, result, kernel_size, stride, padding, 1, rank)
        rule_of = _Average(axes, count_include_pad, divisor_override)

        def share(n: Nest, at: Sequence[Dim], window: Sequence[Dim], inside: Scalar | None) -> Scalar:
            for a, i, w in zip(axes, at[-rank:], window, strict=True):
                if a.width % a.step or a.width < a.step:  # the window may end before the point
                    test = n.index(add(i, mul(-1, a.point(w, 0)))) < a.width
                    inside = test if inside is None else inside & test
            g = n.load(grad_output, [*at[:-rank], *window], inside).to(to)
            share = g / rule_of.divisor(n, window, to)
            return share if inside is None else where(inside, share, 0)

        _gathered_by_steps(site, axes, share)

    return rule


register("pooling", "avg_pool2d_backward.default")(_average_pool_backward(2))
register("pooling", "avg_pool3d_backward.default")(_average_pool_backward(3))

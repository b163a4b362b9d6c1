"""Pooling over windows, and its gradients: averages and greatest values, fixed and adaptive, in one to three dimensions.

A window of few points is written out, so that vectors run along the results; a large one is a reduction. A gradient
gathers: every point of the input asks the windows that it lies in, so nothing is added up across threads.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lowtide.ir.graph import Arg, Ref
from lowtide.ir.index import add, floordiv, mul
from lowtide.ir.symbolic import Dim
from lowtide.lowering.indexing import spread_out
from lowtide.lowering.scalars import Scalar, computed_in, where
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
        points = list(itertools.product(*(range(a.width) for a in axes)))
        if len(points) > WRITTEN_OUT:
            raise Refused(f"has windows of {len(points)} points")
        n = site.loop()
        at = list(n.stage(*site.size(shape)))
        lead, windows = at[:-rank], at[-rank:]
        to = computed_in(site.dtype(self))
        best, position = n.const(to, _worst(to)), _first(n, axes, windows)
        for k in points:
            place = [a.point(w, i) for a, w, i in zip(axes, windows, k, strict=True)]
            inside = n.within(place, size[-rank:])
            v = n.load(self, [*lead, *place], inside).to(to)
            better = (v > best) | v.differs(v)
            better = better if inside is None else better & inside
            best, position = where(better, v, best), where(better, n.index(_flat(place, size[-rank:])), position)
        n.store(site.output(0), at, best)
        n.store(site.output(1), at, position)
        n.done()

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


def _flat(place: Sequence[Dim], size: Sequence[int]) -> Dim:
    out: Dim = 0
    for i, m in zip(place, size, strict=True):
        out = add(mul(out, m), i)
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
            mine = n.load(indices, from_, inside).equals(n.index(_flat(at[-rank:], size[-rank:])))
            mine = mine if inside is None else mine & inside
            g = n.load(grad_output, from_, inside)
            return where(mine, g.to(computed_in(g.dtype)), 0)

        _gathered(site, axes, share)

    return rule


register("pooling", "max_pool2d_with_indices_backward.default")(_max_pool_backward(2))
register("pooling", "max_pool3d_with_indices_backward.default")(_max_pool_backward(3))

Share = Callable[[Nest, Sequence[Dim], Sequence[Dim], Scalar | None], Scalar]


def _gathered(site: Site, axes: Sequence[_Axis], share: Share) -> None:
    """Every point of the one result: the sum of the shares of the windows that it may lie in."""
    out = site.output()
    if out is None:
        return
    n, rank = site.loop(), len(axes)
    at = list(n.stage(*site.size(out)))
    total: Scalar | None = None
    last = [
        floordiv(add(i, a.before), a.step, n.b.ranges) for a, i in zip(axes, at[-rank:], strict=True)
    ]  # the last window that begins at or before the point
    for k in itertools.product(*(range(a.shared) for a in axes)):
        window = [add(w, -j) for w, j in zip(last, k, strict=True)]
        part = share(n, at, window, n.within(window, [a.many for a in axes]))
        total = part if total is None else total + part
    assert total is not None
    n.store(out, at, total)
    n.done()


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


def _adaptive(site: Site, size: Sequence[int], result: Sequence[int], rank: int) -> list[_Adaptive]:
    if 0 in size[-rank:] or 0 in result:
        raise Refused("has windows without points")
    return [_Adaptive(a, b) for a, b in zip(size[-rank:], result[-rank:], strict=True)]


def _adaptive_average(rank: int) -> Callable[..., None]:
    def rule(site: Site, self: Arg, output_size: Arg) -> None:
        out = site.output()
        if out is None:
            return
        size, to = site.size(self), computed_in(site.dtype(self))
        axes = _adaptive(site, size, site.size(out), rank)
        n = site.loop(site.size(out))
        lead, windows = n.rows[:-rank], n.rows[-rank:]
        n.stage()
        held = [a.at(n, w) for a, w in zip(axes, windows, strict=True)]
        points = n.stage(*(a.width for a in axes))
        inside: Scalar | None = None
        for (_, many), a, k in zip(held, axes, points, strict=True):
            if a.n % a.many:
                test = n.index(k) < many
                inside = test if inside is None else inside & test
        place = [add(begin, k) for (begin, _), k in zip(held, points, strict=True)]
        total = n.reduce("sum", n.load(self, [*lead, *place], inside).to(to))
        n.stage()
        count = held[0][1]
        for _, many in held[1:]:
            count = count * many
        n.store(out, n.rows, total / count.to(to))
        n.done()

    return rule


register("pooling", "_adaptive_avg_pool2d.default")(_adaptive_average(2))
register("pooling", "_adaptive_avg_pool3d.default")(_adaptive_average(3))


def _adaptive_average_backward(rank: int) -> Callable[..., None]:
    def rule(site: Site, grad_output: Arg, self: Arg) -> None:
        out = site.output()
        if out is None:
            return
        size, to = site.size(self), computed_in(site.dtype(grad_output))
        axes = _adaptive(site, size, site.size(grad_output), rank)
        if math.prod(a.shared for a in axes) > WRITTEN_OUT:
            raise Refused("has points in many windows")
        n = site.loop()
        at = list(n.stage(*size))
        total: Scalar | None = None
        first = [
            floordiv(mul(i, a.many), a.n, n.b.ranges) for a, i in zip(axes, at[-rank:], strict=True)
        ]  # the first window whose end is behind the point
        for k in itertools.product(*(range(a.shared) for a in axes)):
            window = [add(w, j) for w, j in zip(first, k, strict=True)]
            held = [a.at(n, w) for a, w in zip(axes, window, strict=True)]
            inside = n.within(window, [a.many for a in axes])
            for (begin, many), i, a in zip(held, at[-rank:], axes, strict=True):
                if a.shared > 1:
                    test = (n.index(i) >= n.index(begin)) & (n.index(add(i, mul(-1, begin))) < many)
                    inside = test if inside is None else inside & test
            count = held[0][1]
            for _, many in held[1:]:
                count = count * many
            g = n.load(grad_output, [*at[:-rank], *window], inside).to(to) / count.to(to)
            total = g if total is None else total + g
        assert total is not None
        n.store(out, at, total)
        n.done()

    return rule


register("pooling", "_adaptive_avg_pool2d_backward.default")(_adaptive_average_backward(2))
register("pooling", "_adaptive_avg_pool3d_backward.default")(_adaptive_average_backward(3))


def _adaptive_max(rank: int) -> Callable[..., None]:
    def rule(site: Site, self: Arg, output_size: Arg) -> None:
        shape = site.output() or site.output(1)
        if shape is None:
            return
        size, to = site.size(self), computed_in(site.dtype(self))
        axes = _adaptive(site, size, site.size(shape), rank)
        points = list(itertools.product(*(range(a.width) for a in axes)))
        if len(points) > WRITTEN_OUT:
            raise Refused(f"has windows of {len(points)} points")
        n = site.loop()
        at = list(n.stage(*site.size(shape)))
        held = [a.at(n, w) for a, w in zip(axes, at[-rank:], strict=True)]
        best = n.const(to, _worst(to))
        position = n.index(_flat([b for b, _ in held], size[-rank:]))
        for k in points:
            inside: Scalar | None = None
            for (_, many), a, j in zip(held, axes, k, strict=True):
                if a.n % a.many and j:
                    test = n.const("i64", j) < many
                    inside = test if inside is None else inside & test
            place = [add(b, j) for (b, _), j in zip(held, k, strict=True)]
            v = n.load(self, [*at[:-rank], *place], inside).to(to)
            better = (v > best) | v.differs(v)
            better = better if inside is None else better & inside
            best, position = where(better, v, best), where(better, n.index(_flat(place, size[-rank:])), position)
        n.store(site.output(0), at, best)
        n.store(site.output(1), at, position)
        n.done()

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
        if site.dtype(self) not in ("f16", "bf16", "f32", "f64"):
            raise Refused(f"averages {site.dtype(self)}")
        points = list(itertools.product(*(range(a.width) for a in axes)))
        short = len(points) <= WRITTEN_OUT
        n = site.loop(() if short else site.size(out))
        at = list(n.stage(*site.size(out))) if short else list(n.rows)
        lead, windows = at[:-rank], at[-rank:]

        def element(k: Sequence[Dim]) -> Scalar:
            place = [a.point(w, i) for a, w, i in zip(axes, windows, k, strict=True)]
            return n.load(self, [*lead, *place], n.within(place, size[-rank:])).to(to)

        if short:
            total = element(points[0])
            for k in points[1:]:
                total = total + element(k)
        else:
            total = n.reduce("sum", element(n.stage(*(a.width for a in axes))))
            n.stage()
        n.store(out, at, total / rule_of.divisor(n, windows, to))
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
        if math.prod(a.shared for a in axes) > WRITTEN_OUT:
            raise Refused("has points in many windows")

        def share(n: Nest, at: Sequence[Dim], window: Sequence[Dim], inside: Scalar | None) -> Scalar:
            for a, i, w in zip(axes, at[-rank:], window, strict=True):
                if a.width % a.step or a.width < a.step:  # the window may end before the point
                    test = n.index(add(i, mul(-1, a.point(w, 0)))) < a.width
                    inside = test if inside is None else inside & test
            g = n.load(grad_output, [*at[:-rank], *window], inside).to(to)
            share = g / rule_of.divisor(n, window, to)
            return share if inside is None else where(inside, share, 0)

        _gathered(site, axes, share)

    return rule


register("pooling", "avg_pool2d_backward.default")(_average_pool_backward(2))
register("pooling", "avg_pool3d_backward.default")(_average_pool_backward(3))

"""Pictures made smaller or larger with weights that reach over all points between two results (``antialias=True``), and
the gradient.

The weights of a dimension are the values of a filter at the distances of points from a result's centre, divided by their
sum; the filter is stretched by the scale where a picture becomes smaller. They do not depend on the picture: a loop of a
few elements makes a table of them per dimension, and the resampling is a sum over the points of both tables. Filters:
the triangle, and the cubic of R. Keys (1981) with parameter -1/2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lowtide.ir.graph import Arg, Ref
from lowtide.ir.symbolic import Dim
from lowtide.lowering.scalars import FLOATS, Scalar, computed_in, where
from lowtide.lowering.scatter import zeros_and
from lowtide.lowering.site import Nest, Refused, Site
from lowtide.lowering.table import register


@dataclass(frozen=True, slots=True)
class _Filter:
    """Zero beyond ``reach``; ``value`` of a distance that is not negative."""

    reach: float
    value: Callable[[Scalar], Scalar]


def _cubic(x: Scalar) -> Scalar:
    a = -0.5
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return where(x < 1, near, where(x < 2, far, 0))


_TRIANGLE = _Filter(1.0, lambda x: where(x < 1, 1 - x, 0))
_KEYS = _Filter(2.0, _cubic)


@dataclass(frozen=True, slots=True)
class _Along:
    """One dimension: from ``n`` points to ``many``. ``scale``: points per result."""

    n: int
    many: int
    scale: float
    filter: _Filter

    @staticmethod
    def of(n: int, many: int, align: bool, given: Arg, by: _Filter) -> _Along:
        """With the scale that was asked for, or that of the sizes."""
        if align:
            scale = (n - 1) / (many - 1) if many > 1 else 0.0
        else:
            scale = 1 / given if isinstance(given, float) and given > 0 else n / many
        return _Along(n, many, scale, by)

    @property
    def support(self) -> float:
        """How far from a centre points count."""
        return self.filter.reach * max(self.scale, 1.0)

    @property
    def width(self) -> int:
        """Points of the widest window."""
        return math.ceil(self.support) * 2 + 1

    def window(self, n: Nest, result: Dim) -> tuple[Scalar, Scalar, Scalar]:
        """First point of a result's window, the one behind its last (i64), and the centre (f64)."""
        centre = (n.index(result).to("f64") + 0.5) * self.scale
        begin = (centre - self.support + 0.5).of("trunc").max(0.0).to("i64")
        end = (centre + self.support + 0.5).of("trunc").to("i64").min(self.n)
        return begin, end, centre

    def weight(self, n: Nest, result: Dim, k: Dim) -> Scalar:
        """Of the window's k-th point, before the division (f64)."""
        begin, end, centre = self.window(n, result)
        point = begin + n.index(k)
        away = (point.to("f64") - centre + 0.5) / max(self.scale, 1.0)
        return where(point < end, self.filter.value(away.of("abs")), 0.0)

    def table(self, site: Site, to: str) -> tuple[Ref, Ref]:
        """A loop that makes the weights [result, k], and the first points [result]."""
        weights, begins = site.temporary(to, (self.many, self.width)), site.temporary("i64", (self.many,))
        n = site.loop((self.many,))
        (result,) = n.rows
        (k,) = n.stage(self.width)
        total = n.reduce("sum", self.weight(n, result, k))
        (k,) = n.stage(self.width)
        n.store(weights, [result, k], (self.weight(n, result, k) / total).to(to))
        n.stage()
        n.store(begins, [result], self.window(n, result)[0])
        n.done()
        return weights, begins


class _Resampling:
    """The tables of both dimensions of a picture, and what they say of a result and a point of its window."""

    def __init__(
        self, site: Site, size: Sequence[int], result: Sequence[int], align: bool, scales: Sequence[Arg], by: _Filter,
        to: str,
    ) -> None:  # fmt: skip
        self.axes = [
            _Along.of(n, m, align, s, by) for n, m, s in zip(size[-2:], result[-2:], scales, strict=True)
        ]  # fmt: skip
        self.tables = [a.table(site, to) for a in self.axes]
        self.widths = [a.width for a in self.axes]

    def point(self, n: Nest, result: Sequence[Dim], k: Sequence[Dim]) -> tuple[list[Dim], Scalar]:
        """Index into the plane, and the weight; points behind a window have the weight 0, and stand for its last."""
        place: list[Dim] = []
        total: Scalar | None = None
        for a, (weights, begins), r, j in zip(self.axes, self.tables, result, k, strict=True):
            point = (n.load(begins, [r]) + n.index(j)).min(a.n - 1)
            place.append(n.checked(point, a.n))
            w = n.load(weights, [r, j])
            total = w if total is None else total * w
        assert total is not None
        return place, total


def _resample(by: _Filter) -> Callable[..., None]:
    def rule(
        site: Site, self: Arg, output_size: Arg, align_corners: bool, scales_h: Arg = None, scales_w: Arg = None
    ) -> None:
        out = site.output()
        if out is None:
            return
        if site.dtype(out) not in FLOATS:
            raise Refused(f"rounds weights as ATen does for {site.dtype(out)}")
        size, to = site.size(self), computed_in(site.dtype(out))
        given = _Resampling(site, size, site.size(out), align_corners, (scales_h, scales_w), by, to)
        n = site.loop(site.size(out))
        *lead, y, x = n.rows
        place, weight = given.point(n, (y, x), n.stage(*given.widths))
        total = n.reduce("sum", n.load(self, [*lead, *place]).to(to) * weight)
        n.stage()
        n.store(out, n.rows, total)
        n.done()

    return rule


def _resample_backward(by: _Filter) -> Callable[..., None]:
    def rule(
        site: Site, grad_output: Arg, output_size: Arg, input_size: Arg, align_corners: bool, scales_h: Arg = None,
        scales_w: Arg = None,
    ) -> None:  # fmt: skip
        out = site.output()
        if out is None:
            return
        part, to = site.size(grad_output), computed_in(site.dtype(out))
        given = _Resampling(site, site.size(out), part, align_corners, (scales_h, scales_w), by, to)

        def write(n: Nest, held: Ref) -> None:
            y, x, *k = n.stage(*part[-2:], *given.widths)
            place, weight = given.point(n, (y, x), k)
            n.store(held, [*n.rows, *place], n.load(grad_output, [*n.rows, y, x]).to(to) * weight, add=True)

        zeros_and(site, [0, 1], write)

    return rule


for _name, _by in (("bilinear", _TRIANGLE), ("bicubic", _KEYS)):
    register("resampling", f"_upsample_{_name}2d_aa.default")(_resample(_by))
    register("resampling", f"_upsample_{_name}2d_aa_backward.default")(_resample_backward(_by))

"""Sorting along a dimension, and choosing by rank.

Comes in: ``sort`` and its like. Goes out: for short rows a loop that counts, for every element, how many come before it, and
stores it there: comparisons as many as the square of the row's length, but nothing depends on data, so rows run side by
side. Promised: equal elements keep their order and NaN counts as the greatest, as ATen sorts when asked to be stable. Longer
rows are refused, and so is the middle of many: ATen finds them in fewer steps. Positions in an order of ATen's own
choice are refused, since no other order gives them.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from lowtide.ir.graph import Arg
from lowtide.ir.symbolic import Dim
from lowtide.lowering.scalars import Scalar, computed_in, where
from lowtide.lowering.site import Refused, Site
from lowtide.lowering.table import register

COUNTED = 32  # elements of a row of which every two are compared


def _before(a: Scalar, b: Scalar, descending: bool) -> Scalar:
    """Whether ``a`` comes before ``b`` in a sorted row, where they are not equal."""
    if descending:
        a, b = b, a
    return (a < b) | (b.differs(b) & a.equals(a))


@register("sorting", "sort.default")
def _sort(site: Site, self: Arg, dim: int = -1, descending: bool = False) -> None:
    if site.output(1) is not None:
        raise Refused("places equal elements in an order of ATen's own")
    _by_counting(site, self, dim, descending)


@register("sorting", "sort.stable")
def _sort_stable(site: Site, self: Arg, *, stable: Arg = None, dim: int = -1, descending: bool = False) -> None:
    if not stable:
        _sort(site, self, dim, descending)
    else:
        _by_counting(site, self, dim, descending)


def _by_counting(site: Site, self: Arg, dim: int, descending: bool) -> None:
    size = site.size(self)
    d = dim % len(size) if size else 0
    many = size[d] if size else 1
    if many > COUNTED:
        raise Refused(f"sorts {many} elements")
    if 0 in size:
        n = site.loop()
        at = n.stage(*size)
        n.store(site.output(0), at, n.load(self, at))
        n.store(site.output(1), at, n.const("i64", 0))
        n.done()
        return
    n = site.loop(size)
    (k,) = n.stage(many)
    here, there = n.load(self, n.rows), n.load(self, [*n.rows[:d], k, *n.rows[d + 1 :]] if size else [])
    to = computed_in(here.dtype)
    x, y = here.to(to), there.to(to)
    mine: Dim = n.rows[d] if size else 0
    equal = x.equals(y) | (x.differs(x) & y.differs(y))
    first = _before(y, x, descending) | (equal & (n.index(k) < n.index(mine)))
    rank = n.reduce("sum", where(first, n.const("i64", 1), 0))
    n.stage()
    place = [*n.rows[:d], n.checked(rank, many), *n.rows[d + 1 :]] if size else []
    x = n.load(self, n.rows)
    n.store(site.output(0), place, x.to(computed_in(x.dtype)))
    n.store(site.output(1), place, n.index(mine))
    n.done()


def _own_choice(what: str) -> Callable[..., None]:
    def rule(site: Site, *_args: Arg, **_kwargs: Arg) -> None:
        raise Refused(f"takes {what} in an order of ATen's own")

    return rule


register("sorting", "topk.default", "kthvalue.default")(_own_choice("some of equal elements"))
register("sorting", "median.dim", "nanmedian.dim", "mode.default")(_own_choice("one of equal elements"))


@register("sorting", "median.default", "nanmedian.default")
def _median(site: Site, self: Arg) -> None:
    raise Refused(f"chooses among {math.prod(site.size(self))} elements")

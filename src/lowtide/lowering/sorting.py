"""Sorting along a dimension, and choosing by rank.

Comes in: ``sort`` and its like. Goes out: for short rows a loop that counts, for every element, how many come before it, and
stores it there: comparisons as many as the square of the row's length, but nothing depends on data, so rows run side by
side; longer rows are refused. Of long rows the element of a rank (medians, ``kthvalue``) is found bit by bit, by counting what
is less; short ones are refused. ATen does those in fewer steps. Promised: equal elements keep their order and NaN counts as the
greatest, as ATen sorts when asked to be stable. Positions in an order of ATen's own choice are refused, since no other order
gives them, and gradients go where they say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lowtide.ir.graph import Arg, int_of
from lowtide.ir.symbolic import Dim
from lowtide.lowering.reduction import Over, axes
from lowtide.lowering.scalars import FLOATS, Scalar, computed_in, where
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


register("sorting", "topk.default")(_own_choice("some of equal elements"))
register("sorting", "mode.default")(_own_choice("one of equal elements"))


# -- the element of a rank -------------------------------------------------------------------------------------------

_BITS, _MOST = 32, 2**31 - 1  # of a key
_KEYED = ("f16", "bf16", "f32", "u8", "i8", "i16", "i32")  # dtypes that have one
_STEP = 2  # bits that one pass over a row finds
_LONG = 64  # elements of a row: from so many on that is faster than ATen
_LONG_ALONE = 1 << 16  # the same where it is the only row


def _key(x: Scalar) -> Scalar:
    """An i32 in whose order values are sorted: of a floating one its bits, those below the sign turned where that is set; the
    greatest of NaN. Of zeros, which are equal, the negative one comes first."""
    if x.dtype not in FLOATS:
        return x.to("i32")
    x = x.to("f32")
    bits = x.bits("i32")
    return where(x.test("isnan"), _MOST, where(bits < 0, bits.of("xor", _MOST), bits))


def _value(key: Scalar, dtype: str) -> Scalar:
    """The value that has a key."""
    return where(key < 0, key.of("xor", _MOST), key).bits("f32") if dtype in FLOATS else key.to(dtype)


def _of_rank(over: Over, before: Scalar) -> Scalar:
    """Of every row, the key of the element that has as many ``before`` it in order (an i64): the greatest than which no more
    keys are less, found bit by bit from the highest. Passes over a row as many as half a key's bits, whatever it holds; no
    memory."""
    n = over.nest
    found = n.const("i32", -_MOST - 1)
    for shift in range(_BITS - _STEP, -1, -_STEP):
        ahead = [step << shift for step in range(1, 1 << _STEP)]
        tried = [found + (a if a <= _MOST else a - (1 << _BITS)) for a in ahead]  # sums wrap
        key = _key(n.load(over.x, over.stage()))
        less = [n.reduce("sum", where(key < t, n.const("i32", 1), 0)) for t in tried]
        n.stage()
        for t, many in zip(tried, less, strict=True):
            found = where(many.to("i64") <= before, t, found)
    return found


def _rows(site: Site, self: Arg, dims: Sequence[int]) -> Over:
    """A loop over rows whose elements lie side by side, no more than an i32 counts, with keys of 32 bits: others would take
    seconds to compile."""
    over = Over(site, self, dims)
    stride = site.value(self).layout.stride
    least = _LONG if any(over.size[d] > 1 for d in over.kept) else _LONG_ALONE
    if 0 in over.size or not least <= over.count < 2**31:
        raise Refused(f"chooses among {over.count} elements")
    if site.dtype(self) in ("f64", "i64"):
        raise Refused("chooses among numbers of 64 bits")
    if site.dtype(self) not in _KEYED:
        raise Refused(f"chooses among {site.dtype(self)}")
    if any(over.size[d] > 1 for d in over.kept) and any(int_of(stride[d]) != 1 for d in dims):
        raise Refused("chooses among elements that lie apart")
    return over


def _only_values(site: Site) -> None:
    """Refuse what asks which of equal elements ATen takes."""
    if site.output(1) is not None:
        raise Refused("takes one of equal elements in an order of ATen's own")


def _chosen(site: Site, over: Over, key: Scalar) -> None:
    """The result: of every row the element that has this key."""
    over.result(site, 0, _value(key, site.dtype(over.x)))
    over.done()


def _median(site: Site, self: Arg, dims: Sequence[int], *, skip: bool) -> None:
    """The lower of the two in the middle of every row; of a row with NaN that, or (``skip``) of its other elements."""
    over = _rows(site, self, dims)
    n, floating = over.nest, site.dtype(self) in FLOATS
    n.stage()
    numbers = many = n.count(over.count, "i64")
    if floating:
        x = n.load(self, over.stage())
        x = x.to(computed_in(x.dtype))
        numbers = n.reduce("sum", where(x.equals(x), n.const("i64", 1), 0))
        n.stage()
    before = (numbers.max(1) - 1).of("shr", 1) if skip else n.count((over.count - 1) // 2, "i64")
    key = _of_rank(over, before)
    _chosen(site, over, where(numbers < many, _MOST, key) if floating and not skip else key)


def _median_of_all(skip: bool) -> Callable[..., None]:
    def rule(site: Site, self: Arg) -> None:
        _median(site, self, range(len(site.size(self))), skip=skip)

    return rule


def _median_along(skip: bool) -> Callable[..., None]:
    def rule(site: Site, self: Arg, dim: int, keepdim: bool = False) -> None:
        _only_values(site)
        _median(site, self, axes(dim, len(site.size(self))), skip=skip)

    return rule


register("sorting", "median.default")(_median_of_all(skip=False))
register("sorting", "nanmedian.default")(_median_of_all(skip=True))
register("sorting", "median.dim")(_median_along(skip=False))
register("sorting", "nanmedian.dim")(_median_along(skip=True))


@register("sorting", "kthvalue.default")
def _kth_value(site: Site, self: Arg, k: int, dim: int = -1, keepdim: bool = False) -> None:
    _only_values(site)
    over = _rows(site, self, axes(dim, len(site.size(self))))
    over.nest.stage()
    _chosen(site, over, _of_rank(over, over.nest.count(k - 1, "i64")))

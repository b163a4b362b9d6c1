"""Rearrangements: padding by what lies inside, rolls, triangles, diagonals, repeats, windows as columns, and their gradients.

All are index arithmetic: what a result's element is copied from, or where a gradient's element goes to.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from lowtide.ir.graph import Arg, Ref, int_of
from lowtide.ir.index import add, floordiv, modulo, mul, unflatten
from lowtide.ir.symbolic import Dim, Expr
from lowtide.lowering.indexing import flat, spread_out
from lowtide.lowering.movement import constant, fill_with
from lowtide.lowering.scalars import FLOATS, Scalar, computed_in, where
from lowtide.lowering.scatter import zeros_and
from lowtide.lowering.site import Nest, Refused, Site
from lowtide.lowering.table import register


def _mirrored(i: Dim, m: int) -> Dim:
    """``|i|``, then the same from the other end."""
    i = Expr("max", (i, mul(i, -1)))
    rest = add(m - 1, mul(i, -1))
    return add(m - 1, mul(Expr("max", (rest, mul(rest, -1))), -1))


def _held(i: Dim, m: int) -> Dim:
    return Expr("max", (Expr("min", (i, m - 1)), 0))


Fold = Callable[[Dim, int], Dim]


def _source(size: Sequence[int], padding: Sequence[int], fold: Fold, at: Sequence[Dim]) -> list[Dim]:
    """Where a padded tensor's element comes from; ``padding`` holds pairs from the last dimension on."""
    out = list(at)
    for k in range(len(padding) // 2):
        d = len(size) - 1 - k
        out[d] = fold(add(at[d], -int(padding[2 * k])), size[d])
    return out


def _padded(fold: Fold) -> Callable[..., None]:
    def rule(site: Site, self: Arg, padding: tuple[int, ...]) -> None:
        size = site.size(self)
        fill_with(site, lambda n, at: n.load(self, _source(size, padding, fold, at)))

    return rule


def _padded_backward(fold: Fold) -> Callable[..., None]:
    def rule(site: Site, grad_output: Arg, self: Arg, padding: tuple[int, ...]) -> None:
        size, part = site.size(self), site.size(grad_output)
        lead = len(size) - len(padding) // 2

        def write(n: Nest, held: Ref) -> None:
            at = [*n.rows, *n.stage(*part[lead:])]
            g = n.load(grad_output, at)
            n.store(held, _source(size, padding, fold, at), g.to(computed_in(g.dtype)), add=True)

        zeros_and(site, range(lead), write)

    return rule


for _rank in (1, 2, 3):
    register("rearranging", f"reflection_pad{_rank}d.default")(_padded(_mirrored))
    register("rearranging", f"replication_pad{_rank}d.default")(_padded(_held))
    register("rearranging", f"reflection_pad{_rank}d_backward.default")(_padded_backward(_mirrored))
    register("rearranging", f"replication_pad{_rank}d_backward.default")(_padded_backward(_held))


@register("rearranging", "roll.default")
def _roll(site: Site, self: Arg, shifts: Arg, dims: Arg = ()) -> None:
    by = shifts if isinstance(shifts, tuple) else (shifts,)
    along = dims if isinstance(dims, tuple) else (dims,)
    size = site.size(self)
    if 0 in size or not size:
        fill_with(site, lambda n, at: n.load(self, at))
        return

    def element(n: Nest, at: Sequence[Dim]) -> Scalar:
        out = list(at)
        if not along:
            moved = modulo(add(flat(at, size), -int_of(by[0])), math.prod(size), n.b.ranges)
            return n.load(self, spread_out(moved, size))
        for s, d in zip(by, along, strict=True):
            k = int_of(d) % len(size)
            out[k] = modulo(add(out[k], -int_of(s)), size[k], n.b.ranges)
        return n.load(self, out)

    fill_with(site, element)


def _triangle(upper: bool) -> Callable[..., None]:
    def rule(site: Site, self: Arg, diagonal: int = 0) -> None:
        def element(n: Nest, at: Sequence[Dim]) -> Scalar:
            across = n.index(add(at[-1], mul(at[-2], -1)))
            v = n.load(self, at)
            return where(across >= diagonal if upper else across <= diagonal, v, n.const(v.dtype, 0))

        fill_with(site, element)

    return rule


register("rearranging", "triu.default")(_triangle(True))
register("rearranging", "tril.default")(_triangle(False))


@register("rearranging", "eye.default", "eye.m")
def _eye(site: Site, *_size: Arg, **_kwargs: Arg) -> None:
    def element(n: Nest, at: Sequence[Dim]) -> Scalar:
        return where(n.index(at[0]).equals(n.index(at[1])), constant(site, n, 1), constant(site, n, 0))

    fill_with(site, element)


@register("rearranging", "repeat.default")
def _repeat(site: Site, self: Arg, repeats: tuple[int, ...]) -> None:
    size = site.size(self)

    def element(n: Nest, at: Sequence[Dim]) -> Scalar:
        last = list(at)[len(at) - len(size) :]
        return n.load(self, [modulo(i, max(m, 1), n.b.ranges) for i, m in zip(last, size, strict=True)])

    fill_with(site, element)


@register("rearranging", "pixel_shuffle.default")
def _pixel_shuffle(site: Site, self: Arg, upscale_factor: int) -> None:
    """[.., c * f * f, h, w] -> [.., c, h * f, w * f]"""
    f = upscale_factor

    def element(n: Nest, at: Sequence[Dim]) -> Scalar:
        *lead, c, y, x = at
        r = n.b.ranges
        part = add(mul(c, f * f), mul(modulo(y, f, r), f), modulo(x, f, r))
        return n.load(self, [*lead, part, floordiv(y, f, r), floordiv(x, f, r)])

    fill_with(site, element)


@register("rearranging", "pixel_unshuffle.default")
def _pixel_unshuffle(site: Site, self: Arg, downscale_factor: int) -> None:
    """[.., c, h * f, w * f] -> [.., c * f * f, h, w]"""
    f = downscale_factor

    def element(n: Nest, at: Sequence[Dim]) -> Scalar:
        *lead, part, y, x = at
        r = n.b.ranges
        down, across = modulo(floordiv(part, f, r), f, r), modulo(part, f, r)
        return n.load(self, [*lead, floordiv(part, f * f, r), add(mul(y, f), down), add(mul(x, f), across)])

    fill_with(site, element)


@register("rearranging", "channel_shuffle.default")
def _channel_shuffle(site: Site, self: Arg, groups: int) -> None:
    """Channels that lie group by group come to lie by their place in the group."""
    each = site.size(self)[1] // groups

    def element(n: Nest, at: Sequence[Dim]) -> Scalar:
        r = n.b.ranges
        return n.load(self, [at[0], add(mul(modulo(at[1], groups, r), each), floordiv(at[1], groups, r)), *at[2:]])

    fill_with(site, element)


class _Diagonal:
    """The diagonal of two dimensions of a tensor, as its view has it: last."""

    def __init__(self, rank: int, offset: int, dim1: int, dim2: int) -> None:
        self.one, self.two = dim1 % rank, dim2 % rank
        self.down, self.right = max(-offset, 0), max(offset, 0)

    def whole(self, at: Sequence[Dim]) -> list[Dim]:
        """Index into the tensor of an element of the diagonal."""
        *rest, k = at
        left = iter(rest)
        places = {self.one: add(k, self.down), self.two: add(k, self.right)}
        return [places[d] if d in places else next(left) for d in range(len(at) + 1)]


@register("rearranging", "diagonal_copy.default")
def _diagonal_copy(site: Site, self: Arg, offset: int = 0, dim1: int = 0, dim2: int = 1) -> None:
    by = _Diagonal(len(site.size(self)), offset, dim1, dim2)
    fill_with(site, lambda n, at: n.load(self, by.whole(at)))


def _onto_diagonal(site: Site, by: _Diagonal, base: Arg, part: Arg) -> None:
    out = site.output()
    if out is None:
        return
    n = site.loop()
    at = n.stage(*site.size(out))
    n.store(out, at, n.load(base, at) if base is not None else n.const(computed_in(site.dtype(out)), 0))
    at = n.stage(*site.size(part))
    n.store(out, by.whole(at), n.load(part, at))
    n.done()


@register("rearranging", "diagonal_scatter.default")
def _diagonal_scatter(site: Site, self: Arg, src: Arg, offset: int = 0, dim1: int = 0, dim2: int = 1) -> None:
    _onto_diagonal(site, _Diagonal(len(site.size(self)), offset, dim1, dim2), self, src)


@register("rearranging", "diagonal_backward.default")
def _diagonal_backward(
    site: Site, grad_output: Arg, input_sizes: tuple[int, ...], offset: int, dim1: int, dim2: int
) -> None:
    _onto_diagonal(site, _Diagonal(len(input_sizes), offset, dim1, dim2), None, grad_output)


@register("rearranging", "diag_embed.default")
def _diag_embed(site: Site, self: Arg, offset: int = 0, dim1: int = -2, dim2: int = -1) -> None:
    _onto_diagonal(site, _Diagonal(len(site.size(self)) + 1, offset, dim1, dim2), None, self)


@register("rearranging", "block_diag.default")
def _block_diag(site: Site, tensors: tuple[Arg, ...]) -> None:
    out = site.output()
    if out is None:
        return
    n = site.loop()
    at = n.stage(*site.size(out))
    n.store(out, at, n.const(computed_in(site.dtype(out)), 0))
    down = right = 0
    for t in tensors:
        size = site.size(t)
        rows, columns = (1,) * (2 - len(size)) + size
        i, j = n.stage(rows, columns)
        v = n.load(t, (i, j)[2 - len(size) :]).to(site.dtype(out))
        n.store(out, (add(i, down), add(j, right)), v)
        down, right = down + rows, right + columns
    n.done()


@register("rearranging", "as_strided_scatter.default")
def _as_strided_scatter(
    site: Site, self: Arg, src: Arg, size: tuple[int, ...], stride: tuple[int, ...], storage_offset: int | None = None
) -> None:
    """Elements of the result are named by their place in storage, which its own layout turns into an index."""
    out = site.output()
    if out is None:
        return
    layout = site.value(out).layout
    offset = site.value(self).layout.offset if storage_offset is None else storage_offset
    if storage_offset is not None and site.graph.maker.get(site.value(self).storage) is None:
        raise Refused("writes by its place in a storage that begins where the caller says")
    if site.value(self).layout.offset != 0 or site.value(self).layout.stride != layout.stride:
        raise Refused("writes into the storage of a view")
    n = site.loop()
    at = n.stage(*site.size(out))
    n.store(out, at, n.load(self, at))
    at = n.stage(*map(int_of, size))
    place = add(offset, *(mul(i, s) for i, s in zip(at, stride, strict=True)))
    to = unflatten(place, layout.size, layout.stride, n.b.ranges)
    if to is None:
        raise Refused("writes into a layout with gaps")
    n.store(out, to, n.load(src, at))
    n.done()


@register("rearranging", "expand_copy.default")
def _expand_copy(site: Site, self: Arg, size: tuple[int, ...], *, implicit: bool = False) -> None:
    fill_with(site, lambda n, at: n.spread(self, at))


@register(
    "rearranging", "view_copy.default", "squeeze_copy.default", "squeeze_copy.dim", "squeeze_copy.dims",
    "unsqueeze_copy.default",
)  # fmt: skip
def _view_copy(site: Site, self: Arg, *_shape: Arg) -> None:
    """The same elements in the same order, in another shape."""
    out = Ref(str(site.op.outputs[0]))
    whole = site.size(out)

    def element(n: Nest, at: Sequence[Dim]) -> Scalar:
        rest = flat(at, whole)
        place: list[Dim] = []
        for k in range(len(site.size(self)) - 1, -1, -1):
            m = max(site.size(self)[k], 1)
            place.insert(0, modulo(rest, m, n.b.ranges) if k else rest)
            rest = floordiv(rest, m, n.b.ranges)
        return n.load(self, place)

    fill_with(site, element)


@register("rearranging", "permute_copy.default")
def _permute_copy(site: Site, self: Arg, dims: tuple[int, ...]) -> None:
    def element(n: Nest, at: Sequence[Dim]) -> Scalar:
        place = list(at)
        for k, d in enumerate(dims):
            place[d % len(at)] = at[k]
        return n.load(self, place)

    fill_with(site, element)


@register("rearranging", "transpose_copy.int")
def _transpose_copy(site: Site, self: Arg, dim0: int, dim1: int) -> None:
    rank = len(site.size(self))
    order = list(range(rank))
    if rank:
        order[dim0 % rank], order[dim1 % rank] = dim1 % rank, dim0 % rank
    _permute_copy(site, self, tuple(order))


@register("rearranging", "t_copy.default")
def _t_copy(site: Site, self: Arg) -> None:
    _permute_copy(site, self, tuple(reversed(range(len(site.size(self))))))


@register("rearranging", "rot90.default")
def _quarter_turns(site: Site, self: Arg, k: int = 1, dims: tuple[int, ...] = (0, 1)) -> None:
    """``k`` quarter turns from the first dimension towards the second."""
    size = site.size(self)
    a, b = (d % len(size) for d in dims)

    def element(n: Nest, at: Sequence[Dim]) -> Scalar:
        place = list(at)
        x, y = (at[a], at[b]) if k % 2 == 0 else (at[b], at[a])
        place[a] = x if k % 4 in (0, 1) else add(size[a] - 1, mul(x, -1))
        place[b] = y if k % 4 in (0, 3) else add(size[b] - 1, mul(y, -1))
        return n.load(self, place)

    fill_with(site, element)


@register("rearranging", "unfold_copy.default")
def _unfold_copy(site: Site, self: Arg, dimension: int, size: int, step: int) -> None:
    """Windows of ``size`` elements, every ``step``; the place in the window is the last dimension."""
    d = dimension % max(len(site.size(self)), 1)

    def element(n: Nest, at: Sequence[Dim]) -> Scalar:
        *place, k = at
        if place:
            place[d] = add(mul(place[d], step), k)
        return n.load(self, place)

    fill_with(site, element)


def _pieces(site: Site, self: Arg, place: Callable[[int, list[Dim]], list[Dim]]) -> None:
    """Results that are parts of one tensor, each in a loop of its own: where an element of the k-th comes from."""
    for k in range(len(site.op.outputs)):
        if (out := site.output(k)) is not None:
            n = site.loop()
            at = list(n.stage(*site.size(out)))
            n.store(out, at, n.load(self, place(k, at)))
            n.done()


@register("rearranging", "unbind_copy.int")
def _unbind_copy(site: Site, self: Arg, dim: int = 0) -> None:
    d = dim % len(site.size(self))
    _pieces(site, self, lambda k, at: [*at[:d], k, *at[d:]])


@register("rearranging", "split_with_sizes_copy.default")
def _split_copy(site: Site, self: Arg, split_sizes: tuple[int, ...], dim: int = 0) -> None:
    d = dim % len(site.size(self))
    begin = [0, *itertools.accumulate(map(int_of, split_sizes))]
    _pieces(site, self, lambda k, at: [*at[:d], add(at[d], begin[k]), *at[d + 1 :]])


@register("rearranging", "narrow_copy.default")
def _narrow_copy(site: Site, self: Arg, dim: int, start: int, length: int) -> None:
    size = site.size(self)
    d = dim % len(size)
    begin = start + size[d] if start < 0 else start
    fill_with(site, lambda n, at: n.load(self, [add(i, begin) if k == d else i for k, i in enumerate(at)]))


@register("rearranging", "linspace.default")
def _linspace(site: Site, start: float, end: float, steps: int, **_kwargs: Arg) -> None:
    _evenly(site, start, end, steps, lambda v: v)


@register("rearranging", "logspace.default")
def _logspace(site: Site, start: float, end: float, steps: int, base: float = 10.0, **_kwargs: Arg) -> None:
    _evenly(site, start, end, steps, lambda v: v.same(base).of("pow", v))


def _evenly(site: Site, start: float, end: float, steps: int, of: Callable[[Scalar], Scalar]) -> None:
    """A function of numbers at even distances: from both ends towards the middle, so that the last is exact."""
    to = site.dtype(Ref(str(site.op.outputs[0])))
    if to not in FLOATS:
        raise Refused("counts in whole numbers")
    step = (end - start) / (steps - 1) if steps > 1 else 0.0

    def element(n: Nest, at: Sequence[Dim]) -> Scalar:
        i = n.index(at[0]).to("f64")
        v = where(i < steps // 2, i * step + start, n.const("f64", end) - (n.const("f64", steps - 1) - i) * step)
        return of(v if steps > 1 else n.const("f64", start)).to(to)

    fill_with(site, element)


class _Columns:
    """A picture's windows as columns (im2col): [.., channel * window, position] <-> [.., channel, row, column]."""

    def __init__(self, size: Sequence[int], kernel: Arg, dilation: Arg, padding: Arg, stride: Arg) -> None:
        (self.kh, self.kw), (self.dh, self.dw) = _two(kernel), _two(dilation)
        (self.ph, self.pw), (self.sh, self.sw) = _two(padding), _two(stride)
        *_, self.height, self.width = size
        self.across = (self.width + 2 * self.pw - self.dw * (self.kw - 1) - 1) // self.sw + 1
        self.down = (self.height + 2 * self.ph - self.dh * (self.kh - 1) - 1) // self.sh + 1

    def pixel(self, n: Nest, at: Sequence[Dim]) -> list[Dim]:
        """Where an element of the columns comes from; may lie outside."""
        *lead, part, position = at
        r = n.b.ranges
        c, a, b = (
            floordiv(part, self.kh * self.kw, r),
            modulo(floordiv(part, self.kw, r), self.kh, r),
            modulo(part, self.kw, r),
        )
        y, x = floordiv(position, self.across, r), modulo(position, self.across, r)
        row = add(mul(y, self.sh), mul(a, self.dh), -self.ph)
        return [*lead, c, row, add(mul(x, self.sw), mul(b, self.dw), -self.pw)]


def _two(given: Arg) -> tuple[int, int]:
    values = given if isinstance(given, tuple) else (given,)
    numbers = [int(str(v)) for v in values]
    return numbers[0], numbers[-1]


@register("rearranging", "im2col.default")
def _im2col(site: Site, self: Arg, kernel_size: Arg, dilation: Arg, padding: Arg, stride: Arg) -> None:
    by = _Columns(site.size(self), kernel_size, dilation, padding, stride)

    def element(n: Nest, at: Sequence[Dim]) -> Scalar:
        place = by.pixel(n, at)
        return n.load(self, place, n.within(place, site.size(self)))

    fill_with(site, element)


@register("rearranging", "col2im.default")
def _col2im(
    site: Site, self: Arg, output_size: Arg, kernel_size: Arg, dilation: Arg, padding: Arg, stride: Arg
) -> None:
    """What an element of the columns came from is where it is added."""
    out = site.output()
    if out is None:
        return
    size, part = site.size(out), site.size(self)
    by = _Columns(size, kernel_size, dilation, padding, stride)
    own = range(len(size) - 3)

    def write(n: Nest, held: Ref) -> None:
        at = [*n.rows, *n.stage(*part[-2:])]
        place = by.pixel(n, at)
        v = n.load(self, at)
        n.store(held, place, v.to(computed_in(v.dtype)), add=True, where=n.within(place, size))

    zeros_and(site, own, write)

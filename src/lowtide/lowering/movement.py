"""Data movement: copies and conversions, concatenation, padding, filling, shifting, and the gradients of slices.

A concatenation of few parts is pointwise, and so is the gradient of a slice: every element asks in which part it lies. So
they go into what reads them, or share its loop; a code generator cuts the loop where the parts meet. A concatenation of
many parts is a loop per part, what makes each of which may later be computed straight into place. One within another of
the same dtype, that nobody else reads, is not made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from lowtide.ir.graph import Arg, Graph, Op, Ref, refs_in
from lowtide.ir.index import add, floordiv, modulo, mul
from lowtide.ir.symbolic import Dim
from lowtide.lowering.scalars import FLOATS, Number, Scalar, computed_in, where
from lowtide.lowering.site import Nest, Refused, Site
from lowtide.lowering.table import pointwise, register

MOST_PARTS = 4  # of a concatenation that is one loop; with more, each part has its own, and may die behind it

CAT = "aten.cat.default"

pointwise(lambda x: x, "alias_copy.default")


@register("movement", "clone.default", "_to_copy.default", "contiguous.default", "lift_fresh.default")
def _copy_of(site: Site, self: Arg, **_kwargs: Arg) -> None:
    fill_with(site, lambda n, at: n.load(self, at))


@register("movement", "copy.default")
def _copy(site: Site, self: Arg, src: Arg, non_blocking: bool = False) -> None:
    fill_with(site, lambda n, at: n.spread(src, at))


@register("movement", "copy_.default")
def _copy_into(site: Site, self: Arg, src: Arg, non_blocking: bool = False) -> None:
    assert isinstance(self, Ref)
    n = site.loop()
    at = n.stage(*site.size(self))
    n.store(self, at, n.spread(src, at))
    n.done()


def fill_with(site: Site, element: Callable[[Nest, Sequence[Dim]], Scalar]) -> None:
    """The one result, element by element."""
    out = site.output()
    if out is None:
        return
    n = site.loop()
    at = n.stage(*site.size(out))
    n.store(out, at, element(n, at))
    n.done()


def _filled(value: Number) -> Callable[..., None]:
    def rule(site: Site, *_args: Arg, **_kwargs: Arg) -> None:
        fill_with(site, lambda n, _at: constant(site, n, value))

    return rule


def constant(site: Site, n: Nest, value: Arg) -> Scalar:
    """A number as the result's dtype has it."""
    if not isinstance(value, bool | int | float):
        raise Refused(f"is filled with {value!r}")
    dtype = site.dtype(Ref(str(site.op.outputs[0])))
    return n.const(computed_in(dtype), value).to(dtype)


register("movement", "zeros.default", "zeros_like.default", "new_zeros.default", "zero.default")(_filled(0))
register("movement", "ones.default", "ones_like.default", "new_ones.default")(_filled(1))


@register("movement", "full.default", "full_like.default", "new_full.default", "fill.Scalar")
def _full(site: Site, _like: Arg, *args: Arg, **_kwargs: Arg) -> None:
    value = args[-1]
    fill_with(site, lambda n, _at: constant(site, n, value))


@register("movement", "scalar_tensor.default")
def _scalar(site: Site, s: Arg, **_kwargs: Arg) -> None:
    fill_with(site, lambda n, _at: constant(site, n, s))


@register("movement", "fill.Tensor")
def _fill(site: Site, self: Arg, value: Arg) -> None:
    fill_with(site, lambda n, at: n.load(value, ()))


@register("movement", "arange.default", "arange.start", "arange.start_step")
def _arange(site: Site, *given: Arg, **_kwargs: Arg) -> None:
    start, _, step = (0, *given, 1) if len(given) == 1 else (*given, 1)[:3]
    to = site.dtype(Ref(str(site.op.outputs[0])))
    if isinstance(start, int) and isinstance(step, int):
        fill_with(site, lambda n, at: n.index(add(mul(at[0], step), start)).to(to))
    elif to in FLOATS and isinstance(start, int | float) and isinstance(step, int | float):
        fill_with(site, lambda n, at: (n.index(at[0]).to("f64") * step + start).to(to))
    else:
        raise Refused("counts whole numbers in fractions")


def _dim(dim: int, rank: int) -> int:
    return dim % rank if rank else 0


@register("movement", "cat.default")
def _cat(site: Site, tensors: tuple[Arg, ...], dim: int = 0) -> None:
    out = site.output()
    if out is None:
        return
    parts = list(_parts(site, tensors, dim, (0,) * len(site.size(out))))
    if 0 < len(parts) <= MOST_PARTS:
        fill_with(site, lambda n, at: _of_parts(site, n, parts, at))
        return
    for t, begin in parts:
        n = site.loop()
        at = n.stage(*site.size(t))
        n.store(out, [add(i, b) for i, b in zip(at, begin, strict=True)], n.load(t, at).to(site.dtype(out)))
        n.done()


def _of_parts(site: Site, n: Nest, parts: Sequence[tuple[Ref, tuple[int, ...]]], at: Sequence[Dim]) -> Scalar:
    """The element of a concatenation, whose parts begin at given places: of the part in which it lies."""
    dtype = site.dtype(Ref(str(site.op.outputs[0])))
    out: Scalar | None = None
    for t, begin in reversed(parts):
        moved = [add(i, -b) for i, b in zip(at, begin, strict=True)]
        inside = n.within(moved, site.size(t))
        found = n.load(t, moved, inside).to(dtype)
        out = found if out is None or inside is None else where(inside, found, out)
    assert out is not None
    return out


def _parts(
    site: Site, tensors: tuple[Arg, ...], dim: int, begin: tuple[int, ...]
) -> Iterator[tuple[Ref, tuple[int, ...]]]:
    """What a concatenation is made of, and where each part begins in the whole. A part that is itself a concatenation, and
    of the same dtype, that nobody else reads, is not made: its own parts stand for it."""
    rank = len(begin)
    dtype = site.dtype(Ref(str(site.op.outputs[0])))
    d = _dim(dim, rank)
    for t in tensors:
        size = site.size(t)
        if size == (0,) and rank != 1:
            continue
        assert isinstance(t, Ref)
        within = site.alone.get(t.name)
        if within is not None and within.target == CAT and site.dtype(t) == dtype:
            site.absorbed.add(t.name)
            yield from _parts(site, *_cat_arguments(within), begin)
        else:
            yield t, begin
        begin = (*begin[:d], begin[d] + size[d], *begin[d + 1 :])


def _cat_arguments(op: Op) -> tuple[tuple[Arg, ...], int]:
    given = {**dict(zip(("tensors", "dim"), op.args, strict=False)), **dict(op.kwargs)}
    tensors, dim = given["tensors"], given.get("dim", 0)
    assert isinstance(tensors, tuple) and isinstance(dim, int)
    return tensors, dim


def concatenated(graph: Graph, op: Op) -> tuple[tuple[str, ...], int]:
    """Parts and dimension of a concatenation; a part without dimensions, which stands for nothing, left out."""
    tensors, dim = _cat_arguments(op)
    rank = len(graph.value[str(op.outputs[0])].layout.size)
    parts = (n for n in refs_in(tensors) if graph.value[n].layout.size != (0,) or rank == 1)
    return tuple(parts), _dim(dim, rank)


@register("movement", "unsafe_split.Tensor", "unsafe_split_with_sizes.default")
def _split(site: Site, self: Arg, _parts: Arg, dim: int = 0) -> None:
    """Copies of the parts, each in a loop of its own: they live as long as each is used."""
    d, begin = _dim(dim, len(site.size(self))), 0
    for k in range(len(site.op.outputs)):
        name = site.op.outputs[k]
        if name is None:
            raise Refused("has a part that nobody uses")
        n = site.loop()
        at = n.stage(*site.size(Ref(name)))
        n.store(Ref(name), at, n.load(self, [add(i, begin) if j == d else i for j, i in enumerate(at)]))
        n.done()
        begin += site.size(Ref(name))[d]


@register("movement", "stack.default")
def _stack(site: Site, tensors: tuple[Arg, ...], dim: int = 0) -> None:
    out = site.output()
    if out is None:
        return
    d = _dim(dim, len(site.size(out)))
    n = site.loop()
    for k, t in enumerate(tensors):
        at = list(n.stage(*site.size(t)))
        n.store(out, [*at[:d], k, *at[d:]], n.load(t, at).to(site.dtype(out)))
    n.done()


@register("movement", "constant_pad_nd.default")
def _pad(site: Site, self: Arg, pad: tuple[int, ...], value: Number = 0) -> None:
    size = site.size(self)
    before = [0] * len(size)
    for k in range(len(pad) // 2):
        before[len(size) - 1 - k] = int(pad[2 * k])

    def element(n: Nest, at: Sequence[Dim]) -> Scalar:
        moved = [add(i, -b) for i, b in zip(at, before, strict=True)]
        return guarded(site, n, self, moved, value)

    fill_with(site, element)


def guarded(site: Site, n: Nest, x: Arg, at: Sequence[Dim], value: Number) -> Scalar:
    """The element at an index that may lie outside, where ``value`` stands."""
    inside = n.within(at, site.size(x))
    if inside is None:
        return n.load(x, at)
    found = n.load(x, at, inside)
    dtype = computed_in(found.dtype)
    return where(inside, found.to(dtype), n.const(dtype, value))


@register("movement", "flip.default")
def _flip(site: Site, self: Arg, dims: tuple[int, ...]) -> None:
    size = site.size(self)
    turned = {_dim(int(d), len(size)) for d in dims}
    fill_with(
        site, lambda n, at: n.load(self, [add(size[k] - 1, mul(-1, i)) if k in turned else i for k, i in enumerate(at)])
    )


@register("movement", "slice_scatter.default")
def _slice_scatter(
    site: Site, self: Arg, src: Arg, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> None:
    _with_part(site, src, dim, start or 0, step, lambda n, at: n.load(self, at))


def _clamped(start: int, n: int) -> int:
    return min(max(start + n if start < 0 else start, 0), n)


@register("movement", "select_scatter.default")
def _select_scatter(site: Site, self: Arg, src: Arg, dim: int, index: int) -> None:
    _with_part(site, src, dim, index, None, lambda n, at: n.load(self, at))


def _with_part(
    site: Site, part: Arg, dim: int, start: int, step: int | None, rest: Callable[[Nest, Sequence[Dim]], Scalar]
) -> None:
    """A tensor of which the places ``start``, ``start + step`` .. along a dimension are those of ``part``, which has no such
    dimension where there is no step, and everything else is ``rest``."""
    out = site.output()
    if out is None:
        return
    size = site.size(out)
    d = _dim(dim, len(size))
    begin = _clamped(start, size[d])
    many = 1 if step is None else site.size(part)[d]

    def element(n: Nest, at: Sequence[Dim]) -> Scalar:
        behind = add(at[d], -begin)
        k = floordiv(behind, step or 1, n.b.ranges)
        inside = n.within([k], [many])
        if step is not None and step > 1:
            on = n.index(modulo(behind, step, n.b.ranges)).test("eq", 0)
            inside = on if inside is None else inside & on
        there = list(at)
        there[d : d + 1] = [] if step is None else [k]
        found = n.load(part, there, inside).to(site.dtype(out))
        return found if inside is None else where(inside, found, rest(n, at))

    fill_with(site, element)


def _zero(site: Site) -> Callable[[Nest, Sequence[Dim]], Scalar]:
    """What the gradient of a part is where the part was not."""
    return lambda n, _at: constant(site, n, 0)


@register("movement", "slice_backward.default")
def _slice_backward(
    site: Site, grad_output: Arg, input_sizes: tuple[int, ...], dim: int, start: int, end: int, step: int
) -> None:
    _with_part(site, grad_output, dim, start, step, _zero(site))


@register("movement", "select_backward.default")
def _select_backward(site: Site, grad_output: Arg, input_sizes: tuple[int, ...], dim: int, index: int) -> None:
    _with_part(site, grad_output, dim, index, None, _zero(site))

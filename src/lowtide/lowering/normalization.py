"""Normalisations over rows, groups and channels, and their gradients.

With x^ = (x - mean) * rstd over the m elements of a row, and h = grad * weight:
    dx = rstd * (h - mean(h) - x^ * mean(h * x^)),  dweight = sum(grad * x^),  dbias = sum(grad)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from lowtide.ir.graph import Arg, Ref
from lowtide.ir.index import add, floordiv, mul
from lowtide.ir.symbolic import Dim
from lowtide.lowering.reduction import Moments, Over, moments
from lowtide.lowering.scalars import Scalar, computed_in
from lowtide.lowering.site import Nest, Refused, Site
from lowtide.lowering.table import register


def _affine(n: Nest, x: Scalar, weight: Arg, bias: Arg, at: Sequence[Dim], to: str) -> Scalar:
    if weight is not None:
        x = x * n.load(weight, at).to(to)
    return x if bias is None else x + n.load(bias, at).to(to)


@register("normalization", "native_layer_norm.default")
def _layer_norm(site: Site, input: Arg, normalized_shape: tuple[int, ...], weight: Arg, bias: Arg, eps: float) -> None:
    rank, to = len(site.size(input)), computed_in(site.dtype(input))
    first = rank - len(normalized_shape)
    over = Over(site, input, range(first, rank))
    n = over.nest
    found = moments(n, lambda: n.load(input, over.stage()).to(to), over.count, to)
    rstd = (found.squares / n.count(over.count, to) + eps).of("rsqrt")
    _row_results(site, over, ((1, found.mean), (2, rstd)))
    if (out := site.output()) is not None:
        at = over.stage()
        x = found.away(n.load(input, at).to(to)) * rstd
        n.store(out, at, _affine(n, x, weight, bias, at[first:], to))
    over.done()


def _row_results(site: Site, over: Over, results: Sequence[tuple[int, Scalar]]) -> None:
    for k, value in results:
        if (out := site.output(k)) is not None:
            rank = len(site.size(out))
            at = list(over.nest.rows) + [0] * (rank - len(over.nest.rows))
            over.nest.store(out, at, value)


@register("normalization", "native_layer_norm_backward.default")
def _layer_norm_backward(
    site: Site, grad_out: Arg, input: Arg, normalized_shape: tuple[int, ...], mean: Arg, rstd: Arg, weight: Arg,
    bias: Arg, output_mask: Arg,
) -> None:  # fmt: skip
    rank, to = len(site.size(input)), computed_in(site.dtype(input))
    first = rank - len(normalized_shape)

    def row(n: Nest, stat: Arg, rows: Sequence[Dim]) -> Scalar:
        return n.load(stat, [*rows, *[0] * (len(site.size(stat)) - len(rows))]).to(to)

    if (dx := site.output(0)) is not None:
        over = Over(site, input, range(first, rank))
        n = over.nest
        n.stage()
        m, r = row(n, mean, n.rows), row(n, rstd, n.rows)

        def parts(at: list[Dim]) -> tuple[Scalar, Scalar]:
            h = n.load(grad_out, at).to(to)
            if weight is not None:
                h = h * n.load(weight, at[first:]).to(to)
            return h, (n.load(input, at).to(to) - m) * r

        _row_gradient(n, over, parts, r, dx, to)
    if site.output(1) is None and site.output(2) is None:
        return
    over = Over(site, input, range(first))
    n = over.nest
    at = over.stage()
    g = n.load(grad_out, at).to(to)
    x = (n.load(input, at).to(to) - row(n, mean, at[:first])) * row(n, rstd, at[:first])
    dw, db = n.reduce("sum", g * x), n.reduce("sum", g)
    n.stage()
    n.store(site.output(1), n.rows, dw)
    n.store(site.output(2), n.rows, db)
    over.done()


def _row_gradient(
    n: Nest, over: Over | _Groups, parts: Callable[[list[Dim]], tuple[Scalar, Scalar]], rstd: Scalar, dx: Ref, to: str
) -> None:
    """dx of the rows of a normalisation, and the end of its loop. ``parts`` gives h and x^ at an index."""
    h, x = parts(over.stage())
    sums = n.reduce("sum", h), n.reduce("sum", h * x)
    n.stage()
    a, b = (s / n.count(over.count, to) for s in sums)
    at = over.stage()
    h, x = parts(at)
    n.store(dx, at, rstd * (h - a - x * b))
    n.done()


def _channels(site: Site, x: Arg) -> list[int]:
    """All dimensions but the second."""
    return [d for d in range(len(site.size(x))) if d != 1]


def _batch_norm(
    site: Site, x: Arg, weight: Arg, bias: Arg, running: tuple[Arg, Arg], training: bool, momentum: float, eps: float,
    results: tuple[int | None, ...],
) -> None:  # fmt: skip
    """``results``: positions of the saved mean and inverse deviation, and of new running statistics."""
    to = computed_in(site.dtype(x))
    over = Over(site, x, _channels(site, x))
    n = over.nest
    if training:
        found = moments(n, lambda: n.load(x, over.stage()).to(to), over.count, to)
        mean = found.mean
        rstd = (found.squares / n.count(over.count, to) + eps).of("rsqrt")
        unbiased = found.squares / n.count(max(over.count - 1, 1), to)
        for k, value in zip(results[:2], (mean, rstd), strict=True):
            if k is not None:
                n.store(site.output(k), n.rows, value)
        for old, k, value in zip(running, results[2:], (mean, unbiased), strict=True):
            if old is not None and k is not None and site.output(k) is not None:
                n.store(site.output(k), n.rows, n.load(old, n.rows).to(to) * (1 - momentum) + value * momentum)
    else:
        n.stage()
        mean = n.load(running[0], n.rows).to(to)
        found = Moments(mean, None, n.load(running[1], n.rows).to(to))
        rstd = (found.squares + eps).of("rsqrt")
    if (out := site.output()) is not None:
        scale = rstd if weight is None else rstd * n.load(weight, n.rows).to(to)
        shift = None if bias is None else n.load(bias, n.rows).to(to)
        at = over.stage()
        y = found.away(n.load(x, at).to(to)) * scale
        n.store(out, at, y if shift is None else y + shift)
    over.done()


@register("normalization", "_native_batch_norm_legit_functional.default")
def _functional(
    site: Site, input: Arg, weight: Arg, bias: Arg, running_mean: Arg, running_var: Arg, training: bool,
    momentum: float, eps: float,
) -> None:  # fmt: skip
    if not training:
        raise Refused("is asked for new statistics and given no training")
    _batch_norm(site, input, weight, bias, (running_mean, running_var), True, momentum, eps, (1, 2, 3, 4))


@register("normalization", "_batch_norm_with_update_functional.default")
def _with_update(
    site: Site, input: Arg, weight: Arg, bias: Arg, running_mean: Arg, running_var: Arg, momentum: float, eps: float
) -> None:
    if (reserve := site.output(3)) is not None:
        n = site.loop()
        n.store(reserve, n.stage(*site.size(reserve)), n.const("u8", 0))
        n.done()
    _batch_norm(site, input, weight, bias, (running_mean, running_var), True, momentum, eps, (1, 2, 4, 5))


@register("normalization", "_native_batch_norm_legit.no_stats")
def _no_stats(site: Site, input: Arg, weight: Arg, bias: Arg, training: bool, momentum: float, eps: float) -> None:
    _batch_norm(site, input, weight, bias, (None, None), True, momentum, eps, (1, 2, None, None))


@register("normalization", "_native_batch_norm_legit_no_training.default")
def _no_training(
    site: Site, input: Arg, weight: Arg, bias: Arg, running_mean: Arg, running_var: Arg, momentum: float, eps: float
) -> None:
    to = computed_in(site.dtype(input))
    n = site.loop()
    for k in (1, 2):  # statistics that it does not take
        if (kept := site.output(k)) is not None:
            if site.size(kept) != (0,):
                raise Refused("is asked for statistics that it does not take")
            n.store(kept, n.stage(0), n.const(computed_in(site.dtype(kept)), 0))
    at = n.stage(*site.size(input))
    scale = (n.load(running_var, at[1:2]).to(to) + eps).of("rsqrt")
    x = (n.load(input, at).to(to) - n.load(running_mean, at[1:2]).to(to)) * scale
    n.store(site.output(), at, _affine(n, x, weight, bias, at[1:2], to))
    n.done()


@register("normalization", "native_batch_norm_backward.default")
def _batch_norm_backward(
    site: Site, grad_out: Arg, input: Arg, weight: Arg, running_mean: Arg, running_var: Arg, save_mean: Arg,
    save_invstd: Arg, train: bool, eps: float, output_mask: Arg,
) -> None:  # fmt: skip
    to = computed_in(site.dtype(input))
    over = Over(site, input, _channels(site, input))
    n = over.nest
    n.stage()
    if train:
        mean, rstd = n.load(save_mean, n.rows).to(to), n.load(save_invstd, n.rows).to(to)
    else:
        mean = n.load(running_mean, n.rows).to(to)
        rstd = (n.load(running_var, n.rows).to(to) + eps).of("rsqrt")
    at = over.stage()
    g = n.load(grad_out, at).to(to)
    sums = n.reduce("sum", g), n.reduce("sum", g * (n.load(input, at).to(to) - mean))
    n.stage()
    n.store(site.output(1), n.rows, sums[1] * rstd)
    n.store(site.output(2), n.rows, sums[0])
    if (dx := site.output(0)) is not None:
        scale = rstd if weight is None else rstd * n.load(weight, n.rows).to(to)
        a = sums[0] / n.count(over.count, to)
        b = sums[1] * rstd * rstd / n.count(over.count, to)
        at = over.stage()
        g = n.load(grad_out, at).to(to)
        d = g - a - (n.load(input, at).to(to) - mean) * b if train else g
        n.store(dx, at, d * scale)
    over.done()


@register("normalization", "batch_norm_backward.default")
def _with_update_backward(
    site: Site, grad_out: Arg, input: Arg, weight: Arg, running_mean: Arg, running_var: Arg, save_mean: Arg,
    save_var: Arg, update: bool, eps: float, output_mask: Arg, reserve: Arg,
) -> None:  # fmt: skip
    _batch_norm_backward(
        site, grad_out, input, weight, running_mean, running_var, save_mean, save_var, update, eps, output_mask
    )


class _Groups:
    """Rows are (sample, group), stages run over the group's channels and the pixels."""

    def __init__(self, site: Site, x: Arg, samples: int, channels: int, pixels: int, groups: int) -> None:
        self.site, self.each, self.pixels = site, channels // groups, pixels
        self.shape = site.size(x)
        if 0 in self.shape:
            raise Refused("normalises nothing")
        self.count = self.each * pixels
        self.nest = site.loop((samples, groups))

    def stage(self) -> list[Dim]:
        """Begin a stage; the index of its point in the tensor."""
        c, *pixel = self.nest.stage(self.each, *self.shape[2:])
        sample, group = self.nest.rows
        return [sample, add(mul(group, self.each), c), *pixel]


@register("normalization", "native_group_norm.default")
def _group_norm(
    site: Site, input: Arg, weight: Arg, bias: Arg, N: int, C: int, HxW: int, group: int, eps: float
) -> None:
    to = computed_in(site.dtype(input))
    over = _Groups(site, input, N, C, HxW, group)
    n = over.nest
    found = moments(n, lambda: n.load(input, over.stage()).to(to), over.count, to)
    rstd = (found.squares / n.count(over.count, to) + eps).of("rsqrt")
    n.store(site.output(1), n.rows, found.mean)
    n.store(site.output(2), n.rows, rstd)
    if (out := site.output()) is not None:
        at = over.stage()
        x = found.away(n.load(input, at).to(to)) * rstd
        n.store(out, at, _affine(n, x, weight, bias, at[1:2], to))
    n.done()


@register("normalization", "native_group_norm_backward.default")
def _group_norm_backward(
    site: Site, grad_out: Arg, input: Arg, mean: Arg, rstd: Arg, weight: Arg, N: int, C: int, HxW: int, group: int,
    output_mask: Arg,
) -> None:  # fmt: skip
    to = computed_in(site.dtype(input))
    if (dx := site.output(0)) is not None:
        over = _Groups(site, input, N, C, HxW, group)
        n = over.nest
        n.stage()
        m, r = n.load(mean, n.rows).to(to), n.load(rstd, n.rows).to(to)

        def parts(at: list[Dim]) -> tuple[Scalar, Scalar]:
            h = n.load(grad_out, at).to(to)
            if weight is not None:
                h = h * n.load(weight, at[1:2]).to(to)
            return h, (n.load(input, at).to(to) - m) * r

        _row_gradient(n, over, parts, r, dx, to)
    if site.output(1) is None and site.output(2) is None:
        return
    over = Over(site, input, _channels(site, input))
    n = over.nest
    at = over.stage()
    of_group = [at[0], floordiv(at[1], C // group)]
    g = n.load(grad_out, at).to(to)
    x = (n.load(input, at).to(to) - n.load(mean, of_group).to(to)) * n.load(rstd, of_group).to(to)
    dw, db = n.reduce("sum", g * x), n.reduce("sum", g)
    n.stage()
    n.store(site.output(1), n.rows, dw)
    n.store(site.output(2), n.rows, db)
    over.done()


@register("normalization", "_fused_rms_norm.default")
def _rms_norm(site: Site, input: Arg, normalized_shape: tuple[int, ...], weight: Arg, eps: float | None) -> None:
    rank, to = len(site.size(input)), computed_in(site.dtype(input))
    first = rank - len(normalized_shape)
    if eps is None:
        eps = {"f64": 2.220446049250313e-16, "bf16": 0.0078125, "f16": 0.0009765625}.get(
            site.dtype(input), 1.1920928955078125e-07
        )
    over = Over(site, input, range(first, rank))
    n = over.nest
    x = n.load(input, over.stage()).to(to)
    squares = n.reduce("sum", x * x)
    n.stage()
    rstd = (squares / n.count(over.count, to) + eps).of("rsqrt")
    _row_results(site, over, ((1, rstd),))
    if (out := site.output()) is not None:
        at = over.stage()
        n.store(out, at, _affine(n, n.load(input, at).to(to) * rstd, weight, None, at[first:], to))
    over.done()

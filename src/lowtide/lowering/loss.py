"""Losses and their gradients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from lowtide.ir.graph import Arg
from lowtide.ir.symbolic import Dim
from lowtide.lowering.scalars import Scalar, computed_in, where
from lowtide.lowering.site import Nest, Refused, Site
from lowtide.lowering.table import register

NONE, MEAN, SUM = 0, 1, 2


def _target(n: Nest, target: Arg, at: Sequence[Dim], ignore: int) -> tuple[Scalar, Scalar]:
    """Whether a row's target counts, and the target (0 where it does not)."""
    t = n.load(target, at).to("i64")
    used = t.differs(ignore)
    return used, where(used, t, 0)


class _Rows:
    """Classes are the second dimension of scores (the only one, where there is one); everything else is a row."""

    def __init__(self, site: Site, scores: Arg) -> None:
        self.size = site.size(scores)
        self.dim = 1 if len(self.size) > 1 else 0
        self.classes = self.size[self.dim]
        self.rows = [m for d, m in enumerate(self.size) if d != self.dim]

    def at(self, row: Sequence[Dim], c: Dim) -> list[Dim]:
        """Index of a row's score for a class."""
        return [*row[: self.dim], c, *row[self.dim :]]


@register("loss", "nll_loss_forward.default", "nll_loss2d_forward.default")
def _nll(site: Site, self: Arg, target: Arg, weight: Arg, reduction: int, ignore_index: int) -> None:
    """-log p at the target times its weight: for each row, or the sum and the sum of weights; their quotient for a mean."""
    by = _Rows(site, self)
    to = computed_in(site.dtype(self))
    n = site.loop()
    row = list(n.stage(*by.rows))
    used, t = _target(n, target, row if site.size(target) else [], ignore_index)
    w = n.const(to, 1) if weight is None else n.load(weight, [n.checked(t, by.classes)]).to(to)
    w = where(used, w, 0)
    loss = where(used, -(n.load(self, by.at(row, n.checked(t, by.classes))).to(to)) * w, 0)
    if reduction == NONE:
        n.store(site.output(0), row, loss)
        n.stage()
        n.store(site.output(1), (), n.const(to, 0))
    else:
        loss, total = n.reduce("sum", loss), n.reduce("sum", w)
        n.stage()
        n.store(site.output(0), (), loss / total if reduction == MEAN else loss)
        n.store(site.output(1), (), total)
    n.done()


@register("loss", "nll_loss_backward.default", "nll_loss2d_backward.default")
def _nll_backward(
    site: Site, grad_output: Arg, self: Arg, target: Arg, weight: Arg, reduction: int, ignore_index: int,
    total_weight: Arg,
) -> None:  # fmt: skip
    by, out = _Rows(site, self), site.output()
    if out is None:
        return
    to = computed_in(site.dtype(self))
    n = site.loop()
    at = list(n.stage(*by.size))
    row, column = [i for d, i in enumerate(at) if d != by.dim], at[by.dim]
    used, t = _target(n, target, row if site.size(target) else [], ignore_index)
    g = n.load(grad_output, row if reduction == NONE else []).to(to)
    if weight is not None:
        g = g * n.load(weight, [n.checked(t, by.classes)]).to(to)
    if reduction == MEAN:
        g = g / n.load(total_weight, ()).to(to)
    n.store(out, at, where(used & n.index(column).equals(t), -g, 0))
    n.done()


def _reduced(function: Callable[..., Scalar], *targets: str) -> None:
    """A loss of two tensors of one size, element by element, then summed or averaged."""

    def rule(site: Site, self: Arg, target: Arg, *args: Arg) -> None:
        reduction = args[0] if args else MEAN
        out = site.output()
        if out is None:
            return
        to = computed_in(site.dtype(out))
        a, b = site.size(self), site.size(target)
        if a != b:
            raise Refused("broadcasts its target")
        n = site.loop()
        at = n.stage(*a)
        v = function(n.load(self, at).to(to), n.load(target, at).to(to), *args[1:])
        if reduction == NONE:
            n.store(out, at, v)
        else:
            total = n.reduce("sum", v)
            n.stage()
            count = 1
            for m in a:
                count *= m
            n.store(out, (), total / n.count(count, to) if reduction == MEAN else total)
        n.done()

    register("loss", *targets)(rule)


_reduced(lambda x, y: (x - y) * (x - y), "mse_loss.default")
_reduced(
    lambda x, y, beta=1.0: where((x - y).of("abs") < beta, (x - y) * (x - y) * (0.5 / beta), (x - y).of("abs") - 0.5 * beta)
    if beta > 0 else (x - y).of("abs"),
    "smooth_l1_loss.default",
)  # fmt: skip
_reduced(
    lambda x, y, delta=1.0: where(
        (x - y).of("abs") <= delta, (x - y) * (x - y) * 0.5, ((x - y).of("abs") - 0.5 * delta) * delta
    ),
    "huber_loss.default",
)
_reduced(lambda x, y: (-(x * y)).of("exp").of("log1p"), "soft_margin_loss.default")


def _gradient(function: Callable[..., Scalar], *targets: str) -> None:
    """The gradient of such a loss with respect to its first tensor; ``function`` is the derivative at an element."""

    def rule(site: Site, grad_output: Arg, self: Arg, target: Arg, reduction: int, *args: Arg) -> None:
        out = site.output()
        if out is None:
            return
        to = computed_in(site.dtype(out))
        size = site.size(out)
        n = site.loop()
        at = n.stage(*size)
        g = n.spread(grad_output, at).to(to)
        d = function(n.spread(self, at).to(to), n.spread(target, at).to(to), *args) * g
        n.store(out, at, d / n.count(math.prod(size), to) if reduction == MEAN else d)
        n.done()

    register("loss", *targets)(rule)


_gradient(lambda x, y: (x - y) * 2, "mse_loss_backward.default")
_gradient(
    lambda x, y, beta: where((x - y).of("abs") < beta, (x - y) / beta, (x - y).of("sign")) if beta > 0 else (x - y).of("sign"),
    "smooth_l1_loss_backward.default",
)  # fmt: skip
_gradient(lambda x, y, delta: (x - y).max(-delta).min(delta), "huber_loss_backward.default")
_gradient(lambda x, y: -y * ((-(x * y)).of("exp") / ((-(x * y)).of("exp") + 1)), "soft_margin_loss_backward.default")


@register("loss", "binary_cross_entropy.default")
def _binary(site: Site, self: Arg, target: Arg, weight: Arg = None, reduction: int = MEAN) -> None:
    """Logarithms are held at -100, as the operator's documentation says."""

    def term(n: Nest, at: Sequence[Dim], x: Scalar, y: Scalar) -> Scalar:
        return (y - 1) * (-x).of("log1p").max(-100) - y * x.of("log").max(-100)

    _weighted(site, self, target, weight, reduction, term)


@register("loss", "binary_cross_entropy_with_logits.default")
def _binary_of_logits(
    site: Site, self: Arg, target: Arg, weight: Arg = None, pos_weight: Arg = None, reduction: int = MEAN
) -> None:
    def term(n: Nest, at: Sequence[Dim], x: Scalar, y: Scalar) -> Scalar:
        tail = (-x.of("abs")).of("exp").of("log1p") + (-x).max(0)
        if pos_weight is not None:
            tail = tail * ((n.spread(pos_weight, at).to(x.dtype) - 1) * y + 1)
        return (1 - y) * x + tail

    _weighted(site, self, target, weight, reduction, term)


Term = Callable[[Nest, Sequence[Dim], Scalar, Scalar], Scalar]


def _weighted(site: Site, self: Arg, target: Arg, weight: Arg, reduction: int, term: Term) -> None:
    out = site.output()
    if out is None:
        return
    to, size = computed_in(site.dtype(out)), site.size(self)
    if site.size(target) != size:
        raise Refused("broadcasts its target")
    n = site.loop()
    at = n.stage(*size)
    v = term(n, at, n.load(self, at).to(to), n.load(target, at).to(to))
    if weight is not None:
        v = v * n.spread(weight, at).to(to)
    if reduction == NONE:
        n.store(out, at, v)
    else:
        total = n.reduce("sum", v)
        n.stage()
        n.store(out, (), total / n.count(math.prod(size), to) if reduction == MEAN else total)
    n.done()


@register("loss", "binary_cross_entropy_backward.default")
def _binary_backward(
    site: Site, grad_output: Arg, self: Arg, target: Arg, weight: Arg = None, reduction: int = MEAN
) -> None:
    out = site.output()
    if out is None:
        return
    to, size = computed_in(site.dtype(out)), site.size(out)
    n = site.loop()
    at = n.stage(*size)
    g, x, y = (n.spread(a, at).to(to) for a in (grad_output, self, target))
    v = g * (x - y) / ((1 - x) * x).max(1e-12)
    if weight is not None:
        v = v * n.spread(weight, at).to(to)
    n.store(out, at, v / n.count(math.prod(size), to) if reduction == MEAN else v)
    n.done()

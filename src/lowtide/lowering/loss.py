"""Losses and their gradients."""

from __future__ import annotations

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


@register("loss", "nll_loss_forward.default")
def _nll(site: Site, self: Arg, target: Arg, weight: Arg, reduction: int, ignore_index: int) -> None:
    """Sum of -log p at the target, and of the weights; their quotient for a mean."""
    size = site.size(self)
    if len(size) != 2 or reduction == NONE:
        raise Refused("is not over rows, or is not reduced")
    to = computed_in(site.dtype(self))
    n = site.loop()
    (row,) = n.stage(size[0])
    used, t = _target(n, target, [row], ignore_index)
    w = n.const(to, 1) if weight is None else n.load(weight, [n.checked(t, size[1])]).to(to)
    w = where(used, w, 0)
    loss = n.reduce("sum", where(used, -(n.load(self, [row, n.checked(t, size[1])]).to(to)) * w, 0))
    total = n.reduce("sum", w)
    n.stage()
    n.store(site.output(0), (), loss / total if reduction == MEAN else loss)
    n.store(site.output(1), (), total)
    n.done()


@register("loss", "nll_loss_backward.default")
def _nll_backward(
    site: Site, grad_output: Arg, self: Arg, target: Arg, weight: Arg, reduction: int, ignore_index: int,
    total_weight: Arg,
) -> None:  # fmt: skip
    size, out = site.size(self), site.output()
    if len(size) != 2 or out is None:
        raise Refused("is not over rows")
    to = computed_in(site.dtype(self))
    n = site.loop()
    row, column = n.stage(*size)
    used, t = _target(n, target, [row], ignore_index)
    g = n.load(grad_output, [row] if reduction == NONE else []).to(to)
    if weight is not None:
        g = g * n.load(weight, [n.checked(t, size[1])]).to(to)
    if reduction == MEAN:
        g = g / n.load(total_weight, ()).to(to)
    n.store(out, (row, column), where(used & n.index(column).equals(t), -g, 0))
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

"""Activations and their gradients, elementwise.

Each gradient is the derivative of the operator's documented formula, times the incoming gradient.
"""

from __future__ import annotations

import math

from lowtide.ir.graph import Arg
from lowtide.ir.index import add
from lowtide.lowering.scalars import Number, Scalar, computed_in, where
from lowtide.lowering.site import Refused, Site
from lowtide.lowering.table import pointwise, register

_SQRT_HALF = 1 / math.sqrt(2)
_TANH_SCALE = math.sqrt(2 / math.pi)
_TANH_CUBE = 0.044715


def _gelu(x: Scalar, *, approximate: str = "none") -> Scalar:
    if approximate == "none":
        return x * 0.5 * ((x * _SQRT_HALF).of("erf") + 1)
    inner = (x + x * x * x * _TANH_CUBE) * _TANH_SCALE
    return x * 0.5 * (inner.of("tanh") + 1)


def _gelu_backward(g: Scalar, x: Scalar, *, approximate: str = "none") -> Scalar:
    if approximate == "none":
        share = ((x * _SQRT_HALF).of("erf") + 1) * 0.5
        density = (x * x * -0.5).of("exp") * (1 / math.sqrt(2 * math.pi))
        return g * (share + x * density)
    square = x * x
    t = ((x + square * x * _TANH_CUBE) * _TANH_SCALE).of("tanh")
    slope = (1 - t * t) * (square * (3 * _TANH_CUBE) + 1) * _TANH_SCALE
    return g * ((t + 1) * 0.5 + x * 0.5 * slope)


pointwise(_gelu, "gelu.default")
pointwise(_gelu_backward, "gelu_backward.default")
pointwise(lambda x: x * x.of("sigmoid"), "silu.default")


def _silu_backward(g: Scalar, x: Scalar) -> Scalar:
    s = x.of("sigmoid")
    return g * (s * (x * (1 - s) + 1))


pointwise(_silu_backward, "silu_backward.default")
pointwise(lambda g, y: g * (1 - y) * y, "sigmoid_backward.default")
pointwise(lambda g, y: g * (1 - y * y), "tanh_backward.default")
pointwise(lambda x, threshold, value: where(x <= threshold, value, x), "threshold.default")
pointwise(lambda g, x, threshold: where(x <= threshold, 0, g), "threshold_backward.default")
pointwise(lambda x, slope=0.01: where(x > 0, x, x * slope), "leaky_relu.default")
pointwise(lambda g, x, slope, _result: where(x > 0, g, g * slope), "leaky_relu_backward.default")
pointwise(lambda x: x * (x + 3).max(0).min(6) / 6, "hardswish.default")
pointwise(lambda g, x: where(x < -3, 0, where(x <= 3, g * (x / 3 + 0.5), g)), "hardswish_backward.default")
pointwise(lambda x: (x + 3).max(0).min(6) / 6, "hardsigmoid.default")
pointwise(lambda g, x: where((x > -3) & (x < 3), g * (1 / 6), 0), "hardsigmoid_backward.default")
pointwise(lambda g, x, low, high: where((x <= low) | (x >= high), 0, g), "hardtanh_backward.default")
pointwise(lambda x, lambd=0.5: where((x >= -lambd) & (x <= lambd), 0, x), "hardshrink.default")
pointwise(
    lambda g, x, lambd: where((x >= -lambd) & (x <= lambd), 0, g),
    "hardshrink_backward.default",
    "softshrink_backward.default",
)
pointwise(
    lambda x, lambd=0.5: where(x > lambd, x - lambd, where(x < -lambd, x + lambd, where(x.differs(x), x, 0))),
    "softshrink.default",
)


def _elu(x: Scalar, alpha: Number = 1, scale: Number = 1, input_scale: Number = 1) -> Scalar:
    return where(x > 0, x * scale, (x * input_scale).of("expm1") * (alpha * scale))


def _elu_backward(g: Scalar, alpha: Number, scale: Number, input_scale: Number, is_result: bool, x: Scalar) -> Scalar:
    slope = (
        (x + alpha * scale) * input_scale if is_result else (x * input_scale).of("exp") * (alpha * scale * input_scale)
    )
    return g * where(x <= 0, slope, scale)


pointwise(_elu, "elu.default")
pointwise(_elu_backward, "elu_backward.default")


def _softplus(x: Scalar, beta: Number = 1, threshold: Number = 20) -> Scalar:
    z = x * beta
    return where(z > threshold, x, z.of("exp").of("log1p") / beta)


def _softplus_backward(g: Scalar, x: Scalar, beta: Number, threshold: Number) -> Scalar:
    z = (x * beta).of("exp")
    return where(x * beta > threshold, g, g * z / (z + 1))


pointwise(_softplus, "softplus.default")
pointwise(_softplus_backward, "softplus_backward.default")
pointwise(lambda x: x * x.of("exp").of("log1p").of("tanh"), "mish.default")
pointwise(lambda g, mask, scale: g * mask * scale, "native_dropout_backward.default")
pointwise(lambda x, alpha=1: where(x > 0, x, (x / alpha).of("expm1") * alpha), "celu.default")
pointwise(lambda x, weight: where(x > 0, x, x * weight), "_prelu_kernel.default")


def _mish_backward(g: Scalar, x: Scalar) -> Scalar:
    t = x.of("exp").of("log1p").of("tanh")
    t = where(x > 20, 1.0, t)  # exp(x) may be infinite, and log1p(exp(x)) is x
    return g * (t + x * x.of("sigmoid") * (1 - t * t))


def _log_sigmoid_backward(g: Scalar, x: Scalar, _buffer: Scalar) -> Scalar:
    z = (-x.of("abs")).of("exp")
    falling = x < 0
    return g * (where(falling, x.same(1.0), 0.0) - where(falling, x.same(1.0), -1.0) * (z / (z + 1)))


def _rrelu_backward(
    g: Scalar, x: Scalar, noise: Scalar, lower: Number, upper: Number, training: bool, is_result: bool
) -> Scalar:
    if training and upper - lower > 1e-6:
        return g * noise
    return where(x > 0, g, g * ((lower + upper) / 2))


pointwise(_mish_backward, "mish_backward.default")
pointwise(_log_sigmoid_backward, "log_sigmoid_backward.default")
pointwise(_rrelu_backward, "rrelu_with_noise_backward.default")


@register("pointwise", "log_sigmoid_forward.default")
def _log_sigmoid(site: Site, self: Arg) -> None:
    shape = site.output() or site.output(1)
    if shape is None:
        return
    n = site.loop()
    at = n.stage(*site.size(shape))
    x = n.load(self, at)
    x = x.to(computed_in(x.dtype))
    z = (-x.of("abs")).of("exp")
    n.store(site.output(0), at, x.min(0) - z.of("log1p"))
    if (kept := site.output(1)) is not None and site.size(kept) == site.size(self):
        n.store(kept, at, z)
    n.done()


@register("pointwise", "_prelu_kernel_backward.default")
def _prelu_backward(site: Site, grad_output: Arg, self: Arg, weight: Arg) -> None:
    shape = site.output() or site.output(1)
    if shape is None:
        return
    n = site.loop()
    at = n.stage(*site.size(shape))
    g, x, w = (v.to(computed_in(v.dtype)) for v in (n.spread(a, at) for a in (grad_output, self, weight)))
    n.store(site.output(0), at, where(x > 0, g, g * w))
    n.store(site.output(1), at, where(x > 0, 0, g * x))
    n.done()


def _halves(site: Site, x: Arg, dim: int) -> tuple[int, int]:
    size = site.size(x)
    if not size:
        raise Refused("has no dimension")
    d = dim % len(size)
    return d, size[d] // 2


@register("pointwise", "glu.default")
def _glu(site: Site, self: Arg, dim: int = -1) -> None:
    out = site.output()
    if out is None:
        return
    d, half = _halves(site, self, dim)
    n = site.loop()
    at = list(n.stage(*site.size(out)))
    a, b = n.load(self, at), n.load(self, [*at[:d], add(at[d], half), *at[d + 1 :]])
    to = computed_in(a.dtype)
    n.store(out, at, a.to(to) * b.to(to).of("sigmoid"))
    n.done()


@register("pointwise", "glu_backward.default")
def _glu_backward(site: Site, grad_output: Arg, self: Arg, dim: int) -> None:
    out = site.output()
    if out is None:
        return
    d, half = _halves(site, self, dim)
    n = site.loop()
    at = list(n.stage(*site.size(grad_output)))
    other = [*at[:d], add(at[d], half), *at[d + 1 :]]
    g, a, b = (v.to(computed_in(v.dtype)) for v in (n.load(grad_output, at), n.load(self, at), n.load(self, other)))
    s = b.of("sigmoid")
    n.store(out, at, g * s)
    n.store(out, other, g * a * s * (1 - s))
    n.done()

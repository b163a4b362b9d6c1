"""Elementwise operations: functions of scalars, each beside the overloads that it lowers.

Formulas are those of the operators' documentation, in the order in which ATen rounds where that shows in half types.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from lowtide.ir.graph import Arg
from lowtide.ir.index import add, modulo
from lowtide.ir.loops import CURVES
from lowtide.lowering.scalars import FLOATS, INTEGERS, Number, Scalar, computed_in, where
from lowtide.lowering.site import Refused, Site
from lowtide.lowering.table import pointwise, register

Operand = Scalar | Number


def _unary(op: str) -> Any:
    return lambda x: x.of(op)


for _name in (*sorted(CURVES), "sqrt", "rsqrt", "reciprocal", "neg"):
    pointwise(_unary(_name), f"{_name}.default")


def _rounding(op: str) -> Any:
    return lambda x: x.of(op) if x.dtype in FLOATS else x


for _name in ["floor", "ceil", "round", "trunc"]:
    pointwise(_rounding(_name), f"{_name}.default")


def _round_to(x: Scalar, *, decimals: int) -> Scalar:
    """To so many decimals, or tens where they are negative."""
    if x.dtype not in FLOATS or decimals == 0:
        return _rounding("round")(x)
    by = 10.0 ** abs(decimals)
    return (x * by).of("round") / by if decimals > 0 else (x / by).of("round") * by


pointwise(_round_to, "round.decimals")
pointwise(lambda x: x.same(1).of("copysign", x) < 0 if x.dtype in FLOATS else x < 0, "signbit.default", computed="own")
pointwise(lambda x: x if x.dtype == "bool" else x.of("abs"), "abs.default")
pointwise(lambda x: x if x.dtype == "bool" else x.of("sign"), "sign.default", "sgn.default")
pointwise(lambda x: x * x, "square.default")
pointwise(lambda x: x - x.of("trunc"), "frac.default")
pointwise(lambda x: x * (math.pi / 180), "deg2rad.default")
pointwise(lambda x: x * (180 / math.pi), "rad2deg.default")
pointwise(lambda x: x, "positive.default", "lift_fresh_copy.default", "_conj_physical.default")
pointwise(lambda x: x.of("not"), "bitwise_not.default")
pointwise(lambda x: x.equals(0), "logical_not.default", computed="own")
pointwise(lambda x: x.test("isnan") if x.dtype in FLOATS else x.differs(x), "isnan.default", computed="own")
pointwise(lambda x: x.test("isinf") if x.dtype in FLOATS else x.differs(x), "isinf.default", computed="own")


def _scaled(x: Operand, alpha: Number) -> Operand:
    return x if alpha == 1 else x * alpha


def _add(x: Scalar, y: Operand, *, alpha: Number = 1) -> Scalar:
    return x + _scaled(y, alpha)


def _sub(x: Scalar, y: Operand, *, alpha: Number = 1) -> Scalar:
    return x - _scaled(y, alpha)


def _rsub(x: Scalar, y: Operand, alpha: Number = 1) -> Scalar:
    return y - _scaled(x, alpha)


def _add_scalar(x: Scalar, y: Number, alpha: Number = 1) -> Scalar:
    return x + y * alpha


def _sub_scalar(x: Scalar, y: Number, alpha: Number = 1) -> Scalar:
    return x - y * alpha


pointwise(_add, "add.Tensor")
pointwise(_sub, "sub.Tensor")
pointwise(_add_scalar, "add.Scalar")
pointwise(_sub_scalar, "sub.Scalar")
pointwise(_rsub, "rsub.Tensor", "rsub.Scalar")
pointwise(lambda x, y: x * y, "mul.Tensor", "mul.Scalar")
pointwise(lambda x, y: x / y, "div.Tensor", "div.Scalar")


def _whole(op: str) -> Callable[[Scalar, Operand], Scalar]:
    """A division or remainder that whole numbers have none of by 0, which is reported."""

    def function(x: Scalar, y: Operand) -> Scalar:
        y = x.same(y)
        if x.dtype in INTEGERS and not y.number:
            x.b.check(y.differs(0).n, "divisor")
        return x.of(op, y)

    return function


def _div_mode(x: Scalar, y: Operand, *, rounding_mode: str | None = None) -> Scalar:
    return x / y if rounding_mode is None else _whole("floordiv" if rounding_mode == "floor" else "truncdiv")(x, y)


pointwise(_div_mode, "div.Tensor_mode", "div.Scalar_mode")
pointwise(_whole("floordiv"), "floor_divide.default")
pointwise(_whole("mod"), "remainder.Tensor", "remainder.Scalar")
pointwise(_whole("fmod"), "fmod.Tensor", "fmod.Scalar")
pointwise(lambda x, y: x.max(y), "maximum.default")
pointwise(lambda x, y: x.min(y), "minimum.default")
pointwise(lambda x, y: where(y.differs(y), x, where(x.differs(x), y, x.max(y))), "fmax.default")
pointwise(lambda x, y: where(y.differs(y), x, where(x.differs(x), y, x.min(y))), "fmin.default")
pointwise(lambda x, y: x.of("atan2", y), "atan2.default")
pointwise(lambda x, y: x.of("hypot", y), "hypot.default")
pointwise(lambda x, y: x.of("copysign", y), "copysign.Tensor", "copysign.Scalar")
pointwise(lambda x, y: x.of("gcd", y), "gcd.default")


def _lcm(x: Scalar, y: Scalar) -> Scalar:
    """Of narrow types in 32 bits, as C has it: the sign goes before the upper bits do."""
    to = "i64" if x.dtype == "i64" else "i32"
    a, b = x.to(to), y.to(to)
    return (a.of("truncdiv", a.of("gcd", b)) * b).of("abs").to(x.dtype)


pointwise(_lcm, "lcm.default")


@register("pointwise", "nextafter.default")
def _next_after(site: Site, self: Arg, other: Arg) -> None:
    """The next number on the way to another: its bits as a whole number go up by one, or down."""
    out = site.output()
    if out is None:
        return
    dtype = site.dtype(out)
    if dtype not in ("f32", "f64"):
        raise Refused("goes on by the least of a half type")
    n = site.loop()
    at = n.stage(*site.size(out))
    x, y = (n.spread(a, at).to(dtype) for a in (self, other))
    whole = "i32" if dtype == "f32" else "i64"
    bits = x.bits(whole)
    stepped = where((x < y).equals(x > 0), bits + 1, bits - 1).bits(dtype)
    least = n.const(whole, 1).bits(dtype).of("copysign", y)
    found = where(x.equals(y), y, where(x.equals(0), least, stepped))
    n.store(out, at, where(x.test("isnan") | y.test("isnan"), math.nan, found))
    n.done()


def _logaddexp(x: Scalar, y: Scalar) -> Scalar:
    m = x.max(y)
    same = x.of("abs").test("isinf") & x.equals(y)
    return where(same, x, m + (-(x - y).of("abs")).of("exp").of("log1p"))


pointwise(_logaddexp, "logaddexp.default")


def _logaddexp2(x: Scalar, y: Scalar) -> Scalar:
    m = x.max(y)
    same = x.of("abs").test("isinf") & x.equals(y)
    return where(same, x, m + (-(x - y).of("abs")).of("exp2").of("log1p") * (1 / math.log(2)))


pointwise(_logaddexp2, "logaddexp2.default")
pointwise(lambda x, y: where(x.equals(0), y, where(x > 0, x.same(1), 0)), "heaviside.default")
pointwise(lambda x, e: x * e.of("exp2"), "ldexp.Tensor")
pointwise(lambda x: where(x.differs(x), x, where(x < 0, x.same(math.pi), 0)), "angle.default")
pointwise(lambda x: x.equals(math.inf) if x.dtype in FLOATS else x.differs(x), "isposinf.default", computed="own")
pointwise(lambda x: x.equals(-math.inf) if x.dtype in FLOATS else x.differs(x), "isneginf.default", computed="own")


def _logit(x: Scalar, eps: float | None = None) -> Scalar:
    if eps is not None:
        x = where(x < eps, eps, where(x > 1 - eps, 1 - eps, x))
    return (x / (1 - x)).of("log")


def _logit_backward(g: Scalar, x: Scalar, eps: float | None = None) -> Scalar:
    low, high = (0.0, 1.0) if eps is None else (eps, 1 - eps)
    outside = (x < low) | (x > high)
    return where(outside, 0.0 if eps is not None else math.nan, g / (x * (1 - x)))


def _entropy(x: Scalar) -> Scalar:
    return where(x.differs(x), x, where(x > 0, -x * x.of("log"), where(x.equals(0), x.same(0), -math.inf)))


def _sinc(x: Scalar) -> Scalar:
    y = x * math.pi
    return where(x.equals(0), x.same(1), y.of("sin") / y)


def _log_gamma_of_several(x: Scalar, p: int) -> Scalar:
    """Of ``p`` dimensions: a sum of those of one, half steps apart."""
    total = x.of("lgamma")
    for k in range(1, p):
        total = total + (x - k / 2).of("lgamma")
    return total + p * (p - 1) / 4 * math.log(math.pi)


pointwise(_log_gamma_of_several, "mvlgamma.default")
pointwise(_logit, "logit.default")
pointwise(_logit_backward, "logit_backward.default")
pointwise(_entropy, "special_entr.default")
pointwise(_sinc, "sinc.default")


@register("pointwise", "addr.default")
def _addr(site: Site, self: Arg, vec1: Arg, vec2: Arg, *, beta: Number = 1, alpha: Number = 1) -> None:
    out = site.output()
    if out is None:
        return
    n = site.loop()
    i, j = n.stage(*site.size(out))
    to = site.dtype(out)
    if to == "bool":
        raise Refused("adds truth values")
    given = (n.load(vec1, [i]), n.load(vec2, [j]), n.spread(self, [i, j]))
    a, b, c = (v.to(to).to(computed_in(to)) for v in given)
    v = _scaled(a, alpha) * b
    n.store(out, (i, j), v if beta == 0 else _scaled(c, beta) + v)
    n.done()


@register("pointwise", "linalg_cross.default")
def _cross(site: Site, self: Arg, other: Arg, *, dim: int = -1) -> None:
    out = site.output()
    if out is None:
        return
    size = site.size(out)
    d = dim % len(size)
    n = site.loop()
    at = list(n.stage(*size))

    def turned(x: Arg, by: int) -> Scalar:
        place = [*at[:d], modulo(add(at[d], by), 3, n.b.ranges), *at[d + 1 :]]
        v = n.spread(x, place)
        return v.to(computed_in(v.dtype))

    n.store(out, at, turned(self, 1) * turned(other, 2) - turned(self, 2) * turned(other, 1))
    n.done()


def _xlogy(x: Operand, y: Operand) -> Scalar:
    like = x if isinstance(x, Scalar) else y
    assert isinstance(like, Scalar)
    x, y = like.same(x), like.same(y)
    return where(y.differs(y), y, where(x.equals(0), x.same(0), x * y.of("log")))


pointwise(_xlogy, "xlogy.Tensor", "xlogy.Scalar_Other", "xlogy.Scalar_Self")
pointwise(
    lambda x, y: where(y.differs(y), y, where(x.equals(0), x.same(0), x * y.of("log1p"))), "special_xlog1py.default"
)


def _power(x: Scalar, e: Number) -> Scalar:
    """Small whole and half exponents by multiplication and roots, as ATen does."""
    if x.dtype not in FLOATS:
        if e == 0:
            return x.same(1)
        return x if e == 1 else x * x if e == 2 else x.of("pow", e)
    table: dict[float, Any] = {
        0.0: lambda: x.same(1.0), 1.0: lambda: x, 2.0: lambda: x * x, 3.0: lambda: x * x * x,
        0.5: lambda: x.of("sqrt"), -0.5: lambda: x.of("rsqrt"), -1.0: lambda: x.of("reciprocal"),
        -2.0: lambda: (x * x).of("reciprocal"),
    }  # fmt: skip
    made = table.get(float(e))
    return made() if made is not None else x.of("pow", float(e))


pointwise(_power, "pow.Tensor_Scalar")
pointwise(lambda x, y: x.of("pow", y), "pow.Tensor_Tensor")
pointwise(lambda x, y: y.same(x).of("pow", y), "pow.Scalar")


def _bits(op: str) -> Any:
    return lambda x, y: x.of(op, y)


for _name in ["and", "or", "xor"]:
    pointwise(_bits(_name), f"bitwise_{_name}.Tensor", f"bitwise_{_name}.Scalar")
    pointwise(
        (lambda op: lambda x, y: x.differs(0).of(op, y.differs(0)))(_name), f"logical_{_name}.default", computed="own"
    )
pointwise(lambda x, y: x.of("shl", y), "bitwise_left_shift.Tensor", "bitwise_left_shift.Tensor_Scalar")
pointwise(lambda x, y: x.of("shr", y), "bitwise_right_shift.Tensor", "bitwise_right_shift.Tensor_Scalar")

for _name in ["eq", "ne", "lt", "le", "gt", "ge"]:
    pointwise((lambda op: lambda x, y: x.test(op, y))(_name), f"{_name}.Tensor", f"{_name}.Scalar", computed="promoted")


def _clamp(x: Scalar, min: Operand | None = None, max: Operand | None = None) -> Scalar:
    if min is not None:
        x = x.max(min)
    return x if max is None else x.min(max)


pointwise(_clamp, "clamp.default", "clamp.Tensor")
pointwise(lambda x, low=-1, high=1: x.max(low).min(high), "hardtanh.default")
pointwise(lambda x, min: x.max(min), "clamp_min.default", "clamp_min.Tensor")
pointwise(lambda x, max: x.min(max), "clamp_max.default", "clamp_max.Tensor")
pointwise(lambda x: x.max(0), "relu.default")


pointwise(where, "where.self", conditions=(0,))
pointwise(lambda x, mask, value: where(mask, value, x), "masked_fill.Scalar", "masked_fill.Tensor", conditions=(1,))


def _lerp(a: Scalar, b: Scalar, w: Operand) -> Scalar:
    if isinstance(w, Scalar):
        return where(w.of("abs") < 0.5, a + w * (b - a), b - (b - a) * (1 - w))
    return a + (b - a) * w if abs(w) < 0.5 else b - (b - a) * (1 - w)


pointwise(_lerp, "lerp.Tensor", "lerp.Scalar")
pointwise(lambda x, a, b, value=1: x + _scaled(a * b, value), "addcmul.default")
pointwise(lambda x, a, b, value=1: x + _scaled(a, value) / b, "addcdiv.default")


_GREATEST = {"f64": 1.7976931348623157e308, "f32": 3.4028234663852886e38, "bf16": 3.3895313892515355e38, "f16": 65504.0}


@register("pointwise", "nan_to_num.default")
def _nan_to_num(
    site: Site, self: Arg, nan: Number | None = None, posinf: Number | None = None, neginf: Number | None = None
) -> None:
    out = site.output()
    if out is None:
        return
    n = site.loop()
    at = n.stage(*site.size(out))
    x = n.load(self, at)
    greatest = _GREATEST.get(x.dtype)
    if greatest is not None:
        x = x.to(computed_in(x.dtype))
        y = where(x.differs(x), 0.0 if nan is None else nan, x)
        y = where(x.equals(math.inf), greatest if posinf is None else posinf, y)
        x = where(x.equals(-math.inf), -greatest if neginf is None else neginf, y)
    n.store(out, at, x)
    n.done()

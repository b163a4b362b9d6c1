"""Special functions: of the normal distribution, of gamma's family, and the modified Bessel functions I.

Each is a formula of what loops compute anyway. Promised: errors of a few units in the last place in both precisions, of
digamma and its derivatives tens; but more next to a zero, and where ``log_ndtr`` and ``erfcx`` square a large argument; at
poles, at infinities and outside its domain, what torch gives, but of derivatives of digamma at poles and infinities: their
limits there, NaN where there is none. Coefficients that are not those of a known series are our own fits, made with 50 digits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

from lowtide.lowering.scalars import Scalar, where
from lowtide.lowering.site import Refused
from lowtide.lowering.table import pointwise


def _polynomial(x: Scalar, coefficients: Sequence[float]) -> Scalar:
    """By Horner's rule; the constant comes first."""
    out = x.same(coefficients[-1])
    for c in reversed(coefficients[:-1]):
        out = out * x + c
    return out


# -- normal distribution ---------------------------------------------------------------------------------------------


def _series_of_erfinv(many: int) -> list[float]:
    """Coefficients of erfinv(x) / x over x^2, all of them positive (L. Carlitz, 1963)."""
    c = [1.0]
    for k in range(1, many):
        c.append(sum(c[m] * c[k - 1 - m] / ((m + 1) * (2 * m + 1)) for m in range(k)))
    return [v / (2 * k + 1) * (math.pi / 4) ** k * math.sqrt(math.pi) / 2 for k, v in enumerate(c)]


_MIDDLE = _series_of_erfinv(25)  # 1e-17 up to x = 0.5
# Beyond, quotients of polynomials over r = sqrt(-log(tail)), as in M. Wichura's algorithm AS 241 (1988), fitted to 1e-16: over
# r - 1.125 up to r = 5, over r - 5 from there. None has terms that cancel.
_NEAR_OVER = (
    0.5767240201370427, 3.350488646045627, 6.025175404044021, 5.146605521836796, 2.4580788811343637,
    0.7102583035775482, 0.1223708473398973, 0.010671158472984527, 0.0003134135261185225,
)  # fmt: skip
_NEAR_UNDER = (
    1.0, 2.552081820156199, 2.5862169748686745, 1.3736906720106108, 0.4278265226222551, 0.078937007314575,
    0.007298227210848806, 0.0002216039236010213,
)  # fmt: skip
_FAR_OVER = (
    6.657904643501104, 5.461597327971449, 1.7831861428874356, 0.29608459936078185, 0.026464895271045244,
    0.0012378939824960124, 2.6961395207422796e-05, 1.9936135962406183e-07,
)  # fmt: skip
_FAR_UNDER = (
    1.0, 0.5995036372371912, 0.13675605028688848, 0.014841826941788183, 0.0007840100298596988, 1.836008268421773e-05,
    1.4096885242179513e-07, 1.9971665278803997e-15,
)  # fmt: skip


def _quantile(centre: Scalar, tail: Scalar) -> Scalar:
    """Of the standard normal distribution at the probability 0.5 + ``centre``; ``tail``: how much lies beyond, on its side."""
    x, r = centre * 2, (-tail.of("log")).of("sqrt")
    inside = x * _polynomial(x * x, _MIDDLE) * math.sqrt(2)
    near = _polynomial(r - 1.125, _NEAR_OVER) / _polynomial(r - 1.125, _NEAR_UNDER)
    far = _polynomial(r - 5.0, _FAR_OVER) / _polynomial(r - 5.0, _FAR_UNDER)
    outside = where(tail.equals(0), math.inf, where(r <= 5.0, near, far))
    return where(centre.of("abs") <= 0.25, inside, outside.of("copysign", centre))


def _erfinv(x: Scalar) -> Scalar:
    tail = (1 - x.of("abs")) * 0.5  # nothing is rounded from 0.5 on, where it counts; below 0 it has no logarithm: NaN
    return _quantile(x * 0.5, tail) * math.sqrt(0.5)


def _ndtri(p: Scalar) -> Scalar:
    return _quantile(p - 0.5, where(p < 0.5, p, 1 - p))


# (1 + 2 x) e^(x^2) erfc(x) over t = (x - 3.75) / (x + 3.75), for x from 0 on (M. Shepherd and J. Laframboise, 1981).
_ERFCX = (
    1.2375126308378275, -0.14024059858554697, 0.0035854154854644293, 0.0822767384901452, -0.10880393014174886,
    0.09230432116037748, -0.05869339858963677, 0.028362277418956406, -0.009746579558029276, 0.0017556258528952954,
    0.0002937136655913448, -0.0002901540805408417, 5.16490988926824e-05, 2.238423915508223e-05,
    -1.1444146237700508e-05, -9.735598967367773e-07, 1.7516376488490388e-06, -5.721823060322213e-08,
    -2.58668507161535e-07, 2.3263508708858293e-08, 3.8675334242207074e-08, -3.744210080961908e-09,
    -5.1739902140057195e-09, 3.1114333809801147e-10, 4.2514714447874973e-10,
)  # fmt: skip


def _erfcx(x: Scalar) -> Scalar:
    a = x.of("abs")
    t = 1 - 7.5 / (a + 3.75)  # so that infinity is 1
    right = _polynomial(t, _ERFCX) / (1 + 2 * a)
    return where(x < 0, 2 * (x * x).of("exp") - right, right)


def _log_ndtr(x: Scalar) -> Scalar:
    t = x * math.sqrt(0.5)
    left = (_erfcx(-t) * 0.5).of("log") - t * t
    return where(x < -1, left, (-0.5 * t.of("erfc")).of("log1p"))


pointwise(_erfinv, "erfinv.default")
pointwise(_ndtri, "special_ndtri.default")
pointwise(_erfcx, "special_erfcx.default")
pointwise(_log_ndtr, "special_log_ndtr.default")


# -- derivatives of log(gamma) ---------------------------------------------------------------------------------------

_SHIFTED = 10  # from here on the asymptotic series are good; what is less is shifted there, step by step
_BERNOULLI = tuple(
    Fraction(*f) for f in ((1, 6), (-1, 30), (1, 42), (-1, 30), (5, 66), (-691, 2730), (7, 6))
)  # B2, B4, ..


def _cotangent(x: Scalar) -> Scalar:
    """Of pi times ``x``, of which only the fraction counts; next to a half, where it is 0, by what is left to the half."""
    f = x - x.of("round")
    a = f.of("abs")
    first = a <= 0.25
    t = (where(first, a, 0.5 - a) * math.pi).of("tan")
    return where(first, 1 / t, t).of("copysign", f)


def _digamma(x: Scalar) -> Scalar:
    mirrored = x < 0  # psi(x) = psi(1 - x) - pi / tan(pi x)
    y = where(mirrored, 1 - x, x)
    sum_ = where(mirrored, -math.pi * _cotangent(x), 0.0)
    for _ in range(_SHIFTED):
        small = y < _SHIFTED
        sum_ = sum_ - where(small, 1 / y, 0.0)
        y = where(small, y + 1, y)
    u = 1 / (y * y)
    tail = _polynomial(u, [float(b / (2 * k)) for k, b in enumerate(_BERNOULLI, 1)]) * u
    out = sum_ + (y.of("log") - 0.5 / y - where(y.equals(math.inf), 0.0, tail))
    pole = x.same(math.inf).of("copysign", -x)
    return where(x.equals(0), pole, where(mirrored & x.equals(x.of("trunc")), math.nan, out))


def _derivatives_of_cotangent(n: int) -> list[int]:
    """The n-th derivative of cot, as a polynomial in cot: that of c is -(1 + c^2)."""
    p = [0, 1]
    for _ in range(n):
        d = [k * c for k, c in enumerate(p)][1:]
        p = [-(a + b) for a, b in zip([*d, 0, 0], [0, 0, *d], strict=True)]
    return p


_ORDERS = 5  # more of them are terms by the dozen, and nobody's


def _polygamma(n: int, x: Scalar) -> Scalar:
    """The n-th derivative of digamma: n! times a sum of powers, whose end is its Euler-Maclaurin series. At
    infinity it is 0, of which torch makes NaN from n = 2 on; at poles infinite, on the side of what is right of them."""
    if not 0 <= n <= _ORDERS:
        raise Refused(f"is the derivative number {n}")
    if n == 0:
        return _digamma(x)
    mirrored = x < 0
    y = where(mirrored, 1 - x, x.of("abs"))  # -0.0 is the pole from the right, as 0.0 is
    from_, sum_ = _SHIFTED + n, x.same(0.0)
    for _ in range(from_):
        small = y < from_
        sum_ = sum_ + where(small, _power(1 / y, n + 1), 0.0)
        y = where(small, y + 1, y)
    v = 1 / y
    rising = [float(b * math.factorial(2 * k + n - 1) / (math.factorial(2 * k) * math.factorial(n)))
              for k, b in enumerate(_BERNOULLI, 1)]  # fmt: skip
    end = _power(v, n) * (1 / n + v * (0.5 + v * _polynomial(v * v, rising)))
    sign, factorial = (-1) ** (n + 1), float(math.factorial(n))
    right = sign * factorial * (sum_ + end)
    left = (-1) ** n * right - math.pi ** (n + 1) * _polynomial(_cotangent(x), _derivatives_of_cotangent(n))
    return where(mirrored, left, right)


def _power(x: Scalar, n: int) -> Scalar:
    out = x
    for _ in range(n - 1):
        out = out * x
    return out


pointwise(_digamma, "digamma.default")
pointwise(_polygamma, "polygamma.default")


# -- modified Bessel functions of the first kind ---------------------------------------------------------------------

# Where the power series, all of whose terms are positive, hands over to the asymptotic one, and what may be left out.
_HANDOVER = {"f32": (12.0, 2.0**-27), "f64": (20.0, 2.0**-56)}


def _power_series(order: int, to: float, least: float) -> list[float]:
    """Coefficients of (x / 2)^-order I(x) over x^2 / 4, as many as count up to x = ``to``."""
    out: list[float] = []
    z, sum_, term = to * to / 4, 0.0, 1.0
    while term > least * sum_ or len(out) < z**0.5:  # terms grow up to there
        out.append(1.0 / (math.factorial(len(out)) * math.factorial(len(out) + order)))
        term = out[-1] * z ** (len(out) - 1)
        sum_ += term
    return out


def _asymptotic_series(order: int, from_: float, least: float) -> list[float]:
    """Coefficients of sqrt(2 pi x) e^-x I(x) over 1 / x (Hankel), as many as count from x = ``from_`` on."""
    out = [1.0]
    while abs(out[-1]) > least * from_ ** (len(out) - 1):
        k = len(out)
        out.append(out[-1] * ((2 * k - 1) ** 2 - 4 * order * order) / (8 * k))
    return out


def _bessel(x: Scalar, order: int, scaled: bool) -> Scalar:
    """I of an order 0 or 1; ``scaled``: times e^-|x|."""
    to, least = _HANDOVER[x.dtype]
    a = x.of("abs")
    half = a * 0.5
    near = _polynomial(half * half, _power_series(order, to, least))
    near = near * half if order else near
    far = _polynomial(1 / a, _asymptotic_series(order, to, least)) / (a * (2 * math.pi)).of("sqrt")
    if scaled:
        near = near * (-a).of("exp")
    else:
        e = half.of("exp")  # twice, since e^x overflows before I does
        far = far * e * e
    out = where(a <= to, near, far)
    return out.of("copysign", x) if order else out


pointwise(lambda x: _bessel(x, 0, scaled=False), "i0.default", "special_modified_bessel_i0.default")
pointwise(lambda x: _bessel(x, 0, scaled=True), "special_i0e.default")
pointwise(lambda x: _bessel(x, 1, scaled=False), "special_i1.default", "special_modified_bessel_i1.default")
pointwise(lambda x: _bessel(x, 1, scaled=True), "special_i1e.default")


def _spherical_bessel(x: Scalar) -> Scalar:
    return where(x.equals(0), 1.0, where(x.of("abs").equals(math.inf), 0.0, x.of("sin") / x))


pointwise(_spherical_bessel, "special_spherical_bessel_j0.default")

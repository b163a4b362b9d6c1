"""Index arithmetic: the expressions of ``ir.symbolic`` brought to one normal form, simplified under loop ranges.

Comes in: an expression over loop variables, and the range ``[0, n)`` of each. Goes out: an equal expression in normal
form (a sum of products, constants last), its bounds, its parts. Promised: what is returned has the same value at every
point of the ranges (floor division and modulus as Python has them); equal sums have equal normal forms; a question that
cannot be decided is answered with no, never with a guess, and asks nothing of anybody.

A variable without a range is any whole number. Loop variables, sizes and values that a loop has loaded are all symbols.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache

from lowtide.ir.symbolic import Dim, Expr, evaluate, symbol, symbols_of

Product = tuple[Expr, ...]
Ranges = Mapping[str, int]
_EVERYTHING: Ranges = {}


@lru_cache(maxsize=1 << 16)
def _terms(e: Dim) -> tuple[tuple[Product, int], ...]:
    """A sum of products: pairs of sorted atoms and coefficient; the constant has no atoms."""
    if isinstance(e, int):
        return (((), e),) if e else ()
    if e.op == "+":
        total: dict[Product, int] = {}
        for a in e.args:
            for p, c in _terms(_dim(a)):
                total[p] = total.get(p, 0) + c
        return _sorted(total)
    if e.op == "*":
        out: dict[Product, int] = {(): 1}
        for a in e.args:
            step: dict[Product, int] = {}
            for p, c in out.items():
                for q, d in _terms(_dim(a)):
                    joined = tuple(sorted((*p, *q), key=_key)) if p and q else p or q
                    step[joined] = step.get(joined, 0) + c * d
            out = step
        return _sorted(out)
    return (((e,), 1),)


def _dim(a: Dim | str) -> Dim:
    assert not isinstance(a, str)
    return a


@lru_cache(maxsize=1 << 16)
def _key(e: Expr) -> tuple[int, str]:
    return (0 if e.op == "sym" else 1, str(e))


def _sorted(terms: Mapping[Product, int]) -> tuple[tuple[Product, int], ...]:
    kept = [(p, c) for p, c in terms.items() if c]
    return tuple(kept) if len(kept) < 2 else tuple(sorted(kept, key=lambda t: (not t[0], tuple(map(_key, t[0])))))


def _sum(terms: Iterable[tuple[Product, int]]) -> Dim:
    parts: list[Dim] = []
    for p, c in terms:
        if not p:
            parts.append(c)
        elif c == 1 and len(p) == 1:
            parts.append(p[0])
        else:
            parts.append(Expr("*", (*p, c) if c != 1 else p))
    return 0 if not parts else parts[0] if len(parts) == 1 else Expr("+", tuple(parts))


def add(*parts: Dim) -> Dim:
    """The sum in normal form."""
    kept = tuple(p for p in parts if p != 0)
    return 0 if not kept else kept[0] if len(kept) == 1 else _sum(_terms(Expr("+", kept)))


def mul(a: Dim, b: Dim) -> Dim:
    """The product in normal form."""
    if a == 0 or b == 0:
        return 0
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    return a if b == 1 else b if a == 1 else _sum(_terms(Expr("*", (a, b))))


def bounds(e: Dim, ranges: Ranges) -> tuple[int | None, int | None]:
    """Least and greatest value over the ranges, each None where there is none that we know."""
    lo: int | None = 0
    hi: int | None = 0
    for p, c in _terms(e):
        a, b = _product_bounds(p, ranges)
        if c < 0:
            a, b = b, a
        lo = None if lo is None or a is None else lo + a * c
        hi = None if hi is None or b is None else hi + b * c
    return lo, hi


def _product_bounds(p: Product, ranges: Ranges) -> tuple[int | None, int | None]:
    lo = 1
    hi: int | None = 1
    for atom in p:
        a, b = _atom_bounds(atom, ranges)
        if a is None or a < 0:
            return (a, b) if len(p) == 1 else (None, None)
        lo, hi = lo * a, None if hi is None or b is None else hi * b
    return lo, hi


def _atom_bounds(atom: Expr, ranges: Ranges) -> tuple[int | None, int | None]:
    if atom.op == "sym":
        n = ranges.get(str(atom.args[0]))
        return (0, max(n - 1, 0)) if n is not None else (None, None)
    first, *rest = (bounds(_dim(a), ranges) for a in atom.args)
    if atom.op == "max":
        highs = [b for _, b in (first, *rest)]
        lows = [a for a, _ in (first, *rest) if a is not None]
        return max(lows, default=None), None if None in highs else max(b for b in highs if b is not None)
    if atom.op == "min":
        lows_ = [a for a, _ in (first, *rest)]
        highs_ = [b for _, b in (first, *rest) if b is not None]
        return None if None in lows_ else min(a for a in lows_ if a is not None), min(highs_, default=None)
    n = atom.args[1] if len(atom.args) == 2 else None
    if not isinstance(n, int) or n <= 0:
        return None, None
    lo, hi = first
    if atom.op == "//":
        return None if lo is None else lo // n, None if hi is None else hi // n
    if atom.op == "%":
        inside = lo is not None and hi is not None and lo // n == hi // n
        return (lo % n, hi % n) if inside and lo is not None and hi is not None else (0, n - 1)
    if atom.op == "ceildiv":
        return None if lo is None else -(-lo // n), None if hi is None else -(-hi // n)
    return None, None


def floordiv(e: Dim, n: Dim, ranges: Ranges = _EVERYTHING) -> Dim:
    """``e // n`` in normal form."""
    if isinstance(e, int) and isinstance(n, int) and n:
        return e // n
    if n == 1:
        return e
    if not isinstance(n, int) or n <= 0:
        return Expr("//", (e, n))
    whole, rest = _parted(e, n)
    lo, hi = bounds(rest, ranges)
    if lo is not None and hi is not None and lo // n == hi // n:
        return add(whole, lo // n)
    return add(whole, _divided(rest, n, ranges))


def _divided(rest: Dim, n: int, ranges: Ranges) -> Dim:
    """``rest // n`` where nothing of it is whole: smaller numbers, or (x // a) // b as one."""
    if (found := _common(rest, n, ranges)) is not None:
        g, big, _ = found
        return floordiv(big, n // g, ranges)
    terms = _terms(rest)
    if len(terms) == 1 and terms[0][1] == 1 and len(terms[0][0]) == 1:
        atom = terms[0][0][0]
        if atom.op == "//" and isinstance(atom.args[1], int) and atom.args[1] > 0:
            return floordiv(_dim(atom.args[0]), atom.args[1] * n, ranges)
    return Expr("//", (rest, n))


def _common(rest: Dim, n: int, ranges: Ranges) -> tuple[int, Dim, Dim] | None:
    """``rest`` as ``g * big + little`` with g > 1 that divides n, and ``little`` in ``[0, g)``."""
    terms = _terms(rest)
    for g in sorted({_gcd(n, c) for p, c in terms if p} | {_gcd(n, _gcd_of(c for p, c in terms if p))}, reverse=True):
        if g < 2:
            continue
        big = [(p, c // g) for p, c in terms if c % g == 0 or not p]
        little = _sum((p, c % g if not p else c) for p, c in terms if c % g)
        lo, hi = bounds(little, ranges)
        if lo is not None and hi is not None and lo >= 0 and hi < g:
            return g, _sum((p, c) for p, c in big if c), little
    return None


def _gcd_of(numbers: Iterable[int]) -> int:
    g = 0
    for c in numbers:
        g = _gcd(g, c)
    return g


def modulo(e: Dim, n: Dim, ranges: Ranges = _EVERYTHING) -> Dim:
    """``e % n`` in normal form."""
    if isinstance(e, int) and isinstance(n, int) and n:
        return e % n
    if n == 1:
        return 0
    if not isinstance(n, int) or n <= 0:
        return Expr("%", (e, n))
    _, rest = _parted(e, n)
    lo, hi = bounds(rest, ranges)
    if lo is not None and hi is not None and lo // n == hi // n:
        return add(rest, -n * (lo // n))
    if (found := _common(rest, n, ranges)) is not None:
        g, big, little = found
        return add(mul(g, modulo(big, n // g, ranges)), little)
    return Expr("%", (rest, n))


def _gcd(a: int, b: int) -> int:
    while b:
        a, b = b, a % b
    return abs(a)


def _parted(e: Dim, n: int) -> tuple[Dim, Dim]:
    """``e`` as ``n * whole + rest``, term by term; the constant's rest lies in ``[0, n)``."""
    whole: list[tuple[Product, int]] = []
    rest: list[tuple[Product, int]] = []
    for p, c in _terms(e):
        q, r = (c // n, c % n) if not p or c % n == 0 else (0, c)
        whole += [(p, q)] if q else []
        rest += [(p, r)] if r else []
    return _sum(whole), _sum(rest)


def simplify(e: Dim, ranges: Ranges = _EVERYTHING) -> Dim:
    """The normal form of any expression."""
    return substitute(e, {}, ranges)


def substitute(e: Dim, values: Mapping[str, Dim], ranges: Ranges = _EVERYTHING) -> Dim:
    """``e`` with symbols replaced, in normal form under the ranges of what stands there now.

    Recursive over the nesting of divisions, which index arithmetic keeps shallow.
    """
    if isinstance(e, int):
        return e
    if e.op == "sym":
        return values.get(str(e.args[0]), e)
    if (found := _recombined(e, values)) is not None:
        return found
    args = [substitute(_dim(a), values, ranges) for a in e.args]
    if e.op == "+":
        return _sum(_terms(Expr("+", tuple(args))))
    if e.op == "*":
        return _sum(_terms(Expr("*", tuple(args))))
    if e.op in ("//", "%") and len(args) == 2:
        return (floordiv if e.op == "//" else modulo)(args[0], args[1], ranges)
    if all(isinstance(a, int) for a in args):
        return evaluate(Expr(e.op, tuple(args)), {})
    return Expr(e.op, tuple(args))


def _recombined(e: Dim, values: Mapping[str, Dim]) -> Dim | None:
    """What ``substitute`` gives where a sum of multiples of symbols stays one; else None."""
    found = affine(e)
    if found is None:
        return None
    out: dict[str, int] = {}
    constant = found[1]
    for name, c in found[0].items():
        part = affine(values[name]) if name in values else ({name: 1}, 0)
        if part is None:
            return None
        for other, d in part[0].items():
            out[other] = out.get(other, 0) + c * d
        constant += c * part[1]
    return _multiples(tuple(sorted((n, c) for n, c in out.items() if c)), constant)


@lru_cache(maxsize=1 << 16)
def _multiples(terms: tuple[tuple[str, int], ...], constant: int) -> Dim:
    """The sum of multiples of symbols, which come sorted by name, and of a number in normal form."""
    return _sum([*(((symbol(n),), c) for n, c in terms), *([((), constant)] if constant else [])])


@lru_cache(maxsize=1 << 16)
def affine(e: Dim) -> tuple[Mapping[str, int], int] | None:
    """Coefficient of each symbol and the constant, where ``e`` is a sum of multiples of symbols; else None."""
    out: dict[str, int] = {}
    constant = 0
    for p, c in _terms(e):
        if not p:
            constant = c
        elif len(p) == 1 and p[0].op == "sym":
            out[str(p[0].args[0])] = c
        else:
            return None
    return out, constant


@lru_cache(maxsize=1 << 16)
def divisions(e: Dim) -> tuple[Expr, ...]:
    """All ``//`` and ``%`` within ``e``, innermost first."""
    out: dict[Expr, None] = {}
    todo: list[Dim] = [e]
    while todo:
        d = todo.pop()
        if isinstance(d, Expr) and d.op != "sym":
            if d.op in ("//", "%"):
                out[d] = None
            todo.extend(a for a in d.args if not isinstance(a, str))
    return tuple(reversed(out))


def known_equal(a: Dim, b: Dim, ranges: Ranges = _EVERYTHING) -> bool:
    """Whether they are equal at every point, as far as we can tell."""
    return a == b or bounds(add(a, mul(-1, b)), ranges) == (0, 0)


def known_less(a: Dim, b: Dim, ranges: Ranges = _EVERYTHING) -> bool:
    """Whether ``a < b`` at every point, as far as we can tell."""
    lo, _ = bounds(add(b, mul(-1, a)), ranges)
    return lo is not None and lo > 0


def known_multiple(e: Dim, n: int) -> bool:
    """Whether ``e`` is a multiple of ``n`` at every point, as far as we can tell."""
    return all(c % n == 0 for _, c in _terms(e))


def unflatten(offset: Dim, size: tuple[Dim, ...], stride: tuple[Dim, ...], ranges: Ranges) -> tuple[Dim, ...] | None:
    """The index at which a layout without gaps or overlaps has ``offset``; None for other layouts."""
    order = sorted((d for d in range(len(size)) if size[d] != 1), key=lambda d: _int(stride[d]))
    expected = 1
    out: list[Dim] = [0] * len(size)
    for k, d in enumerate(order):
        if stride[d] != expected or size[d] == 0:
            return None
        quotient = floordiv(offset, expected, ranges)
        out[d] = quotient if k == len(order) - 1 else modulo(quotient, _int(size[d]), ranges)
        expected *= _int(size[d])
    return tuple(out)


def _int(d: Dim) -> int:
    assert isinstance(d, int)
    return d


def flatten(index: Iterable[Dim], stride: Iterable[Dim], offset: Dim = 0) -> Dim:
    """The element that a strided layout has at ``index``."""
    return add(offset, *(mul(i, s) for i, s in zip(index, stride, strict=True)))


def uses(e: Dim, names: Iterable[str]) -> bool:
    """Whether any of ``names`` occurs."""
    return not symbols_of(e).isdisjoint(names)

"""Index arithmetic against brute force over small ranges."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowtide.ir.index import (
    add,
    affine,
    bounds,
    flatten,
    floordiv,
    known_equal,
    known_less,
    known_multiple,
    modulo,
    mul,
    simplify,
    substitute,
    unflatten,
)  # fmt: skip
from lowtide.ir.symbolic import Dim, Expr, evaluate, symbol

RANGES = {"a": 3, "b": 4, "c": 6}
POINTS = [dict(zip("abc", p, strict=True)) for p in itertools.product(*(range(n) for n in RANGES.values()))]


def expressions() -> st.SearchStrategy[Dim]:
    leaves = st.one_of(st.sampled_from([symbol(n) for n in "abc"]), st.integers(-9, 30))
    divisors = st.sampled_from([1, 2, 3, 4, 5, 6, 8, 12, 24])

    def grow(e: st.SearchStrategy[Dim]) -> st.SearchStrategy[Dim]:
        return st.one_of(
            st.tuples(e, e).map(lambda p: Expr("+", p)),
            st.tuples(e, st.integers(-5, 24)).map(lambda p: Expr("*", p)),
            st.tuples(st.sampled_from(["//", "%"]), e, divisors).map(lambda p: Expr(p[0], (p[1], p[2]))),
            st.tuples(st.sampled_from(["max", "min"]), e, e).map(lambda p: Expr(p[0], (p[1], p[2]))),
        )

    return st.recursive(leaves, grow, max_leaves=8)


@pytest.mark.spec("DP-11", "IR-24")
@settings(deadline=None, max_examples=300)
@given(expressions())
def test_simplified_has_the_same_value_at_every_point(e: Dim):
    s = simplify(e, RANGES)
    lo, hi = bounds(s, RANGES)
    for p in POINTS:
        value = evaluate(e, p)
        assert evaluate(s, p) == value
        assert (lo is None or lo <= value) and (hi is None or value <= hi)
    assert simplify(s, RANGES) == s


@pytest.mark.spec("DP-11")
@settings(deadline=None, max_examples=200)
@given(expressions(), expressions(), st.integers(1, 8))
def test_what_is_known_is_true(e: Dim, f: Dim, n: int):
    e, f = simplify(e, RANGES), simplify(f, RANGES)
    values = [(evaluate(e, p), evaluate(f, p)) for p in POINTS]
    assert not known_less(e, f, RANGES) or all(x < y for x, y in values)
    assert not known_equal(e, f, RANGES) or all(x == y for x, y in values)
    assert not known_multiple(e, n) or all(x % n == 0 for x, _ in values)


@pytest.mark.spec("DP-11")
def test_questions_about_unknown_sizes_are_answered_no():
    n = symbol("n")
    assert not known_less(n, 10) and not known_less(10, n) and not known_equal(n, 1)
    assert known_equal(add(n, n), mul(n, 2)) and known_multiple(mul(n, 6), 3) and known_less(n, add(n, 1))


def factorizations(n: int) -> list[tuple[int, ...]]:
    out = [(n,)]
    for d in range(2, n):
        if n % d == 0:
            out += [(d, *rest) for rest in factorizations(n // d)]
    return out


@pytest.mark.spec("IR-24")
def test_every_reshape_of_24_elements():
    for old, new in itertools.product(factorizations(24), repeat=2):
        names = [f"x{k}" for k in range(len(new))]
        ranges = dict(zip(names, new, strict=True))
        offset = flatten([symbol(n) for n in names], _strides(new))
        found = unflatten(offset, old, _strides(old), ranges)
        assert found is not None
        for k, p in enumerate(itertools.product(*(range(n) for n in new))):
            expected = [k // math.prod(old[d + 1 :]) % old[d] for d in range(len(old))]
            assert [evaluate(i, dict(zip(names, p, strict=True))) for i in found] == expected


def _strides(size: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(size[d + 1 :]) for d in range(len(size)))


def test_a_merged_dimension_is_split_without_a_division_left():
    i, j = symbol("i"), symbol("j")
    offset = add(mul(i, 384), j)
    assert unflatten(offset, (4, 256, 384), (98304, 384, 1), {"i": 1024, "j": 384}) == (
        floordiv(i, 256), modulo(i, 256), j,
    )  # fmt: skip
    assert unflatten(0, (3, 4), (5, 1), {}) is None  # gaps
    assert unflatten(0, (3, 4), (0, 1), {}) is None  # overlaps


def test_normal_form():
    i, j = symbol("i"), symbol("j")
    assert add(i, j, mul(i, 2)) == add(mul(i, 3), j)
    assert floordiv(add(mul(i, 8), j), 8, {"j": 8}) == i
    assert modulo(add(mul(i, 8), j), 8, {"j": 8}) == j
    assert floordiv(floordiv(i, 3), 5) == floordiv(i, 15)
    assert affine(add(mul(i, 3), 7)) == ({"i": 3}, 7)
    assert affine(floordiv(i, 3)) is None
    assert substitute(floordiv(i, 4), {"i": add(mul(i, 4), j)}, {"j": 4}) == i

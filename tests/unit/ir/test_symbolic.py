"""Size expressions: their value against plain Python, their text, and what is refused."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.core.errors import VerifyError
from lowtide.ir.symbolic import Dim, Expr, evaluate, parse_dim, symbol, symbols_of
from strategies import dims

BINDINGS = st.fixed_dictionaries({"s0": st.integers(1, 9), "s1": st.integers(1, 9)})


def ceildiv(a: int, b: int) -> int:
    return (a + b - 1) // b  # for a and b that are not negative


@given(dims(), BINDINGS)
def test_value_is_what_python_computes_from_the_text(d: Dim, bindings: dict[str, int]):
    names = {"max": max, "min": min, "pow": pow, "ceildiv": ceildiv}
    assert evaluate(d, bindings) == eval(str(d), names, bindings)


@given(dims())
def test_text_parses_back(d: Dim):
    assert parse_dim(str(d)) == d
    assert parse_dim(f" {str(d).replace(',', ' , ')} ") == d


@given(dims())
def test_symbols_are_those_in_the_text(d: Dim):
    assert symbols_of(d) == frozenset(re.findall(r"\bs\d", str(d)))


def test_rounding_is_towards_minus_infinity():
    s = symbol("s")
    for a in range(-7, 8):
        for b in (-3, -2, 2, 3):
            whole = {"s": a}
            assert evaluate(Expr("//", (s, b)), whole) == a // b
            assert evaluate(Expr("%", (s, b)), whole) == a % b
            assert evaluate(Expr("ceildiv", (s, b)), whole) == -((-a) // b)


def test_folding_goes_from_the_left():
    assert evaluate(parse_dim("(100//7//2)"), {}) == 7
    assert evaluate(parse_dim("(100%7%2)"), {}) == 0


@pytest.mark.parametrize(
    "text",
    ["", " ", "(", ")", "()", "(s0", "s0)", "(s0+)", "(+s0)", "s0+1", "(s0-1)", "(s0+1*2)", "(s0,1)", "max(s0)",
     "max(s0+1)", "max", "max s0", "1.5", "s0 s1", "1 2", "--1", "é", "(s0/2)", "%x", "None", "9" * 5000],
)  # fmt: skip
def test_what_is_no_size_is_refused(text: str):
    with pytest.raises(VerifyError) as refused:
        parse_dim(text)
    assert refused.value.clause == "syntax"
    assert len(str(refused.value)) < 300


@pytest.mark.parametrize(
    ("text", "clause"),
    [("s9", "symbol"), ("(s0//(s0+-2))", "expression"), ("(5%0)", "expression"), ("ceildiv(s0, 0)", "expression"),
     ("pow(2, -1)", "expression"), ("pow(2, 1000000000)", "expression")],
)  # fmt: skip
def test_what_has_no_value_is_refused(text: str, clause: str):
    with pytest.raises(VerifyError) as refused:
        evaluate(parse_dim(text), {"s0": 2})
    assert refused.value.clause == clause


def test_depth_has_no_limit():
    d: Dim = symbol("s0")
    for _ in range(20_000):
        d = Expr("+", (d, 1))
    text = str(d)
    assert evaluate(d, {"s0": 1}) == 20_001
    assert symbols_of(d) == {"s0"}
    assert str(parse_dim(text)) == text

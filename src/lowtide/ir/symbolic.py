"""Whole-number expressions over named sizes: what a dimension, stride or argument may be beside a plain int.

An expression is a frozen tree; ``evaluate`` needs a value for every symbol in it. Its text form (``(s0*4)//2``) parses
back to an equal tree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from lowtide.core.errors import VerifyError

_INFIX = ("+", "*", "//", "%")
_CALLS = ("max", "min", "ceildiv", "pow")


@dataclass(frozen=True, slots=True)
class Expr:
    """``op`` over ``args``: ``sym`` has its name as the one argument; the others are ``+ * // %``, max, min, ceildiv, pow."""

    op: str
    args: tuple[Dim | str, ...]

    def __str__(self) -> str:
        if self.op == "sym":
            return str(self.args[0])
        if self.op in _CALLS:
            return f"{self.op}({', '.join(map(str, self.args))})"
        return "(" + self.op.join(map(str, self.args)) + ")"


Dim = int | Expr


def symbol(name: str) -> Expr:
    """The symbol of that name."""
    return Expr("sym", (name,))


def symbols_of(dim: Dim) -> frozenset[str]:
    """Names of the symbols in an expression."""
    if isinstance(dim, int):
        return frozenset()
    if dim.op == "sym":
        return frozenset((str(dim.args[0]),))
    return frozenset().union(*(symbols_of(a) for a in dim.args if not isinstance(a, str)))


def evaluate(dim: Dim, bindings: Mapping[str, int]) -> int:
    """Value under ``bindings``.

    Raises:
        VerifyError: a symbol has no binding.
    """
    if isinstance(dim, int):
        return dim
    if dim.op == "sym":
        name = str(dim.args[0])
        if name not in bindings:
            raise VerifyError("symbol", f"size {name} is used before it is bound")
        return bindings[name]
    first, *rest = [evaluate(a, bindings) for a in dim.args if not isinstance(a, str)]
    for x in rest:
        match dim.op:
            case "+":
                first += x
            case "*":
                first *= x
            case "//":
                first //= x
            case "%":
                first %= x
            case "max":
                first = max(first, x)
            case "min":
                first = min(first, x)
            case "ceildiv":
                first = -(-first // x)
            case "pow":
                first = int(first**x)
            case _:
                raise VerifyError("symbol", f"unknown operation {dim.op!r} in {dim}")
    return first


_TOKEN = re.compile(r"\s*(-?\d+|[A-Za-z_]\w*|//|[-+*%(),])")


def parse_dim(text: str) -> Dim:
    """The expression of its text form.

    Raises:
        VerifyError: not an expression.
    """
    tokens = _TOKEN.findall(text)
    if "".join(tokens) != re.sub(r"\s", "", text) or not tokens:
        raise VerifyError("syntax", f"{text!r} is not a size")
    dim, rest = _parse(tokens, text)
    if rest:
        raise VerifyError("syntax", f"{text!r} is not a size: {rest[0]!r} is left over")
    return dim


def _parse(tokens: list[str], text: str) -> tuple[Dim, list[str]]:
    if not tokens:
        raise VerifyError("syntax", f"{text!r} ends early")
    head, rest = tokens[0], tokens[1:]
    if re.fullmatch(r"-?\d+", head):
        return int(head), rest
    if head in _CALLS or head == "(":
        if head != "(":
            rest = rest[1:]
        args: list[Dim | str] = []
        op = head if head != "(" else ""
        while True:
            arg, rest = _parse(rest, text)
            args.append(arg)
            if not rest or rest[0] not in (*_INFIX, ",", ")"):
                raise VerifyError("syntax", f"{text!r} is not a size")
            if rest[0] == ")":
                return Expr(op, tuple(args)) if len(args) > 1 else arg, rest[1:]
            if head == "(":
                op = rest[0]
            rest = rest[1:]
    if re.fullmatch(r"[A-Za-z_]\w*", head):
        return symbol(head), rest
    raise VerifyError("syntax", f"{text!r} is not a size")

"""Whole-number expressions over named sizes: what a dimension, stride or argument may be beside a plain int.

Comes in: a capture's symbolic sizes, or text. Goes out: frozen trees, their value under bindings, their text. Promised:
the text form (``((s0*4)//2)``) parses back to an equal tree; nothing here depends on how deep a tree is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

from lowtide.core.errors import VerifyError

_INFIX = ("+", "*", "//", "%")
_CALLS = ("max", "min", "ceildiv", "pow")
_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_MAX_EXPONENT = 64  # a size is below 2**63; more is a mistake that would take forever

# Words that mean something else in the text form, so that no symbol may have them as its name.
RESERVED = frozenset((*_CALLS, "None", "True", "False", "inf", "nan", "_"))


@dataclass(frozen=True, slots=True)
class Expr:
    """``op`` over ``args``.

    ``sym`` has its name as the one argument; the others (``+ * // %``, max, min, ceildiv, pow) fold at least two
    arguments from the left. ``//`` and ``%`` round towards minus infinity.

    Raises:
        VerifyError: ``expression``, an operation, a number of arguments or a name that cannot be.
    """

    op: str
    args: tuple[Dim | str, ...]
    hashed: int = field(init=False, repr=False, compare=False)  # expressions are asked for in tables very often

    def __post_init__(self) -> None:
        if self.op == "sym":
            name = self.args[0] if len(self.args) == 1 else None
            if not isinstance(name, str) or not _NAME.fullmatch(name) or name in RESERVED:
                raise VerifyError("expression", f"{self.args!r} is not the name of a size")
        elif self.op not in _INFIX and self.op not in _CALLS:
            raise VerifyError("expression", f"there is no operation {self.op!r} on sizes")
        elif len(self.args) < 2 or any(isinstance(a, str) for a in self.args):
            raise VerifyError("expression", f"{self.op!r} takes two or more sizes, not {self.args!r}")
        object.__setattr__(self, "hashed", hash((self.op, self.args)))

    def __hash__(self) -> int:
        return self.hashed

    def __str__(self) -> str:
        return _text(self)


Dim = int | Expr


@lru_cache(maxsize=1 << 12)
def symbol(name: str) -> Expr:
    """The symbol of that name. Raises VerifyError where it is no name, or a word that means something else."""
    return Expr("sym", (name,))


def _operands_first(dim: Dim) -> Iterator[Dim]:
    """Every node of the tree, operands before the operation on them, from the left."""
    todo, order = [dim], list[Dim]()
    while todo:
        d = todo.pop()
        order.append(d)
        if isinstance(d, Expr) and d.op != "sym":
            todo.extend(a for a in d.args if not isinstance(a, str))
    return reversed(order)


def _text(dim: Dim) -> str:
    done: list[str] = []
    for d in _operands_first(dim):
        if isinstance(d, int):
            done.append(str(d))
        elif d.op == "sym":
            done.append(str(d.args[0]))
        else:
            args = done[-len(d.args) :]
            del done[-len(d.args) :]
            done.append(f"{d.op}({', '.join(args)})" if d.op in _CALLS else f"({d.op.join(args)})")
    return done[0]


def symbols_of(dim: Dim) -> frozenset[str]:
    """Names of the symbols in an expression."""
    return frozenset[str]() if isinstance(dim, int) else _symbols_of(dim)


@lru_cache(maxsize=1 << 16)
def _symbols_of(dim: Expr) -> frozenset[str]:
    return frozenset(str(d.args[0]) for d in _operands_first(dim) if isinstance(d, Expr) and d.op == "sym")


def evaluate(dim: Dim, bindings: Mapping[str, int]) -> int:
    """Value under ``bindings``.

    Raises:
        VerifyError: ``symbol``, one has no binding; ``expression``, it has no whole value (division by 0, an exponent
            below 0 or far beyond any size).
    """
    if isinstance(dim, int):
        return dim
    done: list[int] = []
    for d in _operands_first(dim):
        if isinstance(d, int):
            done.append(d)
        elif d.op == "sym":
            name = str(d.args[0])
            if name not in bindings:
                raise VerifyError("symbol", f"size {name} is used before it is bound")
            done.append(bindings[name])
        else:
            first, *rest = done[-len(d.args) :]
            del done[-len(d.args) :]
            for x in rest:
                first = _apply(d, first, x)
            done.append(first)
    return done[0]


def _apply(e: Expr, a: int, b: int) -> int:
    match e.op:
        case "+":
            return a + b
        case "*":
            return a * b
        case "//" | "%" | "ceildiv" if b == 0:
            raise VerifyError("expression", f"{e} divides by 0")
        case "//":
            return a // b
        case "%":
            return a % b
        case "ceildiv":
            return -(-a // b)
        case "max":
            return max(a, b)
        case "min":
            return min(a, b)
        case "pow" if 0 <= b <= _MAX_EXPONENT:
            return a**b
        case _:
            raise VerifyError("expression", f"{e} has the exponent {b}, which no size has")


_TOKEN = re.compile(r"\s*(-?\d+|[A-Za-z_]\w*|//|[-+*%(),])", re.ASCII)


def parse_dim(text: str) -> Dim:
    """The expression of its text form.

    Raises:
        VerifyError: ``syntax``, not an expression.
    """
    tokens: list[str] = _TOKEN.findall(text)
    if "".join(tokens) != re.sub(r"\s", "", text) or not tokens:
        raise _not_a_size(text, "it holds something else")
    open_: list[tuple[str, str, list[Dim]]] = []  # (call or "(", operation, operands so far)
    at = 0
    while True:
        head, at = _token(tokens, at, text)
        if head == "(" or (head in _CALLS and tokens[at : at + 1] == ["("]):
            open_.append((head, head if head != "(" else "", []))
            at += head != "("
            continue
        done = _operand(head, text)
        while True:  # an operand is complete: close what it closes
            if not open_:
                if at < len(tokens):
                    raise _not_a_size(text, f"{tokens[at]!r} is left over")
                return done
            head, op, args = open_.pop()
            args.append(done)
            word, at = _token(tokens, at, text)
            if word != ")":
                op = _next_operation(head, op, word, text)
                open_.append((head, op, args))
                break
            if head != "(" and len(args) < 2:
                raise _not_a_size(text, f"{head} takes two or more sizes")
            done = Expr(op, tuple(args)) if len(args) > 1 else args[0]


def _token(tokens: list[str], at: int, text: str) -> tuple[str, int]:
    if at == len(tokens):
        raise _not_a_size(text, "it ends early")
    return tokens[at], at + 1


def _operand(word: str, text: str) -> Dim:
    if _NAME.fullmatch(word) and word not in RESERVED:
        return symbol(word)
    try:
        return int(word)
    except ValueError:
        raise _not_a_size(text, f"{word[:20]!r} is neither a number nor the name of a size") from None


def _next_operation(head: str, op: str, word: str, text: str) -> str:
    """The operation of the group ``head`` after ``word`` was met between two operands."""
    fits = word == "," if head != "(" else word in _INFIX and op in ("", word)
    if not fits:
        raise _not_a_size(text, f"{word!r} does not fit here (one kind of operation per pair of brackets)")
    return op if head != "(" else word


def _not_a_size(text: str, because: str) -> VerifyError:
    return VerifyError("syntax", f"{text[:80]!r} is not a size: {because}")

"""Scalar arithmetic while a loop is built: numbers of instructions that can be added and compared like numbers.

Comes in: a ``LoopBuilder``. Goes out: instructions in it. Promised: both operands of an operation have one dtype (a
Python number takes the other's); half types are computed in f32 and rounded only where a cast says so.
"""

from __future__ import annotations

from dataclasses import dataclass

from lowtide.core.errors import BugError
from lowtide.ir.build import LoopBuilder, constant_value

Number = int | float | bool

INTEGERS = frozenset(["u8", "i8", "i16", "i32", "i64", "u16", "u32", "u64"])
HALVES = frozenset(("f16", "bf16"))
FLOATS = frozenset(("f16", "bf16", "f32", "f64"))


def computed_in(dtype: str) -> str:
    """The dtype in which values of a dtype are computed: f32 for half types, the dtype itself for others."""
    return "f32" if dtype in HALVES else dtype


@dataclass(frozen=True, slots=True, eq=False)
class Scalar:
    """The result of an instruction."""

    b: LoopBuilder
    n: int

    @property
    def dtype(self) -> str:
        """Its dtype."""
        return self.b.dtype(self.n)

    def to(self, dtype: str) -> Scalar:
        """In another dtype."""
        return Scalar(self.b, self.b.cast(self.n, dtype))

    def bits(self, dtype: str) -> Scalar:
        """Its bits as a number of another dtype of the same width."""
        return Scalar(self.b, self.b.op("bitcast", dtype, self.n))

    def same(self, other: Scalar | Number) -> Scalar:
        """``other`` in this one's dtype."""
        if isinstance(other, Scalar):
            if other.dtype != self.dtype:
                raise BugError(f"a lowering rule mixes {self.dtype} and {other.dtype}")
            return other
        return Scalar(self.b, self.b.const(self.dtype, other))

    def of(self, op: str, *others: Scalar | Number) -> Scalar:
        """An operation on this and others, which gives this one's dtype."""
        return Scalar(self.b, self.b.op(op, self.dtype, self.n, *(self.same(o).n for o in others)))

    def test(self, op: str, *others: Scalar | Number) -> Scalar:
        """An operation that gives a truth value."""
        return Scalar(self.b, self.b.op(op, "bool", self.n, *(self.same(o).n for o in others)))

    @property
    def number(self) -> float | None:
        """Its value, where it is a constant."""
        x = self.b.body[self.n]
        return constant_value(x) if x.op == "const" else None

    def __add__(self, o: Scalar | Number) -> Scalar:
        return self.of("add", o)

    def __radd__(self, o: Number) -> Scalar:
        return self.same(o).of("add", self)

    def __sub__(self, o: Scalar | Number) -> Scalar:
        return self.of("sub", o)

    def __rsub__(self, o: Number) -> Scalar:
        return self.same(o).of("sub", self)

    def __mul__(self, o: Scalar | Number) -> Scalar:
        return self.of("mul", o)

    def __rmul__(self, o: Number) -> Scalar:
        return self.same(o).of("mul", self)

    def __truediv__(self, o: Scalar | Number) -> Scalar:
        return self.of("div", o)

    def __rtruediv__(self, o: Number) -> Scalar:
        return self.same(o).of("div", self)

    def __neg__(self) -> Scalar:
        return self.of("neg")

    def __and__(self, o: Scalar | Number) -> Scalar:
        return self.of("and", o)

    def __or__(self, o: Scalar | Number) -> Scalar:
        return self.of("or", o)

    def __invert__(self) -> Scalar:
        return self.of("not")

    def __lt__(self, o: Scalar | Number) -> Scalar:
        return self.test("lt", o)

    def __le__(self, o: Scalar | Number) -> Scalar:
        return self.test("le", o)

    def __gt__(self, o: Scalar | Number) -> Scalar:
        return self.test("gt", o)

    def __ge__(self, o: Scalar | Number) -> Scalar:
        return self.test("ge", o)

    def equals(self, o: Scalar | Number) -> Scalar:
        """Whether they are equal."""
        return self.test("eq", o)

    def differs(self, o: Scalar | Number) -> Scalar:
        """Whether they are not equal (true for NaN)."""
        return self.test("ne", o)

    def max(self, o: Scalar | Number) -> Scalar:
        """The greater, or NaN."""
        return self.of("max", o)

    def min(self, o: Scalar | Number) -> Scalar:
        """The lesser, or NaN."""
        return self.of("min", o)


def where(condition: Scalar, yes: Scalar | Number, no: Scalar | Number) -> Scalar:
    """``yes`` where the condition holds, else ``no``; one of them is a Scalar."""
    if not isinstance(yes, Scalar):
        assert isinstance(no, Scalar)
        yes = no.same(yes)
    no = yes.same(no)
    b = condition.b
    return Scalar(b, b.op("where", yes.dtype, condition.n, yes.n, no.n))

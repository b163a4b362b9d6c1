"""A loop with the values that it works on, how much it computes, and how finely.

Comes in: a loop. Goes out: the same with names for its buffers, for passes that make one loop of several.
"""

from __future__ import annotations

from dataclasses import dataclass

from lowtide.ir.graph import Op, refs_in
from lowtide.ir.index import divisions
from lowtide.ir.loops import CURVES, Loop


@dataclass(frozen=True, slots=True)
class Task:
    """A loop and the values of its buffers: those it is given, then those it makes."""

    loop: Loop
    given: tuple[str, ...]
    makes: tuple[str, ...]

    @property
    def values(self) -> tuple[str, ...]:
        """Values of its buffers, in the order of their numbers."""
        return (*self.given, *self.makes)

    @property
    def changes(self) -> tuple[str, ...]:
        """Values of those it is given that it writes."""
        return tuple(n for k, n in enumerate(self.given) if k in self.loop.written)


def task_of(op: Op, loop: Loop) -> Task:
    """The loop of an operation, and that one's values."""
    given = tuple(n for a in op.args for n in refs_in(a))
    return Task(loop, given, tuple(o for o in op.outputs if o is not None))


def divided(loop: Loop) -> int:
    """How many divisions its indices hold."""
    return sum(len(divisions(x.index)) for x in loop.body if x.index is not None)


def weight(loop: Loop) -> int:
    """How much a point of a loop computes: 10 for what takes a polynomial, 1 for the rest, nothing for constants."""
    return sum(10 if x.op in HEAVY else x.op not in FREE for x in loop.body)


def in_low_precision(loop: Loop) -> bool:
    """Whether a loop holds fractions, and none of them anywhere in more than 16 bits: it moves them, since arithmetic on half
    types is in f32."""
    kinds = {x.dtype for x in loop.body}
    return not kinds.isdisjoint(("f16", "bf16")) and kinds.isdisjoint(("f32", "f64"))


HEAVY = CURVES | {"pow", "atan2", "hypot", "fmod", "mod", "floordiv", "gcd"}
FREE = frozenset(("load", "store", "const", "index", "cast", "bitcast"))

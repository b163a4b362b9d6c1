"""Block: a program whose sizes may depend on data, as lines in the order in which they run.

Comes from ``executor.capture``; goes to ``executor.lives`` (what shares bytes) and ``executor.emit`` (code). Promised:
frozen, no torch; every symbol is bound by an input or by exactly one line before a line needs it, or is ``free``: then
the surrounding block hands it in. Branches and loop bodies are blocks of their own inside a line.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from lowtide.ir.graph import TRUSTED, Arg, Expr, Graph, Op, Ref, refs_in
from lowtide.ir.symbolic import symbols_of

CALL, VIEW, SCALAR = "call", "view", "scalar"
NESTED = COND, LOOP, STACK, SCAN, REGION = "cond", "loop", "stack", "scan", "region"


OFFSET = -1


@dataclass(frozen=True, slots=True)
class Bind:
    """A symbol that is known once a line ran: a dimension of its ``output``-th result, (``dim`` ``OFFSET``) where a view begins
    in its storage, in elements, or (``dim`` None) the result itself, a number."""

    symbol: str
    output: int
    dim: int | None


@dataclass(frozen=True, slots=True)
class Line:
    """One operation. ``kind``: a call, a view, a computation on numbers, a conditional, a loop, a loop that stacks what it
    carries, a loop over rows, or the call of a region that may be called again elsewhere (the very same block then).

    A conditional's ``op`` has the predicate as its first argument and then the operands; ``blocks`` are the arms (true,
    false). A loop's has its carried values, then (from ``carried`` on) what stays; ``blocks`` are (condition, body); where it
    stacks, its results are what it carried at the end of each turn, a row per turn. One over rows (a scan) has its carried
    values, then ``sliced`` values of which each turn gets a row, then what stays; its one block is the body, which returns
    what it carries and then a row of each further result. A region has one block, and its operands as arguments.
    ``computed``: a view by its schema that may turn out to be a copy, or the other way round.
    """

    op: Op
    kind: str = CALL
    binds: tuple[Bind, ...] = ()
    blocks: tuple[Block, ...] = ()
    carried: int = 0
    computed: bool = False
    sliced: int = 0


@dataclass(frozen=True, slots=True)
class Given:
    """A symbol that is read off input ``position``: its dimension, (``dim`` ``OFFSET``) where it begins in its storage, in
    elements, or (``dim`` None) the input itself, a number."""

    symbol: str
    position: int
    dim: int | None


@dataclass(frozen=True)
class Block:
    """``graph`` has one section whose operations are those of ``lines``. ``free``: symbols that come from outside.
    ``is_nested``: a branch, a part of a loop, or a region."""

    graph: Graph
    lines: tuple[Line, ...]
    given: tuple[Given, ...] = ()
    free: tuple[str, ...] = ()
    is_nested: bool = False

    @property
    def name(self) -> str:
        """Of the graph."""
        return self.graph.name

    @property
    def returns(self) -> tuple[Arg, ...]:
        """What the block returns, in order."""
        return self.graph.sections[0].returns

    @property
    def inputs(self) -> tuple[Ref | Expr | None, ...]:
        """What it takes, in calling order."""
        return self.graph.sections[0].inputs

    @cached_property
    def known_at(self) -> dict[str, int]:
        """Symbol -> index of the line after which it is known; -1 from the start."""
        out = dict.fromkeys((*self.free, *(g.symbol for g in self.given)), -1)
        for i, line in enumerate(self.lines):
            for b in line.binds:
                out.setdefault(b.symbol, i)
        return out

    @cached_property
    def returned(self) -> frozenset[str]:
        """Storages that results stand on."""
        return frozenset(self.graph.value[n].storage for a in self.returns for n in refs_in(a))

    @cached_property
    def given_storages(self) -> frozenset[str]:
        """Storages of inputs and constants."""
        names = (*(i.name for i in self.inputs if isinstance(i, Ref)), *self.graph.constants)
        return frozenset(self.graph.value[n].storage for n in names)

    @cached_property
    def devices(self) -> tuple[str, ...]:
        """Where its values lie, those of blocks inside included."""
        return tuple(dict.fromkeys(v.layout.device for b in self.nested() for v in b.graph.values))

    def nested(self) -> Iterator[Block]:
        """This block and all inside it, outer ones first."""
        todo = [self]
        while todo:
            b = todo.pop()
            yield b
            todo.extend(x for line in reversed(b.lines) for x in reversed(line.blocks))


def symbols_in(arg: Arg) -> frozenset[str]:
    """Names of the symbols in an argument, lists included."""
    if isinstance(arg, tuple):
        return frozenset(s for a in arg for s in symbols_in(a))
    return symbols_of(arg) if isinstance(arg, Expr) else frozenset()


def needed(line: Line) -> frozenset[str]:
    """Symbols that a line's arguments or blocks need before it runs."""
    args = (*line.op.args, *(a for _, a in line.op.kwargs))
    out = frozenset(s for a in args for s in symbols_in(a))
    return out.union(*(b.free for b in line.blocks))


def trusted(op: Op) -> bool:
    """Whether an operator is torch's own. Others may keep what they are given, or return it as new: their operands get no
    planned bytes, and their results are checked at every call."""
    return op.target.split(".", 1)[0] in TRUSTED

"""Loops of whole numbers in a few words, for cases made by hand.

``nest((4,), 1, 1, ((6,), "a = load 0 6*i0+r0; s = reduce sum a"), ((), "store 1 i0 s"))`` is the sum of four rows. A
statement is ``[name =] operation operands``; buffers are numbers, inputs first; an index is a sum of ``c*name`` and
numbers, where ``@name`` is the integer that was computed under that name.
"""

from __future__ import annotations

from lowtide.ir.index import add, mul
from lowtide.ir.loops import FOLDS, Instr, Loop, Stage, check_loop
from lowtide.ir.symbolic import Dim, symbol


def nest(outer: tuple[int, ...], inputs: int, outputs: int, *stages: tuple[tuple[int, ...], str]) -> Loop:
    """A loop over ``outer`` with the given stages: (inner ranges, statements)."""
    at: dict[str, int] = {}
    made: list[Stage] = []
    count = 0
    for inner, text in stages:
        body: list[Instr] = []
        for statement in text.split(";"):
            name, _, rest = statement.rpartition("=")
            body.append(_instr(rest.split(), at))
            if name:
                at[name.strip()] = count
            count += 1
        made.append(Stage(inner, tuple(body)))
    loop = Loop(outer, tuple(made), ("i64",) * inputs, ("i64",) * outputs)
    check_loop(loop)
    return loop


def flat(inputs: int, outputs: int, inner: tuple[int, ...], text: str) -> Loop:
    """A loop without outer ranges and with one stage."""
    return nest((), inputs, outputs, (inner, text))


def _instr(words: list[str], at: dict[str, int]) -> Instr:
    op, *rest = words
    if op == "load":
        return Instr(op, "i64", tuple(at[w] for w in rest[2:]), _index(rest[1], at), int(rest[0]))
    if op in ("store", "accumulate", *FOLDS):
        return Instr(op, "i64", tuple(at[w] for w in rest[2:]), _index(rest[1], at), int(rest[0]))
    if op in ("reduce", "scan"):
        return Instr(op, "i64", (at[rest[1]],), None, rest[0])
    if op == "const":
        return Instr(op, "i64", (), None, rest[0])
    if op == "index":
        return Instr(op, "i64", (), _index(rest[0], at))
    return Instr(op, "bool" if op == "lt" else "i64", tuple(at[w] for w in rest))


def _index(text: str, at: dict[str, int]) -> Dim:
    out: Dim = 0
    for term in text.split("+"):
        factor, _, name = term.rpartition("*")
        value: Dim = int(name) if name.isdigit() else symbol(f"v{at[name[1:]]}" if name[0] == "@" else name)
        out = add(out, mul(int(factor or 1), value))
    return out

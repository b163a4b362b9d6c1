"""Layouts of headers as functions of sizes, in a form that compiled code can work out.

Comes in: the distinct layouts of a segment (of the storage, and of the value on it) and the symbols that they depend on.
Goes out: an ``Arithmetic``: numbers only. Promised: no torch; every expression is worked out once, whatever number of layouts
holds it; the meaning is that of ``emit.size_text`` and ``emit.extent_text``, which print the same as Python.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lowtide.ir.graph import ITEMSIZE, Layout
from lowtide.ir.symbolic import Dim, Expr, symbols_of

OPERATIONS = ("+", "*", "//", "%", "max", "min", "ceildiv", "pow")


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """``values``: constants, then from ``first_key`` on the symbols that matter (``taken``: positions among all), then from
    ``first_result`` on what ``code`` works out: per result an operation (position in ``OPERATIONS``) and the places of its
    two operands. ``rows``: per layout, beginning at ``starts``, places: rank, offset, sizes and strides of the storage's
    layout, its bytes per element as a number, and rank, offset, sizes and strides of the value's. ``wheres``: where each
    layout begins in the list of all of them, which is bytes, offset, sizes and strides one layout after the other;
    ``count``: how long that list is."""

    values: tuple[int, ...]
    first_key: int
    taken: tuple[int, ...]
    first_result: int
    code: tuple[int, ...]
    rows: tuple[int, ...]
    starts: tuple[int, ...]
    wheres: tuple[int, ...]
    count: int


def arithmetic(rows: Sequence[tuple[Layout, Layout]], symbols: Sequence[str]) -> Arithmetic:
    """``rows``: (layout of the storage, layout of the value) per distinct layout."""
    dims = [d for row in rows for x in row for d in (x.offset, *x.size, *x.stride)]
    constants = dict.fromkeys(n for d in dims for n in _constants(d))
    used = {s for d in dims for s in symbols_of(d)}
    taken = tuple(i for i, name in enumerate(symbols) if name in used)
    place: dict[Dim, int] = {n: i for i, n in enumerate(constants)}
    first_key = len(place)
    place.update({Expr("sym", (symbols[i],)): first_key + n for n, i in enumerate(taken)})
    first_result = len(place)
    code: list[int] = []
    known: dict[tuple[int, int, int], int] = {}

    def at(d: Dim) -> int:
        found = place.get(d)
        if found is not None:
            return found
        assert isinstance(d, Expr)
        operands = [at(a) for a in d.args if not isinstance(a, str)]
        now = operands[0]
        for other in operands[1:]:
            key = OPERATIONS.index(d.op), now, other
            if key not in known:
                known[key] = first_result + len(known)
                code.extend(key)
            now = known[key]
        place[d] = now
        return now

    def layout(x: Layout) -> list[int]:
        return [len(x.size), *map(at, (x.offset, *x.size, *x.stride))]

    out: list[int] = []
    starts: list[int] = []
    wheres = [0]
    for storage, value in rows:
        starts.append(len(out))
        out += [*layout(storage), ITEMSIZE[storage.dtype], *layout(value)]
        wheres.append(wheres[-1] + 2 + 2 * len(value.size))
    values = (*constants, *[0] * (len(taken) + len(known)))
    return Arithmetic(
        values, first_key, taken, first_result, tuple(code), tuple(out), tuple(starts), tuple(wheres[:-1]), wheres[-1]
    )


def _constants(d: Dim) -> list[int]:
    """The numbers in an expression."""
    todo, out = [d], list[int]()
    while todo:
        e = todo.pop()
        if isinstance(e, int):
            out.append(e)
        else:
            todo.extend(a for a in e.args if not isinstance(a, str))
    return out

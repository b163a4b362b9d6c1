"""Stages cut where what guards them changes, so that nothing is asked at every point.

Comes in: a static Loop, in whose stages elements ask where they lie (``r1 < 32``), as a concatenation's do. Goes out: an
equal Loop whose innermost ranges end there: in each piece such a question has one answer, and what hangs on it goes.
Promised: every point is visited once, the same numbers are computed. Stages that sum, scan or add up stay as they are, and
so do those that would have a piece of few points, or more than four.

A loop of one stage becomes a nest over all but the innermost range, so that the pieces of a row are done one after the
other; the pieces of one of several stages follow one another as stages.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

from lowtide.ir.build import LoopBuilder
from lowtide.ir.graph import int_of
from lowtide.ir.guards import limit
from lowtide.ir.index import Ranges, add, affine, bounds, substitute
from lowtide.ir.loops import FOLDS, Instr, Loop, renumbered
from lowtide.ir.normal import reindexed
from lowtide.ir.symbolic import Dim, symbol

_FEWEST = 16  # points of a piece
_MOST = 4  # pieces
_WHOLE = frozenset(("reduce", "scan", *FOLDS, "accumulate"))  # what takes all points of a stage together


def cut(loop: Loop) -> Loop:
    """The loop with its stages in pieces; itself where there is nothing to cut."""
    places = [_places(loop, k) for k in range(len(loop.stages))]
    if not any(places):
        return loop
    if not loop.outer and len(loop.stages) == 1 and len(loop.stages[0].inner) > 1:
        loop = _by_rows(loop)
    b = LoopBuilder(loop.outer)
    b.inputs, b.outputs = list(loop.inputs), list(loop.outputs)
    at: dict[int, int] = {}
    written = {x.attr for x in loop.body if x.writes}
    for k, (stage, ends) in enumerate(zip(loop.stages, places, strict=True)):
        last = len(stage.inner) - 1
        begins = (0, *ends)
        for begin, end in zip(begins, (*ends, int_of(stage.inner[last]) if ends else 0), strict=True):
            inner = (*stage.inner[:-1], end - begin) if ends else stage.inner
            b.stage(inner)
            moved = {f"r{last}": add(symbol(f"r{last}"), begin)} if begin else {}
            _piece(b, loop, k, at, moved, written)
    return b.build()


def _by_rows(loop: Loop) -> Loop:
    """A loop of one stage as a nest over all but its innermost range."""
    sizes = tuple(map(int_of, loop.stages[0].inner))
    last = len(sizes) - 1
    points: dict[str, Dim] = {f"r{d}": symbol(f"i{d}") for d in range(last)}
    points[f"r{last}"] = symbol("r0")
    return reindexed(loop, sizes[:-1], {}, [sizes[-1:]], [points])


def _places(loop: Loop, k: int) -> tuple[int, ...]:
    """Where the innermost range of a stage is cut, ascending."""
    stage = loop.stages[k]
    if not stage.inner or stage.ordered or any(x.op in _WHOLE for x in stage.body):
        return ()
    last = len(stage.inner) - 1
    n = int_of(stage.inner[last])
    found: set[int] = set()
    for x in stage.body:
        if (turn := _turn(loop.body, x, f"r{last}")) is not None:
            found.add(turn)
    ends = sorted(p for p in found if 0 < p < n)
    parts = zip((0, *ends), (*ends, n), strict=True)
    return tuple(ends) if len(ends) < _MOST and all(hi - lo >= _FEWEST for lo, hi in parts) else ()


def _turn(body: Sequence[Instr], x: Instr, variable: str) -> int | None:
    """The first value of a variable at which a comparison of it with a number has another answer than below."""
    said = limit(body, x)
    found = None if said is None else affine(said[0])
    if said is None or found is None or set(found[0]) != {variable} or found[0][variable] <= 0:
        return None
    return -(-(said[1] - found[1]) // found[0][variable])


def _piece(
    b: LoopBuilder,
    loop: Loop,
    k: int,
    at: dict[int, int],
    moved: Mapping[str, Dim],
    written: Container[int | str | None],
) -> None:
    """The instructions of a stage over the ranges that ``b`` has now, without questions that have one answer there."""
    body, first, stage = loop.body, loop.starts[k], loop.stages[k]
    known: dict[int, bool] = {}

    def number(n: int) -> int:
        if n in known and n not in at:
            at[n] = b.const("bool", known[n])
        return at[n]

    for n in range(first, first + len(stage.body)):
        at.pop(n, None)
    for n, x in enumerate(stage.body, first):
        answer = _answer(body, first, x, known, b.ranges, moved)
        if answer is not None:
            known[n] = answer
            continue
        guard = x.args[-1] if (x.op == "load" and x.args) or (x.op == "store" and len(x.args) == 2) else None
        chosen = _chosen(x, known)
        if guard in known and not known[guard]:
            if x.op == "load":
                at[n] = b.const(x.dtype, 0)
        elif chosen is not None:
            at[n] = number(chosen)
        else:
            args = x.args[:-1] if guard in known else x.args
            for a in args:
                number(a)
            y = renumbered(Instr(x.op, x.dtype, args, x.index, x.attr), at)
            index = None if y.index is None else substitute(y.index, moved, b.ranges)
            z = Instr(y.op, y.dtype, y.args, index, y.attr)
            if z.touches and z.attr in written:
                b.body.append(z)  # what was loaded before may have changed since
                at[n] = len(b.body) - 1
            else:
                at[n] = b.emit(z)
    if not stage.inner:  # later stages may ask for the answers
        for n in known:
            number(n)


def _chosen(x: Instr, known: Mapping[int, bool]) -> int | None:
    """The operand that an instruction is equal to, for what is known of its others."""
    if x.op == "where" and x.args[0] in known:
        return x.args[1] if known[x.args[0]] else x.args[2]
    if x.op in ("and", "or"):
        left, right = x.args
        if left in known:
            return right
        if right in known:
            return left
    return None


def _answer(
    body: Sequence[Instr], first: int, x: Instr, known: Mapping[int, bool], ranges: Ranges, moved: Mapping[str, Dim]
) -> bool | None:
    """What a truth value is at all points; None where that is not known."""
    if x.op in ("and", "or") and x.dtype == "bool":
        given = [known.get(a) for a in x.args]
        decides = x.op == "or"
        return decides if decides in given else given[0] if given[0] == given[1] else None
    said = limit(body, x) if all(a >= first for a in x.args) else None
    if said is None:
        return None
    e, m, below = said
    lo, hi = bounds(substitute(e, moved, ranges), ranges)
    if hi is not None and hi < m:
        return below
    if lo is not None and lo >= m:
        return not below
    return None

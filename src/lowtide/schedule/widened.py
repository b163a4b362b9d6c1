"""A pointwise loop over the points of a slightly larger one, so that both share a pass over what both read.

Comes in: two pointwise tasks whose ranges are equal but for one. Goes out: both over the larger ranges. Promised: the smaller
one's loads and stores are masked, so that nothing is read or written out of range; neither takes from the other.
"""

from __future__ import annotations

from dataclasses import replace

from lowtide.ir.graph import int_of
from lowtide.ir.loops import Instr, Loop, Stage, renumbered
from lowtide.ir.symbolic import symbol
from lowtide.ir.task import Task


def side_by_side(a: Task, b: Task, most_idle: float) -> tuple[Task, Task] | str:
    """Both over the ranges of the larger, in their order. ``most_idle``: points of the larger for each of the smaller. A text
    says why not."""
    x, y = _sizes(a), _sizes(b)
    odd = [k for k, (n, m) in enumerate(zip(x, y, strict=False)) if n != m]
    if len(x) != len(y) or len(odd) != 1:
        return "they follow one another, each over points of its own"
    if {*a.makes, *a.changes} & {*b.given, *b.makes} or {*b.changes} & {*a.given}:
        return "one takes from the other, over other points"
    if not _loads(a) & _loads(b):
        return "they read nothing at the same points"
    if max(x[odd[0]], y[odd[0]]) > most_idle * min(x[odd[0]], y[odd[0]]):
        return "one of them is much smaller than the other"
    if x < y:
        wide = _masked(a, y, odd[0])
        return wide if isinstance(wide, str) else (wide, b)
    wide = _masked(b, x, odd[0])
    return wide if isinstance(wide, str) else (a, wide)


def _sizes(t: Task) -> tuple[int, ...]:
    return tuple(map(int_of, t.loop.stages[0].inner))


def _loads(t: Task) -> set[tuple[str, object]]:
    """Values and elements that a task loads."""
    return {
        (t.given[int(str(x.attr))], x.index) for x in t.loop.body if x.op == "load" and int(str(x.attr)) < len(t.given)
    }


def _masked(t: Task, sizes: tuple[int, ...], k: int) -> Task | str:
    """The task over larger ``sizes``, doing nothing beyond its own range ``k``."""
    loop = t.loop
    if loop.checks or any(x.ordered or (x.touches and len(x.args) > x.writes) for x in loop.body):
        return "the smaller one cannot be left out at single points"
    body = [
        Instr("index", "i64", index=symbol(f"r{k}")),
        Instr("index", "i64", index=_sizes(t)[k]),
        Instr("lt", "bool", (0, 1)),
    ]
    at = {n: n + len(body) for n in range(len(loop.body))}
    for x in loop.body:
        moved = renumbered(x, at)
        body.append(replace(moved, args=(*moved.args, 2)) if x.touches else moved)
    return replace(t, loop=Loop((), (Stage(sizes, tuple(body)),), loop.inputs, loop.outputs))

"""Small reductions written out: what combines a few points becomes pointwise.

Comes in: a static Loop. Goes out: a loop without reductions over what were the outer points, or the same object where it
does not pay. Promised: the same numbers, each result combined in the order of the points. A pointwise loop may be computed
where it is read, and vectors run along its results, however few points are reduced: sums of 3, 4 and 8 neighbours take a
quarter to a tenth of the time (one core), extremes less. Positions of extremes stay loops: written out, along columns they
took five times as long.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping

from lowtide.ir.build import LoopBuilder
from lowtide.ir.graph import int_of
from lowtide.ir.loops import FLOATS, Loop, Stage
from lowtide.ir.symbolic import Dim

MOST_POINTS = 8  # of a stage that is written out
_MOST_INSTRUCTIONS = 64  # of the loop that comes of it
_COMBINE = {"sum": "add", "prod": "mul", "max": "max", "min": "min", "any": "or", "xor": "xor"}


def unrolled(loop: Loop) -> Loop:
    """The loop with its reductions written out, where each is over a few points and nothing else happens at those."""
    if not loop.outer or not any(x.op == "reduce" for x in loop.body) or not all(map(_small, loop.stages)):
        return loop
    if sum(_points(s) * len(s.body) for s in loop.stages) > _MOST_INSTRUCTIONS:
        return loop
    b = LoopBuilder()
    b.inputs, b.outputs = list(loop.inputs), list(loop.outputs)
    rows = b.stage(loop.outer)
    point: dict[str, Dim] = {f"i{k}": r for k, r in enumerate(rows)}
    at: dict[int, int] = {}
    for first, stage in zip(loop.starts, loop.stages, strict=True):
        _written_out(b, first, stage, point, at)
    return b.build()


def _points(stage: Stage) -> int:
    return math.prod(map(int_of, stage.inner))


def _small(stage: Stage) -> bool:
    """Whether a stage can be written out: it does nothing but combine some points, not many, or has no ranges."""
    if not stage.inner:
        return not any(x.ordered for x in stage.body)
    simple = all(x.attr in _COMBINE if x.op == "reduce" else not x.acts and x.op != "scan" for x in stage.body)
    return simple and 0 < _points(stage) <= MOST_POINTS


def _written_out(b: LoopBuilder, first: int, stage: Stage, point: Mapping[str, Dim], at: dict[int, int]) -> None:
    """Emit a stage once per inner point. ``at``: what each instruction has become; of a reduction, what it is so far."""
    for place, inner in enumerate(itertools.product(*(range(int_of(n)) for n in stage.inner))):
        here = dict(point) | {f"r{k}": i for k, i in enumerate(inner)}
        for n, x in enumerate(stage.body, first):
            if x.op != "reduce":
                at[n] = b.emit_at(x, [at[a] for a in x.args], here, at)
            elif place == 0 and x.attr == "sum" and x.dtype in FLOATS:
                at[n] = b.op("add", x.dtype, b.const(x.dtype, 0), at[x.args[0]])  # a sum of -0 is 0
            elif place == 0:
                at[n] = at[x.args[0]]
            else:
                at[n] = b.op(_COMBINE[str(x.attr)], x.dtype, at[n], at[x.args[0]])

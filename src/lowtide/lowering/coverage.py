"""How much of a captured graph became loops, and what did not.

Comes in: a graph and what ``lower`` made of it. Goes out: a ``Coverage``. Promised: every operation that is no view is
counted once: as loops, as a call that libraries do best, as a random draw, or as left, for which ``lower`` gave a Reason.
"""

from __future__ import annotations

from collections import Counter

from lowtide.ir.graph import Graph
from lowtide.ir.lowered import Coverage, Lowered
from lowtide.lowering.lower import is_library


def coverage(captured: Graph, lowered: Lowered) -> Coverage:
    """Count the operations of ``captured``, which ``lower`` turned into ``lowered``."""
    stayed = {(op.name, op.target) for op in lowered.graph.ops}
    loops = 0
    libraries, draws, left = Counter[str](), Counter[str](), Counter[str]()
    for op in captured.ops:
        if op.view:
            continue
        if is_library(op.target):
            libraries[op.target] += 1
        elif (op.name, op.target) not in stayed:
            loops += 1
        elif op.effect is not None:
            draws[op.target] += 1
        else:
            left[op.target] += 1
    return Coverage(loops, *(tuple(c.most_common()) for c in (libraries, draws, left)))

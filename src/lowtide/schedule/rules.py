"""What a target says of loops that may become one: the numbers that inlining and fusion go by.

Comes in: nothing. Goes out: ``Rules``, with no usual answer to any question, and those of processors with caches.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from lowtide.ir.loops import Loop


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What a target says of loops that may become one.

    rank: pairs of lower rank are tried first, whatever they save.

    Of one kernel. most_instructions, most_buffers: that it has. most_streams: large buffers that one stage walks through; the
    first cache has as many places for addresses that differ by a multiple of a page. kept_row: points of a row whose costly
    values a kernel keeps for a later stage. most_idle: points of the larger of two ranges for each of the smaller where a
    kernel may run over the larger and do nothing in the rest.

    Of loops in their readers. inlined_instructions, inlined_buffers: that the reader has then. again: weight (``ir.task.weight``)
    of what may be computed a second time instead of stored.

    Of sizes. large: points from which a pass is no longer a matter of the call alone, and elements that a cache does not hold
    beside others. least_rows: fewer could not be shared out among threads, so rows are not made of points. least_shared: bytes
    that siblings must have in common where neither is small.
    """

    rank: Callable[[Loop, Loop], int]
    most_instructions: int
    most_buffers: int
    most_streams: int
    kept_row: int
    most_idle: float
    inlined_instructions: int
    inlined_buffers: int
    again: int
    large: int
    least_rows: int
    least_shared: int


def unranked(_a: Loop, _b: Loop) -> int:
    """No pair of loops goes before others because of what they are."""
    return 0


CACHED = Rules(  # of processors
    rank=unranked,
    most_instructions=240,
    most_buffers=24,
    most_streams=8,
    kept_row=1 << 14,
    most_idle=1.125,
    inlined_instructions=120,
    inlined_buffers=12,
    again=24,
    large=1 << 14,
    least_rows=64,
    least_shared=10,
)

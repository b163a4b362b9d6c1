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
    kernel may run over the larger and do nothing in the rest. held_nbytes: of a tile of rows, which stays in cache, by way of
    which a pass along them touches what runs across (``ir.tiles``).

    Of loops in their readers. inlined_instructions, inlined_buffers: that the reader has then. again: weight (``ir.task.weight``)
    of what may be computed a second time instead of stored.

    Of sizes. large: points from which a pass is no longer a matter of the call alone, and elements that a cache does not hold
    beside others. least_rows: fewer could not be shared out among threads, so rows are not made of points. least_shared: bytes
    that siblings must have in common where neither is small. few_columns: whose sums stay in the first cache beside the rows
    that are summed; more are summed row by row where they have ``long_columns`` elements, which is worth joining blocks.
    whole_columns: fewer would not fill the vectors of a pass along their rows, so that two loops sum them sooner.
    """

    rank: Callable[[Loop, Loop], int]
    most_instructions: int
    most_buffers: int
    most_streams: int
    kept_row: int
    most_idle: float
    held_nbytes: int
    inlined_instructions: int
    inlined_buffers: int
    again: int
    large: int
    least_rows: int
    least_shared: int
    few_columns: int
    long_columns: int
    whole_columns: int


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
    held_nbytes=520 << 10,  # 64 rows of 1024 f32 twice, and what lies between them
    inlined_instructions=120,
    inlined_buffers=12,
    again=24,
    large=1 << 14,
    least_rows=64,
    least_shared=10,
    few_columns=1 << 13,
    long_columns=128,
    whole_columns=16,
)

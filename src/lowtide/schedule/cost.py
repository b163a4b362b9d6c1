"""What a loop costs: bytes that it moves, arithmetic that it does, and the seconds that follow from both.

Comes in: a static Loop, and what a machine does per second (``Machine``; ``runtime.rates`` measures it). Goes out: numbers for
decisions and for the report. Promised: a buffer counts what the loop touches of it, its extent under the index where a guard
holds, and once for all stages that find it in cache; nothing here is measured, so the same loop costs the same on the same
Machine.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from lowtide.ir.graph import ITEMSIZE, int_of
from lowtide.ir.guards import share
from lowtide.ir.index import Ranges, affine
from lowtide.ir.loops import Instr, Loop
from lowtide.ir.symbolic import Dim, symbols_of
from lowtide.ir.task import FREE, HEAVY
from lowtide.ir.tiles import steps


@dataclass(frozen=True, slots=True)
class Machine:
    """What decisions take for granted of a processor, all threads together.

    bytes_per_second: from and to memory. in_cache: (bytes, bytes per second) of smaller amounts that were used before,
    ascending. operations_per_second: of vector code. call_seconds: to call a kernel or an operator. cache_nbytes: that one
    core has to itself. matmul: (type, multiplications and additions per second) of a product of large matrices.
    """

    bytes_per_second: float = 12e9
    operations_per_second: float = 40e9
    call_seconds: float = 4e-6
    cache_nbytes: int = 1 << 20
    in_cache: tuple[tuple[int, float], ...] = ()
    matmul: tuple[tuple[str, float], ...] = (("f32", 80e9), ("f64", 40e9))

    def moving_seconds(self, nbytes: int) -> float:
        """To read and write ``nbytes`` in all."""
        rate = next((rate for most, rate in self.in_cache if nbytes <= most), self.bytes_per_second)
        return nbytes / rate

    def matmul_seconds(self, dtype: str, operations: int) -> float:
        """For products of matrices; types that were not measured are taken to be as fast as vector code."""
        return operations / dict(self.matmul).get(dtype, self.operations_per_second)


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one run: bytes read and written, operations (a polynomial counts ten), and kernels called."""

    nbytes: int
    operations: int
    calls: int = 1

    def seconds(self, machine: Machine) -> float:
        """The longer of moving and computing, and the calls."""
        moved = machine.moving_seconds(self.nbytes)
        return max(moved, self.operations / machine.operations_per_second) + self.calls * machine.call_seconds


@lru_cache(maxsize=8192)
def loop_cost(loop: Loop, machine: Machine = Machine()) -> Cost:
    """Bytes and operations of a loop."""
    rows = math.prod(map(int_of, loop.outer))
    touched: dict[tuple[int, bool], list[int]] = {}
    operations = 0
    for k, s in enumerate(loop.stages):
        ranges = loop.ranges(k)
        operations += math.prod(ranges.values()) * sum(10 if x.op in HEAVY else 1 for x in s.body if x.op not in FREE)
        parts: dict[tuple[int, bool, Dim | None], dict[tuple[int, ...], int]] = {}
        for x in s.body:
            if x.touches:
                parts.setdefault((int(str(x.attr)), x.writes, x.index), {})[_guards(x)] = elements(loop.body, x, ranges)
        for (slot, writes, index), found in parts.items():
            count = min(sum(found.values()), _named(index, ranges))  # several guards may hold at one point
            touched.setdefault((slot, writes), []).append(count * ITEMSIZE[loop.dtypes[slot]])
    cached = not loop.outer or sum(max(n) for n in touched.values()) // max(rows, 1) > machine.cache_nbytes
    total = 0
    for (slot, writes), amounts in touched.items():
        if not writes and (slot, True) in touched and not cached:
            continue  # read back from cache
        total += sum(amounts) if cached else max(amounts)
    return Cost(total, operations)


def _guards(x: Instr) -> tuple[int, ...]:
    """The instruction without whose truth an access does not happen; none where it always does."""
    return x.args[x.writes :]


def elements(body: Sequence[Instr], x: Instr, ranges: Ranges) -> int:
    """Elements that an access touches: those that its index names where its guard holds."""
    count = _named(x.index, ranges)
    for guard in _guards(x):
        count = math.ceil(count * share(body, guard, ranges, symbols_of(x.index or 0)))
    return count


def _named(index: Dim | None, ranges: Ranges) -> int:
    """Elements that an index names: the points of the variables in it; all points of the ranges where that is unknown."""
    found = None if index is None else affine(index)
    if found is None or any(n[0] == "v" for n in found[0]):
        return math.prod(ranges.values())
    return math.prod([ranges[n] for n, c in found[0].items() if c])


def _ways(loop: Loop) -> Iterator[tuple[Instr, int, int]]:
    """Loads and stores of a nest's stages that have rows: how far each moves with the last outer range, and along its row."""
    for s in loop.stages if loop.outer else ():
        for x in s.body if s.inner else ():
            found = steps(x)
            if found is not None:
                yield x, found.get(f"i{len(loop.outer) - 1}", 0), found.get(f"r{len(s.inner) - 1}", 0)


def walk(loop: Loop) -> int:
    """How many more accesses of a nest find their neighbours in memory along the last outer range than along the innermost
    one; less than 0 where it walks through rows, 0 where it has no order."""
    return sum((outer == 1) - (inner == 1) for _, outer, inner in _ways(loop))


def across(loop: Loop) -> bool:
    """Whether a nest finds its neighbours in memory along the last outer range rather than along the innermost one."""
    return walk(loop) > 0


def jumping(loop: Loop) -> int:
    """How many elements, by buffer and index, a nest that is walked through across its rows touches along them."""
    return len({(x.attr, x.index) for x, outer, inner in _ways(loop) if inner == 1 and outer > 1})

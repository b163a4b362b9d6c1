"""Sizes -> offsets: the strategies that give managed buffers their place in one slab per device, and what they reach.

Comes in: lives, and sizes in bytes, one per buffer. Goes out: a ``Placement``. Promised: buffers that live at once never
share a byte, at any sizes; every strategy can be asked again for other sizes and remembers the recent ones. A strategy is
given the lives of one device at a time (``on_each_device``).
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from lowtide.core.errors import OptionError, VerifyError
from lowtide.core.units import align_up
from lowtide.executor.groups import Life, StorageGroup, reused, storage_groups
from lowtide.executor.learned import Recent
from lowtide.plan.disjoint import Sweep, check_rows
from lowtide.plan.pack import pack
from lowtide.plan.plan import alignment_of
from lowtide.plan.problem import PackBuffer, PackProblem
from lowtide.plan.replan import replanner

ITEM = "q"
_CLOSE = 100  # within a hundredth of the bound no longer search is made
_WIDEST = 16  # bytes of the largest element: headers count in elements from the slab's beginning
_SEARCH = 20_000  # nodes of the longer search, once per sizes


@dataclass(frozen=True)
class Placement:
    """``offsets``: one per buffer, bytes, in the slab of its device. ``nbytes``: of the slab. ``bound``: no placement needs
    less. ``capacity``: bytes that each buffer may use from its offset on. ``shared``: how many values share a region with an
    earlier one. ``parts``: of a whole block what lies on each device, of which the numbers above are then the sums."""

    offsets: tuple[int, ...]
    capacity: tuple[int, ...]
    nbytes: int
    bound: int
    shared: int = 0
    parts: Mapping[str, Placement] = field(default_factory=dict[str, "Placement"])

    @cached_property
    def arrays(self) -> tuple[array[int], array[int]]:
        """``offsets`` and ``capacity`` for compiled code."""
        return array(ITEM, self.offsets), array(ITEM, self.capacity)


Strategy = Callable[[Sequence[int]], Placement]


def packed(lives: Sequence[Life], recent: int = 32) -> Strategy:
    """Offsets by size and life (``plan.replan``; where that is further than 1 % from the bound, ``plan.pack``)."""
    alignment = _alignment(lives)
    buffers = tuple(PackBuffer(x.name, 1, ((x.first, x.end),), alignment) for x in lives)
    again = replanner(PackProblem(buffers), recent=recent) if buffers else None
    kept: Recent[tuple[int, ...], Placement] = Recent(recent)

    def place(given: Sequence[int]) -> Placement:
        sizes = tuple(align_up(n, alignment) for n in given)
        found = again(sizes) if again is not None else None
        if found is None:
            return Placement((), (), 0, 0)
        offsets, height = found.offsets, found.height
        if height * _CLOSE > found.lower_bound * (_CLOSE + 1):
            offsets, height = _longer(buffers, sizes, offsets, height)
        return Placement(offsets, sizes, height, found.lower_bound, _sharing(lives, offsets, sizes))

    return lambda sizes: kept.of(tuple(sizes), lambda: place(sizes))


def _alignment(lives: Sequence[Life]) -> int:
    """Bytes of which places are multiples, on the one device of all lives."""
    return max((alignment_of(x.device) for x in lives), default=1)


def _longer(
    buffers: Sequence[PackBuffer], sizes: Sequence[int], offsets: tuple[int, ...], height: int
) -> tuple[tuple[int, ...], int]:
    """The placement of the whole portfolio, if it is lower."""
    problem = PackProblem(
        tuple(PackBuffer(b.id, n, b.intervals, b.alignment) for b, n in zip(buffers, sizes, strict=True))
    )
    found = pack(problem, nodes=_SEARCH)
    if found.height >= height:
        return offsets, height
    return tuple(found.offsets[b.id] for b in buffers), found.height


def _sharing(lives: Sequence[Life], offsets: Sequence[int], sizes: Sequence[int]) -> int:
    """Values with bytes that lie where an earlier one was, in order of birth. What was used so far is kept as intervals."""
    lows: list[int] = []
    highs: list[int] = []
    out = 0
    for i in sorted((i for i, n in enumerate(sizes) if n), key=lambda i: (lives[i].first, i)):
        low, high = offsets[i], offsets[i] + sizes[i]
        a, b = bisect_right(highs, low), bisect_left(lows, high)  # those between share bytes with this one
        if a < b:
            out, low, high = out + 1, min(low, lows[a]), max(high, highs[b - 1])
        lows[a:b], highs[a:b] = [low], [high]
    return out


def checked(strategy: Strategy, lives: Sequence[Life]) -> Strategy:
    """The same placements, each looked at before it is used, whoever made it.

    Raises:
        VerifyError: (from the returned function) two values that live at once share bytes, or one reaches out of the slab, or
            begins where no element can (``misaligned``).
    """
    sweep = Sweep([(x.first, x.end) for x in lives])

    def place(sizes: Sequence[int]) -> Placement:
        found = strategy(sizes)
        check_rows(sweep, *found.arrays, found.nbytes)
        for i, (offset, room) in enumerate(zip(found.offsets, found.capacity, strict=True)):
            if room and offset % _WIDEST:
                raise VerifyError("misaligned", f"value {i} at {offset}, which is no multiple of {_WIDEST}")
        return found

    return place


def on_each_device(strategy: Callable[[Sequence[Life]], Strategy], lives: Sequence[Life]) -> Strategy:
    """What lies on one device is placed by itself, in a slab there; each placement is looked at before it is used.

    Raises:
        VerifyError: (from the returned function) as ``checked`` does.
    """
    inside: dict[str, list[int]] = {}
    for i, x in enumerate(lives):
        inside.setdefault(x.device, []).append(i)
    placed: dict[str, Strategy] = {}
    for d, mine in inside.items():
        here = [lives[i] for i in mine]
        placed[d] = checked(strategy(here), here)

    def place(sizes: Sequence[int]) -> Placement:
        parts = {d: placed[d]([sizes[i] for i in mine]) for d, mine in inside.items()}
        offsets, capacity = [0] * len(lives), [0] * len(lives)
        for d, mine in inside.items():
            for i, offset, room in zip(mine, parts[d].offsets, parts[d].capacity, strict=True):
                offsets[i], capacity[i] = offset, room
        all_of = parts.values()
        nbytes, bound = sum(p.nbytes for p in all_of), sum(p.bound for p in all_of)
        return Placement(tuple(offsets), tuple(capacity), nbytes, bound, sum(p.shared for p in all_of), parts)

    return place


def nowhere(count: int) -> Placement:
    """A placement in which nothing has bytes of the slab, so that every value gets ordinary memory."""
    return Placement((0,) * count, (0,) * count, 0, 0)


def grouped(lives: Sequence[Life], *, share: bool = True) -> Strategy:
    """One region per storage group, side by side. ``share`` off: one per value, still in one slab."""
    alignment = _alignment(lives)
    groups = storage_groups(lives, share=share)
    index = {m: g for g, group in enumerate(groups) for m in group.members}
    bound = packed(lives)

    def place(sizes: Sequence[int]) -> Placement:
        by_name = {x.name: n for x, n in zip(lives, sizes, strict=True)}
        regions = [g.nbytes(by_name, alignment) for g in groups]
        starts = [sum(regions[:i]) for i in range(len(regions))]
        offsets = tuple(starts[index[x.name]] for x in lives)
        capacity = tuple(regions[index[x.name]] for x in lives)
        return Placement(offsets, capacity, sum(regions), bound(sizes).bound, reused(groups, by_name))

    return place


def groups_of(lives: Sequence[Life]) -> tuple[StorageGroup, ...]:
    """The groups that ``grouped`` uses."""
    return storage_groups(lives)


STRATEGIES: Mapping[str, Callable[[Sequence[Life]], Strategy]] = {
    "packed": packed,
    "groups": grouped,
    "separate": lambda lives: grouped(lives, share=False),
}


def strategy_of(wanted: str | Callable[[Sequence[Life]], Strategy]) -> Callable[[Sequence[Life]], Strategy]:
    """A strategy by name, or any function of one's own.

    Raises:
        OptionError: no such name.
    """
    if callable(wanted):
        return wanted
    if wanted not in STRATEGIES:
        raise OptionError(f"there is no strategy {wanted!r}; known: {', '.join(STRATEGIES)}")
    return STRATEGIES[wanted]

"""Storage groups: values whose lives are apart share one region, chosen without knowing a size.

Comes in: lives in steps, in order of birth. Goes out: groups, each with its members in order. Promised: members of one
group never live at once; a group has at least one member; the same lives give the same groups. The rule is the one of
PyTorch's Static Runtime: a new value takes the region that was freed last, or opens one.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from lowtide.core.errors import BugError
from lowtide.core.units import align_up

LINE = 64  # bytes of a line of memory: places in a slab begin at multiples of it


@dataclass(frozen=True, slots=True)
class Life:
    """A value that needs bytes of a device in the steps ``[first, end)``."""

    name: str
    first: int
    end: int
    device: str = "cpu"


@dataclass(frozen=True, slots=True)
class StorageGroup:
    """Values that share a region, in order of birth.

    Raises:
        BugError: there is no member.
    """

    members: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.members:
            raise BugError("a storage group has at least one member")

    def nbytes(self, sizes: Mapping[str, int], alignment: int) -> int:
        """Bytes of the region: the largest member, rounded up to ``alignment``."""
        return max(align_up(sizes[m], alignment) for m in self.members)


def storage_groups(lives: Sequence[Life], *, share: bool = True) -> tuple[StorageGroup, ...]:
    """Groups in the order in which they were opened. ``share`` off: one per value.

    Inputs and results of one step are alive together, so that what ends at a step serves the next one at the earliest.
    """
    order = sorted(range(len(lives)), key=lambda i: (lives[i].first, i))
    members: list[list[str]] = []
    ending: list[tuple[int, int, int]] = []  # (end, order of birth, group)
    free: list[int] = []
    for turn, i in enumerate(order):
        x = lives[i]
        while share and ending and ending[0][0] <= x.first:
            free.append(heapq.heappop(ending)[2])
        if free:
            group = free.pop()
        else:
            group = len(members)
            members.append([])
        members[group].append(x.name)
        heapq.heappush(ending, (max(x.end, x.first + 1), turn, group))
    return tuple(StorageGroup(tuple(m)) for m in members)


def reused(groups: Iterable[StorageGroup], sizes: Mapping[str, int]) -> int:
    """How many values share: members beyond the first of every group that has bytes."""
    return sum(len(g.members) - 1 for g in groups if any(sizes[m] for m in g.members))

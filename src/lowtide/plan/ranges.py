"""When something is alive, as sets of half-open intervals of steps.

Comes in: intervals. Goes out: a frozen, sorted, disjoint set of them. Promised: intervals that touch are one interval
(the point between them is not a hole); empty ones are dropped, so an empty set overlaps nothing; bounds may be infinite.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lowtide.core.errors import UserError

Moment = int | float  # float only for the two infinities


@dataclass(frozen=True, slots=True)
class LiveRanges:
    """``spans``: ascending ``(begin, end)``, each begins after the one before it ends."""

    spans: tuple[tuple[Moment, Moment], ...] = ()

    @property
    def begin(self) -> Moment:
        """First step. Raises UserError where nothing is alive."""
        return self._some()[0][0]

    @property
    def end(self) -> Moment:
        """One past the last step. Raises UserError where nothing is alive."""
        return self._some()[-1][1]

    def _some(self) -> tuple[tuple[Moment, Moment], ...]:
        if not self.spans:
            raise UserError("an empty set of live ranges has neither begin nor end")
        return self.spans

    def overlaps(self, other: LiveRanges) -> bool:
        """Whether some step is in both (time linear in the intervals)."""
        i = j = 0
        while i < len(self.spans) and j < len(other.spans):
            (a, b), (c, d) = self.spans[i], other.spans[j]
            if a < d and c < b:
                return True
            i, j = (i + 1, j) if b <= d else (i, j + 1)
        return False

    def contains(self, other: LiveRanges) -> bool:
        """Whether every step of ``other`` is in this."""
        return all(any(a <= c and d <= b for a, b in self.spans) for c, d in other.spans)


def live_in(spans: Iterable[tuple[Moment, Moment]]) -> LiveRanges:
    """The set of steps of any intervals, in any order; those with ``begin >= end`` are empty."""
    out: list[tuple[Moment, Moment]] = []
    for a, b in sorted((a, b) for a, b in spans if a < b):
        if out and a <= out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], b))
        else:
            out.append((a, b))
    return LiveRanges(tuple(out))


def joined(parts: Iterable[LiveRanges]) -> LiveRanges:
    """The steps that are in any of the parts."""
    return live_in(span for part in parts for span in part.spans)

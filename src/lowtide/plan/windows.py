"""Repair by windows of time: what lies too high is placed anew together with its neighbours in time.

Comes in: a placement of a plain problem whose buffers live in one interval each. Goes out: one that is no higher.
Promised: deterministic but for the deadline. A window spans the lives of buffers that end above the target. What lives
within it is placed anew by the exact search; what crosses its border stays where it is. Where that fails, the window
grows. Windows are disjoint, so that one sweep over time collects the buffers of all. Many problems are hard in few
moments only, and there a window holds tens of buffers where the problem holds a hundred thousand. (Large neighbourhood
search, Shaw 1998, with time as the neighbourhood.)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from lowtide.plan.flat import Flat
from lowtide.plan.search import search
from lowtide.plan.sections import sections_of

_MOST = 600  # buffers of a window
_NODES = 60  # per buffer of a window
_ROUNDS = 6
NO_LIMIT = 1 << 60


@dataclass(frozen=True, slots=True)
class _Window:
    """Moments ``[first, end)``; buffers that live in it, and those that also live outside."""

    first: int
    end: int
    inside: list[int] = field(default_factory=list[int])
    crossing: list[int] = field(default_factory=list[int])


def serves(flat: Flat) -> bool:
    """Whether ``repair`` can work on such a problem."""
    return flat.plain and flat.single and max(flat.fixed, default=-1) < 0


def repair(
    flat: Flat, offsets: Sequence[int], target: int, until: float, budget: int = NO_LIMIT
) -> tuple[list[int], int]:
    """Offsets no higher than those given, and the nodes spent; stops at ``target`` (bytes), after ``budget`` nodes or at
    the clock ``until`` (as ``time.perf_counter``). ``compiled.repair`` is the same, compiled."""
    now, spent = list(offsets), 0
    for turn in range(_ROUNDS):
        high = [i for i in range(flat.count) if flat.size[i] and now[i] + flat.size[i] > target]
        if not high or spent >= budget or time.perf_counter() > until:
            break
        windows = _windows(flat, high, 1 << turn)
        _fill(flat, windows)
        for w in windows:
            if len(w.inside) + len(w.crossing) > _MOST or spent >= budget or time.perf_counter() > until:
                continue
            spent += _again(flat, w, now, target, budget - spent, until)
    return now, spent


def _windows(flat: Flat, high: Sequence[int], wide: int) -> list[_Window]:
    """Disjoint windows around the lives of ``high``, ``wide`` lives to both sides."""
    out: list[_Window] = []
    spans: list[tuple[int, int]] = []
    for i in high:
        first, end = flat.span(i)
        margin = (end - first) * wide
        spans.append((max(first - margin, 0), min(end + margin, flat.moments)))
    for first, end in sorted(spans):
        if out and first < out[-1].end:
            out[-1] = _Window(out[-1].first, max(end, out[-1].end))
        else:
            out.append(_Window(first, end))
    return out


def _fill(flat: Flat, windows: Sequence[_Window]) -> None:
    """Every buffer to the windows that its life meets."""
    at, alive = 0, list[int]()
    births = sorted((i for i in range(flat.count) if flat.size[i]), key=lambda i: flat.first[i])
    for w in windows:
        while at < len(births) and flat.first[births[at]] < w.end:
            alive.append(births[at])
            at += 1
        alive = [i for i in alive if flat.end[i] > w.first]
        for i in alive:
            within = w.first <= flat.first[i] and flat.end[i] <= w.end
            (w.inside if within else w.crossing).append(i)


def _again(flat: Flat, w: _Window, now: list[int], target: int, budget: int, until: float) -> int:
    """Place the inside of a window below ``target``, or half way from its height; nodes spent."""
    reached = max((now[i] + flat.size[i] for i in w.inside), default=0)
    spent = 0
    part = _part(flat, w, now)
    sections = sections_of(part)
    for aim in (target, (target + reached) // 2):
        left = max(until - time.perf_counter(), 0.0)
        fits, rows, nodes = search(sections, aim, min(_NODES * len(w.inside), budget - spent), left)
        spent += nodes
        if fits:
            for k, x in zip(sections.buffers, rows, strict=True):
                now[w.inside[k]] = x
            return spent
    return spent


def _part(flat: Flat, w: _Window, now: Sequence[int]) -> Flat:
    """The problem of one window: times cut to it, what crosses it fixed."""
    ids = [*w.inside, *w.crossing]
    first = [max(flat.first[i], w.first) for i in ids]
    end = [min(flat.end[i], w.end) for i in ids]
    ranks = {t: r for r, t in enumerate(sorted({*first, *end}))}
    size = [flat.size[i] for i in ids]
    return Flat(
        size=size,
        alignment=[flat.alignment[i] for i in ids],
        fixed=[-1] * len(w.inside) + [now[i] for i in w.crossing],
        segment_of=list(range(len(ids) + 1)),
        first=[ranks[t] for t in first],
        end=[ranks[t] for t in end],
        low=[0] * len(ids),
        high=size,
        excluded_of=[0] * (len(ids) + 1),
        excluded=[],
        moments=len(ranks),
        grain=flat.grain,
        plain=True,
    )

"""One function in front of every packer: ``pack``.

Comes in: a ``PackProblem``. Goes out: a ``PackResult`` with the best placement of the portfolio, every packer's height
and the lower bound. Promised: the same problem and the same node limit give the same answer; the clock decides nothing
but when to stop (``stopped by time`` is then noted in the result). Without a compiler the Python twins serve.

What is done, in this order, until the height meets the bound or the problem's capacity: greedy packers over sorted
orders; for many buffers, repair in windows of time; local search over the best order; the exact search aimed at the
capacity or the bound; then bisection below the best height with node budgets that double per round.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from lowtide.core.errors import OptionError
from lowtide.core.units import align_up
from lowtide.plan import compiled, greedy, windows
from lowtide.plan.conflict import few_that_conflict, fixed_clash
from lowtide.plan.flat import Flat, flatten, lower_bound, meetings
from lowtide.plan.improve import improve
from lowtide.plan.pools import in_one_pool, serves
from lowtide.plan.problem import FEASIBLE, INFEASIBLE, OPTIMAL, UNKNOWN, PackProblem, PackResult, validate
from lowtide.plan.reduce import linearise, merge, possible_merges, without_handover
from lowtide.plan.sections import MORE_ORDERS, ORDERS, Sections, sections_of

PACKERS = greedy.ORDERS
TREE = "tree"  # made for sizes that vary, and seldom the best where they are known: only asked by name
EXACT_LIMIT = 6000  # buffers; the exact search keeps neighbour lists
_MANY = 30_000  # buffers; from here on fewer greedy orders are tried
_STEPS = 40_000_000_000  # of one greedy pass; a few seconds
_TINY = 6  # buffers; up to here Python is done before the library is loaded
_FEW = 150  # buffers; up to here the library is only loaded where greedy orders do not reach the bound,
_MORE = 1000  # and up to here while it is being built


@dataclass
class _Run:
    """What one call of ``pack`` knows so far; lives only as long as the call."""

    flat: Flat
    capacity: int | None
    deadline: float
    nodes_left: int
    place: compiled.Place
    library: ctypes.CDLL | None
    bound: int
    best: list[int]
    height: int = 0
    packer: str = ""
    nodes: int = 0
    proved_not: bool = False
    tried: list[tuple[str, int]] = field(default_factory=list[tuple[str, int]])

    def offer(self, packer: str, offsets: list[int]) -> None:
        """Keep a placement if it is the lowest so far."""
        height = greedy.height_of(self.flat, offsets)
        self.tried.append((packer, height))
        if not self.packer or height < self.height:
            self.best, self.height, self.packer = offsets, height, packer

    def done(self) -> bool:
        """Nothing better is asked for."""
        return bool(self.packer) and (self.height <= self.bound or (self.fits() and self.capacity is not None))

    def fits(self) -> bool:
        return self.capacity is None or self.height <= self.capacity

    def late(self) -> bool:
        return time.perf_counter() > self.deadline


def pack(
    problem: PackProblem,
    *,
    seconds: float = 10.0,
    nodes: int | None = None,
    packers: Sequence[str] = (*PACKERS, "local", "exact"),
    native: bool = True,
) -> PackResult:
    """Place all buffers within the capacity, or in as few bytes as can be found.

    ``seconds``: stop soon after this wall-clock time with the best known. ``nodes``: most steps of the exact search
    (None: no limit; with a limit that is reached before the time, the answer is the same on every machine).
    ``packers``: which to ask of ``PACKERS``, ``tree``, ``local`` and ``exact``, the last two of which begin with ``size``
    where no other is asked; ``size`` also answers for ``tree`` where the problem has what that does not know
    (``pools.serves``). ``native``: use the compiled search where there is a compiler.

    Raises:
        FileError: the problem is nonsense (with the place in it). OptionError: an unknown packer.
    """
    started = time.perf_counter()
    every = (*PACKERS, TREE, "local", "exact")
    for name in packers:
        if name not in every:
            raise OptionError(f"there is no packer {name!r}; known: {', '.join(every)}")
    validate(problem)
    clash = fixed_clash(flatten(linearise(problem)))
    if clash is not None:
        pair = tuple(problem.buffers[i].id for i in clash)
        return PackResult({}, 0, 0, "none", INFEASIBLE, time.perf_counter() - started, (), pair)
    if possible_merges(problem):
        result = _with_merges(problem, seconds, nodes, packers, native)
    else:
        result = _pack_plain(replace(problem, merges=()), started + seconds, nodes, packers, native)
    return replace(result, seconds=time.perf_counter() - started)


def _pack_plain(
    problem: PackProblem, deadline: float, nodes: int | None, packers: Sequence[str], native: bool
) -> PackResult:
    """A problem without merges."""
    flat = flatten(linearise(problem))
    few = _MORE if compiled.being_built() else _FEW
    library = compiled.library(long=nodes is None) if native and flat.count > few else None
    left = nodes if nodes is not None else 1 << 60
    place = compiled.placer(flat, library)
    run = _Run(flat, problem.capacity, deadline, left, place, library, lower_bound(flat), [])
    if TREE in packers and serves(flat):
        run.offer(TREE, in_one_pool(flat))
    asked = [name for name in PACKERS if name in packers]
    if asked or not run.packer:
        _ask_greedy(run, asked or ["size"], "exact" in packers)
    if native and library is None and flat.count > _TINY and not run.done():
        run.library = compiled.library(long=nodes is None)
        run.place = compiled.placer(flat, run.library)
    small = flat.count <= EXACT_LIMIT and flat.plain and "exact" in packers
    if "exact" in packers and EXACT_LIMIT < flat.count <= _MANY:
        _ask_windows(run)
    sections = sections_of(flat) if small and not run.done() else None
    if sections is not None:
        _dive(run, sections)
    if "local" in packers and flat.count <= _MANY and not (run.done() or run.late() or run.proved_not):
        _ask_local(run, share=0.03 if sections is not None else 1.0)
    if sections is not None and not run.done() and not run.proved_not:
        if run.capacity is not None:
            _decide(run, sections)
        else:
            _minimise(run, sections_of(flat, (*ORDERS, *MORE_ORDERS)))
    return _result(problem, run)


def _ask_greedy(run: _Run, names: list[str], exact: bool) -> None:
    """Every order with first and best fit. For very many buffers best fit in order of birth, which is quick, and its repair
    (if ``exact`` is asked), then first fit in the other orders where few buffers meet, until within 0.2 % of the bound."""
    ways = [(name, best) for name in names for best in (False, True)]
    if run.flat.count > EXACT_LIMIT and "time" in names:  # quick, so that there is something before the clock runs out
        ways.sort(key=lambda way: way != ("time", True))
    if run.flat.count > _MANY:
        quick = [("time", True)] if "time" in names else []
        ways = quick + [(name, False) for name in names if name != "time" and _steps(run.flat) < _STEPS]
        ways = ways or [(names[0], False)]
    for name, best in ways:
        close = run.flat.count > _MANY and run.capacity is None and run.height - run.bound <= run.bound // 500
        if run.packer and (close or run.done() or run.late()):
            return
        run.offer(f"{name}/{'best' if best else 'first'}", run.place(greedy.order_by(run.flat, name), best=best))
        if run.flat.count > _MANY and best and exact:
            _ask_windows(run)


def _steps(flat: Flat) -> int:
    """About the steps of one scan over sorted segments: pairs of buffers, those that meet counted twenty times."""
    return flat.count * flat.count // 2 + 20 * meetings(flat)


def _ask_windows(run: _Run) -> None:
    """Repair what lies above the target, where the problem is of a kind that allows it."""
    if run.done() or run.late() or not windows.serves(run.flat):
        return
    target = max(run.bound, run.capacity or 0)
    whole = align_up(target, run.flat.grain) if run.capacity is None else target
    until = (time.perf_counter() + run.deadline) / 2
    offsets, nodes = compiled.repair(run.library, run.flat, run.best, whole, until)
    run.nodes += nodes
    run.offer("windows", offsets)


def _ask_local(run: _Run, share: float) -> None:
    now = time.perf_counter()
    until = now + (run.deadline - now) * share
    name = run.packer.partition("/")[0]
    start = greedy.order_by(run.flat, name if name in greedy.ORDERS else "size")
    target = max(run.bound, run.capacity or 0)
    run.offer("local", improve(run.flat, start, run.place, target, until))


def _search(run: _Run, sections: Sections, capacity: int, budget: int, seconds: float) -> bool | None:
    """One call of the exact search; a placement that it finds is offered."""
    budget = min(budget, run.nodes_left)
    fits, rows, nodes = compiled.decide(run.library, sections, capacity, budget, seconds)
    run.nodes += nodes
    run.nodes_left -= nodes
    if fits:
        offsets = [max(x, 0) for x in run.flat.fixed]
        for i, offset in zip(sections.buffers, rows, strict=True):
            offsets[i] = offset
        run.offer("exact", offsets)
    return fits


def _seconds_left(run: _Run) -> float:
    return max(run.deadline - time.perf_counter(), 0.0)


def _dive(run: _Run, sections: Sections) -> None:
    """A first short look exactly at the target, before anything longer."""
    target = run.bound if run.capacity is None else run.capacity
    if target < run.bound:
        run.proved_not = True
        return
    budget = min(400 * len(sections.size), max(run.nodes_left * 3 // 4, len(sections.size)))
    whole = align_up(target, sections.grain)  # all but the topmost buffer cost whole grains, so this one is likelier
    if run.capacity is None and target < whole < run.height:
        _search(run, sections, whole, budget, _seconds_left(run) / 4)
    answer = _search(run, sections, target, budget, _seconds_left(run) / 2)
    if answer is False:
        if run.capacity is not None:
            run.proved_not = True
        else:
            run.bound += _step(sections)


def _step(sections: Sections) -> int:
    """Every height is a multiple of it (bytes), and so is the bound."""
    return sections.unit if all(nbytes % sections.unit == 0 for nbytes in sections.real) else 1


def _decide(run: _Run, sections: Sections) -> None:
    """Does it fit the capacity?"""
    assert run.capacity is not None
    if _search(run, sections, run.capacity, run.nodes_left, _seconds_left(run)) is False:
        run.proved_not = True


def _minimise(run: _Run, sections: Sections) -> None:
    """Bisection between the bound and the height with a small budget first, then in a window below the best height. What
    a budget does not decide counts as too low for this round; the next round has twice the budget."""
    few = max(run.nodes_left // 12, len(sections.size))  # where nodes are few, many short looks beat one long one
    budget, step, rounds = min(25 * len(sections.size), few), _step(sections), 0
    while not run.done() and not run.late() and run.nodes_left > 0:
        window = max(run.height // 32 // step, 1) * step if rounds > 1 else run.height
        low, rounds = max(run.bound, run.height - window), rounds + 1
        while low < run.height and not run.late() and run.nodes_left > 0:
            middle = low + (run.height - step - low) // 2 // step * step
            fits = _search(run, sections, middle, budget, _seconds_left(run))
            if fits is False:
                run.bound = max(run.bound, middle + step)
            if not fits:
                low = middle + step
        budget *= 2


def _result(problem: PackProblem, run: _Run) -> PackResult:
    capacity, notes = problem.capacity, list[str]()
    if run.late():
        notes.append("stopped by time")
    why = compiled.why_not()
    if run.library is None and why:
        notes.append(f"no compiled search: {why.splitlines()[0]}")
    conflict: tuple[str, ...] = ()
    if run.height <= run.bound and run.fits():
        status = OPTIMAL
    elif run.fits():
        status = FEASIBLE
    elif capacity is not None and (run.proved_not or run.bound > capacity):
        status = INFEASIBLE
        conflict = few_that_conflict(linearise(problem), capacity)
        run.bound = max(run.bound, capacity + 1)
    else:
        status = UNKNOWN
    offsets = {b.id: x for b, x in zip(problem.buffers, run.best, strict=True)}
    tried = tuple(run.tried)
    return PackResult(offsets, run.height, run.bound, run.packer, status, 0.0, tried, conflict, run.nodes, tuple(notes))


def _with_merges(
    problem: PackProblem, seconds: float, nodes: int | None, packers: Sequence[str], native: bool
) -> PackResult:
    """Chooses merges by what the placement then needs: none and all to begin with, then one change at a time from the
    largest down, each judged by a greedy placement; the full portfolio places the best choice."""
    deadline = time.perf_counter() + seconds
    pairs = possible_merges(problem)

    def needed(chosen: list[tuple[str, str]]) -> int:
        flat = flatten(linearise(merge(problem, chosen).problem))
        return greedy.height_of(flat, greedy.place(flat, greedy.order_by(flat, "size")))

    chosen, least = min(((c, needed(c)) for c in (list(pairs), [])), key=lambda x: x[1])
    bound = lower_bound(flatten(linearise(without_handover(problem))))
    for pair in pairs[: max(8, 200_000 // max(len(problem.buffers), 1))]:
        if least <= bound or time.perf_counter() > deadline - seconds / 2:  # the other half is for placing
            break
        other = [p for p in chosen if p != pair] if pair in chosen else [pair, *chosen]
        height = needed(other)
        if height < least:
            chosen, least = other, height
    merged = merge(problem, chosen)
    result = _pack_plain(merged.problem, deadline, nodes, packers, native)
    unmerged = _pack_plain(replace(problem, merges=()), deadline, nodes, packers, native) if not chosen else None
    if unmerged is not None and unmerged.height < result.height:
        return replace(unmerged, lower_bound=min(unmerged.lower_bound, bound))
    proved = result.height <= bound and result.status == OPTIMAL
    status = result.status if proved else {OPTIMAL: FEASIBLE, INFEASIBLE: UNKNOWN}.get(result.status, result.status)
    if problem.capacity is not None and bound > problem.capacity:
        status = INFEASIBLE
    conflict = result.conflict if status == INFEASIBLE else ()
    return replace(result, offsets=merged.spread(result.offsets), lower_bound=bound, status=status, conflict=conflict)

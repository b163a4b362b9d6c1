"""The order engine: least peak of live bytes, with a proved lower bound, under a budget of search steps.

Comes in: a MemoryGraph. Goes out: an OrderResult. Promised: the order passes the independent checker, its peak is
never above the best of the classic orders (of groups, where there are any), ``status`` is OPTIMAL only if the peak equals the
proved bound, and the same graph and budget give the same result on any machine (the clock is an emergency stop only, and
recorded).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lowtide.memory.flat import Flat, flatten, live_bytes, peak_bytes
from lowtide.memory.graph import MemoryGraph
from lowtide.memory.groups import gather, grouped
from lowtide.order.bounds import cut_bound, end_bound
from lowtide.order.check import check_order
from lowtide.order.compiled import being_built, library
from lowtide.order.entrants import ENTRANTS
from lowtide.order.exact import close
from lowtide.order.objective import least_objective
from lowtide.order.windows import improve, piece_of, pieces

Objective = Callable[[MemoryGraph, Sequence[int]], int]
Progress = Callable[[int, int, int], None]  # steps used, least peak so far, lower bound

EMERGENCY_SECONDS = 600.0
_SMALL = 128  # nodes; the exact search takes such graphs whole at once
_EXACT = 2500  # nodes; larger pieces are left to windows


@dataclass(frozen=True, slots=True)
class OrderResult:
    """An order of a graph's nodes and what is known about it.

    order: indices into ``graph.nodes``. peak, lower_bound: bytes (peak: of the objective, where one was given).
    bound_name: which argument proves the bound. status: ``OPTIMAL`` or ``FEASIBLE``. candidates: peak of each order
    that was tried. steps: search steps used. stopped_by: ``proved``, ``stuck``, ``budget`` or ``clock``.
    """

    order: tuple[int, ...]
    peak: int
    lower_bound: int
    bound_name: str
    status: str
    candidates: Mapping[str, int]
    steps: int
    stopped_by: str

    @property
    def gap(self) -> float:
        """How far the peak may be above the optimum: 0.02 is two per cent."""
        return self.peak / self.lower_bound - 1 if self.lower_bound else float(self.peak > 0)


def default_budget(n: int) -> int:
    """Search steps that a graph of ``n`` nodes gets unless told otherwise; fewer where there is no compiler."""
    if not being_built() and library() is None:
        return 3_000_000 if n <= _SMALL else 300_000 + 100 * n
    return 30_000_000 if n <= _SMALL else 3_000_000 + 4_000 * min(n, _EXACT) + 100 * n


def reorder(
    graph: MemoryGraph,
    *,
    budget_steps: int | None = None,
    objective: Objective | None = None,
    progress: Progress | None = None,
    device: str | None = None,
    emergency_seconds: float = EMERGENCY_SECONDS,
) -> OrderResult:
    """An order of least peak, in which the nodes of a group stand side by side. ``device`` counts the bytes of one device only
    (None: all of them added up).

    ``objective(graph, order)`` is what is to be least instead of the live peak, in bytes; it must never be below the
    live peak, so that the bound stays true. ``progress`` is told (steps, peak, bound) now and then. After
    ``emergency_seconds`` the search ends with what it has, and ``stopped_by`` says ``clock``.

    Raises:
        VerifyError: ``group``, as ``memory.groups.gather``.
    """
    deadline = time.monotonic() + emergency_seconds
    if grouped(graph):
        return _of_groups(graph, budget_steps, objective, progress, device, deadline)
    flat = flatten(graph, device=device)
    search = _Search(flat, budget_steps, progress, deadline)
    search.enter()
    search.search()
    order, peak = search.order, search.peak
    candidates = dict(search.candidates)
    if objective is not None:
        order, peak, candidates = least_objective(graph, flat, search.tried, objective, search.budget)
    check_order(graph, order)
    return _result(search, order, peak, (search.bound, search.bound_name), candidates)


def _of_groups(
    graph: MemoryGraph,
    budget_steps: int | None,
    objective: Objective | None,
    progress: Progress | None,
    device: str | None,
    deadline: float,
) -> OrderResult:
    """An order in which groups stand side by side: the best of those that are tried of the graph with a node per group, judged
    and bounded by the whole graph. ``progress`` is told peaks of the former, which are not below those of the latter."""
    gathered = gather(graph, device)
    flat = flatten(graph, device=device)
    bound, name = end_bound(flat)

    def tell(steps: int, peak: int, _: int) -> None:
        if progress is not None:
            progress(steps, peak, bound)

    def judge(order: Sequence[int]) -> int:
        return peak_bytes(flat, order) if objective is None else objective(graph, order)

    search = _Search(flatten(gathered.graph, device=device), budget_steps, tell, deadline)
    search.enter()
    search.search()
    tried = {way: gathered.spelled(order) for way, order in search.tried.items()}
    candidates = {way: judge(order) for way, order in tried.items()}
    best = min(candidates, key=candidates.__getitem__)
    order, peak = tried[best], candidates[best]
    check_order(graph, order)
    if peak > bound and search.steps < search.budget:
        most = min(20_000 + search.budget // 4, search.budget - search.steps)
        cut, cut_name, used = cut_bound(flat, order, live_bytes(flat, order), bound, most, [-1] * flat.n)
        search.steps += used
        if cut > bound:
            bound, name = cut, cut_name
    return _result(search, order, peak, (bound, name), candidates)


def _result(
    search: _Search, order: Sequence[int], peak: int, bound: tuple[int, str], candidates: Mapping[str, int]
) -> OrderResult:
    closed = peak <= bound[0]
    stopped = "proved" if closed else search.stopped_by
    status = "OPTIMAL" if closed else "FEASIBLE"
    return OrderResult(tuple(order), peak, *bound, status, candidates, search.steps, stopped)


class _Search:
    """The stages of one call and what they share; short-lived."""

    def __init__(self, flat: Flat, given: int | None, progress: Progress | None, deadline: float) -> None:
        self.flat, self.given, self.progress, self.deadline = flat, given, progress, deadline
        self.candidates: dict[str, int] = {}
        self.tried: dict[str, list[int]] = {}
        self.order: list[int] = []
        self.peak = 0
        self.bound, self.bound_name = end_bound(flat)
        self.least = [-1] * flat.n  # what the cut bound found for each node
        self.steps = 0
        self.stopped_by = "budget"
        self.late = False

    @property
    def budget(self) -> int:
        """Steps in all; asked again each time, since a library that is being built may turn out not to be had."""
        return default_budget(self.flat.n) if self.given is None else self.given

    def enter(self) -> None:
        """The classic orders; ties keep the earlier one, so program order wins them."""
        for name, entrant in ENTRANTS.items():
            order = entrant(self.flat)
            peak = peak_bytes(self.flat, order)
            self.candidates[name], self.tried[name] = peak, order
            if not self.order or peak < self.peak:
                self.order, self.peak = order, peak

    def prove(self) -> None:
        """A lower bound from cuts at the dearest steps."""
        if self.peak <= self.bound:
            return
        live = live_bytes(self.flat, self.order)
        most = 20_000 + self.budget // 4
        bound, name, used = cut_bound(self.flat, self.order, live, self.bound, most, self.least)
        self.steps += used
        self._raise(bound, name)

    def search(self) -> None:
        """Windows around the peak for large graphs, then the exact search piece by piece, in turn until it is stuck."""
        stuck = False
        while not stuck and self.peak > self.bound and self.steps < self.budget and not self._stop():
            before = (self.peak, self.bound)
            if self.flat.n > _SMALL:
                order, used, stuck = improve(self.flat, self.order, self.bound, self.budget - self.steps, self._tell)
                self.steps += used
                self._take(order)
            self.prove()
            self._exact()
            stuck = stuck and before == (self.peak, self.bound)
        if self.late:
            self.stopped_by = "clock"
        elif self.steps < self.budget:
            self.stopped_by = "stuck"
        self.candidates["search"], self.tried["search"] = self.peak, self.order

    def _exact(self) -> None:
        """Solve the pieces between single-node separators, dearest first; a piece's bound bounds the whole."""
        for start, stop in pieces(self.flat, self.order):
            room = self.budget - self.steps
            if room <= 0 or self.peak <= self.bound or self._stop():
                return
            if stop - start > _EXACT:
                continue
            piece, nodes = piece_of(self.flat, self.order, start, stop)
            local = list(range(len(nodes)))
            if peak_bytes(piece, local) <= self.bound:
                continue
            found = close(piece, local, self.bound, room, self._go_on)
            self.steps += found.steps
            self._raise(found.bound, "exhausted")
            self._take(self.order[:start] + [nodes[k] for k in found.order] + self.order[stop:])
            self._tell(0, self.peak)

    def _raise(self, bound: int, name: str) -> None:
        if bound > self.bound:
            self.bound, self.bound_name = bound, name

    def _take(self, order: list[int]) -> None:
        peak = peak_bytes(self.flat, order)
        # Also at the same peak: a piece that was improved stays improved while another one holds the peak.
        if peak <= self.peak:
            self.order, self.peak = order, peak

    def _stop(self) -> bool:
        self.late = self.late or time.monotonic() > self.deadline
        return self.late

    def _go_on(self, steps: int, _peak: int, bound: int) -> bool:
        """Called from within a piece: its bound bounds the whole, its peak may not be the whole's."""
        return self._tell(steps, self.peak, bound)

    def _tell(self, steps: int, peak: int, bound: int = 0) -> bool:
        if self.progress is not None:
            self.progress(self.steps + steps, peak, max(self.bound, bound))
        return not self._stop()

"""Schedule -> MemoryPlan: which storages share slabs, chosen by the promised total peak.

Comes in: a schedule in its final order. Goes out: the MemoryPlan with the least promised peak among: every storage by
itself (``none``), one arena for the whole program (``one``), one slab per window of steps for what lives within the window
(``windows k``), and one per pair of windows for what is born in the one and dies in the other (``phases k``), so that saved
tensors lie in slabs that backward gives up one after the other. Promised: never above ``none``, unless the caller forces
``one``; ties go to what holds least between two sections, where other programs may run beside ours, and then to the fewest
allocations per call, which spare the page faults of fresh memory. A storage may lie in a slab if the operation that makes it
writes into given memory and the caller does not get to keep it. Each device is laid out by itself, and what has an allocator
of its own lies in slabs of that one alone.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from lowtide.core.errors import Unsupported
from lowtide.core.options import Options
from lowtide.core.reason import Reason
from lowtide.core.units import align_up
from lowtide.ir.graph import PINNED
from lowtide.memory.flat import flatten, live_bytes
from lowtide.memory.graph import MemoryGraph
from lowtide.memory.lifetime import Lifetime, lifetimes, timeline
from lowtide.order.bounds import proved_peak
from lowtide.plan.chains import Chain, chains_of, fill_holes, pack_chains
from lowtide.plan.plan import FRESH, OVER, SLAB, DeviceFigures, MemoryPlan, Place, Slab, alignment_of
from lowtide.schedule.schedule import CALL, Schedule, kept_apart, memory_graph

WINDOWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)


@dataclass(frozen=True, slots=True)
class _Layout:
    """One way to lay everything out: ``live`` bytes per step, and what a call allocates. ``between``: most bytes by which it
    holds more at a border between sections than all storages by themselves would (at least 0); what is kept for the next
    call, which can be given back, apart."""

    name: str
    places: dict[str, Place]
    slabs: tuple[Slab, ...]
    live: tuple[int, ...]
    between: int

    @property
    def cost(self) -> tuple[int, int, int]:
        """What is compared: the peak in bytes, then ``between``, then how often a call allocates."""
        fresh = sum(p.how == FRESH for p in self.places.values())
        return max(self.live, default=0), self.between, fresh + sum(not s.kept for s in self.slabs)


def plan_memory(
    schedule: Schedule, options: Options, lower_bound: int | None = None, ways: Mapping[str, str] | None = None
) -> MemoryPlan:
    """The plan with the least promised peak on each device. ``lower_bound``: of the one that most bytes are on, in bytes, if the
    order engine proved one. ``ways``: by device the only one that is considered beside ``none``.

    Raises:
        Unsupported: what must come from an allocator of its own would be allocated by a library, or given to the caller.
    """
    graph = memory_graph(schedule)
    alive = lifetimes(graph)
    main = main_device(alive)
    only = ways or {}
    best, figures = _on_device(schedule, alive, main, options, only.get(main))
    if lower_bound is not None:
        figures = replace(figures, lower_bound=lower_bound)
    places, slabs = best.places, best.slabs
    others: list[DeviceFigures] = []
    for device in _further(graph, alive, main):
        left = options.retain - sum(s.nbytes for s in slabs if s.kept)
        best, found = _on_device(schedule, alive, device, replace(options, retain=left), only.get(device))
        if options.reorder:
            flat = flatten(graph, device=device)
            order = range(flat.n)
            found = replace(found, lower_bound=proved_peak(flat, order, live_bytes(flat, order)))
        others.append(found)
        behind = {
            p.storage: p if p.slab is None else replace(p, slab=len(slabs) + p.slab) for p in best.places.values()
        }
        places, slabs = places | behind, slabs + best.slabs
    return MemoryPlan(
        main, tuple(places[a.name] for a in alive), slabs, figures.live, figures.lower_bound, figures.sum_nbytes,
        figures.chosen, figures.candidates, tuple(others),
    )  # fmt: skip


def _on_device(
    schedule: Schedule, alive: Sequence[Lifetime], device: str, options: Options, way: str | None
) -> tuple[_Layout, DeviceFigures]:
    """How what lies on one device is laid out. The bound is the peak of this order without slabs."""
    graph = memory_graph(schedule)
    here = [a for a in alive if a.device == device]
    chains = chains_of(schedule, graph, here)
    _must_be_placed(schedule, chains)
    base = timeline(graph, device=device, alive=alive).live
    cuts = [i for i, n in enumerate(graph.nodes) if n.name.startswith(CALL)]
    ways = _groupings([0, *cuts, len(graph.nodes)], chains, options, alignment_of(device))
    if way is not None:
        ways = [w for w in ways if w[0] in ("none", way)]
    best, considered = _best(chains, ways, _Setting(device, base, tuple(cuts), options))
    workspace = max((n.workspace for n in graph.nodes if n.device == device), default=0)
    total = sum(align_up(a.nbytes, alignment_of(device)) for a in here) + workspace
    return best, DeviceFigures(device, best.live, max(base, default=0), total, best.name, considered)


def _must_be_placed(schedule: Schedule, chains: Sequence[Chain]) -> None:
    """Raise Unsupported where bytes that an allocator of its own must give may lie in no slab."""
    for c in chains:
        if c.allocator and c.nbytes and not c.eligible:
            name = c.members[0].name
            why = kept_apart(schedule).get(name) or next(s.unplaced for s in schedule.steps if name in s.op.outputs)
            raise Unsupported(Reason(f"%{name}", f"must come from allocator {c.allocator}: {why}"))


def _further(graph: MemoryGraph, alive: Sequence[Lifetime], main: str) -> list[str]:
    """The devices beside ``main`` on which something is allocated."""
    return sorted(({a.device for a in alive} | {n.device for n in graph.nodes if n.workspace}) - {main})


@dataclass(frozen=True, slots=True)
class _Setting:
    """What every way is laid out for: ``base``: live bytes per step without slabs; ``cuts``: borders between sections."""

    device: str
    base: tuple[int, ...]
    cuts: tuple[int, ...]
    options: Options

    @property
    def alignment(self) -> int:
        """Of slabs, in bytes."""
        return alignment_of(self.device)


def _best(
    chains: Sequence[Chain], ways: Sequence[tuple[str, list[list[int]]]], at: _Setting
) -> tuple[_Layout, tuple[tuple[str, int], ...]]:
    """The cheapest way, and the peak of every way in bytes: as planned, or at least, where that was enough to drop it.

    Ways are laid out in the order of what they would cost if every slab were as small as its bound, and only packed while
    that is less than the cheapest found. That cost is a hope and no bound, since holes are filled later: a way that is
    dropped might have turned out cheaper.
    """
    hopes = [_lay_out(chains, name, groups, at, packed=False) for name, groups in ways]
    best: _Layout | None = None
    peaks: dict[str, int] = {}
    for i in sorted(range(len(ways)), key=lambda i: (*hopes[i].cost, i)):
        found = hopes[i]
        if best is None or found.cost < best.cost:
            found = _lay_out(chains, *ways[i], at, packed=True) if found.slabs else found
            if best is None or found.cost < best.cost:
                best = found
        peaks[found.name] = found.cost[0]
    assert best is not None
    return best, tuple((name, peaks[name]) for name, _ in ways)


def main_device(alive: Sequence[Lifetime]) -> str:
    """The device that most bytes are on (cpu for an empty program): the one that a plan is for. Memory of the host that is pinned
    is none where there is another, since nothing runs on it."""
    totals: dict[str, int] = {}
    for a in alive:
        totals[a.device] = totals.get(a.device, 0) + a.nbytes
    return max(totals, key=lambda d: (d != PINNED, totals[d]), default="cpu")


def _groupings(
    cuts: Sequence[int], chains: Sequence[Chain], options: Options, alignment: int
) -> list[tuple[str, list[list[int]]]]:
    """Ways to group chains (by index) into slabs; ``cuts`` are the borders of the sections, first and last included. What
    would have to be padded in a slab, and is held across a border, is left out of phases."""
    able = [i for i, c in enumerate(chains) if c.eligible and not c.allocator]
    apart = [
        group
        for name in sorted({c.allocator for c in chains if c.allocator and c.eligible})
        for group in _arenas(cuts, chains, [i for i, c in enumerate(chains) if c.eligible and c.allocator == name])
    ]  # whatever the way, since nothing else may lie there
    none: tuple[str, list[list[int]]] = ("none", apart)
    one: tuple[str, list[list[int]]] = ("one", [*_arenas(cuts, chains, able), *apart])
    if options.slabs == "none":
        return [none]
    if options.slabs == "one":
        return [one]
    sections = list(itertools.pairwise(cuts))
    ways: list[tuple[str, list[list[int]]]] = [none, one]
    for k in WINDOWS:
        edges = sorted({a + (b - a) * i // k for a, b in sections for i in range(k)} | {cuts[-1]})
        groups = [
            [i for i in able if lo <= chains[i].first and chains[i].end <= hi] for lo, hi in itertools.pairwise(edges)
        ]
        ways.append((f"windows {k}", [*(g for g in groups if len(g) > 1), *apart]))
        pairs: dict[tuple[int, int], list[int]] = {}
        for i in able:
            if chains[i].nbytes % alignment and any(chains[i].first < cut < chains[i].end for cut in cuts):
                continue
            pair = bisect_right(edges, chains[i].first), bisect_right(edges, chains[i].end - 1)
            pairs.setdefault(pair, []).append(i)
        ways.append((f"phases {k}", [*(g for _, g in sorted(pairs.items()) if len(g) > 1), *apart]))
    return ways


def _arenas(cuts: Sequence[int], chains: Sequence[Chain], able: Sequence[int]) -> list[list[int]]:
    """As few groups as can be: a new one only at a border between sections that nothing crosses, since there nothing
    hands the slab on."""
    groups: list[list[int]] = [[]]
    for cut in cuts[1:]:
        groups[-1] += [i for i in able if chains[i].first < cut and not any(i in g for g in groups)]
        if not any(chains[i].first < cut < chains[i].end for i in able):
            groups.append([])
    return [g for g in groups if g]


def _lay_out(
    chains: Sequence[Chain], name: str, groups: Sequence[Sequence[int]], at: _Setting, *, packed: bool
) -> _Layout:
    """Pack each group, and put what else fits into the holes that the slabs then have; everything else gets an allocation
    of its own. Without ``packed``, slabs are as large as their bound, offsets are 0 and no holes are filled."""
    slabs: list[Slab] = []
    where: dict[str, tuple[int, int]] = {}
    inside = [list(group) for group in groups]
    for group in groups:
        members = [chains[i] for i in group]
        offsets, height = pack_chains(members, at.alignment, packed=packed)
        where.update((m.name, (len(slabs), offsets.get(m.name, 0))) for c in members for m in c.members)
        first, end = min(c.first for c in members), max(c.end for c in members)
        slabs.append(Slab(height, at.device, first, end, allocator=members[0].allocator))
    if packed and slabs:
        for i, slab, offset in fill_holes(chains, slabs, where, at.alignment):
            inside[slab].append(i)
            where.update((m.name, (slab, offset)) for m in chains[i].members)
    places: dict[str, Place] = {}
    size = {m.name: m.nbytes for c in chains for m in c.members}
    apart: list[Lifetime] = []
    for m in (m for c in chains for m in c.members):
        slab, offset = where.get(m.name, (None, 0))
        over = m.takes_over
        if over is not None and slab is None and size[over] != m.nbytes:
            over, apart = None, [*apart, m]  # what it leaves would stay with it
        elif packed and over is not None and (slab, offset) != where.get(over, (None, 0)):
            over = None
        how = OVER if over is not None else SLAB if slab is not None else FRESH
        places[m.name] = Place(m.name, m.nbytes, m.first, m.end, how, over, slab, offset, m.escapes)
    held = _held(at.base, chains, inside, slabs)
    for m in apart:
        held[m.first] += m.nbytes
    between = max((held[cut] - at.base[cut] for cut in at.cuts), default=0)
    kept, live = _keep(tuple(slabs), held, at)
    return _Layout(name, places, kept, live, max(between, 0))


def _held(
    base: Sequence[int], chains: Sequence[Chain], groups: Sequence[Sequence[int]], slabs: Sequence[Slab]
) -> list[int]:
    """Bytes held per step: the plain timeline, less what lies in slabs, plus the slabs."""
    change = [0] * (len(base) + 1)
    for group, slab in zip(groups, slabs, strict=True):
        for i in group:
            for m in chains[i].members:
                change[m.first + (m.takes_over is not None)] -= m.nbytes
                change[m.end] += m.nbytes
        change[slab.first] += slab.nbytes
        change[slab.end] -= slab.nbytes
    out: list[int] = []
    total = 0
    for t, b in enumerate(base):
        total += change[t]
        out.append(b + total)
    return out


def _keep(slabs: tuple[Slab, ...], live: list[int], at: _Setting) -> tuple[tuple[Slab, ...], tuple[int, ...]]:
    """Keep for the next call what can be held throughout without raising the peak, largest first.

    A slab that crosses from one section to the next holds saved tensors, whose life autograd decides: on the CPU the
    runtime leases it to each call and gets it back when nobody holds a view of it.
    """
    peak, room = max(live, default=0), at.options.retain
    out = list(slabs)
    for i in sorted(range(len(slabs)), key=lambda j: -slabs[j].nbytes):
        s = slabs[i]
        held = [x + (0 if s.first <= t < s.end else s.nbytes) for t, x in enumerate(live)]
        crosses = any(s.first < cut < s.end for cut in at.cuts)
        if not (crosses and at.device != "cpu") and s.nbytes <= room and max(held, default=0) <= peak:
            out[i], live, room = replace(s, kept=True), held, room - s.nbytes
    return tuple(out), tuple(live)

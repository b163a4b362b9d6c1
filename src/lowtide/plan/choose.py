"""Schedule -> MemoryPlan: which storages share slabs, chosen by the promised total peak.

Comes in: a schedule in its final order. Goes out: the MemoryPlan with the least promised peak among: every storage by
itself (``none``), one arena for the whole program (``one``), and one slab per window of steps for what lives within the
window (``windows k``). Promised: never above ``none``, unless the caller forces ``one``; ties go to fewer allocations,
which spare the page faults of fresh memory. A storage may lie in a slab if the operation that makes it writes into given
memory and the caller does not get to keep it; what crosses from one section to the next only in the ``one`` arena.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lowtide.core.options import Options
from lowtide.core.units import align_up
from lowtide.memory.graph import MemoryGraph
from lowtide.memory.lifetime import Lifetime, lifetimes, timeline
from lowtide.plan.greedy import pack_greedy
from lowtide.plan.plan import FRESH, OVER, SLAB, MemoryPlan, Place, Slab
from lowtide.plan.problem import PackBuffer, PackProblem
from lowtide.schedule.schedule import CALL, Schedule, memory_graph

ALIGNMENT = {"cpu": 64, "cuda": 512}
WINDOWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48)


@dataclass(frozen=True, slots=True)
class _Chain:
    """Storages that continue in one another's bytes: one thing to place, alive in ``[first, end)``."""

    members: tuple[Lifetime, ...]
    nbytes: int
    first: int
    end: int
    eligible: bool


def plan_memory(schedule: Schedule, options: Options, lower_bound: int | None = None) -> MemoryPlan:
    """The plan with the least promised peak. ``lower_bound`` in bytes, if the order engine proved one."""
    graph = memory_graph(schedule)
    alive = lifetimes(graph)
    device = main_device(alive)
    chains = _chains(schedule, graph, [x for x in alive if x.device == device])
    base = timeline(graph, device=device, alive=alive).live
    found: list[tuple[str, dict[str, Place], tuple[Slab, ...], tuple[int, ...]]] = []
    cuts = [i for i, n in enumerate(graph.nodes) if n.name.startswith(CALL)]
    for name, groups in _groupings([0, *cuts, len(graph.nodes)], chains, options):
        places, slabs = _lay_out(chains, groups, device)
        slabs, live = _keep(slabs, _held(base, chains, groups, slabs), options, cuts)
        found.append((name, places, slabs, live))
    best = min(found, key=lambda f: (max(f[3], default=0), _allocations(f[1], f[2])))
    name, places, slabs, live = best
    alignment = ALIGNMENT[device.split(":")[0]]
    workspace = max((n.workspace for n in graph.nodes if n.device == device), default=0)
    others = {x.storage: x for x in (_fresh(a) for a in alive if a.device != device)}
    ordered = tuple((places | others)[a.name] for a in alive)
    return MemoryPlan(
        device, ordered, slabs, live,
        max(base, default=0) if lower_bound is None else lower_bound,
        sum(align_up(a.nbytes, alignment) for a in alive if a.device == device) + workspace,
        name,
        tuple((f[0], max(f[3], default=0)) for f in found),
    )  # fmt: skip


def main_device(alive: Sequence[Lifetime]) -> str:
    """The device that most bytes are on (cpu for an empty program): the one that a plan is for."""
    totals: dict[str, int] = {}
    for a in alive:
        totals[a.device] = totals.get(a.device, 0) + a.nbytes
    return max(totals, key=lambda d: totals[d], default="cpu")


def _chains(schedule: Schedule, graph: MemoryGraph, alive: Sequence[Lifetime]) -> tuple[_Chain, ...]:
    given = {step.op.outputs[0]: step for step in schedule.steps if step.op.outputs}
    writes_out = {
        schedule.graph.value[o].storage
        for step in given.values()
        if step.facts.out is not None and not step.facts.restride
        for o in step.op.outputs
        if o is not None
    }
    sole = {x: len(step.op.outputs) == 1 for step in given.values() for x in step.op.outputs if x}
    chains: dict[str, list[Lifetime]] = {}
    root: dict[str, str] = {}
    for a in sorted(alive, key=lambda x: x.first):
        root[a.name] = root[a.takes_over] if a.takes_over is not None else a.name
        chains.setdefault(root[a.name], []).append(a)
    out: list[_Chain] = []
    for name, members in chains.items():
        ours = name in writes_out and sole.get(name, False) and not graph.buffer[name].input
        ours = ours and members[0].nbytes > 0 and not any(m.escapes for m in members)
        out.append(_Chain(tuple(members), members[0].nbytes, members[0].first, max(m.end for m in members), ours))
    return tuple(out)


def _groupings(cuts: Sequence[int], chains: Sequence[_Chain], options: Options) -> list[tuple[str, list[list[int]]]]:
    """Ways to group chains (by index) into slabs; ``cuts`` are the borders of the sections, first and last included."""
    able = [i for i, c in enumerate(chains) if c.eligible]
    none: tuple[str, list[list[int]]] = ("none", [])
    one: tuple[str, list[list[int]]] = ("one", _arenas(cuts, chains, able))
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
        ways.append((f"windows {k}", [g for g in groups if len(g) > 1]))
    return ways


def _arenas(cuts: Sequence[int], chains: Sequence[_Chain], able: Sequence[int]) -> list[list[int]]:
    """As few groups as can be: a new one only at a border between sections that nothing crosses, since there nothing
    hands the slab on."""
    groups: list[list[int]] = [[]]
    for cut in cuts[1:]:
        groups[-1] += [i for i in able if chains[i].first < cut and not any(i in g for g in groups)]
        if not any(chains[i].first < cut < chains[i].end for i in able):
            groups.append([])
    return [g for g in groups if g]


def _lay_out(
    chains: Sequence[_Chain], groups: Sequence[Sequence[int]], device: str
) -> tuple[dict[str, Place], tuple[Slab, ...]]:
    """Pack each group; everything else gets an allocation of its own."""
    alignment = ALIGNMENT[device.split(":")[0]]
    slabs: list[Slab] = []
    at: dict[int, tuple[int, int]] = {}
    for group in groups:
        buffers = tuple(
            PackBuffer(str(i), align_up(chains[i].nbytes, alignment), ((chains[i].first, chains[i].end),), alignment)
            for i in group
        )
        packed = pack_greedy(PackProblem(buffers))
        at.update({i: (len(slabs), packed.offsets[str(i)]) for i in group})
        first, end = min(chains[i].first for i in group), max(chains[i].end for i in group)
        slabs.append(Slab(packed.height, device, first, end))
    places: dict[str, Place] = {}
    for i, chain in enumerate(chains):
        slab, offset = at.get(i, (None, 0))
        for m in chain.members:
            how = OVER if m.takes_over is not None else SLAB if slab is not None else FRESH
            places[m.name] = Place(m.name, m.nbytes, m.first, m.end, how, m.takes_over, slab, offset, m.escapes)
    return places, tuple(slabs)


def _fresh(a: Lifetime) -> Place:
    how = FRESH if a.takes_over is None else OVER
    return Place(a.name, a.nbytes, a.first, a.end, how, a.takes_over, escapes=a.escapes)


def _held(
    base: Sequence[int], chains: Sequence[_Chain], groups: Sequence[Sequence[int]], slabs: Sequence[Slab]
) -> list[int]:
    """Bytes held per step: the plain timeline, less what lies in slabs, plus the slabs."""
    change = [0] * (len(base) + 1)
    for group, slab in zip(groups, slabs, strict=True):
        for i in group:
            change[chains[i].first] -= chains[i].nbytes
            change[chains[i].end] += chains[i].nbytes
        change[slab.first] += slab.nbytes
        change[slab.end] -= slab.nbytes
    out: list[int] = []
    total = 0
    for t, b in enumerate(base):
        total += change[t]
        out.append(b + total)
    return out


def _keep(
    slabs: tuple[Slab, ...], live: list[int], options: Options, cuts: Sequence[int]
) -> tuple[tuple[Slab, ...], tuple[int, ...]]:
    """Keep for the next call what can be held throughout without raising the peak, largest first.

    A slab that crosses from one section to the next holds saved tensors, whose life autograd decides: never kept.
    """
    peak, room = max(live, default=0), options.retain
    out = list(slabs)
    for i in sorted(range(len(slabs)), key=lambda j: -slabs[j].nbytes):
        s = slabs[i]
        held = [x + (0 if s.first <= t < s.end else s.nbytes) for t, x in enumerate(live)]
        crosses = any(s.first < cut < s.end for cut in cuts)
        if not crosses and s.nbytes <= room and max(held, default=0) <= peak:
            out[i], live, room = replace(s, kept=True), held, room - s.nbytes
    return tuple(out), tuple(live)


def _allocations(places: dict[str, Place], slabs: Sequence[Slab]) -> int:
    return len(slabs) + sum(p.how == FRESH for p in places.values())

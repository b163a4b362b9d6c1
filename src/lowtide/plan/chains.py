"""Chains of storages that continue in one another's bytes, and the slab that several of them share.

Comes in: a schedule, its MemoryGraph and lifetimes. Goes out: ``Chain`` values, and for a group of them offsets and a
height in bytes. Promised: a chain says whether it may lie in a slab; every storage of a group has an offset, equal along a
handover that was taken; the height is the portfolio's (``plan.pack``), with a budget of search steps, not of time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lowtide.core.units import align_up
from lowtide.memory.graph import MemoryGraph
from lowtide.memory.lifetime import Lifetime
from lowtide.plan.flat import flatten, lower_bound
from lowtide.plan.pack import PACKERS, pack
from lowtide.plan.plan import Slab
from lowtide.plan.problem import PackBuffer, PackProblem, PackResult
from lowtide.schedule.schedule import Schedule, copied_whole

_PACKERS = (*PACKERS, "exact")
_NODES, _MORE = 2000, 8  # search steps: at least, and per chain
_EMERGENCY = 60.0  # seconds; never reached but on a machine that stands still


@dataclass(frozen=True, slots=True)
class Chain:
    """Storages that continue in one another's bytes: one thing to place, alive in ``[first, end)``.

    eligible: may lie in a slab. free: members (by name) that need not continue where the one before them lies, since
    their operation can write into any given memory.
    """

    members: tuple[Lifetime, ...]
    nbytes: int
    first: int
    end: int
    eligible: bool
    free: frozenset[str]


def chains_of(schedule: Schedule, graph: MemoryGraph, alive: Sequence[Lifetime]) -> tuple[Chain, ...]:
    """The chains of ``alive``, in order of birth."""
    steps = {o: step for step in schedule.steps for o in step.op.outputs if o is not None}
    writes = {name for name, step in steps.items() if step.placed}
    alone = copied_whole(schedule)  # in a slab, all of the slab would be copied
    chains: dict[str, list[Lifetime]] = {}
    root: dict[str, str] = {}
    for a in sorted(alive, key=lambda x: x.first):
        root[a.name] = root[a.takes_over] if a.takes_over is not None else a.name
        chains.setdefault(root[a.name], []).append(a)
    out: list[Chain] = []
    for name, members in chains.items():
        ours = name in writes and not graph.buffer[name].input
        ours = ours and members[0].nbytes > 0 and not any(m.escapes or m.name in alone for m in members)
        free = frozenset(m.name for m in members[1:] if m.name in writes)
        out.append(Chain(tuple(members), members[0].nbytes, members[0].first, max(m.end for m in members), ours, free))
    return tuple(out)


def pack_chains(chains: Sequence[Chain], alignment: int, *, packed: bool = True) -> tuple[dict[str, int], int]:
    """Offset of every storage, and the bytes of a slab that holds them all. Without ``packed``, only the lower bound.

    Chains stay whole. Where that does not reach the bound, the packer is asked again with handovers as offers: it may let
    a storage begin somewhere else than where the one before it lies.
    """
    whole = PackProblem(
        tuple(_buffer(c.members[0].name, c.nbytes, c.first, c.end, alignment) for c in chains),
    )
    if not packed:
        return {}, lower_bound(flatten(whole))
    found = _packed(whole)
    head = {m.name: c.members[0].name for c in chains for m in c.members}
    if found.gap > 0 and any(c.free for c in chains):
        parts, pairs, piece_of = _pieces(chains, alignment)
        apart = _packed(PackProblem(parts, merges=pairs))
        if apart.height < found.height:
            found, head = apart, piece_of
    return {name: found.offsets[h] for name, h in head.items()}, found.height


def _packed(problem: PackProblem) -> PackResult:
    nodes = _NODES + _MORE * len(problem.buffers)
    return pack(problem, seconds=_EMERGENCY, nodes=nodes, packers=_PACKERS)


def _buffer(name: str, nbytes: int, first: int, end: int, alignment: int) -> PackBuffer:
    return PackBuffer(name, align_up(nbytes, alignment), ((first, end),), alignment)


def _pieces(
    chains: Sequence[Chain], alignment: int
) -> tuple[tuple[PackBuffer, ...], tuple[tuple[str, str], ...], dict[str, str]]:
    """Chains cut where a handover is a matter of choice: buffers, the handovers that may be taken, storage -> buffer."""
    parts: list[PackBuffer] = []
    pairs: list[tuple[str, str]] = []
    piece_of: dict[str, str] = {}
    for c in chains:
        runs: list[list[Lifetime]] = []
        for m in c.members:
            if not runs or m.name in c.free:
                runs.append([])
            runs[-1].append(m)
        for before, run in zip([None, *runs], runs, strict=False):
            name = run[0].name
            parts.append(_buffer(name, run[0].nbytes, run[0].first, run[-1].end, alignment))
            piece_of.update((m.name, name) for m in run)
            if before is not None:
                pairs.append((before[0].name, name))
    return tuple(parts), tuple(pairs), piece_of


def fill_holes(
    chains: Sequence[Chain], slabs: Sequence[Slab], where: Mapping[str, tuple[int, int]], alignment: int
) -> list[tuple[int, int, int]]:
    """(chain by index, slab, offset) for chains that stand in no slab and fit into the holes of one, largest first: what
    backward needs for a while lies where saved tensors have ended. No slab grows or is held longer."""
    rows: list[list[tuple[int, int, int, int]]] = [[] for _ in slabs]  # first, end, offset, top
    for m in (m for c in chains for m in c.members if m.name in where):
        slab, offset = where[m.name]
        rows[slab].append((m.first, m.end, offset, offset + m.nbytes))
    out: list[tuple[int, int, int]] = []
    waiting = [i for i, c in enumerate(chains) if c.eligible and c.members[0].name not in where]
    for i in sorted(waiting, key=lambda i: (-chains[i].nbytes, i)):
        c = chains[i]
        for k, slab in enumerate(slabs):
            if not (slab.first <= c.first and c.end <= slab.end):
                continue
            at = 0
            for lo, hi in sorted((lo, hi) for first, end, lo, hi in rows[k] if first < c.end and c.first < end):
                if lo - at >= c.nbytes:
                    break
                at = max(at, align_up(hi, alignment))
            if at + c.nbytes <= slab.nbytes:
                rows[k].append((c.first, c.end, at, at + c.nbytes))
                out.append((i, k, at))
                break
    return out

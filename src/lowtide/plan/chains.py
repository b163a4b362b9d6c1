"""Chains of storages that continue in one another's bytes, and the slab that several of them share.

Comes in: a schedule, its MemoryGraph and lifetimes. Goes out: ``Chain`` values, and for a group of them offsets and a
height in bytes. Promised: a chain says whether it may lie in a slab; every storage of a group has an offset, equal along a
handover that was taken; what a smaller member leaves of the one before it is free for others from the next step on; the height is
the portfolio's (``plan.pack``), with a budget of search steps, not of time.
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
from lowtide.schedule.schedule import Schedule, kept_apart

_PACKERS = (*PACKERS, "exact")
_NODES, _MORE = 2000, 8  # search steps: at least, and per chain
_EMERGENCY = 60.0  # seconds; never reached but on a machine that stands still


@dataclass(frozen=True, slots=True)
class Chain:
    """Storages that continue in one another's bytes, none larger than the one before it: one thing to place, alive in
    ``[first, end)``, of ``nbytes`` at first.

    eligible: may lie in a slab. free: members (by name) that need not continue where the one before them lies, since
    their operation can write into any given memory. allocator: of its bytes, as ``memory.graph.Buffer`` says.
    """

    members: tuple[Lifetime, ...]
    nbytes: int
    first: int
    end: int
    eligible: bool
    free: frozenset[str]
    allocator: str = ""


def chains_of(schedule: Schedule, graph: MemoryGraph, alive: Sequence[Lifetime]) -> tuple[Chain, ...]:
    """The chains of ``alive``, in order of birth. One that may not lie in a slab ends where a member would take but a part
    of the one before it: the rest of an allocation of its own cannot be given back."""
    steps = {o: step for step in schedule.steps for o in step.op.outputs if o is not None}
    writes = {name for name, step in steps.items() if step.placed}
    apart = kept_apart(schedule)
    chains: dict[str, list[Lifetime]] = {}
    root: dict[str, str] = {}
    for a in sorted(alive, key=lambda x: x.first):
        root[a.name] = root[a.takes_over] if a.takes_over is not None else a.name
        chains.setdefault(root[a.name], []).append(a)

    def chain(members: Sequence[Lifetime]) -> Chain:
        name = members[0].name
        ours = name in writes and not graph.buffer[name].input
        ours = ours and members[0].nbytes > 0 and not any(m.name in apart for m in members)
        free = frozenset(m.name for m in members[1:] if m.name in writes)
        end = max(m.end for m in members)
        return Chain(tuple(members), members[0].nbytes, members[0].first, end, ours, free, members[0].allocator)

    out: list[Chain] = []
    for members in chains.values():
        whole = chain(members)
        out += [whole] if whole.eligible else map(chain, _of_one_size(members))
    return tuple(sorted(out, key=lambda c: c.first))


def _of_one_size(members: Sequence[Lifetime]) -> list[list[Lifetime]]:
    out: list[list[Lifetime]] = []
    for m in members:
        if not out or m.nbytes != out[-1][-1].nbytes:
            out.append([])
        out[-1].append(m)
    return out


def pack_chains(chains: Sequence[Chain], alignment: int, *, packed: bool = True) -> tuple[dict[str, int], int]:
    """Offset of every storage, and the bytes of a slab that holds them all. Without ``packed``, only the lower bound.

    Chains stay whole. Where that does not reach the bound, the packer is asked again with handovers as offers: it may let
    a storage begin somewhere else than where the one before it lies.
    """
    whole = PackProblem(
        tuple(_buffer(c.members, alignment) for c in chains),
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


def _buffer(members: Sequence[Lifetime], alignment: int) -> PackBuffer:
    """A run of handovers as one buffer, which shrinks where its members do."""
    spans: list[tuple[int, int, int]] = []
    for m in members:
        nbytes = align_up(m.nbytes, alignment)
        if spans and spans[-1][2] == nbytes:
            spans[-1] = spans[-1][0], m.end, nbytes
        else:  # the step in which one hands over to the other is the larger one's
            spans.append((spans[-1][1] if spans else m.first, m.end, nbytes))
    spans = [s for s in spans if s[0] < s[1]]
    windows = tuple((0, nbytes) for _, _, nbytes in spans) if len(spans) > 1 else ()
    intervals = tuple((first, end) for first, end, _ in spans)
    return PackBuffer(members[0].name, spans[0][2], intervals, alignment, windows=windows)


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
            parts.append(_buffer(run, alignment))
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
            if not (slab.first <= c.first and c.end <= slab.end) or slab.allocator != c.allocator:
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

"""Pools of an allocation tree: which requests share one allocation, by mode.

Comes in: requests, a mode, an alignment. Goes out: frozen pools in a fixed order, with expressions for their sizes and
offsets. Promised: one device and one allocator per pool; sizes that are unknown until some step lie in regions of their own,
so that whatever they turn out to be, no other pool begins later, grows or lies otherwise for them; deterministic.

Modes. ``none``: every output its own storage, pools that never grow. ``intermediates``: outputs as before, the others
share pools that grow. ``outputs``: as before, and one pool for all outputs of a device. ``combined``: one pool for all.
In all of them a request that fits may move into an output's storage where that is not yet, or no longer, in use.

A region of unknown size is a pool of requests of one and the same expression, each beginning where the one before it ends. Its
size is known when it begins, it is as large as what lives in it at every moment, and no guess decides who joins it. So all
regions together hold, at any sizes, just the bytes that are alive. That is so in every mode, for outputs too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import lcm

from lowtide.core.errors import OptionError
from lowtide.core.units import align_up
from lowtide.ir.graph import int_of
from lowtide.ir.symbolic import Dim
from lowtide.plan.flat import Flat
from lowtide.plan.ranges import LiveRanges, Moment, joined, live_in
from lowtide.plan.tree import Node, Request, allocate, beside, finalise, leaf, temporal

MODES = ("none", "intermediates", "outputs", "combined")


@dataclass(frozen=True, slots=True)
class Pool:
    """One allocation. ``sizes``: names to compute before ``nbytes`` and the offsets (each over names before it).
    ``members``: requests in order of name; ``pinned``: bytes at hint that the caller's hold on the outputs keeps alive
    beyond the outputs themselves. ``allocator``: whose memory all of them are, empty for the device's usual one."""

    name: str
    device: str
    sizes: tuple[tuple[str, Dim], ...]
    nbytes: Dim
    hint: int
    members: tuple[Request, ...]
    offsets: Mapping[str, Dim]
    ranges: LiveRanges
    output: bool
    pinned: int
    allocator: str = ""


@dataclass(eq=False)
class _Open:
    """A pool that still takes requests; two that look equal are different pools."""

    root: Node
    grows: bool
    members: list[Request] = field(default_factory=list[Request])

    def take(self, request: Request, alignment: int, *, last: bool) -> bool:
        """Host the request; only the last pool may grow, if it grows at all."""
        grow = last and self.grows
        done = allocate(self.root, request, alignment, last=grow)
        if done:
            self.members.append(request)
        elif grow:
            self.append(request, alignment)
        return done or grow

    def append(self, request: Request, alignment: int) -> None:
        """Behind everything."""
        self.members.append(request)
        fresh = temporal([leaf(request)], alignment)
        self.root = temporal([beside(self.root, fresh, alignment)], alignment)


def plan_pools(
    requests: Sequence[Request], *, mode: str = "intermediates", alignment: int = 64, prefix: str = ""
) -> tuple[Pool, ...]:
    """Pools for all requests that are ever alive: outputs first (small to large, longest first), then the others (large to
    small, longest first); behind those of a device its regions of unknown size. Their names begin with ``prefix``.

    Raises:
        OptionError: there is no such mode.
    """
    if mode not in MODES:
        raise OptionError(f"there is no mode {mode!r} of pools; known: {', '.join(MODES)}")
    places: dict[tuple[str, str], list[_Open]] = {}
    alive = [r for r in requests if r.ranges.spans]
    known = [r for r in alive if not r.unbacked]
    for r in sorted((r for r in known if r.output), key=lambda r: (r.hint, -_life(r), r.name)):
        pools = places.setdefault((r.device, r.allocator), [])
        if pools and mode in ("outputs", "combined"):
            pools[0].append(r, alignment)
        else:
            pools.append(_opened(r, mode == "combined", alignment))
    for r in sorted((r for r in known if not r.output), key=lambda r: (-r.hint, -_life(r), r.name)):
        pools = places.setdefault((r.device, r.allocator), [])
        if not any(p.take(r, alignment, last=p is pools[-1]) for p in list(pools)):
            pools.append(_opened(r, mode != "none", alignment))
    for place, regions in _regions([r for r in alive if r.unbacked], alignment).items():
        places.setdefault(place, []).extend(regions)
    opened = [p for place in sorted(places) for p in places[place]]
    return tuple(_finished(f"{prefix}pool{k}", p, alignment) for k, p in enumerate(opened))


def _regions(late: Sequence[Request], alignment: int) -> dict[tuple[str, str], list[_Open]]:
    """Regions of unknown size, by device and allocator: a request moves into the first of its own expression that ends where
    the request begins; requests have one span each, and equal hints
    where their expressions are equal."""
    found: dict[tuple[str, str], list[_Open]] = {}
    for r in sorted(late, key=lambda r: (r.ranges.begin, r.ranges.end, r.name)):
        regions = found.setdefault((r.device, r.allocator), [])
        ended = [p for p in regions if p.members[0].nbytes == r.nbytes and p.root.ranges.end == r.ranges.begin]
        if not ended or not ended[0].take(r, alignment, last=False):
            regions.append(_opened(r, False, alignment))
    return found


def _life(request: Request) -> Moment:
    return request.ranges.end - request.ranges.begin


def _opened(request: Request, grows: bool, alignment: int) -> _Open:
    return _Open(temporal([leaf(request)], alignment), grows, [request])


def _finished(name: str, pool: _Open, alignment: int) -> Pool:
    laid = finalise(pool.root, alignment, name)
    members = tuple(sorted(pool.members, key=lambda r: r.name))
    kept = sum(align_up(r.hint, alignment) for r in members if r.output)
    pinned = max(pool.root.hint - kept, 0) if kept else 0
    output = any(r.output for r in members)
    ranges = joined(r.ranges for r in members)
    offsets = dict(laid.offsets)
    one = members[0]
    return Pool(
        name, one.device, laid.sizes, laid.nbytes, pool.root.hint, members, offsets, ranges, output, pinned, one.allocator,
    )  # fmt: skip


def serves(flat: Flat) -> bool:
    """Whether ``in_one_pool`` knows all that a problem asks for: it has no fixed places, windows and exclusions."""
    return flat.plain and max(flat.fixed, default=-1) < 0


def in_one_pool(flat: Flat) -> list[int]:
    """Offsets (bytes, by buffer) of a problem that it ``serves``, all buffers in one pool that grows."""
    requests: list[Request] = []
    for i, nbytes in enumerate(flat.size):
        segments = range(flat.segment_of[i], flat.segment_of[i + 1])
        requests.append(Request(str(i), nbytes, nbytes, live_in((flat.first[s], flat.end[s]) for s in segments)))
    pools = plan_pools(requests, alignment=lcm(*flat.alignment))
    at = {name: offset for pool in pools for name, offset in pool.offsets.items()}
    return [int_of(at.get(str(i), 0)) for i in range(flat.count)]


def describe(pools: Sequence[Pool]) -> str:
    """A readable dump: per pool its bytes, then every request with its offset and live ranges."""
    lines: list[str] = []
    for p in pools:
        whose = f" of {p.allocator}" if p.allocator else ""
        lines.append(f"{p.name} on {p.device}{whose}: {p.nbytes} bytes ({p.hint} at hint)")
        lines += [f"  {n} = {d}" for n, d in p.sizes]
        lines += [f"  {r.name} at {p.offsets[r.name]}, {r.nbytes} bytes, alive {r.ranges.spans}" for r in p.members]
    return "\n".join(lines)

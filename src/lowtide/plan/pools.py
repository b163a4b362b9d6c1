"""Pools of an allocation tree: which requests share one allocation, by mode.

Comes in: requests, a mode, an alignment. Goes out: frozen pools in a fixed order, with expressions for their sizes and
offsets. Promised: one device and one allocator per pool; a pool that holds a size that is unknown until some step begins no
earlier than that request; deterministic.

Modes. ``none``: every output its own storage, pools that never grow. ``intermediates``: outputs as before, the others
share pools that grow. ``outputs``: as before, and one pool for all outputs of a device. ``combined``: one pool for all.
In all of them a request that fits may move into an output's storage where that is not yet, or no longer, in use.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from lowtide.core.errors import OptionError
from lowtide.core.units import align_up
from lowtide.ir.symbolic import Dim
from lowtide.plan.ranges import LiveRanges, Moment, joined
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

    def may_join(self, request: Request) -> bool:
        """What is in a pool with an unknown size begins no earlier than that size is known."""
        bound = [r for r in (*self.members, request) if r.unbacked]
        known: Moment = max((r.ranges.begin for r in bound), default=float("-inf"))
        return all(r.ranges.begin >= known for r in (*self.members, request))

    def take(self, request: Request, alignment: int, *, last: bool) -> bool:
        """Host the request; only the last pool may grow, if it grows at all."""
        if not self.may_join(request):
            return False
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
    small, longest first). Their names begin with ``prefix``.

    Raises:
        OptionError: there is no such mode.
    """
    if mode not in MODES:
        raise OptionError(f"there is no mode {mode!r} of pools; known: {', '.join(MODES)}")
    places: dict[tuple[str, str], list[_Open]] = {}
    alive = [r for r in requests if r.ranges.spans]
    for r in sorted((r for r in alive if r.output), key=lambda r: (r.hint, -_life(r), r.name)):
        pools = places.setdefault((r.device, r.allocator), [])
        shared = [p for p in pools if p.may_join(r)] if mode in ("outputs", "combined") else []
        if shared:
            shared[0].append(r, alignment)
        else:
            pools.append(_opened(r, mode == "combined", alignment))
    for r in sorted((r for r in alive if not r.output), key=lambda r: (-r.hint, -_life(r), r.name)):
        pools = places.setdefault((r.device, r.allocator), [])
        if not any(p.take(r, alignment, last=p is pools[-1]) for p in list(pools)):
            pools.append(_opened(r, mode != "none", alignment))
    opened = [p for place in sorted(places) for p in places[place]]
    return tuple(_finished(f"{prefix}pool{k}", p, alignment) for k, p in enumerate(opened))


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


def describe(pools: Sequence[Pool]) -> str:
    """A readable dump: per pool its bytes, then every request with its offset and live ranges."""
    lines: list[str] = []
    for p in pools:
        whose = f" of {p.allocator}" if p.allocator else ""
        lines.append(f"{p.name} on {p.device}{whose}: {p.nbytes} bytes ({p.hint} at hint)")
        lines += [f"  {n} = {d}" for n, d in p.sizes]
        lines += [f"  {r.name} at {p.offsets[r.name]}, {r.nbytes} bytes, alive {r.ranges.spans}" for r in p.members]
    return "\n".join(lines)

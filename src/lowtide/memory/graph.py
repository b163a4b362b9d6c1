"""MemoryGraph: what the order and plan engines know of a program: nodes that read and write named bytes.

Comes from an ``ir.Graph`` (``memory.of_graph``) or from JSON (``memory.json``); goes to ``memory.lifetime``, ``order``
and ``plan``. Promised: frozen, no torch, node order = program order, every name bound before it is used.

The rules, in full:

* A *buffer* is bytes to account for. ``alias_of`` names a buffer declared earlier whose storage it stands on: an alias
  costs nothing itself and keeps that storage alive. A mutation is a node that reads ``x`` and writes ``y`` where ``y``
  is an alias of ``x``; nodes that must see the old value are listed in its ``after``. An alias that no node writes is
  another name for what is there. Bytes written only through aliases (the parts of a concatenation) begin with the
  first of their writers.
* A node allocates what it writes at the start of its step, runs (its ``workspace`` bytes are alive only then), and what
  is no longer needed is freed at the end of its step.
* An ``input`` belongs to the caller and is not counted, unless it is ``freeable``: then its bytes are alive from the
  start to the end of its last reader's step. A freeable input without readers is not counted at all.
* An ``output`` is never freed. A written buffer that nobody reads lives for its node's step alone.
* ``inplace`` pairs ``(read, written)`` are permitted, not ordered. One is taken where the storage of ``read`` dies at
  that node, is ours to end (not a plain input, not an output) and is at least as large as ``written``: then ``written``
  occupies the front of the same bytes and costs nothing at its start, and what is left over behind it is freed at the
  end of that step. Each storage is taken over at most once per node; where pairs compete, the choice that saves most
  bytes is made. Both storages stand on the same device.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, slots=True)
class Buffer:
    """Named bytes. ``nbytes`` is the storage's extent; an alias's own ``nbytes`` is not counted. ``allocator``: who must give
    them (for communication, say), where that is not the device's usual one: they are then shared only with others of that
    allocator, and neither taken over in place nor put where another buffer dies."""

    name: str
    nbytes: int
    device: str = "cpu"
    input: bool = False
    freeable: bool = False
    output: bool = False
    alias_of: str | None = None
    allocator: str = ""


def may_share(dying: Buffer, born: Buffer) -> bool:
    """Whether one storage may continue in the bytes of another at all: on one device, and of its usual allocator."""
    return dying.device == born.device and not dying.allocator and not born.allocator


def storages(buffers: Iterable[Buffer]) -> dict[str, str]:
    """Name -> name of the buffer that owns the bytes, for buffers that stand behind those that they are aliases of."""
    out: dict[str, str] = {}
    for b in buffers:
        out[b.name] = b.name if b.alias_of is None else out[b.alias_of]
    return out


@dataclass(frozen=True, slots=True)
class Node:
    """One schedulable operation. ``after`` names nodes that must run earlier; ``workspace`` is bytes on ``device``; nodes of one
    ``group`` run side by side, with no other between them."""

    name: str
    reads: tuple[str, ...] = ()
    writes: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    workspace: int = 0
    inplace: tuple[tuple[str, str], ...] = ()
    device: str = "cpu"
    group: str = ""


@dataclass(frozen=True)
class MemoryGraph:
    """Buffers and nodes, the nodes in program order."""

    buffers: tuple[Buffer, ...]
    nodes: tuple[Node, ...]

    @cached_property
    def buffer(self) -> Mapping[str, Buffer]:
        """Name -> buffer."""
        return {b.name: b for b in self.buffers}

    @cached_property
    def storage(self) -> Mapping[str, str]:
        """Name -> name of the buffer that owns the bytes (chains of aliases followed)."""
        return storages(self.buffers)

    @cached_property
    def predecessors(self) -> tuple[tuple[int, ...], ...]:
        """For each node the indices of nodes that must run before it, never itself.

        These are the writers of what it reads (an alias that no node writes is there as soon as what it stands on is;
        bytes written only through aliases are there once all of those writers have run), the writer of the bytes under
        an alias that it writes, all as far as they stand earlier in the program, and its ``after``.
        """
        alias = {b.name: b.alias_of for b in self.buffers if b.alias_of is not None}
        writer: dict[str, int] = {}
        parts: dict[str, list[int]] = {}
        storage = self.storage
        at = {n.name: i for i, n in enumerate(self.nodes)}
        out: list[tuple[int, ...]] = []
        for i, node in enumerate(self.nodes):
            before = {at[a] for a in node.after}
            for name in node.reads:
                under: str | None = name
                while under is not None and under not in writer:
                    under = alias.get(under)
                if under is not None:
                    before.add(writer[under])
                elif not self.buffer[storage[name]].input:
                    before.update(parts.get(storage[name], ()))
            for name in node.writes:
                under = alias.get(name)
                while under is not None and under not in writer:
                    under = alias.get(under)
                if under is not None:
                    before.add(writer[under])
            before.discard(i)
            out.append(tuple(sorted(before)))
            for name in node.writes:
                writer[name] = i
                parts.setdefault(storage[name], []).append(i)
        return tuple(out)

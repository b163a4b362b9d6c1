"""MemoryPlan: where every storage of a schedule lives, and what that costs at every step.

Comes from ``plan.choose``; goes to ``codegen``, the report and the checker (``plan.replay``). Promised: frozen; the
positions are those of ``memory_graph(schedule).nodes``; ``promised_nbytes`` is the most bytes that the program holds at
once on the device that most are on, beyond what the caller holds, library workspaces and callee-allocated results included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from lowtide.core.codec import VERSION

FRESH, OVER, SLAB = "fresh", "over", "slab"
_ON_THE_HOST = 64  # a cache line, and the widest vectors
_ELSEWHERE = 512  # what CUDA's caching allocator aligns all to; no device asks for more


def alignment_of(device: str) -> int:
    """Bytes of which slabs on a device, and offsets in them, are multiples."""
    return _ON_THE_HOST if device == "cpu" else _ELSEWHERE


@dataclass(frozen=True, slots=True)
class Place:
    """One storage's bytes in steps ``[first, end)``.

    how: ``fresh`` (an allocation of its own), ``over`` (continues in the bytes of storage ``over``, which dies where
        this one begins), or ``slab`` (``offset`` bytes into slab ``slab``; an ``over`` of a slab place has both).
    """

    storage: str
    nbytes: int
    first: int
    end: int
    how: str
    over: str | None = None
    slab: int | None = None
    offset: int = 0
    escapes: bool = False


@dataclass(frozen=True, slots=True)
class Slab:
    """One allocation that several storages share, held in steps ``[first, end)``.

    kept: not freed after the call but held for the next one; its bytes then count at every step. allocator: whose memory it
        is, as ``memory.graph.Buffer`` says; empty: the device's usual one.
    """

    nbytes: int
    device: str
    first: int
    end: int
    kept: bool = False
    allocator: str = ""


@dataclass(frozen=True, slots=True)
class DeviceFigures:
    """What a plan holds on one device.

    live: bytes held during each step. lower_bound: proved, over all orders (over this one, where no other was allowed).
    sum_nbytes: all storages side by side, aligned, and the largest workspace. candidates: (name, promised bytes) of every
    way to form slabs that was considered; ``chosen`` is the name of the one that was taken.
    """

    device: str
    live: tuple[int, ...]
    lower_bound: int
    sum_nbytes: int
    chosen: str
    candidates: tuple[tuple[str, int], ...] = ()

    @property
    def promised_nbytes(self) -> int:
        """The promised peak."""
        return max(self.live, default=0)

    @property
    def peak_step(self) -> int:
        """First step at which the promised peak is held."""
        return self.live.index(max(self.live)) if self.live else 0


@dataclass(frozen=True)
class MemoryPlan:
    """Places, slabs, and the bytes held while each step runs.

    device: the one that most bytes are on; ``live``, ``lower_bound``, ``sum_nbytes``, ``chosen`` and ``candidates`` are its
        figures, as ``DeviceFigures`` describes them. others: those of further devices.
    """

    device: str
    places: tuple[Place, ...]
    slabs: tuple[Slab, ...]
    live: tuple[int, ...]
    lower_bound: int
    sum_nbytes: int
    chosen: str
    candidates: tuple[tuple[str, int], ...] = ()
    others: tuple[DeviceFigures, ...] = ()

    @property
    def devices(self) -> tuple[DeviceFigures, ...]:
        """The figures of every device, those of ``device`` first."""
        main = DeviceFigures(self.device, self.live, self.lower_bound, self.sum_nbytes, self.chosen, self.candidates)
        return (main, *self.others)

    def on(self, device: str) -> DeviceFigures:
        """The figures of one device; zeros where the plan allocates nothing there."""
        nothing = DeviceFigures(device, (0,) * len(self.live), 0, 0, "none")
        return next((f for f in self.devices if f.device == device), nothing)

    @property
    def promised_nbytes(self) -> int:
        """The promised peak of ``device``; those of others are in ``others``."""
        return self.devices[0].promised_nbytes

    @property
    def peak_step(self) -> int:
        """First step at which the promised peak of ``device`` is held."""
        return self.devices[0].peak_step

    @property
    def coverage(self) -> float:
        """Share of all storages' bytes that lie in slabs; the others are allocations of their own, or a library's."""
        total = sum(p.nbytes for p in self.places)
        return sum(p.nbytes for p in self.places if p.slab is not None) / total if total else 0.0

    @cached_property
    def place(self) -> Mapping[str, Place]:
        """Storage -> place."""
        return {p.storage: p for p in self.places}

    def to_json(self) -> dict[str, object]:
        """The version-1 JSON form."""
        return {
            "version": VERSION,
            "device": self.device,
            "promised_nbytes": self.promised_nbytes,
            "lower_bound": self.lower_bound,
            "sum_nbytes": self.sum_nbytes,
            "chosen": self.chosen,
            "candidates": dict(self.candidates),
            "live": list(self.live),
            "others": [
                {
                    "device": f.device, "promised_nbytes": f.promised_nbytes, "lower_bound": f.lower_bound,
                    "sum_nbytes": f.sum_nbytes, "chosen": f.chosen, "candidates": dict(f.candidates), "live": list(f.live),
                }
                for f in self.others
            ],
            "slabs": [
                {
                    "nbytes": s.nbytes, "device": s.device, "first": s.first, "end": s.end, "kept": s.kept,
                    "allocator": s.allocator,
                }
                for s in self.slabs
            ],
            "places": [
                {
                    "storage": p.storage, "nbytes": p.nbytes, "first": p.first, "end": p.end, "how": p.how,
                    "over": p.over, "slab": p.slab, "offset": p.offset, "escapes": p.escapes,
                }
                for p in self.places
            ],
        }  # fmt: skip

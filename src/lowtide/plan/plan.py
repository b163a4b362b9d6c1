"""MemoryPlan: where every storage of a schedule lives, and what that costs at every step.

Comes from ``plan.choose``; goes to ``codegen``, the report and the checker (``plan.replay``). Promised: frozen; the
positions are those of ``memory_graph(schedule).nodes``; ``promised_nbytes`` is the most bytes that the program holds at
once beyond what the caller holds, library workspaces and callee-allocated results included.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from lowtide.core.codec import VERSION

FRESH, OVER, SLAB = "fresh", "over", "slab"


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

    kept: not freed after the call but held for the next one; its bytes then count at every step.
    """

    nbytes: int
    device: str
    first: int
    end: int
    kept: bool = False


@dataclass(frozen=True)
class MemoryPlan:
    """Places, slabs, and the bytes held while each step runs.

    live: bytes held during each step, of the device that the plan is for. lower_bound: proved, over all orders (over
        this one, where no other was allowed). sum_nbytes: all storages side by side, aligned, and the largest workspace.
    candidates: (name, promised bytes) of every way that was considered; ``chosen`` is the name of this one.
    """

    device: str
    places: tuple[Place, ...]
    slabs: tuple[Slab, ...]
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
            "slabs": [
                {"nbytes": s.nbytes, "device": s.device, "first": s.first, "end": s.end, "kept": s.kept}
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

"""The bytes of one instance: a slab per device, and headers over them that are ours alone.

Comes in: the slots of a block's code. Goes out: tensors that generated code writes into. Promised: headers are made once,
together, and live as long as we say; whether somebody else stands on a slab can be asked, and then it is left to
them and never written again; an address can be tested for lying inside.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from lowtide.core.errors import BugError
from lowtide.executor.emit import Slot
from lowtide.runtime.calls import DTYPES
from lowtide.torch_compat import storage_counter


class ManagedStorages:
    """A fixed number of headers, with the bytes that each has. ``allocate`` once, ``append`` up to the capacity, index while
    allocated; ``deallocate`` ends all of them.

    Raises:
        BugError: misuse: allocated twice, more headers than the capacity, an index that is not there.
    """

    def __init__(self) -> None:
        self.headers: list[torch.Tensor] = []
        self.nbytes: list[int] = []
        self.capacity = 0
        self.is_allocated = False

    def allocate(self, capacity: int) -> None:
        """Room for ``capacity`` headers."""
        if self.is_allocated:
            raise BugError("managed storages are allocated already")
        self.capacity, self.is_allocated = capacity, True

    def append(self, slot: Slot) -> torch.Tensor:
        """The next header: dtype and device of a slot, no bytes yet."""
        if not self.is_allocated or len(self.headers) >= self.capacity:
            raise BugError(f"there is room for {self.capacity} headers")
        with torch.inference_mode(False):
            made = torch.empty(0, dtype=DTYPES[slot.dtype], device=slot.device)
        self.headers.append(made)
        self.nbytes.append(0)
        return made

    def deallocate(self) -> None:
        """End all headers."""
        self.headers, self.nbytes, self.capacity, self.is_allocated = [], [], 0, False

    def __len__(self) -> int:
        return len(self.headers)

    def __getitem__(self, index: int) -> torch.Tensor:
        if not 0 <= index < len(self.headers):
            raise BugError(f"header {index} of {len(self.headers)}")
        return self.headers[index]

    def holds(self, t: torch.Tensor) -> bool:
        """Whether a tensor is one of these headers."""
        return any(t is h for h in self.headers)


class Slab:
    """One allocation, of ``nbytes``. ``base``: bytes as a tensor, which with ``storage`` are the only two references of our own
    beside the headers. ``uses()``: how many tensors and storage objects stand on it; ``alone`` without headers, ``calm`` when
    it was last seen that all others are headers."""

    def __init__(self, nbytes: int, device: str) -> None:
        self.device = device
        with torch.inference_mode(False):
            self.base = torch.empty(nbytes, dtype=torch.uint8, device=device)
        self.storage = self.base.untyped_storage()
        self.nbytes = nbytes
        self.start = self.base.data_ptr()
        self.uses = storage_counter(self.storage)
        self.alone = self.calm = self.uses()

    @property
    def parts(self) -> Mapping[str, Slab]:
        """Itself, by device."""
        return {self.device: self}

    def holds(self, t: torch.Tensor) -> bool:
        """Whether a tensor's storage begins inside the slab. False for no tensor, and for tensors without bytes."""
        if not isinstance(t, torch.Tensor) or t.layout is not torch.strided or not self.nbytes:
            return False
        at = t.untyped_storage().data_ptr()
        return self.start <= at < self.start + self.nbytes and t.device == self.base.device

    def has(self, header: torch.Tensor) -> bool:
        """Whether a header stands on this very storage."""
        return header.untyped_storage().data_ptr() == self.start and header.device == self.base.device


class Slabs:
    """The slabs of a block on several devices, asked as one: everything is the sum of what it is for the ``parts``."""

    def __init__(self, parts: Mapping[str, Slab]) -> None:
        self.parts = parts
        self.nbytes = sum(s.nbytes for s in parts.values())
        self.alone = sum(s.alone for s in parts.values())
        self.calm = self.uses()

    def uses(self) -> int:
        """How many tensors and storage objects stand on any of them."""
        return sum(s.uses() for s in self.parts.values())

    def holds(self, t: torch.Tensor) -> bool:
        """Whether a tensor's storage begins inside one of them."""
        return any(s.holds(t) for s in self.parts.values())

    def has(self, header: torch.Tensor) -> bool:
        """Whether a header stands on one of these very storages."""
        return any(s.has(header) for s in self.parts.values())


def together(parts: Mapping[str, Slab]) -> Slab | Slabs | None:
    """Slabs by device as one thing to ask; the only one itself, None where there is none."""
    return Slabs(parts) if len(parts) > 1 else next(iter(parts.values()), None)

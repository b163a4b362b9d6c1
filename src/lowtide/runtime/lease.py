"""Leases: bytes that are lent to a call's saved tensors and come back when nobody holds a view of them any more.

Comes in: a storage on the CPU and what to call at the end. Goes out: another storage over the same bytes. Promised: the end
is told exactly once, after the last tensor on the lent storage is gone, whoever held it (autograd, a hook, a user's
reference), and in whichever thread that was; until then the bytes stay.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable

import torch

_lent: set[int] = set()  # addresses of the storages that are out


def lend(base: torch.UntypedStorage, ended: Callable[[torch.UntypedStorage], None]) -> torch.UntypedStorage:
    """A storage over the bytes of ``base``, which it keeps alive; ``ended(base)`` is called when it ends.

    ``ended`` may be called wherever Python drops an object, also between two lines that hold a lock.
    """
    window = (ctypes.c_uint8 * base.nbytes()).from_address(base.data_ptr())
    storage = torch.frombuffer(window, dtype=torch.uint8).untyped_storage()
    _lent.add(storage._cdata)
    weakref.finalize(window, _ended, storage._cdata, base, ended).atexit = False
    return storage


def _ended(lent: int, base: torch.UntypedStorage, ended: Callable[[torch.UntypedStorage], None]) -> None:
    _lent.discard(lent)
    ended(base)


def made_here(storage: torch.UntypedStorage) -> bool:
    """Whether a storage was lent by us or made by the framework's allocator; False where it wraps bytes that have another
    owner, such as an array."""
    return bool(storage.resizable()) or storage._cdata in _lent

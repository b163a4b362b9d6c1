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


def lend(base: torch.UntypedStorage, ended: Callable[[torch.UntypedStorage], None]) -> torch.UntypedStorage:
    """A storage over the bytes of ``base``, which it keeps alive; ``ended(base)`` is called when it ends.

    ``ended`` may be called wherever Python drops an object, also between two lines that hold a lock.
    """
    window = (ctypes.c_uint8 * base.nbytes()).from_address(base.data_ptr())
    weakref.finalize(window, ended, base).atexit = False
    return torch.frombuffer(window, dtype=torch.uint8).untyped_storage()

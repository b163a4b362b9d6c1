"""Copies between host and device that are begun, and waited for when their bytes are needed.

Comes in: two tensors of one layout, one of them on the host. Goes out: a ``Begun``. Promised: the host's bytes stay what they
are until the copy is done, also where what runs meanwhile raises and nobody waits any more.
"""

from __future__ import annotations

import torch


class Begun:
    """A copy that runs on the device's current stream, behind what was begun there before. ``held``: the host's bytes; those of
    the device are its allocator's to give away in the order of its work."""

    def __init__(self, into: torch.Tensor, source: torch.Tensor) -> None:
        self.held: torch.Tensor | None = None
        there, here = (source.device, into) if into.device.type == "cpu" else (into.device, source)
        stream = torch.accelerator.current_stream(there)  # what may fail comes before the copy runs
        self.done = torch.Event(there)
        into.copy_(source, non_blocking=True)
        self.held = here
        self.done.record(stream)

    def wait(self) -> None:
        """Until the copy is done; what is begun on the device after it need not be."""
        self.done.synchronize()
        self.held = None

    def __del__(self) -> None:
        if self.held is not None:
            self.wait()

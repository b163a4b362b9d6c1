"""Which idle instance a call may take, where devices work in streams: none whose bytes another stream may still use.

Comes in: the idle instances of a program, and the devices beside the CPU on which its values lie. Goes out: how one is taken,
and left for the next call. Promised: an instance is taken on the streams that left it, where its work comes first, or once all
that these were given to do is done; its slabs then end, as their allocators are told, only after the work of either stream.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from lowtide.executor.frame import Frame


class OnStreams:
    """``idle``: the instances, the one that was left last at the end. What is asked of the list is one step of the interpreter
    each time, so that threads need no lock."""

    def __init__(self, idle: list[Frame], devices: Sequence[str]) -> None:
        self.idle, self.devices = idle, tuple(devices)

    def take(self) -> Frame:
        """An instance, no longer idle.

        Raises:
            IndexError: there is none that this thread's current streams may use.
        """
        now = self._current()
        waiting = self.idle[::-1]
        for frame in (*(f for f in waiting if f.left == now), *(f for f in waiting if f.left != now)):
            if not _is_done(frame, now) or not self._is_ours(frame):
                continue
            if not _is_done(frame, now):  # another call took it since it was looked at, and left it on its own streams
                self.idle.insert(0, frame)
                continue
            if frame.left != now:
                for slab in {s for f in frame.everyone() for s in f.slabs().values() if s.device != "cpu"}:
                    slab.base.record_stream(now[self.devices.index(slab.device)])
            return frame
        raise IndexError("no instance is idle")

    def leave(self, frame: Frame) -> None:
        """The instance is idle from here on; work that uses its bytes may still wait on the current streams."""
        frame.left = self._current()
        self.idle.append(frame)

    def _current(self) -> tuple[torch.Stream, ...]:
        return tuple(torch.accelerator.current_stream(d) for d in self.devices)

    def _is_ours(self, frame: Frame) -> bool:
        """Whether this call took the instance, and not another at the same moment."""
        try:
            self.idle.remove(frame)
        except ValueError:
            return False
        return True


def _is_done(frame: Frame, now: tuple[torch.Stream, ...]) -> bool:
    """Whether the work on an instance's bytes is done, or comes first on the streams of ``now``."""
    return frame.left == now or all(s.query() for s in frame.left)

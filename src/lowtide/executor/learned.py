"""Learned sizes: the largest that were seen lately, and a cache that forgets what was used least recently.

Comes in: the sizes (bytes) of one run after another. Goes out: how many bytes to have ready. Promised: never less than
any of the last ``window`` runs; what was only seen more than twice ``window`` runs ago no longer counts, so that one huge
request does not hold memory for ever. No torch, no clock: everything is counted in runs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

WINDOW = 64  # runs


class Learned:
    """Per place the largest size (bytes) of this window of runs and of the one before it: ``sizes``."""

    def __init__(self, start: Sequence[int], window: int = WINDOW) -> None:
        self.window, self.runs = window, 0
        self.latest = tuple(start)
        self.now = self.sizes = self.latest
        self.before = (0,) * len(self.latest)

    def see(self, sizes: Sequence[int]) -> bool:
        """Take note of one run. True where ``self.sizes`` changed. (A run in which nothing is above ``now`` may as well be
        counted in ``runs`` alone, but for the last one of a window.)"""
        self.latest = tuple(sizes)
        self.now = tuple(map(max, self.now, self.latest))
        self.runs += 1
        if self.runs >= self.window:
            self.runs, self.before, self.now = 0, self.now, self.latest
        return self._find()

    def _find(self) -> bool:
        found = tuple(map(max, self.now, self.before))
        changed, self.sizes = found != self.sizes, found
        return changed


class Recent(Generic[K, V]):
    """The values of the most recently used keys. Not safe from several threads by itself."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.held: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value, which becomes the most recent one; None where there is none."""
        found = self.held.get(key)
        if found is not None:
            self.held.move_to_end(key)
        return found

    def put(self, key: K, value: V) -> V:
        """Keep a value, and drop what was used least recently where there are too many."""
        self.held[key] = value
        self.held.move_to_end(key)
        while len(self.held) > self.most:
            self.held.popitem(last=False)
        return value

    def of(self, key: K, make: Callable[[], V]) -> V:
        """The value, made at first need."""
        found = self.get(key)
        return found if found is not None else self.put(key, make())

"""Who else holds bytes between calls, so that one call gives all of them back.

Comes in: two functions per holder. Goes out: sums. Promised: nothing is held here but the functions.
"""

from __future__ import annotations

from collections.abc import Callable

_others: list[tuple[Callable[[], int], Callable[[], int]]] = []


def also_retains(release: Callable[[], int], nbytes: Callable[[], int]) -> None:
    """Another part holds bytes between calls: ``release`` frees them and says how many; ``nbytes`` says how many."""
    _others.append((release, nbytes))


def release_others() -> int:
    """Free what the other holders hold. Returns the number of bytes."""
    return sum(release() for release, _ in _others)


def others_nbytes() -> int:
    """Bytes that the other holders hold."""
    return sum(nbytes() for _, nbytes in _others)

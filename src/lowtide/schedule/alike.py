"""Pairs of loops that differ in the names of their values alone, as those of equal layers do, are joined once.

Comes in: two tasks, as for ``schedule.joined``. Goes out: what that gives. Promised: the same, with the names of these tasks.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Set
from functools import lru_cache

from lowtide.ir.task import Task
from lowtide.schedule import joined as plain
from lowtide.schedule.joined import Rules


def joined(a: Task, b: Task, needed: Set[str], rules: Rules = Rules()) -> Task | str:  # noqa: B008
    """Both as one task; ``needed``: values of theirs that others read. A text says why not."""
    names = list(dict.fromkeys((*a.given, *a.makes, *b.given, *b.makes)))
    number = {name: str(k) for k, name in enumerate(names)}
    found = _numbered(_called(a, number), _called(b, number), frozenset(number[n] for n in needed), rules)
    if isinstance(found, str):
        return re.sub(r"%(\d+)", lambda m: f"%{names[int(m[1])]}", found)
    return _called(found, {k: name for name, k in number.items()})


def _called(t: Task, names: Mapping[str, str]) -> Task:
    return Task(t.loop, tuple(names[n] for n in t.given), tuple(names[n] for n in t.makes))


@lru_cache(maxsize=4096)
def _numbered(a: Task, b: Task, needed: frozenset[str], rules: Rules) -> Task | str:
    """Of tasks whose values are called by their numbers."""
    return plain.joined(a, b, needed, rules)

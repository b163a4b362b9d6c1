"""Operations that differ in names alone, as in equal layers of a model, are lowered once per program.

Comes in: operations, one after the other, and what their rules made. Goes out: the same loops, under the names of a later
operation that is alike in all that a rule can see of it. Promised: lowering gives what it gives without this, but that equal
loops are often one object.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Set
from dataclasses import dataclass

from lowtide.ir.graph import Arg, Op, Ref, int_of
from lowtide.lowering.site import Made, Site


@dataclass(frozen=True, slots=True)
class _Found:
    """What a rule made, with numbers (as text) for names, and what that would be in one loop; dtype and size of what lives
    between its loops."""

    made: tuple[Made, ...]
    whole: Made | None
    temporaries: tuple[tuple[str, tuple[int, ...]], ...]


class Repeats:
    """What was lowered so far in one program; lives as long as that is lowered."""

    def __init__(self) -> None:
        self.found: dict[Hashable, _Found] = {}

    def taken(self, site: Site, key: Hashable) -> bool:
        """Whether an operation of the same ``key`` was lowered; ``site`` is then filled as that one was."""
        found = self.found.get(key)
        if found is None:
            return False
        parts = [site.temporary(dtype, size) for dtype, size in found.temporaries]
        names = [*_seen(site), *(t.name for t in parts)]
        of_number = {str(k): n for k, n in enumerate(names)}
        site.made += [_renamed(m, of_number) for m in found.made]
        site.whole = None if found.whole is None else _renamed(found.whole, of_number)
        return True

    def keep(self, site: Site, key: Hashable) -> None:
        """Remember what the rule of an operation made, unless it does another operation's work too."""
        if site.absorbed:
            return
        names = [*_seen(site), *(t.name for t in site.temporaries)]
        number = {n: str(k) for k, n in enumerate(names)}
        made = tuple(_renamed(m, number) for m in site.made)
        whole = None if site.whole is None else _renamed(site.whole, number)
        parts = tuple((t.layout.dtype, tuple(map(int_of, t.layout.size))) for t in site.temporaries)
        self.found[key] = _Found(made, whole, parts)


def key_of(site: Site, used: Set[str]) -> Hashable:
    """Equal only for operations that a rule cannot tell apart but by names: arguments, layouts, which values stand
    on the same bytes, whether the program makes those or is given them, which results somebody needs (``used``), and
    what computes an operand that nobody else reads."""
    op, value, maker = site.op, site.graph.value, site.graph.maker
    names = _seen(site)
    number = {n: k for k, n in enumerate(names)}
    storages = {s: k for k, s in enumerate(dict.fromkeys(value[n].storage for n in names))}
    seen = tuple(
        (
            value[n].layout,
            storages[value[n].storage],
            value[n].storage == n,
            value[n].storage in maker,
            number[site.roots.get(n, n)],
            n in used,
        )
        for n in names
    )
    makers = tuple(site.alone[n].target if n in site.alone else "" for n in op.reads)
    arguments = tuple(_shown(a, number) for a in op.args), tuple((k, _shown(a, number)) for k, a in op.kwargs)
    written = tuple(None if o is None else number[o] for o in op.outputs), tuple(number[m] for m in op.mutates)
    return op.target, op.returns, op.effect, arguments, written, seen, makers


def _seen(site: Site) -> list[str]:
    """The values of an operation, and those on whose bytes they stand, each once."""
    names = dict.fromkeys(_named(site.op))
    return list(names | dict.fromkeys(site.roots.get(n, n) for n in names))


def _named(op: Op) -> tuple[str, ...]:
    return (*op.reads, *(o for o in op.outputs if o is not None), *op.mutates)


def _shown(a: Arg, number: Mapping[str, int]) -> Hashable:
    """An argument without names. Numbers as text with their type: 1, 1.0 and True are equal, and so are 0.0 and -0.0."""
    if isinstance(a, tuple):
        return tuple(_shown(x, number) for x in a)
    return number[a.name] if isinstance(a, Ref) else f"{type(a).__name__} {a!r}"


def _renamed(m: Made, names: Mapping[str, str]) -> Made:
    given, makes, changes = (tuple(names[n] for n in part) for part in (m.given, m.makes, m.changes))
    return Made(m.loop, given, makes, changes)

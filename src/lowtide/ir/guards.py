"""What is known of loop variables where a guard holds: an element of a concatenation is read only within its part.

Comes in: instructions, the number of a truth value among them, ranges. Goes out: bounds of indices, and the share of their
values that is left. Promised: what is said holds at every point at which the truth value does; what a guard says in other
ways than comparing an index with a number, or two such comparisons at once, is not seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence, Set
from fractions import Fraction

from lowtide.ir.build import constant_value
from lowtide.ir.index import Ranges, add, affine, bounds
from lowtide.ir.loops import Instr
from lowtide.ir.symbolic import Dim, symbol

_LIMITS = frozenset(("lt", "le", "ge", "gt"))


def whole(x: Instr) -> Dim | None:
    """The index that an instruction has as its value."""
    if x.op == "index":
        return x.index
    return int(constant_value(x)) if x.op == "const" and x.dtype == "i64" else None


def limit(body: Sequence[Instr], x: Instr) -> tuple[Dim, int, bool] | None:
    """An index, a number, and whether ``x`` says that the index is below the number (else: not below it)."""
    if x.op not in _LIMITS:
        return None
    e, m = (whole(body[a]) for a in x.args)
    if e is None or not isinstance(m, int):
        return None
    return e, m + (x.op in ("le", "gt")), x.op in ("lt", "le")


def _limits(body: Sequence[Instr], guard: int) -> Iterator[tuple[Dim, int, bool]]:
    """What holds of indices wherever instruction ``guard`` is true."""
    todo = [guard]
    while todo:
        x = body[todo.pop()]
        if x.op == "and":
            todo += x.args
        elif (found := limit(body, x)) is not None:
            yield found


def narrowed(
    body: Sequence[Instr], guard: int, ranges: Ranges
) -> tuple[Mapping[str, Dim], dict[str, int], Mapping[str, Dim]]:
    """Other variables for the points at which ``guard`` is true: what the variables are in them, the ranges with them, and
    what they are in the variables."""
    least, most = dict.fromkeys(ranges, 0), dict(ranges)
    for e, m, below in _limits(body, guard):
        found = affine(e)
        if found is None or list(found[0].values()) != [1]:
            continue
        (name,) = found[0]
        if name not in ranges:
            continue
        if below:
            most[name] = min(most[name], m - found[1])
        else:
            least[name] = max(least[name], m - found[1])
    moved = [n for n in ranges if (least[n], most[n]) != (0, ranges[n]) and least[n] < most[n]]
    there: dict[str, Dim] = {n: add(symbol(f"{n}_"), least[n]) for n in moved}
    back: dict[str, Dim] = {f"{n}_": add(symbol(n), -least[n]) for n in moved}
    return there, dict(ranges) | {f"{n}_": most[n] - least[n] for n in moved}, back


def visited(body: Sequence[Instr], guard: int, ranges: Ranges) -> int:
    """At how many points of the ranges ``guard`` is true at most."""
    there, held, _ = narrowed(body, guard, ranges)
    return math.prod(held[f"{n}_"] if n in there else m for n, m in ranges.items())


def share(body: Sequence[Instr], guard: int, ranges: Ranges, names: Set[str]) -> Fraction:
    """Of the values that indices take, those for which ``guard`` holds, as far as it limits indices of ``names`` alone; of limits
    that have a variable in common, the one that holds for the fewest. Of their points too, where every value is taken equally
    often, as in rows that are counted through."""
    taken: dict[tuple[tuple[str, int], ...], tuple[int, int]] = {}
    held: dict[tuple[tuple[str, int], ...], tuple[int, int]] = {}
    for e, m, below in _limits(body, guard):
        found = affine(e)
        if found is None or not found[0] or not found[0].keys() <= names:
            continue
        step = math.gcd(*found[0].values())
        low, high = bounds(add(e, -found[1]), ranges)
        if low is None or high is None or high < low:
            continue
        moving = tuple(sorted((n, a // step) for n, a in found[0].items()))
        taken[moving] = low // step, high // step + 1
        least, most = held.get(moving, taken[moving])
        end = -((found[1] - m) // step)  # the first value, in steps, that is not below
        held[moving] = (least, min(most, end)) if below else (max(least, end), most)
    parts = ((Fraction(max(0, held[e][1] - held[e][0]), most - least), e) for e, (least, most) in taken.items())
    out, used = Fraction(1), set[str]()
    for part, e in sorted(parts):
        if used.isdisjoint(n for n, _ in e):  # two limits of one variable say the same twice
            used.update(n for n, _ in e)
            out *= part
    return out

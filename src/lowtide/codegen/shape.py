"""What the C++ target asks of a loop before it writes: along which range vectors run, what outlives its stage, what is
worth keeping or turning.

Comes in: a static, normalised Loop. Goes out: small facts about it. Promised: each is a function of the loop alone, so
that equal loops give equal text.
"""

from __future__ import annotations

from collections.abc import Sequence

from lowtide.ir.graph import int_of
from lowtide.ir.index import affine
from lowtide.ir.loops import FOLDS, Instr, Loop, Stage, renumbered
from lowtide.ir.tiles import FEWEST, apart, strides
from lowtide.schedule.rules import CACHED

KEPT = (1024, 4096, CACHED.kept_row)  # points of a row whose values are kept for a later stage: lengths of the array
_COSTLY = frozenset(
    (
        *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "pow", "erf", "erfc", "sigmoid", "lgamma"),
        *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh"),
    )
)


def total(stage: Stage) -> int:
    """Points of a stage."""
    out = 1
    for n in stage.inner:
        out *= int_of(n)
    return out


def used(loop: Loop, k: int) -> list[int]:
    """Instructions that stage ``k`` uses."""
    return sorted({a for x in loop.stages[k].body for a in x.needs})


def lasting(loop: Loop) -> list[int]:
    """Values that a later stage than their own uses."""
    out: set[int] = set()
    for k in range(len(loop.stages)):
        out |= {a for a in used(loop, k) if a < loop.starts[k]}
    reduces = {n for n, x in enumerate(loop.body) if x.op == "reduce"}
    return sorted(out | reduces)


def folds(loop: Loop) -> dict[int, int]:
    """Instructions that reduce over outer points, and the stage of each."""
    starts = zip(loop.starts, loop.stages, strict=True)
    return {n: k for k, (lo, s) in enumerate(starts) for n, x in enumerate(s.body, lo) if x.op in FOLDS}


def groups(loop: Loop) -> dict[int, int]:
    """Reductions that are one of several results of one pass, each with the first result of its pass."""
    first: dict[tuple[int, str, tuple[int, ...]], int] = {}
    out: dict[int, int] = {}
    for k, (lo, s) in enumerate(zip(loop.starts, loop.stages, strict=True)):
        for n, x in enumerate(s.body, lo):
            if x.family:
                out[n] = first.setdefault((k, x.family, x.args), n)
    return out


def columns(loop: Loop) -> bool:
    """Whether vectors should run along the last outer range: more accesses lie side by side there."""
    if folds(loop):
        return False
    across = f"i{len(loop.outer) - 1}"
    score = 0
    for s in loop.stages:
        if s.inner and any(x.op == "accumulate" for x in s.body):
            return True
        along = f"r{len(s.inner) - 1}"
        for x in s.body:
            if x.op in ("load", "store") and x.index is not None and s.inner:
                found = affine(x.index)
                if found is not None and across in found[0] and along in found[0]:  # rows and columns of a whole tensor
                    score += (found[0][across] == 1) - (found[0][along] == 1)
    return score > 0 or not any(s.inner for s in loop.stages)


def recomputed(loop: Loop) -> tuple[dict[int, int], set[int]]:
    """Costly instructions that compute what one of an earlier stage computed at the same points, each with that one; and
    the instructions that nothing needs any more once those values are kept.

    Two stages have the same points where both have one range, and the same.
    """
    written = {x.attr for x in loop.body if x.writes}
    seen: dict[tuple[int, Instr], int] = {}
    same = {n: n for n in range(len(loop.body))}
    stage_of = [k for k, s in enumerate(loop.stages) for _ in s.body]
    kept: dict[int, int] = {}
    for n, x in enumerate(loop.body):
        k = stage_of[n]
        inner = loop.stages[k].inner
        if len(inner) != 1 or x.acts or x.op in ("reduce", "scan") or (x.op == "load" and x.attr in written):
            continue
        same[n] = seen.setdefault((int_of(inner[0]), renumbered(x, same)), n)
        if stage_of[same[n]] < k and x.op in _COSTLY and int_of(inner[0]) <= KEPT[-1]:
            kept[n] = same[n]
    return kept, _idle(loop, kept) if kept else set()


def _idle(loop: Loop, kept: dict[int, int]) -> set[int]:
    needed: set[int] = set(kept.values())
    for n in range(len(loop.body) - 1, -1, -1):
        x = loop.body[n]
        if (n in needed or x.acts) and n not in kept:
            needed.add(n)
            needed.update(x.needs)
    return set(range(len(loop.body))) - needed - set(kept)


def turned(loop: Loop, k: int) -> tuple[int, list[int]] | None:
    """A range of stage ``k``, not the last, along which some loads and stores run through memory while they jump along the
    last range: its position, and those. None where there is none, or the ranges are short."""
    stage = loop.stages[k]
    last = len(stage.inner) - 1
    if last < 1 or int_of(stage.inner[last]) < FEWEST:
        return None
    found: dict[int, list[int]] = {}
    for n, x in enumerate(stage.body, loop.starts[k]):
        moves = strides(x)
        if moves is None or not apart(loop, x) or moves.get(f"r{last}", 0) < 2:
            continue
        for t in range(last):
            if moves.get(f"r{t}") == 1 and int_of(stage.inner[t]) >= FEWEST:
                found.setdefault(t, []).append(n)
    return max(found.items(), key=lambda f: (len(f[1]), f[0]), default=None)


def chunked(sizes: Sequence[int], deep: int) -> tuple[int, int]:
    """The range that is cut into runs of at most about ``deep`` points, and how many of its points a run has."""
    inside = 1
    for j in range(len(sizes) - 1, -1, -1):
        if inside * sizes[j] >= deep // 4 or j == 0:
            return j, max(1, deep // inside)
        inside *= sizes[j]
    raise AssertionError("a sum over no range")

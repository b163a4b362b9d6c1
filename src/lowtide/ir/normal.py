"""Loop normalisation: other iteration spaces for the same loop.

Comes in: a static Loop. Goes out: an equal Loop that is better to run: ranges split so that indices divide nothing,
ranges of one point dropped, the smallest strides innermost, neighbours that every index walks as one merged. Promised:
every point is visited as often as before, sums may be taken in another order; the ranges over which a scan or an
arg-max counts keep their order.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from lowtide.ir.graph import int_of
from lowtide.ir.index import Ranges, add, affine, divisions, mul, substitute, uses
from lowtide.ir.loops import Instr, Loop, Stage
from lowtide.ir.symbolic import Dim, Expr, symbol

_SPLITS = 16
Names = Mapping[str, Dim]


@lru_cache(maxsize=4096)
def normalise(loop: Loop, *, ordered: bool = True) -> Loop:
    """All of it, in the order in which it pays. ``ordered``: ranges go by their strides; otherwise they stay as they stand."""
    settled = settle(drop_single(split(loop)))
    return merge(reorder(settled) if ordered else settled)


def reindexed(
    loop: Loop, outer: Sequence[int], rows: Names, inner: Sequence[Sequence[int]], points: Sequence[Names]
) -> Loop:
    """The loop over new ranges: ``rows`` says what each old outer variable is in new ones, ``points`` (per stage) the
    inner ones; what is not named stays."""
    stages: list[Stage] = []
    for s, sizes, names in zip(loop.stages, inner, points, strict=True):
        ranges = {f"i{k}": n for k, n in enumerate(outer)} | {f"r{k}": n for k, n in enumerate(sizes)}
        values = {**rows, **names}
        body = tuple(_moved(x, values, ranges) for x in s.body)
        stages.append(Stage(tuple(sizes), body))
    return Loop(tuple(outer), tuple(stages), loop.inputs, loop.outputs)


def _moved(x: Instr, values: Names, ranges: Ranges) -> Instr:
    if x.index is None or isinstance(x.index, int):
        return x
    index = substitute(x.index, values, ranges)
    return x if index is x.index else Instr(x.op, x.dtype, x.args, index, x.attr)


def _plain(sizes: Sequence[Dim]) -> tuple[int, ...]:
    return tuple(map(int_of, sizes))


def _counts(stage: Stage) -> bool:
    """Whether the order of the inner ranges has a meaning."""
    return any(x.op == "scan" or (x.op == "reduce" and str(x.attr).startswith("arg")) for x in stage.body)


def split(loop: Loop) -> Loop:
    """Split ranges by the divisors of ``x // k`` and ``x % k``, so that these disappear."""
    for _ in range(_SPLITS):
        found = next(_splittable(loop), None)
        if found is None:
            return loop
        loop = _split_one(loop, *found)
    return loop


def _splittable(loop: Loop) -> Iterator[tuple[str, int, int]]:
    """(variable, stage, divisor) of every division of a variable alone by a divisor of its range."""
    for k, s in enumerate(loop.stages):
        ranges = loop.ranges(k)
        ordered = _counts(s)
        for x in s.body:
            if x.index is None or isinstance(x.index, int):
                continue
            for d in divisions(x.index):
                name = _variable(d.args[0])
                n = d.args[1]
                fits = name in ranges and isinstance(n, int) and 1 < n < ranges[name] and ranges[name] % n == 0
                if fits and not (ordered and name[0] == "r"):
                    yield name, k, int(str(n))


def _variable(e: Dim | str) -> str:
    return str(e.args[0]) if isinstance(e, Expr) and e.op == "sym" else ""


def _split_one(loop: Loop, name: str, stage: int, n: int) -> Loop:
    """Variable ``x`` of range ``a * n`` becomes ``x' * n + x''``."""
    at = int(name[1:])

    def parted(sizes: tuple[int, ...], letter: str) -> tuple[tuple[int, ...], Names]:
        out = (*sizes[:at], sizes[at] // n, n, *sizes[at + 1 :])
        names: dict[str, Dim] = {f"{letter}{k}": symbol(f"{letter}{k + 1}") for k in range(at + 1, len(sizes))}
        names[name] = add(mul(symbol(f"{letter}{at}"), n), symbol(f"{letter}{at + 1}"))
        return out, names

    inner = [_plain(s.inner) for s in loop.stages]
    points: list[Names] = [{} for _ in inner]
    outer, rows = _plain(loop.outer), dict[str, Dim]()
    if name[0] == "i":
        outer, renamed = parted(outer, "i")
        return reindexed(loop, outer, renamed, inner, points)
    inner[stage], points[stage] = parted(inner[stage], "r")
    return reindexed(loop, outer, rows, inner, points)


def drop_single(loop: Loop) -> Loop:
    """Without ranges of one point."""

    def kept(sizes: tuple[int, ...], letter: str) -> tuple[tuple[int, ...], Names]:
        left = [k for k, n in enumerate(sizes) if n != 1]
        names: dict[str, Dim] = {f"{letter}{k}": 0 for k, n in enumerate(sizes) if n == 1}
        names |= {f"{letter}{k}": symbol(f"{letter}{j}") for j, k in enumerate(left)}
        return tuple(sizes[k] for k in left), names

    if 1 not in loop.outer and not any(1 in s.inner for s in loop.stages):
        return loop
    outer, rows = kept(_plain(loop.outer), "i")
    done = [kept(_plain(s.inner), "r") for s in loop.stages]
    return reindexed(loop, outer, rows, [d[0] for d in done], [d[1] for d in done])


def settle(loop: Loop) -> Loop:
    """Reductions over a single point are the value itself, and the position of an extreme there is 0; those with several
    results stay."""
    stages = tuple(s if s.inner else Stage((), tuple(map(_settled, s.body))) for s in loop.stages)
    return loop if stages == loop.stages else Loop(loop.outer, stages, loop.inputs, loop.outputs)


def _settled(x: Instr) -> Instr:
    if x.op not in ("reduce", "scan") or x.family:
        return x
    if str(x.attr).startswith("arg"):
        return Instr("const", x.dtype, attr="0")
    return Instr("cast", x.dtype, x.args)


def _strides(bodies: Sequence[Stage], names: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Per variable, what orders it, least innermost: stride in the stores, in the loads, and how rarely it is used."""
    out = {name: [0, 0, 0] for name in names}
    for s in bodies:
        for x in s.body:
            if not x.touches or x.index is None:
                continue
            found = affine(x.index)
            coefficients = found[0] if found is not None else _within(x.index, names)
            for name in names:
                c = abs(coefficients.get(name, 0))
                out[name][0 if x.writes else 1] += c
                out[name][2] -= c == 1
    return {n: (v[0], v[1], v[2]) for n, v in out.items()}


def _within(index: Dim, names: Sequence[str]) -> dict[str, int]:
    """Coefficients of the variables that stand by themselves in an index that divides or looks up."""
    out: dict[str, int] = {}
    for p in _summands(index):
        found = affine(p)
        if found is not None:
            out |= {n: c for n, c in found[0].items() if n in names}
    return out


def _summands(index: Dim) -> list[Dim]:
    if isinstance(index, int) or index.op != "+":
        return [index]
    return [a for a in index.args if not isinstance(a, str)]


def _ranked(bodies: Sequence[Stage], letter: str, count: int) -> list[int]:
    """Variables from the outermost to the innermost."""
    names = [f"{letter}{k}" for k in range(count)]
    strides = _strides(bodies, names)

    def key(k: int) -> tuple[int, int]:
        store, load, _ = strides[names[k]]
        # never used in an index: outermost, where it costs nothing; loads decide where nothing is stored
        unused = store == 0 and load == 0
        return (1 << 62 if unused else store, load)

    return sorted(range(count), key=lambda k: (*(-v for v in key(k)), k))


def reorder(loop: Loop) -> Loop:
    """Smallest strides innermost: those of stores first, then those of loads."""

    def moved(order: Sequence[int], sizes: tuple[int, ...], letter: str) -> tuple[tuple[int, ...], Names]:
        names: dict[str, Dim] = {f"{letter}{old}": symbol(f"{letter}{k}") for k, old in enumerate(order) if old != k}
        return tuple(sizes[k] for k in order), names

    outer, rows = moved(_ranked(loop.stages, "i", len(loop.outer)), _plain(loop.outer), "i")
    inner: list[tuple[int, ...]] = []
    points: list[Names] = []
    for s in loop.stages:
        order = range(len(s.inner)) if _counts(s) else _ranked([s], "r", len(s.inner))
        sizes, names = moved(list(order), _plain(s.inner), "r")
        inner.append(sizes)
        points.append(names)
    if not rows and not any(points):
        return loop
    return reindexed(loop, outer, rows, inner, points)


def merge(loop: Loop) -> Loop:
    """Neighbouring ranges that every index walks as one become one."""
    for k in range(len(loop.outer) - 2, -1, -1):
        if _one(loop.stages, "i", k, int_of(loop.outer[k + 1])):
            outer, rows = _merged(_plain(loop.outer), "i", k)
            loop = reindexed(loop, outer, rows, [_plain(s.inner) for s in loop.stages], [{} for _ in loop.stages])
    for j, s in enumerate(loop.stages):
        for k in range(len(s.inner) - 2, -1, -1):
            s = loop.stages[j]
            if any(x.op == "scan" for x in s.body) or not _one([s], "r", k, int_of(s.inner[k + 1])):
                continue
            inner = [_plain(t.inner) for t in loop.stages]
            points: list[Names] = [{} for _ in inner]
            inner[j], points[j] = _merged(inner[j], "r", k)
            loop = reindexed(loop, _plain(loop.outer), {}, inner, points)
    return loop


def _one(stages: Sequence[Stage], letter: str, k: int, n: int) -> bool:
    """Whether every index has ``a * n * x_k + a * x_(k+1)`` or neither."""
    first, second = f"{letter}{k}", f"{letter}{k + 1}"
    for s in stages:
        for x in s.body:
            if x.index is None or not uses(x.index, (first, second)):
                continue
            if affine(x.index) is None and any(
                affine(p) is None and uses(p, (first, second)) for p in _summands(x.index)
            ):
                return False
            coefficients = _within(x.index, (first, second))
            if coefficients.get(first, 0) != n * coefficients.get(second, 0):
                return False
    return True


def _merged(sizes: tuple[int, ...], letter: str, k: int) -> tuple[tuple[int, ...], Names]:
    """x_k disappears: its part lies in x_(k+1), which is then called x_k."""
    names: dict[str, Dim] = {f"{letter}{k}": 0, f"{letter}{k + 1}": symbol(f"{letter}{k}")}
    names |= {f"{letter}{j}": symbol(f"{letter}{j - 1}") for j in range(k + 2, len(sizes))}
    return (*sizes[:k], sizes[k] * sizes[k + 1], *sizes[k + 2 :]), names

"""Loop normalisation: other iteration spaces for the same loop.

Comes in: a static Loop. Goes out: an equal Loop that is better to run: ranges split so that indices divide nothing,
ranges of one point dropped, the smallest strides innermost, neighbours that every index walks as one merged. Promised:
every point is visited as often as before, sums may be taken in another order; the ranges over which a scan or an
arg-max counts keep their order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

from lowtide.ir.graph import int_of
from lowtide.ir.index import add, affine, divisions, mul, substitute, uses
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
        moved = {e: substitute(e, values, ranges) for e in _indices(s)}
        body = tuple([_at(x, moved[x.index]) if isinstance(x.index, Expr) else x for x in s.body])
        stages.append(Stage(tuple(sizes), body))
    return Loop(tuple(outer), tuple(stages), loop.inputs, loop.outputs)


def _indices(stage: Stage) -> dict[Expr, None]:
    """The indices of a stage that are no numbers, each once: most instructions share theirs with others."""
    return dict.fromkeys(x.index for x in stage.body if isinstance(x.index, Expr))


def _at(x: Instr, index: Dim) -> Instr:
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
        for e in _indices(s):
            for d in divisions(e):
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


def _strides(bodies: Sequence[Stage], names: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Per variable, what orders it, least innermost: stride in the stores, in the loads."""
    accesses = Counter((x.index, x.writes) for s in bodies for x in s.body if x.touches and isinstance(x.index, Expr))
    out = {name: [0, 0] for name in names}
    for (index, writes), times in accesses.items():
        found = affine(index)
        for name, c in (found[0] if found is not None else _within(index, names)).items():
            if name in out:
                out[name][0 if writes else 1] += abs(c) * times
    return {n: (v[0], v[1]) for n, v in out.items()}


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
    if count < 2:
        return list(range(count))
    names = [f"{letter}{k}" for k in range(count)]
    strides = _strides(bodies, names)

    def key(k: int) -> tuple[int, int]:
        store, load = strides[names[k]]
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
    outer, rows = _merged(_plain(loop.outer), "i", loop.stages)
    done = [
        (_plain(s.inner), dict[str, Dim]())
        if any(x.op == "scan" for x in s.body)
        else _merged(_plain(s.inner), "r", [s])
        for s in loop.stages
    ]
    if not rows and not any(names for _, names in done):
        return loop
    return reindexed(loop, outer, rows, [sizes for sizes, _ in done], [names for _, names in done])


@lru_cache(maxsize=1 << 14)
def _walks_as_one(e: Expr, pair: tuple[str, str], n: int) -> bool:
    """Whether an index has ``a * n`` times the first of two variables and ``a`` times the second, or neither."""
    if not uses(e, pair):
        return True
    if affine(e) is None and any(affine(p) is None and uses(p, pair) for p in _summands(e)):
        return False
    coefficients = _within(e, pair)
    return coefficients.get(pair[0], 0) == n * coefficients.get(pair[1], 0)


def _merged(sizes: tuple[int, ...], letter: str, stages: Sequence[Stage]) -> tuple[tuple[int, ...], Names]:
    """What is left of the ranges, and the old variables in those: where x_k goes on in x_(k+1), its part lies in that."""
    indices = [e for s in stages for e in _indices(s)]
    left: list[int] = []
    names: dict[str, Dim] = {}
    before = 1  # points of the ranges that go on in the one at hand
    for k, n in enumerate(sizes):
        pair = f"{letter}{k}", f"{letter}{k + 1}"
        if k + 1 < len(sizes) and all(_walks_as_one(e, pair, sizes[k + 1]) for e in indices):
            names[pair[0]] = 0
            before *= n
        else:
            if k != len(left):
                names[pair[0]] = symbol(f"{letter}{len(left)}")
            left.append(before * n)
            before = 1
    return tuple(left), names

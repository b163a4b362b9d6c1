"""Two loops made one: over a common outer space, stage by stage.

Comes in: two loops of one program, the first of which runs before the second, with the values of their buffers. Goes
out: one loop that does the work of both, or why there is none. Promised: the same numbers in the same dtypes (sums in
another order at most); a loop of the second that reads what the first stores finds it there at the same outer point,
which is proved from the indices: equal multiples of the outer variables, and what is read of a row lies within what is
stored of it.

How the spaces meet: a pointwise loop takes any space that covers its points once, by way of a buffer that both touch
(its point is computed back from the element); two nests take the finest ranges that divide the outer ranges of both.
Then their stages are put together (``schedule.stages``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from functools import lru_cache

from lowtide.ir.graph import int_of
from lowtide.ir.index import Ranges, add, affine, bounds, mul, substitute, unflatten
from lowtide.ir.loops import COMPARED, FOLDED, FOLDS, SUMMED, Instr, Loop, Stage, renumbered
from lowtide.ir.normal import normalise, reindexed
from lowtide.ir.symbolic import Dim, symbol
from lowtide.ir.task import Task, divided
from lowtide.ir.tiles import astray, steps, strides
from lowtide.schedule.cost import across, elements, jumping, walk
from lowtide.schedule.rules import CACHED, Rules
from lowtide.schedule.stages import stitched
from lowtide.schedule.widened import side_by_side


def joined(a: Task, b: Task, needed: Set[str], rules: Rules = CACHED) -> Task | str:
    """Both as one task; ``needed``: values of theirs that others read. A text says why not.

    Layers of a model are alike but for the names of their values, so what was found for one is taken for the next.
    """
    names = tuple(dict.fromkeys((*a.values, *b.values)))
    number = {n: f"${k}" for k, n in enumerate(names)}
    given = [Task(t.loop, *(tuple(number[n] for n in part) for part in (t.given, t.makes))) for t in (a, b)]
    found = _joined(given[0], given[1], frozenset(number[n] for n in needed), rules)
    if isinstance(found, str):
        return _NUMBERED.sub(lambda m: names[int(m[1])], found)
    return Task(found.loop, *(tuple(names[int(n[1:])] for n in part) for part in (found.given, found.makes)))


_NUMBERED = re.compile(r"\$(\d+)")
_TWO_WALKS = "the one walks through memory as it lies, the other across"


@lru_cache(maxsize=4096)
def _joined(a: Task, b: Task, needed: frozenset[str], rules: Rules) -> Task | str:
    if why := _ill_matched(a, b, rules):
        return why
    a, b = _normal(a), _normal(b)
    apart = a.loop, b.loop
    met = _met_as_they_are_or_folded(a, b, rules)
    if isinstance(met, str):
        return met
    a, b = met
    made = stitched(a, b, needed, rules)
    if len(made.given) + len(made.makes) > rules.most_buffers:
        return f"together they touch more than {rules.most_buffers} buffers"
    if sum(math.prod(map(int_of, s.inner)) for s in made.loop.stages for x in s.body if x.op in FOLDS) > FOLDED:
        return f"together they take sums or extremes of more than {FOLDED} columns"
    if _streams(made.loop, rules) > max(rules.most_streams, _streams(a.loop, rules), _streams(b.loop, rules)):
        return f"one pass would walk through more than {rules.most_streams} buffers at once"
    return _more_astray(*apart, made.loop, rules) or made


def _ill_matched(a: Task, b: Task, rules: Rules) -> str:
    """What forbids one loop in whatever space the two could meet; nothing where that decides."""
    if len(a.loop.body) + len(b.loop.body) > rules.most_instructions:
        return f"together they have more than {rules.most_instructions} instructions"
    if touched := next((n for n in a.changes if n in b.values), None):
        return f"%{touched} is changed by one and touched by the other"
    if made := next((n for n in b.changes if n in a.makes), None):
        return f"%{made} is made by one and changed by the other"
    return ""


def _more_astray(a: Loop, b: Loop, made: Loop, rules: Rules) -> str:
    """What forbids one pass because it would touch more against its order than two do; nothing where it does not. Those
    are normalised, and so is what a kernel is made of."""
    made = normalise(made)
    if across(made):
        jumps = [jumping(nest) for nest, p in ((a, b), (b, a)) if across(nest) and not p.outer]
        return _TWO_WALKS if jumps and jumping(made) > jumps[0] else ""
    found = astray(made, rules.held_nbytes)
    if found and found > sum(astray(x, rules.held_nbytes) for x in (a, b) if not across(x)):
        return "one pass would walk through memory in two orders, and no tile of it would stay in cache"
    return ""


@lru_cache(maxsize=4096)
def _streams(loop: Loop, rules: Rules) -> int:
    """The most large buffers that one stage walks through."""
    most = 0
    for k, s in enumerate(loop.stages):
        ranges = loop.ranges(k)
        large = {x.attr for x in s.body if x.touches and elements(loop.body, x, ranges) >= rules.large}
        most = max(most, len(large))
    return most


def _normal(t: Task) -> Task:
    loop = normalise(t.loop)
    return t if loop is t.loop else Task(loop, t.given, t.makes)


# -- a common space --------------------------------------------------------------------------------------------------


def _met_as_they_are_or_folded(a: Task, b: Task, rules: Rules) -> tuple[Task, Task] | str:
    """Both over the same outer ranges, one after the other, sums of columns row by row where that is what it takes."""
    why = _met_safely(a, b, rules)
    if not isinstance(why, str):
        return why
    for t, other in ((b, a), (a, b)):
        if not _sums_columns(t.loop) or across(other.loop) or not _long(other.loop):
            continue
        found = by_rows(t, rules)
        if isinstance(found, Task):
            found = _met_safely(a, found, rules) if t is b else _met_safely(found, b, rules)
        if not isinstance(found, str):
            return found
        why = found
    return why


def _met_safely(a: Task, b: Task, rules: Rules) -> tuple[Task, Task] | str:
    """Both over the same outer ranges, where the second then reads nothing that the first has not stored yet."""
    met = _met(a, b, rules)
    return met if isinstance(met, str) else _unsafe(*met) or met


def _sums_columns(loop: Loop) -> bool:
    """Whether it reduces, over outer points that lie side by side in most of what belongs to an outer and an inner one."""
    score = 0
    for s in loop.stages:
        for x in s.body:
            found = steps(x) if x.op == "load" else None
            if found is not None and {n[0] for n in found} == {"i", "r"}:
                score += (found.get(f"i{len(loop.outer) - 1}") == 1) - (found.get(f"r{len(s.inner) - 1}") == 1)
    return score > 0 and any(x.op == "reduce" for x in loop.body)


def _long(loop: Loop) -> bool:
    """Whether its stages run over rows of their own, or over points that rows can be made of."""
    return not loop.outer or any(s.inner for s in loop.stages)


def by_rows(t: Task, rules: Rules) -> Task | str:
    """Sums and extremes of columns as a pass over rows that leaves them behind: what an outer point was reduced to is a
    fold. A text says why not."""
    outer = tuple(map(int_of, t.loop.outer))
    rows: tuple[int, ...] | None = None
    kept: dict[int, int] = {}
    points: dict[str, Dim] = {f"i{k}": symbol(f"r{k}") for k in range(len(outer))}
    body: list[Instr] = []
    summed: dict[int, int] = {}
    how: dict[int, str] = {}
    n = -1
    for s in t.loop.stages:
        inner = tuple(map(int_of, s.inner))
        if inner and rows is not None and inner != rows:
            return "the columns are summed over different rows"
        rows = inner or rows
        for x in s.body:
            n += 1
            if x.op == "reduce":
                if any(a in summed for a in x.args):
                    return "the sums of columns are used again before they are stored"
                if x.attr not in FOLDS.values() or not inner:
                    return f"there is no partial {x.attr} of columns"
                summed[n] = kept[x.args[0]]
                how[n] = next(op for op, kind in FOLDS.items() if kind == x.attr)
            elif any(a in summed for a in x.needs):
                if x.op != "store" or inner or len(x.args) != 1 or x.dtype != body[summed[x.args[0]]].dtype:
                    return "the sums of columns are used again before they are stored"
                body.append(Instr(how[x.args[0]], x.dtype, (summed[x.args[0]],), x.index, x.attr))
            elif x.acts or x.ordered or x.op == "scan":
                return "it does more with the columns than summing them"
            else:
                kept[n] = len(body)
                body.append(renumbered(x, kept))
    folds = [x for x in body if x.op in FOLDS]
    if rows is None or not folds:
        return "it sums no columns"
    if any(x.dtype not in (SUMMED if FOLDS[x.op] == "sum" else COMPARED) for x in folds):
        return "the sums or extremes of columns are in a type that folds do not compute in"
    if math.prod(outer) * len(folds) > FOLDED:
        return f"there are more than {FOLDED} columns"
    if math.prod(outer) * len(folds) > rules.few_columns and math.prod(rows) < rules.long_columns:
        return f"there are fewer than {rules.long_columns} rows of more than {rules.few_columns} columns"
    if any(not _one_each(x.index, outer) for x in folds):
        return "the sums of columns do not lie in places of their own"
    loop = Loop(rows, (Stage(outer, tuple(body)),), t.loop.inputs, t.loop.outputs)
    points |= {f"r{k}": symbol(f"i{k}") for k in range(len(rows))}
    return _normal(replace(t, loop=reindexed(loop, rows, points, [outer], [{}])))


def _one_each(index: Dim | None, sizes: tuple[int, ...]) -> bool:
    """Whether an index names another element at each point of the outer ranges ``sizes``."""
    found = None if index is None else affine(index)
    if found is None or any(n[0] != "i" for n in found[0]):
        return False
    return unflatten(0, sizes, tuple(found[0].get(f"i{k}", 0) for k in range(len(sizes))), {}) is not None


def _met(a: Task, b: Task, rules: Rules) -> tuple[Task, Task] | str:
    """Both over the same outer ranges."""
    if not a.loop.outer and not b.loop.outer:
        return _met_flat(a, b, rules)
    if a.loop.outer and b.loop.outer:
        return _met_nests(a, b)
    if a.loop.outer:
        moved = _moved_into(b, a)
        return moved if isinstance(moved, str) else (a, moved)
    moved = _moved_into(a, b)
    return moved if isinstance(moved, str) else (moved, b)


def _met_flat(a: Task, b: Task, rules: Rules) -> tuple[Task, Task] | str:
    """Neither has outer ranges: their stages follow one another, and may be over the same points."""
    if b.loop.pointwise:
        moved = _moved_into(b, a)
        if not isinstance(moved, str):
            return a, moved
    if a.loop.pointwise:
        moved = _moved_into(a, b)
        if not isinstance(moved, str):
            return moved, b
    if a.loop.pointwise and b.loop.pointwise:
        turned = points(a.loop) > points(b.loop)
        found = _met_in_rows(b, a, rules) if turned else _met_in_rows(a, b, rules)
        if found is not None:
            return (found[1], found[0]) if turned else found
    if min(points(a.loop), points(b.loop)) < rules.large:
        return a, b
    if a.loop.pointwise and b.loop.pointwise:
        return side_by_side(a, b, rules.most_idle)
    return "they follow one another, each over points of its own"


def _met_in_rows(few: Task, many: Task, rules: Rules) -> tuple[Task, Task] | None:
    """Two pointwise tasks, the second of which touches an element of the first at many points of its own, as nests over
    rows of those points: the one once per row, or once per part of it, the other along the row. None where there are no
    such rows, or fewer than would be worth sharing out."""
    sizes = tuple(map(int_of, many.loop.stages[0].inner))
    last = len(sizes) - 1
    for slot, name in enumerate(many.values):
        if name not in few.values:
            continue
        for _, x in _accesses(many.loop, slot):
            found = None if x.index is None else affine(x.index)
            if found is None:
                continue
            rows = [k for k in range(last) if found[0].get(f"r{k}", 0)]
            if math.prod(sizes[k] for k in rows) < rules.least_rows:
                continue
            rest = [k for k in range(len(sizes)) if k not in rows]
            place: dict[str, Dim] = {f"r{k}": symbol(f"i{j}") for j, k in enumerate(rows)}
            place |= {f"r{k}": symbol(f"r{j}") for j, k in enumerate(rest)}
            loop = reindexed(many.loop, [sizes[k] for k in rows], {}, [[sizes[k] for k in rest]], [place])
            nest = replace(many, loop=loop)
            moved = _moved_into(few, nest)
            if isinstance(moved, Task) and not across(loop):
                return moved, nest
    return None


def _turns(loop: Loop) -> bool:
    """Whether a pointwise loop runs across memory in one buffer or another, whichever of its ranges it follows."""
    last = len(loop.stages[0].inner) - 1
    for x in loop.body:
        moves = strides(x)
        if moves is not None and moves.get(f"r{last}", 0) > 1 and any(moves.get(f"r{k}") == 1 for k in range(last)):
            return True
    return False


def points(loop: Loop) -> int:
    """Of the largest stage, over all outer points."""
    return math.prod(map(int_of, loop.outer)) * max(math.prod(map(int_of, s.inner)) for s in loop.stages)


def _moved_into(p: Task, nest: Task) -> Task | str:
    """The pointwise task ``p`` over the space of a nest, by way of a buffer that both touch. What runs through memory as it
    lies is slower across it than in a pass of its own; what does both anyhow is not."""
    if not p.loop.pointwise:
        return "the one without outer ranges is not pointwise"
    crosses = across(nest.loop) and not _turns(p.loop)
    values = nest.values
    why = "no buffer that both touch leads from the points of the one to those of the other"
    for slot, name in enumerate(p.values):
        if name not in values:
            continue
        way = _way_back(p.loop, slot)
        if way is None:
            continue
        for k, x in _accesses(nest.loop, values.index(name)):
            found = _over(p, nest.loop, k, x, way)
            if isinstance(found, Task) and found.loop.stages[0].inner and crosses:
                found = _TWO_WALKS
            if isinstance(found, Task):
                return found
            why = found
    return why


def _accesses(loop: Loop, slot: int) -> list[tuple[int, Instr]]:
    return [(k, x) for k, s in enumerate(loop.stages) for x in s.body if x.attr == slot and x.op in ("load", "store")]


def _way_back(loop: Loop, slot: int) -> tuple[tuple[int, ...], tuple[int, ...], Dim] | None:
    """Sizes, strides and offset of an access that names another element at every point of a pointwise loop."""
    sizes = tuple(map(int_of, loop.stages[0].inner))
    for _, x in _accesses(loop, slot):
        found = None if x.index is None else affine(x.index)
        if found is None:
            continue
        strides = tuple(found[0].get(f"r{k}", 0) for k in range(len(sizes)))
        if not any(s[0] == "v" for s in found[0]) and unflatten(0, sizes, strides, {}) is not None:
            return sizes, strides, found[1]
    return None


def _over(p: Task, nest: Loop, k: int, x: Instr, way: tuple[tuple[int, ...], tuple[int, ...], Dim]) -> Task | str:
    """``p`` at the points at which ``nest`` touches the buffer in stage ``k``: those of the outer ranges, and of the inner
    ones along which it touches other elements."""
    sizes, strides, offset = way
    outer = tuple(map(int_of, nest.outer))
    found = None if x.index is None else affine(x.index)
    if found is None:
        return "they touch the buffer that both have at other points"
    assert x.index is not None
    along = [j for j in range(len(nest.stages[k].inner)) if found[0].get(f"r{j}", 0) or not outer]
    inner = tuple(int_of(nest.stages[k].inner[j]) for j in along)
    if math.prod(outer) * math.prod(inner) != math.prod(sizes):
        return "they touch the buffer that both have at other points"
    ranges = {f"i{j}": n for j, n in enumerate(outer)} | {f"r{j}": n for j, n in enumerate(inner)}
    index = substitute(x.index, {f"r{old}": symbol(f"r{j}") for j, old in enumerate(along)}, ranges)
    mine = tuple(found[0].get(n, 0) for n in (*(f"i{j}" for j in range(len(outer))), *(f"r{j}" for j in along)))
    if unflatten(0, (*outer, *inner), mine, {}) is None:
        return "the buffer that both have is not read once per point"
    where = unflatten(add(index, mul(-1, offset)), sizes, strides, ranges)
    if where is None or not all(_inside(e, n, ranges) for e, n in zip(where, sizes, strict=True)):
        return "they touch the buffer that both have at other points"
    points: dict[str, Dim] = {f"r{j}": e for j, e in enumerate(where)}
    loop = reindexed(p.loop, outer, {}, [inner], [points])
    if divided(loop) > divided(p.loop):
        return "in the other's space its indices would divide"
    return replace(p, loop=loop)


def _inside(e: Dim, n: int, ranges: Ranges) -> bool:
    lo, hi = bounds(e, ranges)
    return lo is not None and hi is not None and lo >= 0 and hi < n


def _met_nests(a: Task, b: Task) -> tuple[Task, Task] | str:
    """Both have outer ranges: over the finest that divide both, in the order of the first."""
    first, second = tuple(map(int_of, a.loop.outer)), tuple(map(int_of, b.loop.outer))
    if walk(a.loop) * walk(b.loop) < 0 and not {*a.makes} & {*b.given}:  # as many rows as columns, by chance
        return _TWO_WALKS
    if math.prod(first) != math.prod(second):
        return f"outer ranges {list(first)} and {list(second)} have other numbers of points"
    finest = _refined(first, second)
    if finest is None:
        return f"outer ranges {list(first)} and {list(second)} have no common parts"
    return _split_outer(a, finest), _split_outer(b, finest)


def _refined(first: Sequence[int], second: Sequence[int]) -> tuple[int, ...] | None:
    """The least product-wise refinement of two lists of ranges; None where they cut at places that do not divide."""
    x, y, out = list(reversed(first)), list(reversed(second)), list[int]()
    while x and y:
        small = min(x[-1], y[-1])
        if not small or x[-1] % small or y[-1] % small:
            return None
        # from the innermost outwards: cut the larger one
        out.append(small)
        for rest in (x, y):
            left = rest.pop() // small
            if left > 1:
                rest.append(left)
    return tuple(out) if math.prod(out) == math.prod(first) else None


def _split_outer(t: Task, finest: Sequence[int]) -> Task:
    outer = tuple(map(int_of, t.loop.outer))
    if outer == tuple(finest):
        return t
    rows: dict[str, Dim] = {}
    at = 0
    for k, n in enumerate(outer):
        e: Dim = 0
        size = 1
        while size < n:
            e = add(mul(e, finest[at]), symbol(f"i{at}"))
            size *= finest[at]
            at += 1
        rows[f"i{k}"] = e
    inner = [tuple(map(int_of, s.inner)) for s in t.loop.stages]
    return replace(t, loop=reindexed(t.loop, finest, rows, inner, [{} for _ in inner]))


# -- what is read was stored -----------------------------------------------------------------------------------------


def _unsafe(a: Task, b: Task) -> str | None:
    """Why the second might read what the first has not stored yet; None where it is proved that it does not."""
    if not a.loop.outer:
        return None
    for name in b.changes:
        if name in a.given and not _own_place(a, b, name):
            return f"%{name} is changed at other outer points than it is read at"
    for out, name in enumerate(a.makes, len(a.given)):
        if name not in b.given:
            continue
        for k, read in b.loop.reads(b.given.index(name)):
            if not _stored_before(a.loop, out, b.loop, k, read):
                return f"%{name} is read at other outer points than it is stored at"
    return None


def _own_place(a: Task, b: Task, name: str) -> bool:
    """Whether every outer point reads and changes one element of its own."""
    touched = [x for _, x in (*a.loop.reads(a.given.index(name)), *b.loop.stores(b.given.index(name)))]
    touched += [x for _, x in b.loop.reads(b.given.index(name))]
    if any(x.index != touched[0].index for x in touched):
        return False
    return _one_each(touched[0].index, tuple(map(int_of, a.loop.outer)))


def _stored_before(a: Loop, out: int, b: Loop, k: int, read: Instr) -> bool:
    stores = list(a.stores(out))
    if len(stores) != 1 or stores[0][1].op != "store" or len(stores[0][1].args) != 1:
        return False
    stage, store = stores[0]
    assert store.index is not None and read.index is not None
    put = affine(store.index)
    got = affine(read.index)
    if put is None or got is None:
        return False
    rows = [f"i{d}" for d in range(len(a.outer))]
    if any(put[0].get(i, 0) != got[0].get(i, 0) for i in rows):
        return False
    inner = tuple(map(int_of, a.stages[stage].inner))
    strides = tuple(put[0].get(f"r{d}", 0) for d in range(len(inner)))
    if any(s[0] == "v" for s in (*put[0], *got[0])):
        return False
    rest = {n: c for n, c in got[0].items() if n[0] == "r"}
    return _covers(tuple(zip(strides, inner, strict=True)), rest, got[1] - put[1], b.ranges(k))


def _covers(stored: Sequence[tuple[int, int]], read: Mapping[str, int], constant: int, ranges: Ranges) -> bool:
    """Whether ``constant`` plus the multiples of variables in ``read`` is always a sum of multiples, each below its
    range, of the strides in ``stored`` (pairs of stride and range)."""
    spans: list[tuple[int, int]] = []  # stride and its greatest multiple; one where the next goes on where it ends
    for s, n in sorted((s, n) for s, n in stored if n > 1):
        if s <= 0:
            return False
        if spans and s == spans[-1][0] * (spans[-1][1] + 1):
            spans[-1] = (spans[-1][0], (spans[-1][1] + 1) * n - 1)
        else:
            spans.append((s, n - 1))
    terms = [(c, ranges[n]) for n, c in read.items() if ranges[n] > 1]
    if constant < 0 or any(c < 0 for c, _ in terms):
        return False
    for stride, most in reversed(spans):
        mine = [(c, n) for c, n in terms if c % stride == 0]
        terms = [t for t in terms if t not in mine]
        if constant // stride + sum(c // stride * (n - 1) for c, n in mine) > most:
            return False
        constant %= stride
    return not terms and constant == 0

"""Random programs of loops, and what they compute: what fusion is tested with.

Biased to what breaks it: shared reads, the same value read by rows and by columns, transposes, broadcasts, reductions
over different axes, values that are returned, opaque calls in between, copies into inputs and into values made here, second
names of the same bytes and names of a part of them, calls with one effect, adding at computed places. Whole numbers wrap, so
equal programs agree bit for bit.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lowtide.ir.build import LoopBuilder
from lowtide.ir.graph import Graph, Layout, Op, Origin, Ref, Section, Value, int_of, refs_in
from lowtide.ir.index import add, mul
from lowtide.ir.interpret import NUMPY, interpret
from lowtide.ir.loops import FOLDS, Instr, Loop, Stage
from lowtide.ir.lowered import LOOP, Lowered, loop_op
from lowtide.ir.symbolic import symbol
from strategies import by_hand

ROWS, COLUMNS = 6, 4
SHAPES = {"grid": (ROWS, COLUMNS), "turned": (COLUMNS, ROWS), "row": (COLUMNS,), "column": (ROWS,), "one": ()}
OPAQUE = "aten.opaque.default"
DRAWS = "aten.drawn.default"
KINDS = (
    "point", "point", "point", "turn", "row", "row", "col", "again", "part", "moved", "total", "opaque", "added", "copied",
    "changed", "named", "cut", "drawn",
)  # fmt: skip
OPERATIONS = ("add", "sub", "mul", "max")


@dataclass
class Programs:
    """A program while it is drawn; short-lived."""

    dtype: str
    shape: dict[str, str]
    ops: list[Op]
    loops: dict[str, Loop]
    under: dict[str, tuple[str, int]]  # views: whose bytes, from which element

    def new(self, shape: str) -> str:
        name = f"t{len(self.shape)}"
        self.shape[name] = shape
        return name

    def root(self, name: str) -> str:
        return self.under[name][0] if name in self.under else name

    def view(self, of: str, shape: str, offset: int) -> None:
        name = self.new(shape)
        base, start = self.under.get(of, (of, 0))
        self.under[name] = base, start + offset
        self.ops.append(Op(name, "aten.as_strided.default", (Ref(of),), (), (name,), view=True))

    def put(self, b: LoopBuilder, given: Sequence[str], makes: Sequence[str], changes: Sequence[str] = ()) -> None:
        b.inputs, b.outputs = [self.dtype] * len(given), [self.dtype] * len(makes)
        op = loop_op(tuple(given), tuple(makes), tuple(changes), Origin(), f"op{len(self.ops)}")
        self.ops.append(op)
        self.loops[op.name] = b.build()


def _at(shape: str, i: Any, j: Any) -> Any:
    """The element of a value of a shape that belongs to row i and column j of the grid."""
    plain = {"grid": i * COLUMNS + j, "turned": j * ROWS + i, "row": j, "column": i, "one": 0}
    return plain[shape]


class _E:
    """Index arithmetic in plain signs."""

    def __init__(self, e: Any) -> None:
        self.e = e

    def __mul__(self, n: int) -> _E:
        return _E(mul(self.e, n))

    def __add__(self, other: _E) -> _E:
        return _E(add(self.e, other.e))


def _index(shape: str, i: Any, j: Any) -> Any:
    found = _at(shape, _E(i), _E(j))
    return found.e if isinstance(found, _E) else found


def pointwise(p: Programs, given: Sequence[str], op: str, shape: str) -> None:
    b = LoopBuilder()
    sizes = (ROWS, COLUMNS) if shape == "grid" else (COLUMNS, ROWS) if shape == "turned" else SHAPES[shape]
    r = b.stage(sizes)
    i, j = {"grid": (0, 1), "turned": (1, 0), "row": (None, 0), "column": (0, None), "one": (None, None)}[shape]
    at = (r[i] if i is not None else 0, r[j] if j is not None else 0)
    v = b.load(0, p.dtype, _index(p.shape[given[0]], *at))
    for k, n in enumerate(given[1:], 1):
        v = b.op(op, p.dtype, v, b.load(k, p.dtype, _index(p.shape[n], *at)))
    b.store(len(given), _index(shape, *at), v)
    p.put(b, given, [p.new(shape)])


def reduction(p: Programs, x: str, by_rows: bool, kind: str, again: bool) -> None:
    """Over rows or columns of a grid; ``again``: and then every element less the reduction."""
    b = LoopBuilder((ROWS,) if by_rows else (COLUMNS,))
    inner = (COLUMNS,) if by_rows else (ROWS,)
    (r,) = b.stage(inner)
    (i,) = b.rows
    at = (i, r) if by_rows else (r, i)
    v = b.reduce(kind, b.load(0, p.dtype, _index(p.shape[x], *at)))
    if again:
        b.stage(inner)
        y = b.op("sub", p.dtype, b.load(0, p.dtype, _index(p.shape[x], *at)), v)
        b.store(1, _index("grid", *at), y)
        p.put(b, [x], [p.new("grid")])
        return
    b.stage()
    b.store(1, i, v)
    p.put(b, [x], [p.new("column" if by_rows else "row")])


def part(p: Programs, x: str) -> None:
    """Sums of rows without their first element."""
    b = LoopBuilder((ROWS,))
    (r,) = b.stage((COLUMNS - 1,))
    (i,) = b.rows
    v = b.reduce("sum", b.load(0, p.dtype, _index(p.shape[x], i, (_E(r) + _E(1)).e)))
    b.stage()
    b.store(1, i, v)
    p.put(b, [x], [p.new("column")])


def moved(p: Programs, x: str) -> None:
    """Every element of a grid but the first, one place earlier; what comes last is 0."""
    b = LoopBuilder()
    (r,) = b.stage((ROWS * COLUMNS,))
    there = b.op("lt", "bool", b.index(r), b.const("i64", ROWS * COLUMNS - 1))
    b.store(1, r, b.load(0, p.dtype, (_E(r) + _E(1)).e, there))
    p.put(b, [x], [p.new("grid")])


def total(p: Programs, x: str) -> None:
    b = LoopBuilder()
    i, j = b.stage((ROWS, COLUMNS))
    v = b.reduce("sum", b.load(0, p.dtype, _index(p.shape[x], i, j)))
    b.stage()
    b.store(1, 0, v)
    p.put(b, [x], [p.new("one")])


def added(p: Programs, x: str, column: str) -> None:
    """A grid, to one element of each of whose rows something is added."""
    b = LoopBuilder((ROWS,))
    (i,) = b.rows
    (r,) = b.stage((COLUMNS,))
    b.store(2, _index("grid", i, r), b.load(0, p.dtype, _index(p.shape[x], i, r)))
    b.stage((1,))
    w = b.load(1, p.dtype, i)
    n = b.op("mod", "i64", b.cast(w, "i64"), b.const("i64", COLUMNS))
    b.store(2, _index("grid", i, symbol(f"v{n}")), w, add=True)
    p.put(b, [x, column], [p.new("grid")])


def copied(p: Programs, into: str, x: str) -> None:
    b = LoopBuilder()
    i, j = b.stage((ROWS, COLUMNS))
    b.store(1, _index("grid", i, j), b.load(0, p.dtype, _index(p.shape[x], i, j)))
    p.put(b, [x, into], [], [into])


def changed(p: Programs, into: str, x: str) -> None:
    """To a grid, in its own bytes, another one or a row or a column is added."""
    b = LoopBuilder()
    i, j = b.stage((ROWS, COLUMNS))
    v = b.op("add", p.dtype, b.load(0, p.dtype, _index("grid", i, j)), b.load(1, p.dtype, _index(p.shape[x], i, j)))
    b.store(0, _index("grid", i, j), v)
    p.put(b, [into, x], [], [into])


def _draw_step(draw: Callable[..., Any], p: Programs, inputs: Sequence[str]) -> None:
    recent = list(p.shape)[-6:]
    any_of = st.sampled_from([*recent, *recent, *p.shape])
    grids = [n for n in p.shape if p.shape[n] in ("grid", "turned")]
    columns = [n for n in p.shape if p.shape[n] == "column"]
    kind = draw(st.sampled_from(KINDS))
    if kind in ("point", "turn"):
        given = list(dict.fromkeys(draw(st.lists(any_of, min_size=1, max_size=3))))
        large = any(p.shape[n] in ("grid", "turned") for n in given)
        shape = ("turned" if kind == "turn" else "grid") if large else p.shape[given[0]]
        if all(p.shape[n] == shape or large or p.shape[n] == "one" for n in given):
            pointwise(p, given, draw(st.sampled_from(OPERATIONS)), shape)
    elif kind in ("row", "col", "again"):
        by_rows = kind == "row" or (kind == "again" and draw(st.booleans()))
        reduction(p, draw(st.sampled_from(grids)), by_rows, draw(st.sampled_from(("sum", "max"))), kind == "again")
    elif kind == "total":
        total(p, draw(st.sampled_from(grids)))
    elif kind == "part":
        part(p, draw(st.sampled_from(grids)))
    elif kind == "moved":
        moved(p, draw(st.sampled_from([n for n in grids if p.shape[n] == "grid"])))
    elif kind == "added" and columns:
        added(p, draw(st.sampled_from(grids)), draw(st.sampled_from(columns)))
    elif kind == "copied":
        copied(p, inputs[0], draw(st.sampled_from([n for n in grids if p.root(n) != inputs[0]])))
    elif kind == "changed":
        into = draw(st.sampled_from([n for n in grids if p.shape[n] == "grid"]))
        given = [n for n in (*recent, inputs[1]) if p.shape[n] != "turned" and p.root(n) != p.root(into)]
        if given:
            changed(p, into, draw(st.sampled_from(given)))
    elif kind == "named":
        of = draw(any_of)
        p.view(of, p.shape[of], 0)
    elif kind == "cut":
        p.view(
            draw(st.sampled_from([n for n in grids if p.shape[n] == "grid"])), "row", COLUMNS * draw(st.integers(0, 3))
        )
    elif kind == "drawn":
        out = p.new("grid")
        p.ops.append(Op(out, DRAWS, (), (), (out,), effect="random"))
    elif kind == "opaque":
        given = list(dict.fromkeys(draw(st.lists(any_of, min_size=1, max_size=2))))
        out = p.new("grid")
        p.ops.append(Op(out, OPAQUE, tuple(map(Ref, given)), (), (out,)))


@st.composite
def programs(draw: Callable[..., Any], dtypes: Sequence[str] = ("i64",)) -> Lowered:
    """A program of 2 to 14 operations in one or two sections."""
    p = Programs(draw(st.sampled_from(dtypes)), {}, [], {}, {})
    inputs = [p.new("grid"), p.new("grid"), p.new("row"), p.new("column")]
    count = draw(st.integers(2, 14))
    for _ in range(count):
        _draw_step(draw, p, inputs)
    made = [n for n in p.shape if n not in inputs]
    kept = draw(st.lists(st.sampled_from(made or inputs), min_size=1, max_size=4, unique=True))
    cut = draw(st.integers(0, len(p.ops))) if draw(st.booleans()) else 0
    return _lowered(p, inputs, kept, cut)


@st.composite
def asked(draw: Callable[..., Any]) -> Lowered:
    """A program of which some operations are said to come after others, and some runs of neighbours are groups."""
    lowered = draw(programs())
    graph = lowered.graph
    return replace(lowered, graph=replace(graph, sections=tuple(by_hand(draw, s) for s in graph.sections)))


def _lowered(p: Programs, inputs: Sequence[str], kept: Sequence[str], cut: int) -> Lowered:
    values: list[Value] = []
    for n, shape in p.shape.items():
        sizes = SHAPES[shape]
        stride = [1] * len(sizes)
        if len(sizes) == 2:
            stride[0] = sizes[1]
        root, offset = p.under.get(n, (n, 0))
        values.append(Value(n, Layout(p.dtype, "cpu", sizes, tuple(stride), offset), root))
    first, second = p.ops[:cut], p.ops[cut:]
    if not first:
        section = Section("inference", tuple(map(Ref, inputs)), tuple(second), tuple(map(Ref, kept)))
        return Lowered(Graph("random", tuple(values), (section,)), p.loops)
    made = {o for op in first for o in op.outputs if o is not None} | set(inputs)
    needed = dict.fromkeys(n for op in second for n in op.reads if n in made)
    saved = list(needed)
    early = [n for n in kept if n in made]
    late = [n for n in kept if n not in made]
    returns = (*map(Ref, early), *map(Ref, saved))
    forward = Section("forward", tuple(map(Ref, inputs)), tuple(first), returns, tuple(range(len(early), len(returns))))
    backward = Section("backward", tuple(map(Ref, needed)), tuple(second), tuple(map(Ref, late)))
    return Lowered(Graph("random", tuple(values), (forward, backward)), p.loops)


# -- what they compute -----------------------------------------------------------------------------------------------

Run = Callable[[Loop, Sequence[Any]], None]


def fill(name: str, dtype: str, count: int) -> Any:
    """Numbers that depend on a name alone."""
    made = np.random.default_rng(zlib.crc32(name.encode())).integers(-9, 9, count)
    return made.astype(NUMPY[dtype])


def compute(lowered: Lowered, run: Run = interpret) -> Mapping[str, Any]:
    """What the program returns, and what is in its inputs afterwards."""
    graph = lowered.graph
    held: dict[str, Any] = {}

    def elements(name: str) -> Any:
        v = graph.value[name]
        return held[v.storage][int(str(v.layout.offset)) :]

    for s in graph.sections:
        for i in s.inputs:
            if isinstance(i, Ref) and i.name in graph.caller_owned:
                held[i.name] = fill(i.name, graph.value[i.name].layout.dtype, graph.nbytes[i.name] // 8)
    given = set(held)
    draws = 0
    for op in graph.ops:
        if op.view:
            continue
        names = [n for a in op.args for n in refs_in(a)]
        for o in op.outputs:
            if o is not None:
                dtype = graph.value[o].layout.dtype
                held[o] = np.full(graph.nbytes[o] // 8, 77, NUMPY[dtype])
        if op.target == LOOP:
            run(lowered.loops[op.name], [elements(n) for n in (*names, *op.outputs) if n is not None])
        elif op.target == DRAWS:
            held[str(op.outputs[0])][:] = fill(f"draw {draws}", dtype, len(held[str(op.outputs[0])]))
            draws += 1
        else:
            out = held[str(op.outputs[0])]
            for k, n in enumerate(names, 1):
                out += (np.resize(elements(n), len(out)) * k)[::-1]
    returned = {n for s in graph.sections for a in s.returns for n in refs_in(a)}
    return {n: elements(n).copy() for n in sorted(returned | given)}


def one_by_one(seed: int) -> Run:
    """Runs a loop of whole numbers one point after the other, outer and inner ones in any order: what code on several
    threads and in vectors may do. What a stage reads and what it writes may be the same memory."""

    def run(loop: Loop, buffers: Sequence[Any]) -> None:
        rng = np.random.default_rng(seed)
        for stage in loop.stages:
            for x, point in (
                (x, p) for x in stage.body if x.op in FOLDS for p in np.ndindex(*map(int_of, stage.inner))
            ):
                place = _place(x.index, {f"r{d}": r for d, r in enumerate(point)}, {})
                buffers[int(str(x.attr))][place] = START[x.op]
        for point in _shuffled(loop.outer, rng):
            at: dict[str, int] = {f"i{k}": i for k, i in enumerate(point)}
            values: dict[int, int] = {}
            for k, stage in enumerate(loop.stages):
                _stage(loop, k, stage, at, values, buffers, rng)

    return run


def _shuffled(sizes: Sequence[Any], rng: np.random.Generator) -> list[tuple[int, ...]]:
    points = list(np.ndindex(*(int(str(n)) for n in sizes)))
    return [points[k] for k in rng.permutation(len(points))]


def _stage(
    loop: Loop,
    k: int,
    stage: Stage,
    at: Mapping[str, int],
    values: dict[int, int],
    buffers: Sequence[Any],
    rng: np.random.Generator,
) -> None:
    start = loop.starts[k]
    sums: dict[int, int] = {}
    last: dict[int, int] = {}
    for point in _shuffled(stage.inner, rng):
        here = {**at, **{f"r{d}": r for d, r in enumerate(point)}}
        last = dict(values)
        for n, x in enumerate(stage.body, start):
            got = _value(x, last, here, buffers)
            if x.op == "reduce":
                sums[n] = got if n not in sums else wrapped(sums[n] + got) if x.attr == "sum" else max(sums[n], got)
            elif got is not None:
                last[n] = got
    values.update(sums)
    if not stage.inner:
        values.update(last)


def _value(x: Instr, values: Mapping[int, int], at: Mapping[str, int], buffers: Sequence[Any]) -> Any:
    a = [values[k] for k in x.args]
    index = None if x.index is None else _place(x.index, at, values)
    if x.touches:
        held = buffers[int(str(x.attr))]
        if x.op == "load":
            return int(held[index]) if not a or a[0] else 0
        if len(a) == 1 or a[1]:
            held[index] = JOINED[x.op](int(held[index]), a[0])
        return None
    if x.op == "const":
        return int(str(x.attr))
    if x.op == "index":
        return index
    return wrapped(SCALAR[x.op](*a))


def _place(e: Any, at: Mapping[str, int], values: Mapping[int, int]) -> int:
    if isinstance(e, int):
        return e
    if e.op == "sym":
        name = str(e.args[0])
        return values[int(name[1:])] if name[0] == "v" else at[name]
    first, *rest = (_place(a, at, values) for a in e.args)
    for b in rest:
        first = PLACES[e.op](first, b)
    return first


START = {"fold": 0, "fold_max": -(2**63), "fold_min": 2**63 - 1}
JOINED: Mapping[str, Callable[[int, int], int]] = {
    "store": lambda _, b: b, "accumulate": lambda a, b: wrapped(a + b), "fold": lambda a, b: wrapped(a + b),
    "fold_max": max, "fold_min": min,
}  # fmt: skip
PLACES: Mapping[str, Callable[[int, int], int]] = {
    "+": lambda a, b: a + b, "*": lambda a, b: a * b, "//": lambda a, b: a // b, "%": lambda a, b: a % b,
}  # fmt: skip


def wrapped(n: int) -> int:
    """As 64 bits hold it."""
    return (int(n) + (1 << 63)) % (1 << 64) - (1 << 63)


SCALAR: Mapping[str, Callable[..., int]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "max": max, "mod": lambda a, b: a % b,
    "lt": lambda a, b: a < b, "cast": lambda a: a, "reduce": lambda a: a, "and": lambda a, b: a and b,
    "where": lambda c, a, b: a if c else b,
}  # fmt: skip

"""Random programs of loops, and what they compute: what fusion is tested with.

Biased to what breaks it: shared reads, the same value read by rows and by columns, transposes, broadcasts, reductions
over different axes, values that are returned, opaque calls in between, copies into inputs, adding at computed places.
Whole numbers wrap, so equal programs agree bit for bit.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

from lowtide.ir.build import LoopBuilder
from lowtide.ir.graph import Graph, Layout, Op, Origin, Ref, Section, Value, refs_in
from lowtide.ir.index import add, mul, substitute
from lowtide.ir.interpret import NUMPY, interpret
from lowtide.ir.loops import Instr, Loop, Stage
from lowtide.ir.lowered import LOOP, Lowered, loop_op
from lowtide.ir.symbolic import symbol

ROWS, COLUMNS = 6, 4
SHAPES = {"grid": (ROWS, COLUMNS), "turned": (COLUMNS, ROWS), "row": (COLUMNS,), "column": (ROWS,), "one": ()}
OPAQUE = "aten.opaque.default"
KINDS = (
    "point", "point", "point", "turn", "row", "row", "col", "again", "part", "moved", "total", "opaque", "added", "copied",
)  # fmt: skip
OPERATIONS = ("add", "sub", "mul", "max")


@dataclass
class Programs:
    """A program while it is drawn; short-lived."""

    dtype: str
    shape: dict[str, str]
    ops: list[Op]
    loops: dict[str, Loop]

    def new(self, shape: str) -> str:
        name = f"t{len(self.shape)}"
        self.shape[name] = shape
        return name

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
        copied(p, inputs[0], draw(st.sampled_from([n for n in grids if n != inputs[0]])))
    elif kind == "opaque":
        given = list(dict.fromkeys(draw(st.lists(any_of, min_size=1, max_size=2))))
        out = p.new("grid")
        p.ops.append(Op(out, OPAQUE, tuple(map(Ref, given)), (), (out,)))


@st.composite
def programs(draw: Callable[..., Any], dtypes: Sequence[str] = ("i64",)) -> Lowered:
    """A program of 2 to 14 operations in one or two sections."""
    p = Programs(draw(st.sampled_from(dtypes)), {}, [], {})
    inputs = [p.new("grid"), p.new("grid"), p.new("row"), p.new("column")]
    count = draw(st.integers(2, 14))
    for _ in range(count):
        _draw_step(draw, p, inputs)
    made = [n for n in p.shape if n not in inputs]
    kept = draw(st.lists(st.sampled_from(made or inputs), min_size=1, max_size=4, unique=True))
    cut = draw(st.integers(0, len(p.ops))) if draw(st.booleans()) else 0
    return _lowered(p, inputs, kept, cut)


def _lowered(p: Programs, inputs: Sequence[str], kept: Sequence[str], cut: int) -> Lowered:
    values: list[Value] = []
    for n, shape in p.shape.items():
        sizes = SHAPES[shape]
        stride = [1] * len(sizes)
        if len(sizes) == 2:
            stride[0] = sizes[1]
        values.append(Value(n, Layout(p.dtype, "cpu", sizes, tuple(stride)), n))
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
    for s in graph.sections:
        for i in s.inputs:
            if isinstance(i, Ref) and i.name not in held:
                held[i.name] = fill(i.name, graph.value[i.name].layout.dtype, graph.nbytes[i.name] // 8)
    given = set(held)
    for op in graph.ops:
        names = [n for a in op.args for n in refs_in(a)]
        for o in op.outputs:
            if o is not None:
                dtype = graph.value[o].layout.dtype
                held[o] = np.full(graph.nbytes[o] // 8, 77, NUMPY[dtype])
        if op.target == LOOP:
            run(lowered.loops[op.name], [held[n] for n in (*names, *op.outputs) if n is not None])
        else:
            out = held[str(op.outputs[0])]
            for k, n in enumerate(names, 1):
                out += (np.resize(held[n], len(out)) * k)[::-1]
    returned = {n for s in graph.sections for a in s.returns for n in refs_in(a)}
    return {n: held[n] for n in sorted(returned | given)}


def point_by_point(seed: int) -> Run:
    """Runs a loop one outer point after the other, in any order: what code on several threads may do."""

    def run(loop: Loop, buffers: Sequence[Any]) -> None:
        sizes = tuple(int(str(n)) for n in loop.outer)
        points = list(np.ndindex(*sizes)) if sizes else [()]
        np.random.default_rng(seed).shuffle(points)
        for point in points:
            at = {f"i{k}": int(i) for k, i in enumerate(point)}
            stages = tuple(Stage(s.inner, tuple(_fixed(x, at) for x in s.body)) for s in loop.stages)
            interpret(Loop((), stages, loop.inputs, loop.outputs), buffers)

    return run


def _fixed(x: Instr, at: Mapping[str, int]) -> Instr:
    return x if x.index is None else Instr(x.op, x.dtype, x.args, substitute(x.index, at), x.attr)

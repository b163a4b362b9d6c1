"""LoopBuilder: the one mutable thing about loops, short-lived: ``build()`` ends it.

Comes in: instructions one by one, stage by stage. Goes out: a Loop. Promised: the same computation asked for twice in a
stage is made once; what no store needs is left out; indices are in normal form under the ranges of their stage.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from lowtide.ir.index import simplify, substitute
from lowtide.ir.loops import SEVERAL, Instr, Loop, Stage, renumbered, with_buffer
from lowtide.ir.symbolic import Dim, symbol


class LoopBuilder:
    """Collects the stages of one loop. Instructions are known by their number."""

    def __init__(self, outer: Sequence[Dim] = ()) -> None:
        self.outer = tuple(outer)
        self.body: list[Instr] = []
        self.inner: list[tuple[Dim, ...]] = []
        self.starts: list[int] = []
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self._seen: dict[Instr, int] = {}
        self._kept: dict[Instr, int] = {}

    def stage(self, inner: Sequence[Dim] = ()) -> tuple[Dim, ...]:
        """Begin a stage; its inner variables."""
        if self.starts and not self.inner[-1]:
            self._kept.update(self._seen)
        self._seen = dict(self._kept)
        self.inner.append(tuple(inner))
        self.starts.append(len(self.body))
        self.ranges = {f"i{k}": n for k, n in enumerate(self.outer) if isinstance(n, int)}
        self.ranges |= {f"r{k}": n for k, n in enumerate(inner) if isinstance(n, int)}
        return tuple(symbol(f"r{k}") for k in range(len(inner)))

    @property
    def rows(self) -> tuple[Dim, ...]:
        """The outer variables."""
        return tuple(symbol(f"i{k}") for k in range(len(self.outer)))

    def emit(self, x: Instr) -> int:
        """Append an instruction, or find the one that computes the same."""
        if not x.writes and x in self._seen:
            return self._seen[x]
        self.body.append(x)
        self._seen[x] = len(self.body) - 1
        if x.op == "reduce":
            self._kept[x] = len(self.body) - 1
        return len(self.body) - 1

    def emit_at(self, x: Instr, args: Sequence[int], point: Mapping[str, Dim], at: Mapping[int, int]) -> int:
        """Append an instruction of another loop, whose variables are ``point`` here and whose instructions the numbers ``at``;
        ``args`` are numbers here. An index that is now known becomes a constant."""
        index = x.index
        if index is not None:
            names = {**point, **{f"v{old}": symbol(f"v{new}") for old, new in at.items()}}
            index = substitute(index, names, self.ranges)
        if x.op == "index" and isinstance(index, int) and not isinstance(x.index, int):
            return self.const("i64", index)
        return self.emit(replace(x, args=tuple(args), index=index))

    def dtype(self, v: int) -> str:
        """dtype of an instruction's result."""
        return self.body[v].dtype

    def load(self, slot: int, dtype: str, index: Dim, where: int | None = None) -> int:
        """An element of a buffer; 0 where ``where`` is false."""
        return self.emit(Instr("load", dtype, () if where is None else (where,), simplify(index, self.ranges), slot))

    def store(self, slot: int, index: Dim, v: int, *, add: bool = False, where: int | None = None) -> None:
        """Write an element of a buffer, or add to it."""
        args = (v,) if where is None else (v, where)
        self.emit(Instr("accumulate" if add else "store", self.dtype(v), args, simplify(index, self.ranges), slot))

    def const(self, dtype: str, value: float | bool) -> int:
        """A constant."""
        return self.emit(Instr("const", dtype, attr=constant_text(dtype, value)))

    def check(self, condition: int, of: str | None = None) -> None:
        """The kernel reports a failure where the condition does not hold. ``of``: what it is about (``loops.FAILURES``)."""
        self.emit(Instr("check", "bool", (condition,), attr=of))

    def index(self, e: Dim) -> int:
        """An index as an i64 value."""
        e = simplify(e, self.ranges)
        return self.const("i64", e) if isinstance(e, int) else self.emit(Instr("index", "i64", index=e))

    def counted(self, n: int) -> int:
        """A number of points as an i64: like a constant, but no part of what makes two loops differ."""
        return self.emit(Instr("index", "i64", index=n))

    def op(self, name: str, dtype: str, *args: int) -> int:
        """A scalar operation."""
        return self.emit(Instr(name, dtype, args))

    def cast(self, v: int, dtype: str) -> int:
        """The value in another dtype."""
        x = self.body[v]
        if x.dtype == dtype:
            return v
        if x.op == "const" and dtype not in ("f16", "bf16") and (value := constant_value(x)) == value:
            whole = dtype not in ("f32", "f64")
            if not whole or abs(value) < 2**31:
                return self.const(dtype, bool(value) if dtype == "bool" else int(value) if whole else float(value))
        return self.op("cast", dtype, v)

    def reduce(self, kind: str, v: int, dtype: str | None = None) -> int:
        """The reduction of a value over the stage's inner points; where the stage is one point, the value itself."""
        if not self.inner[-1]:
            return self.const("i64", 0) if kind.startswith("arg") else self.cast(v, dtype or self.dtype(v))
        return self.emit(Instr("reduce", dtype or self.dtype(v), (v,), attr=kind))

    def several(self, family: str, *args: int) -> tuple[int, ...]:
        """All results of one pass that carries several values (``ir.loops.SEVERAL``), in order."""
        dtype = self.dtype(args[0])
        return tuple(self.emit(Instr("reduce", dtype, args, attr=f"{family}.{part}")) for part in SEVERAL[family])

    def scan(self, kind: str, v: int) -> int:
        """The running reduction along the stage's last inner range."""
        if not self.inner[-1]:
            return v
        return self.emit(Instr("scan", self.dtype(v), (v,), attr=kind))

    def build(self) -> Loop:
        """The loop, without what nothing needs."""
        needed: set[int] = set()
        for n in range(len(self.body) - 1, -1, -1):
            if n in needed or self.body[n].acts:
                needed.add(n)
                needed.update(self.body[n].needs)
        at: dict[int, int] = {}
        stages: list[Stage] = []
        ends = [*self.starts[1:], len(self.body)] if self.starts else []
        for inner, lo, hi in zip(self.inner, self.starts, ends, strict=True):
            kept: list[Instr] = []
            for n in range(lo, hi):
                if n in needed:
                    at[n] = len(at)
                    kept.append(renumbered(self.body[n], at))
            if kept:
                stages.append(Stage(inner, tuple(kept)))
        return Loop(self.outer, tuple(stages), tuple(self.inputs), tuple(self.outputs))


def compact(loop: Loop) -> tuple[Loop, tuple[int, ...]]:
    """The loop without the inputs that it neither reads nor writes, and which inputs it has left."""
    touched = {x.attr for x in loop.body if x.touches}
    kept = tuple(k for k in range(len(loop.inputs)) if k in touched)
    if len(kept) == len(loop.inputs):
        return loop, kept
    return rebuffered(loop, [loop.inputs[k] for k in kept], {k: j for j, k in enumerate(kept)}), kept


def rebuffered(loop: Loop, inputs: Sequence[str], to: Mapping[int, int]) -> Loop:
    """The loop with its inputs numbered anew; the outputs follow them as before."""
    shift = len(inputs) - len(loop.inputs)
    whole = {k: k + shift for k in range(len(loop.inputs), len(loop.dtypes))} | dict(to)
    stages = tuple(Stage(s.inner, tuple([with_buffer(x, whole) for x in s.body])) for s in loop.stages)
    return Loop(loop.outer, stages, tuple(inputs), loop.outputs)


def constant_text(dtype: str, value: float | bool) -> str:
    """How a constant of that dtype stands in an instruction: ``true``, ``-3``, ``0.1``, ``inf``, ``nan``."""
    if dtype == "bool":
        return "true" if value else "false"
    if dtype in ("f16", "bf16", "f32", "f64"):
        return repr(float(value))
    return str(int(value)) if math.isfinite(value) else "0"


def constant_value(x: Instr) -> float:
    """The number that a ``const`` stands for."""
    text = str(x.attr)
    if text in ("true", "false"):
        return text == "true"
    return float(text) if x.dtype in ("f16", "bf16", "f32", "f64") else int(text)

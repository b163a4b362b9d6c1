"""Random loops over random layouts, for tests that need many."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from lowtide.ir.build import LoopBuilder
from lowtide.ir.index import flatten, floordiv, modulo
from lowtide.ir.interpret import NUMPY
from lowtide.ir.loops import SEVERAL, Loop
from lowtide.ir.symbolic import Dim

INTS = ("i64", "i32", "u8", "bool")
FLOATS = ("f32", "f64")
_BINARY = {
    "bool": ("and", "or", "xor"),
    "f32": ("add", "sub", "mul", "max", "min"),
    "f64": ("add", "sub", "mul", "max", "min"),
}
_INT_BINARY = ("add", "sub", "mul", "max", "min", "and", "or", "xor", "floordiv", "mod", "truncdiv")


class _Maker:
    def __init__(self, seed: int, dtypes: tuple[str, ...]) -> None:
        self.r = random.Random(seed)
        self.rng = np.random.default_rng(seed)
        self.dtypes = dtypes
        self.buffers: list[Any] = []

    def sizes(self, least: int, most: int) -> tuple[int, ...]:
        return tuple(self.r.choice((1, 2, 3, 4, 6, 17, 40)) for _ in range(self.r.randint(least, most)))

    def data(self, dtype: str, n: int) -> Any:
        if dtype == "bool":
            return self.rng.random(n) < 0.5
        if dtype in FLOATS:
            return self.rng.normal(size=n).astype(NUMPY[dtype])
        low = 0 if dtype == "u8" else -100
        return self.rng.integers(low, 100, n).astype(NUMPY[dtype])

    def layout(self, sizes: tuple[int, ...]) -> tuple[tuple[int, ...], int, int]:
        """Random strides (broadcasts, gaps, permutations), offset, and the elements needed."""
        order = list(range(len(sizes)))
        self.r.shuffle(order)
        stride, step = [0] * len(sizes), 1
        for d in order:
            if self.r.random() < 0.15:
                continue
            stride[d] = step
            step = step * sizes[d] + self.r.choice((0, 0, 0, 3))
        offset = self.r.choice((0, 0, 5))
        return tuple(stride), offset, offset + sum((n - 1) * s for n, s in zip(sizes, stride, strict=True)) + 1

    def load(self, b: LoopBuilder, at: tuple[Dim, ...], sizes: tuple[int, ...]) -> int:
        dtype = self.r.choice(self.dtypes)
        stride, offset, n = self.layout(sizes)
        self.buffers.append(self.data(dtype, n))
        b.inputs.append(dtype)
        index: Dim = flatten(at, stride, offset)
        if self.r.random() < 0.2 and at:  # a view that merges and splits
            k = self.r.randrange(len(at))
            part = self.r.choice((2, 3, 4))
            index = flatten((floordiv(at[k], part), modulo(at[k], part)), (part, 1))
            self.buffers[-1] = self.data(dtype, sizes[k] + part)
        where = None
        if self.r.random() < 0.2:
            where = b.op("lt", "bool", b.index(flatten(at, (1,) * len(at))), b.const("i64", self.r.randint(0, 30)))
        return b.load(len(b.inputs) - 1, dtype, index, where)

    def mixed(self, b: LoopBuilder, values: list[int]) -> int:
        """One more value out of those there are."""
        r = self.r
        x = r.choice(values)
        dtype = b.dtype(x)
        y = b.cast(r.choice(values), dtype)
        kind = r.random()
        if kind < 0.6:
            op = r.choice(_BINARY.get(dtype, _INT_BINARY))
            if dtype == "u8" and op in ("floordiv", "mod", "truncdiv"):
                op = "add"
            return b.op(op, dtype, x, y)
        if kind < 0.75:
            to = r.choice(self.dtypes)
            return b.cast(x, to)
        if kind < 0.9:
            return b.op("where", dtype, b.op(r.choice(("lt", "eq", "ge")), "bool", x, y), x, y)
        return b.op("neg", dtype, x) if dtype not in ("bool", "u8") else b.op("not", dtype, x)

    def body(self, b: LoopBuilder, at: tuple[Dim, ...], sizes: tuple[int, ...], seen: list[int], most: int = 3) -> int:
        values = [*seen, *(self.load(b, at, sizes) for _ in range(self.r.randint(1, most)))]
        for _ in range(self.r.randint(1, 6)):
            values.append(self.mixed(b, values))
        return values[-1]


def _operands(m: _Maker, family: str) -> int:
    """Numbers, or results of the same kind."""
    return m.r.choice((1, 1, len(SEVERAL[family])))


def random_loop(seed: int, dtypes: tuple[str, ...], *, several: bool = False) -> tuple[Loop, list[Any]]:
    """A loop, and its buffers: inputs with random contents, outputs with zeros. ``several``: with passes that have several
    results, which are rounded."""
    m = _Maker(seed, dtypes)
    outer = m.sizes(0, 2) if m.r.random() < 0.6 else ()
    b = LoopBuilder(outer)
    stores: list[tuple[int, int]] = []
    seen: list[int] = []
    pending: list[tuple[int, Dim, int]] = []
    for _ in range(m.r.randint(1, 3)):
        inner = m.sizes(0 if outer else 1, 2)
        at = (*b.rows, *b.stage(inner))
        sizes = (*outer, *inner)
        v = m.body(b, at, sizes, seen)
        if inner and m.r.random() < 0.6:
            whole = b.dtype(v) not in FLOATS
            kinds = (
                ("sum", "max", "min", "argmax", "argmin", "xor") if whole and b.dtype(v) != "bool" else ("max", "min")
            )
            family = m.r.choice(("", "", "welford", "softmax")) if several and not whole else ""
            if family:
                made = b.several(family, *(b.op("abs", b.dtype(v), v) if k else v for k in range(_operands(m, family))))
                seen += made[: m.r.randint(1, len(made))]
                continue
            kind = m.r.choice(kinds if b.dtype(v) != "bool" else ("any",))
            seen.append(b.reduce(kind, v, "i64" if kind.startswith("arg") else None))
        else:
            order = list(range(len(sizes)))
            m.r.shuffle(order)
            stride, step = [0] * len(sizes), 1
            for d in order:
                stride[d], step = step, step * sizes[d]
            pending.append((v, flatten(at, stride), step))
            b.store(1000 + len(pending) - 1, pending[-1][1], v)
            stores.append((b.body[v].dtype, step))  # type: ignore[arg-type]
    if seen:
        at = (*b.rows, *b.stage(()))
        step, stride = 1, [0] * len(outer)
        for d in range(len(outer) - 1, -1, -1):
            stride[d], step = step, step * outer[d]
        for v in seen:
            b.store(1000 + len(stores), flatten(at, stride), v)
            stores.append((b.body[v].dtype, step))  # type: ignore[arg-type]
    for k, (dtype, n) in enumerate(stores):
        b.outputs.append(str(dtype))
        m.buffers.append(np.zeros(n, NUMPY[str(dtype)]))
        slot = len(b.inputs) + k
        b.body = [_moved(x, 1000 + k, slot) for x in b.body]
    return b.build(), m.buffers


def _moved(x: Any, old: int, slot: int) -> Any:
    from dataclasses import replace

    return replace(x, attr=slot) if x.writes and x.attr == old else x

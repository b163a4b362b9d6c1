"""What a loop means, in NumPy: the oracle that generated code is tested against.

Comes in: a static Loop and flat buffers. Goes out: nothing; buffers that the loop writes are changed. Promised: short
and slow on purpose; shares no code with any code generator. Every instruction becomes an array over all outer and inner
points at once. A buffer of dtype bf16 is given as uint16, its upper half of a float32; values of bf16 and f16 are held
as float32 numbers that the dtype has.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lowtide.ir.build import constant_value
from lowtide.ir.loops import FOLDS, Instr, Loop
from lowtide.ir.symbolic import Dim

NUMPY: Mapping[str, Any] = {
    "bool": np.bool_, "u8": np.uint8, "i8": np.int8, "i16": np.int16, "i32": np.int32, "i64": np.int64,
    "u16": np.uint16, "u32": np.uint32, "u64": np.uint64, "f16": np.float32, "bf16": np.float32, "f32": np.float32,
    "f64": np.float64,
}  # fmt: skip

Array = Any


def interpret(loop: Loop, buffers: Sequence[Array]) -> None:
    """Run ``loop`` on flat arrays, one per buffer."""
    values: dict[int, Array] = {}
    with np.errstate(all="ignore"):
        n = 0
        for stage in loop.stages:
            shape = tuple(int(str(d)) for d in (*loop.outer, *stage.inner))
            names = [f"i{k}" for k in range(len(loop.outer))] + [f"r{k}" for k in range(len(stage.inner))]
            grid = dict(zip(names, np.indices(shape, sparse=True), strict=True)) if shape else {}
            values = {k: _spread(v, len(loop.outer), len(stage.inner)) for k, v in values.items()}
            if _meet(stage.body):
                _in_order(stage.body, n, values, shape, names, buffers)
                n += len(stage.body)
                continue
            for x in stage.body:
                got = _run(x, values, grid, shape, len(loop.outer), buffers)
                if got is not None:
                    values[n] = got
                n += 1
            keep = range(n - len(stage.body), n)
            values = {
                k: v
                for k, v in values.items()
                if k not in keep or not stage.inner or loop.body[k].op == "reduce"
            }  # fmt: skip


def _meet(body: Sequence[Instr]) -> bool:
    """Whether points read what others of the stage wrote: elements that are looked up, loaded and stored."""
    stored = {x.attr for x in body if x.op == "store" and x.ordered}
    return any(x.op == "load" and x.attr in stored for x in body)


def _in_order(
    body: Sequence[Instr], first: int, values: Mapping[int, Array], shape: tuple[int, ...], names: Sequence[str],
    buffers: Sequence[Array],
) -> None:  # fmt: skip
    """A stage point by point; nothing after it may use its values, but what earlier ones left it may."""
    whole = {k: np.broadcast_to(v, shape) for k, v in values.items()}
    for point in np.ndindex(*shape):
        here: dict[int, Array] = {k: v[point] for k, v in whole.items()}
        grid = dict(zip(names, point, strict=True))
        for n, x in enumerate(body, first):
            got = _run(x, here, grid, (), 0, buffers)
            if got is not None:
                here[n] = got


def _spread(v: Array, outer: int, inner: int) -> Array:
    """A value per outer point, ready to meet values of a stage with ``inner`` more dimensions."""
    v = np.asarray(v)
    return v.reshape(v.shape[:outer] + (1,) * inner) if v.ndim else v


def _run(
    x: Instr, values: Mapping[int, Array], grid: Mapping[str, Array], shape: tuple[int, ...], outer: int,
    buffers: Sequence[Array],
) -> Array:  # fmt: skip
    a = [values[k] for k in x.args]
    if x.touches:
        return _memory(x, a, _index(x.index, grid, values), shape, buffers[int(str(x.attr))])
    if x.op == "check":
        if not np.all(a[0]):
            raise ZeroDivisionError if x.attr == "divisor" else IndexError("a check failed")
        return None
    if x.op == "const":
        return NUMPY[x.dtype](constant_value(x))
    if x.op == "index":
        return np.asarray(_index(x.index, grid, values), np.int64)
    if x.op == "cast":
        return cast(a[0], x.dtype)
    if x.op == "bitcast":
        held: Array = np.asarray(a[0])
        return held.view(NUMPY[x.dtype])
    if x.op == "where":
        return cast(np.where(a[0], a[1], a[2]), x.dtype)
    if x.family:
        flat = [np.broadcast_to(v, shape).reshape(*shape[:outer], math.prod(shape[outer:])) for v in a]
        return _several(x, *(v.astype(np.float64) for v in flat)).astype(NUMPY[x.dtype])
    if x.op in ("reduce", "scan"):
        whole = np.broadcast_to(a[0], shape)
        return (
            _reduce(x, whole.reshape(*shape[:outer], math.prod(shape[outer:]))) if x.op == "reduce" else _scan(x, whole)
        )
    value = _UNARY[x.op](a[0]) if len(a) == 1 else _BINARY[x.op](a[0], a[1])
    return np.asarray(value).astype(NUMPY[x.dtype])


def _index(e: Dim | None, grid: Mapping[str, Array], values: Mapping[int, Array]) -> Array:
    assert e is not None
    if isinstance(e, int):
        return e
    if e.op == "sym":
        name = str(e.args[0])
        return np.asarray(values[int(name[1:])], np.int64) if name[0] == "v" else grid[name]
    first, *rest = (_index(a, grid, values) for a in e.args if not isinstance(a, str))
    for b in rest:
        first = _INDEX[e.op](first, b)
    return first


_INDEX: Mapping[str, Callable[[Any, Any], Any]] = {
    "+": lambda a, b: a + b, "*": lambda a, b: a * b, "//": lambda a, b: a // b, "%": lambda a, b: a % b,
    "max": np.maximum, "min": np.minimum, "ceildiv": lambda a, b: -(-a // b), "pow": lambda a, b: a**b,
}  # fmt: skip
_JOINED = {"sum": np.add, "max": np.maximum, "min": np.minimum}


def _memory(x: Instr, a: list[Array], at: Array, shape: tuple[int, ...], buffer: Array) -> Array:
    guard = a[0] if x.op == "load" and a else a[1] if len(a) == 2 else np.True_
    guard, at = np.broadcast_to(guard, shape), np.broadcast_to(at, shape)
    if x.op == "load":
        out = np.zeros(shape, buffer.dtype)
        out[guard] = buffer[at[guard]]
        return (out.astype(np.uint32) << 16).view(np.float32) if x.dtype == "bf16" else out.astype(NUMPY[x.dtype])
    given = np.broadcast_to(a[0], shape)[guard]
    if x.dtype == "bf16":
        given = (given.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    if x.op in FOLDS:
        total = np.zeros(len(buffer), np.float64 if buffer.dtype.kind == "f" else buffer.dtype)
        if FOLDS[x.op] != "sum":
            total[:] = _edge(total.dtype, FOLDS[x.op])
        _JOINED[FOLDS[x.op]].at(total, at, given.reshape(shape))
        buffer[at] = total[at].astype(buffer.dtype)
    elif x.op == "store":
        buffer[at[guard]] = given.astype(buffer.dtype)
    else:
        np.add.at(buffer, at[guard], given.astype(buffer.dtype))
    return None


def cast(v: Array, dtype: str) -> Array:
    """To another dtype as C and torch do it: towards zero to integers, which wrap; to the nearest even float."""
    v = np.asarray(v)
    if dtype == "bf16":
        bits = v.astype(np.float32).view(np.uint32).astype(np.uint64)
        rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000).astype(np.uint32).view(np.float32)
        return np.where(np.isnan(v), np.float32(np.nan), rounded)
    if dtype == "f16":
        return v.astype(np.float16).astype(np.float32)
    if dtype == "bool":
        return v != 0
    if v.dtype.kind == "f" and dtype[0] in "iu":
        return v.astype(np.int64).astype(NUMPY[dtype])
    return v.astype(NUMPY[dtype])


def _reduce(x: Instr, v: Array) -> Array:
    kind, to = str(x.attr), NUMPY[x.dtype]
    if kind in ("argmax", "argmin"):
        return (np.argmax if kind == "argmax" else np.argmin)(v, axis=-1).astype(np.int64)
    if kind in ("max", "min"):
        if v.shape[-1] == 0:
            return np.full(v.shape[:-1], _edge(v.dtype, kind))
        return (np.max if kind == "max" else np.min)(v, axis=-1)
    if kind == "xor":
        return np.bitwise_xor.reduce(v, axis=-1)
    if kind == "any":
        return np.any(v, axis=-1)
    if kind == "sum" and to is np.float32:
        return v.astype(np.float64).sum(axis=-1).astype(to)
    return (np.sum if kind == "sum" else np.prod)(v, axis=-1, dtype=to)


def _several(x: Instr, first: Array, second: Array | None = None, weight: Array | None = None) -> Array:
    """One of the results of ``welford`` or ``softmax`` along the last axis, in f64."""
    part = str(x.attr).partition(".")[2]
    if x.family == "softmax":
        sums = np.float64(first != -np.inf) if second is None else second
        top = np.max(np.where(sums == 0, -np.inf, first), axis=-1, initial=-np.inf)
        shifted = np.where(sums == 0, 0, sums * np.exp(first - np.where(top == -np.inf, 0, top)[..., None]))
        return top if part == "max" else shifted.sum(axis=-1)
    w = np.ones_like(first) if weight is None else weight
    total = w.sum(axis=-1)
    mean = np.where(w == 0, 0, first * w).sum(axis=-1) / np.where(total == 0, 1, total)
    away = np.where(w == 0, 0, (first - mean[..., None]) ** 2 * w + (0 if second is None else second))
    return {"mean": mean, "squares": away.sum(axis=-1), "weight": total}[part]


def _edge(dtype: Any, kind: str) -> Any:
    """What no value is beyond, so that anything replaces it."""
    if dtype.kind == "f":
        return dtype.type(-np.inf if kind == "max" else np.inf)
    if dtype.kind == "b":
        return np.bool_(kind == "min")
    return np.iinfo(dtype).min if kind == "max" else np.iinfo(dtype).max


def _scan(x: Instr, v: Array) -> Array:
    ufunc = {"sum": np.add, "prod": np.multiply, "max": np.maximum, "min": np.minimum, "logaddexp": np.logaddexp}[
        str(x.attr)
    ]
    return ufunc.accumulate(v, axis=-1).astype(NUMPY[x.dtype])


def _elementwise(f: Callable[[float], float]) -> Callable[[Array], Array]:
    def safe(t: float) -> float:
        try:
            return f(t)
        except (ValueError, OverflowError):
            return math.inf

    return np.vectorize(safe, otypes=[np.float64])


def _truncdiv(a: Array, b: Array) -> Array:
    if np.asarray(a).dtype.kind == "f":
        return np.trunc(a / b)
    q: Array = a // b  # 0 where b is
    return q + ((q * b != a) & (b != 0) & ((a < 0) != (b < 0)))


def _logical(f: Callable[..., Array], g: Callable[..., Array]) -> Callable[..., Array]:
    return lambda *a: f(*a) if np.asarray(a[0]).dtype == np.bool_ else g(*a)


_UNARY: Mapping[str, Callable[[Any], Any]] = {
    "neg": lambda a: -a, "abs": np.abs, "sign": lambda a: np.where(a != a, 0, np.sign(a)), "exp": np.exp,
    "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log2": np.log2, "log10": np.log10, "log1p": np.log1p,
    "sqrt": np.sqrt, "rsqrt": lambda a: 1 / np.sqrt(a), "reciprocal": lambda a: 1 / a, "sin": np.sin, "cos": np.cos,
    "tan": np.tan, "asin": np.arcsin, "acos": np.arccos, "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh,
    "tanh": np.tanh, "asinh": np.arcsinh, "acosh": np.arccosh, "atanh": np.arctanh, "erf": _elementwise(math.erf),
    "erfc": _elementwise(math.erfc), "lgamma": _elementwise(math.lgamma), "floor": np.floor, "ceil": np.ceil,
    "round": np.round, "trunc": np.trunc, "sigmoid": lambda a: 1 / (1 + np.exp(-a)),
    "not": _logical(np.logical_not, np.bitwise_not), "isnan": np.isnan, "isinf": np.isinf,
}  # fmt: skip
_BINARY: Mapping[str, Callable[[Any, Any], Any]] = {
    "add": lambda a, b: a + b, "sub": lambda a, b: a - b, "mul": lambda a, b: a * b, "div": lambda a, b: a / b,
    "truncdiv": _truncdiv, "floordiv": lambda a, b: a // b, "mod": np.mod, "fmod": np.fmod, "max": np.maximum,
    "min": np.minimum, "pow": lambda a, b: a**b, "atan2": np.arctan2, "hypot": np.hypot, "copysign": np.copysign,
    "and": _logical(np.logical_and, np.bitwise_and), "or": _logical(np.logical_or, np.bitwise_or),
    "xor": _logical(np.logical_xor, np.bitwise_xor), "shl": lambda a, b: a << b, "shr": lambda a, b: a >> b,
    "gcd": np.gcd,
    "eq": lambda a, b: a == b, "ne": lambda a, b: a != b, "lt": lambda a, b: a < b, "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b, "ge": lambda a, b: a >= b,
}  # fmt: skip

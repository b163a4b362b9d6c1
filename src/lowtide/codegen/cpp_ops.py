"""Scalar operations of loops as C++ expressions: one table, and the types that values and buffers have.

Comes in: an instruction's operation, dtypes, and its operands as text. Goes out: an expression over what ``kernel.h``
defines. Promised: half types are held as ``float`` values that the half type has; integers wrap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from lowtide.core.errors import BugError
from lowtide.ir.build import constant_value
from lowtide.ir.loops import SEVERAL, Instr

VALUE: Mapping[str, str] = {
    "bool": "bool", "u8": "uint8_t", "i8": "int8_t", "i16": "int16_t", "i32": "int32_t", "i64": "i64",
    "u16": "uint16_t", "u32": "uint32_t", "u64": "uint64_t", "f16": "float", "bf16": "float", "f32": "float",
    "f64": "double",
}  # fmt: skip
BUFFER: Mapping[str, str] = dict(VALUE) | {"bool": "uint8_t", "f16": "f16", "bf16": "bf16"}

_INFIX = {"add": "+", "sub": "-", "mul": "*", "and": "&", "or": "|", "xor": "^"}
_COMPARE = {"eq": "==", "ne": "!=", "lt": "<", "le": "<=", "gt": ">", "ge": ">="}
_CALLS: Mapping[str, str] = {
    "exp": "exp_", "expm1": "expm1_", "log": "log_", "log1p": "log1p_", "tanh": "tanh_", "erf": "erf_",
    "sigmoid": "sigmoid_", "rsqrt": "rsqrt_", "sign": "sign_of", "round": "std::nearbyint", "max": "greater",
    "min": "lesser", "sin": "sin_", "cos": "cos_", "tan": "tan_", "exp2": "exp2_", "log2": "log2_", "log10": "log10_",
} | {name: f"std::{name}" for name in (
    "sqrt", "asin", "acos", "atan", "sinh", "cosh", "asinh", "acosh",
    "atanh", "erfc", "lgamma", "floor", "ceil", "trunc", "fmod", "atan2", "hypot", "copysign",
)}  # fmt: skip

_BITS = {("f32", "i32"): "as_int", ("i32", "f32"): "as_float", ("f64", "i64"): "as_bits", ("i64", "f64"): "as_double"}


def constant(x: Instr) -> str:
    """A ``const`` as a literal."""
    value = constant_value(x)
    if x.dtype == "bool":
        return "true" if value else "false"
    if x.dtype in ("f32", "f16", "bf16", "f64"):
        if math.isnan(value):
            return "NOT_A_NUMBER"
        if math.isinf(value):
            return "INF" if value > 0 else "-INF"
        return repr(value) if x.dtype == "f64" else f"{value!r}f"
    if value == -(2**63):
        return "INT64_MIN"
    return f"({VALUE[x.dtype]}){int(value)}{'u' if x.dtype == 'u64' and value >= 2**63 else ''}"


def scalar(x: Instr, given: Sequence[str], dtypes: Sequence[str]) -> str:
    """The expression of anything but ``const index load store accumulate reduce scan``."""
    a, b, c = (*given, "", "", "")[:3]
    to = VALUE[x.dtype]
    if x.op == "cast":
        return cast(a, dtypes[0], x.dtype)
    if x.op == "bitcast":
        return f"{_BITS[dtypes[0], x.dtype]}({a})"
    if x.op == "where":
        return f"{a} ? {b} : {c}"
    if x.op in _COMPARE:
        return f"{a} {_COMPARE[x.op]} {b}"
    if x.op == "isnan":
        return f"{a} != {a}"
    if x.op == "isinf":
        return f"std::fabs({a}) == INF"
    if x.op in _INFIX:
        return f"({to})({a} {_INFIX[x.op]} {b})"
    if x.op in _SPECIAL:
        return _SPECIAL[x.op](x.dtype, a, b)
    if x.op in _CALLS:
        return f"{_CALLS[x.op]}({', '.join(given)})"
    raise BugError(f"no C++ for the operation {x.op!r}")


def _floating(dtype: str) -> bool:
    return dtype in ("f32", "f64")


_SPECIAL: Mapping[str, Callable[[str, str, str], str]] = {
    "neg": lambda t, a, _: f"({VALUE[t]})-{a}",
    "abs": lambda t, a, _: f"std::fabs({a})" if _floating(t) else a if t[0] in "ub" else f"({VALUE[t]})({a} < 0 ? -{a} : {a})",
    "not": lambda t, a, _: f"!{a}" if t == "bool" else f"({VALUE[t]})~{a}",
    "reciprocal": lambda t, a, _: f"({VALUE[t]})1 / {a}",
    "div": lambda _, a, b: f"{a} / {b}",
    "truncdiv": lambda t, a, b: f"std::trunc({a} / {b})" if _floating(t) else f"({VALUE[t]})whole_trunc((i64){a}, (i64){b})",
    "floordiv": lambda t, a, b: f"floor_div({a}, {b})" if _floating(t) else f"({VALUE[t]})whole_floor((i64){a}, (i64){b})",
    "mod": lambda t, a, b: f"floor_mod({a}, {b})" if _floating(t) else f"({VALUE[t]})whole_mod((i64){a}, (i64){b})",
    "fmod": lambda t, a, b: f"std::fmod({a}, {b})" if _floating(t) else f"({VALUE[t]})whole_rest((i64){a}, (i64){b})",
    "pow": lambda t, a, b: f"power({a}, {b})" if _floating(t) else f"whole_power<{VALUE[t]}>({a}, {b})",
    "gcd": lambda t, a, b: f"({VALUE[t]})whole_gcd((i64){a}, (i64){b})",
    "shl": lambda t, a, b: f"shift_left<{VALUE[t]}>({a}, {b})",
    "shr": lambda t, a, b: f"shift_right<{VALUE[t]}>({a}, {b})",
}  # fmt: skip


def cast(a: str, given: str, to: str) -> str:
    """A value in another dtype."""
    if to == "bool":
        return f"{a} != 0"
    if to == "bf16":
        return f"round_bf16((float){a})"
    if to == "f16":
        return f"round_f16((float){a})"
    if given in ("f16", "bf16", "f32", "f64") and to in ("u8", "i8", "i16", "u16", "u32"):
        return f"({VALUE[to]})(i64){a}"
    return f"({VALUE[to]}){a}"


def loaded(dtype: str, element: str) -> str:
    """A buffer's element as a value."""
    if dtype == "bool":
        return f"{element} != 0"
    return f"from({element})" if dtype in ("f16", "bf16") else element


def stored(dtype: str, value: str) -> str:
    """A value as a buffer's element."""
    return {"bf16": f"to_bf16({value})", "f16": f"(f16){value}", "bool": f"(uint8_t){value}"}.get(dtype, value)


def neutral(kind: str, dtype: str) -> str:
    """What a reduction starts from."""
    to = VALUE[dtype]
    if kind in ("sum", "xor", "any"):
        return f"({to})0"
    if kind == "prod":
        return f"({to})1"
    if _floating(dtype):
        return "-INF" if kind in ("max", "argmax", "logaddexp") else "INF"
    if dtype == "bool":
        return "false" if kind in ("max", "argmax") else "true"
    least = f"({to})0" if dtype[0] == "u" else f"({to})~greatest_of<{to}>()"
    return least if kind in ("max", "argmax") else f"greatest_of<{to}>()"


COMBINE: Mapping[str, str] = {
    "sum": "{0} += {1};", "prod": "{0} *= {1};", "any": "{0} |= {1};", "xor": "{0} ^= {1};",
    "max": "{0} = greater({0}, {1});", "min": "{0} = lesser({0}, {1});", "logaddexp": "{0} = log_add({0}, {1});",
}  # fmt: skip
# The same where one value after the other is taken in, and every result is wanted.
RUNNING: Mapping[str, str] = {
    **COMBINE, "max": "{0} = running_greater({0}, {1});", "min": "{0} = running_lesser({0}, {1});",
}  # fmt: skip
# What takes others' part of what a pass with several results carries into one's own.
JOIN: Mapping[str, str] = {"welford": "join_moments", "softmax": "join_exponents"}
# The same where a compiler splits the loop into lanes and joins them by the clause's own rule, which may drop NaN.
LANES: Mapping[str, tuple[str, str]] = {
    "sum": ("+", "{0} += {1};"), "prod": ("*", "{0} *= {1};"), "any": ("|", "{0} |= {1};"),
    "xor": ("^", "{0} ^= {1};"), "max": ("max", "{0} = {1} > {0} ? {1} : {0};"),
    "min": ("min", "{0} = {1} < {0} ? {1} : {0};"),
}  # fmt: skip


def carried(x: Instr, g: int) -> list[tuple[str, str, str]]:
    """Type, name and start of what the pass of a reduction with several results carries; ``g``: number of the first."""
    if x.family == "welford":
        return [("double", f"mean{g}", "0."), ("double", f"squares{g}", "0."), ("double", f"weight{g}", "0.")]
    return [(VALUE[x.dtype], f"most{g}", "-INF"), ("double", f"total{g}", "0.")]


def result(x: Instr, g: int) -> str:
    """One of several results of a pass, of what it carries."""
    return f"({VALUE[x.dtype]}){carried(x, g)[SEVERAL[x.family].index(str(x.attr).partition('.')[2])][1]}"


def taken(x: Instr, g: int, run: str, at: str) -> str:
    """Take a value into what a pass carries: by way of element ``run`` of an array, or at once, where that is empty."""
    value = f"v{x.args[0]}"
    if run:
        found = f"top{g} = {value} > top{g} ? {value} : top{g}; odd{g} |= {value} != {value};"
        return f"run{g}{run} = {value}; {f'sum{g} += {value};' if x.family == 'welford' else found}"
    state = ", ".join(f"{name}{at}" for _, name, _ in carried(x, g))
    one = [value, f"{value} - {value}", "1."] if x.family == "welford" else [value, f"{value} == -INF ? 0. : 1."]
    return f"{JOIN[x.family]}({state}, {', '.join(one if len(x.args) == 1 else [f'v{a}' for a in x.args])});"

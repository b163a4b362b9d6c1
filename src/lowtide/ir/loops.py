"""Loops: computations that we generate code for, as data.

Comes in: what a lowering rule or a fusion built (``LoopBuilder``), or text. Goes out: frozen, hashable loop nests that
passes read and code generators print. Promised: ``parse_loop(str(loop)) == loop``; a well-formed loop (``check_loop``)
has one meaning, which ``ir.interpret`` computes in NumPy.

A loop has *outer* ranges and *stages*. For every point of the outer ranges, in any order and side by side, its stages
run one after the other; a stage runs its body for every point of its own *inner* ranges. A pointwise loop has no outer
ranges and one stage; a softmax has its rows outside and three stages. Within an index ``i0 i1 ..`` are the outer
variables, ``r0 r1 ..`` the stage's inner ones, and ``v7`` is the integer that instruction 7 computed.

The body is in SSA form: an instruction's number is its position, counted through all stages. An instruction may use
earlier ones of its own stage, and of earlier stages the reductions and whatever has no inner ranges.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

from lowtide.core.errors import VerifyError
from lowtide.ir.graph import ITEMSIZE, OBJECT
from lowtide.ir.symbolic import Dim, Expr, parse_dim, symbols_of

# Functions that no processor has an instruction for.
CURVES = frozenset(
    (
        "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "asin", "acos", "atan", "sinh",
        "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "lgamma", "sigmoid",
    )
)  # fmt: skip
UNARY = CURVES | {"neg", "abs", "sign", "not", "sqrt", "rsqrt", "reciprocal", "floor", "ceil", "round", "trunc"}
BINARY = frozenset(
    (
        "add", "sub", "mul", "div", "truncdiv", "floordiv", "mod", "fmod", "max", "min", "pow", "atan2", "hypot",
        "copysign", "and", "or", "xor", "shl", "shr", "gcd",
    )
)  # fmt: skip
COMPARE = frozenset(["eq", "ne", "lt", "le", "gt", "ge"])
TEST = frozenset(["isnan", "isinf"])
# sum prod min max any xor: of one operand. argmax, argmin: position of the first among the inner points.
# The results of one pass that carries several values: those reductions of the same operands in a stage are one.
# welford: mean, sum of squared differences from it, and weight, of numbers (weight 1 each) or of three operands that are
# themselves such results. softmax: greatest and sum of e^(x - greatest), of numbers or of two operands that are such.
# What has weight 0, or is -inf with sum 0, counts nothing.
SEVERAL: Mapping[str, tuple[str, ...]] = {"welford": ("mean", "squares", "weight"), "softmax": ("max", "sum")}
_PARTS = [f"{family}.{part}" for family, parts in SEVERAL.items() for part in parts]
REDUCE = frozenset(["sum", "prod", "min", "max", "any", "xor", "argmax", "argmin", *_PARTS])
SCAN = frozenset(["sum", "prod", "max", "min", "logaddexp"])
_NUMBERS = ITEMSIZE.keys() - {OBJECT}
FLOATS = frozenset(["f16", "bf16", "f32", "f64"])
# Dtypes each of which a value's bits are also those of, as code generation has it.
BITCASTS = frozenset((("f32", "i32"), ("i32", "f32"), ("f64", "i64"), ("i64", "f64")))
# What a check is about, an index or the divisor of whole numbers, and its bit in what the kernel returns.
FAILURES: Mapping[int | str | None, int] = {None: 1, "divisor": 2}
# What reduces over outer points, and how: the kinds of ``reduce`` that may be taken block by block.
FOLDS: Mapping[str, str] = {"fold": "sum", "fold_max": "max", "fold_min": "min"}
ACCESSES = ("load", "store", "accumulate", *FOLDS)
SUMMED = ("f32", "f64", "i32", "i64")  # what a fold sums
COMPARED = (*SUMMED, "bool", "u8", "i8", "i16")  # what a fold takes extremes of
# Elements that the folds of one loop fill: their partial results, eight of each, lie on a stack, of 2 MiB perhaps.
FOLDED = 1 << 14
_OTHERS = frozenset([*ACCESSES, "check", "const", "index", "cast", "bitcast", "where", "reduce", "scan"])
OPS = UNARY | BINARY | COMPARE | TEST | _OTHERS


@dataclass(frozen=True, slots=True)
class Instr:
    """One scalar operation.

    dtype: of its result; what ``store``, ``accumulate`` and folds write has the buffer's. args: numbers of the
    instructions it uses. index: the element that ``ACCESSES`` touch, the value of ``index``. attr: the buffer's
    number, the constant as text, or the kind of ``reduce``, ``scan`` and ``check``. A ``load`` with an argument happens only
    where that is true, and gives 0 elsewhere; a ``store`` or ``accumulate`` with a second one likewise. ``check``: the
    kernel reports a failure where its argument is false at any point. ``fold``: the element of an output that nothing else
    touches, another one at each inner point, is the sum of the argument over all outer points; it is there once the loop
    is done. ``fold_max`` and ``fold_min``: the same with the greatest and the least, which is NaN where one is.
    """

    op: str
    dtype: str
    args: tuple[int, ...] = ()
    index: Dim | None = None
    attr: int | str | None = None

    @property
    def needs(self) -> tuple[int, ...]:
        """Numbers of the instructions that it uses, in its index too."""
        if self.index is None or isinstance(self.index, int):
            return self.args
        return (*self.args, *_looked_up(self.index))

    @property
    def touches(self) -> bool:
        """Whether it reads or changes a buffer, whose number is its ``attr``."""
        return self.op in ACCESSES

    @property
    def writes(self) -> bool:
        """Whether it changes a buffer."""
        return self.op in ("store", "accumulate") or self.op in FOLDS

    @property
    def family(self) -> str:
        """Of a reduction that is one of several results of one pass, what that pass is called; else nothing."""
        return str(self.attr).partition(".")[0] if self.op == "reduce" and "." in str(self.attr) else ""

    @property
    def ordered(self) -> bool:
        """Whether several points may meet in it, so that they must come one after the other."""
        return self.op in ("scan", "accumulate") or (self.writes and _looks_up(self.index))

    @property
    def acts(self) -> bool:
        """Whether it does more than give a value."""
        return self.writes or self.op == "check"


@lru_cache(maxsize=1 << 16)
def _looked_up(index: Expr) -> tuple[int, ...]:
    """Numbers of the instructions whose values stand in an index."""
    return tuple(sorted(int(s[1:]) for s in symbols_of(index) if s[0] == "v"))


def _looks_up(index: Dim | None) -> bool:
    return isinstance(index, Expr) and bool(_looked_up(index))


@dataclass(frozen=True, slots=True)
class Stage:
    """One pass over ``inner`` ranges."""

    inner: tuple[Dim, ...]
    body: tuple[Instr, ...]

    @property
    def ordered(self) -> bool:
        """Whether its points must come one after the other: a running reduction, or writes to elements that are added
        to or looked up, where several points may meet."""
        return bool(self.inner) and any(x.ordered for x in self.body)


@dataclass(frozen=True)
class Loop:
    """A loop nest over buffers: first those it is given (``inputs``), then those it makes (``outputs``), by dtype."""

    outer: tuple[Dim, ...]
    stages: tuple[Stage, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @cached_property
    def body(self) -> tuple[Instr, ...]:
        """All instructions; an instruction's number is its position here."""
        return tuple(x for s in self.stages for x in s.body)

    @cached_property
    def starts(self) -> tuple[int, ...]:
        """Number of the first instruction of each stage."""
        out, at = list[int](), 0
        for s in self.stages:
            out.append(at)
            at += len(s.body)
        return tuple(out)

    @cached_property
    def checks(self) -> bool:
        """Whether its kernel can report a failure."""
        return any(x.op == "check" for x in self.body)

    @cached_property
    def written(self) -> frozenset[int]:
        """Numbers of the buffers that it writes."""
        return frozenset(int(str(x.attr)) for x in self.body if x.writes)

    @cached_property
    def divides(self) -> bool:
        """Whether its kernel can report a division by 0."""
        return any(x.op == "check" and x.attr == "divisor" for x in self.body)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """dtype per buffer."""
        return (*self.inputs, *self.outputs)

    @cached_property
    def _hash(self) -> int:
        return hash((self.outer, self.stages, self.inputs, self.outputs))

    def __hash__(self) -> int:
        return self._hash

    def __str__(self) -> str:
        return print_loop(self)

    @property
    def pointwise(self) -> bool:
        """One pass, nothing reduced: every point by itself."""
        plain = all(x.op != "reduce" and not x.ordered for x in self.body)
        return not self.outer and len(self.stages) == 1 and plain

    def ranges(self, stage: int) -> dict[str, int]:
        """Range of every variable that indices in a stage may name (static loops)."""
        out = {f"i{k}": n for k, n in enumerate(self.outer) if isinstance(n, int)}
        return out | {f"r{k}": n for k, n in enumerate(self.stages[stage].inner) if isinstance(n, int)}

    @cached_property
    def _accesses(self) -> Mapping[int, tuple[tuple[int, int, Instr], ...]]:
        """Per buffer what touches it, as ``numbered`` gives it."""
        out: dict[int, list[tuple[int, int, Instr]]] = {}
        for k, (s, n) in enumerate(zip(self.stages, self.starts, strict=True)):
            for at, x in enumerate(s.body, n):
                if x.touches:
                    out.setdefault(int(str(x.attr)), []).append((k, at, x))
        return {slot: tuple(found) for slot, found in out.items()}

    def numbered(self, slot: int) -> tuple[tuple[int, int, Instr], ...]:
        """(stage, number, instruction) of everything that touches a buffer, in order."""
        return self._accesses.get(slot, ())

    def reads(self, slot: int) -> Iterator[tuple[int, Instr]]:
        """(stage, instruction) of every load from a buffer."""
        return ((k, x) for k, _, x in self.numbered(slot) if x.op == "load")

    def stores(self, slot: int) -> Iterator[tuple[int, Instr]]:
        """(stage, instruction) of every write to a buffer."""
        return ((k, x) for k, _, x in self.numbered(slot) if x.writes)


def print_loop(loop: Loop) -> str:
    """The one text form."""
    lines = [f"loop [{_dims(loop.outer)}] in({', '.join(loop.inputs)}) out({', '.join(loop.outputs)})"]
    n = 0
    for s in loop.stages:
        lines.append(f"  stage [{_dims(s.inner)}]")
        for x in s.body:
            lines.append(f"    v{n}: {_instr(x)}")
            n += 1
    return "\n".join(lines) + "\n"


def _dims(dims: tuple[Dim, ...]) -> str:
    return ", ".join(map(str, dims))


def _instr(x: Instr) -> str:
    attr = "" if x.attr is None else f" {x.attr}"
    index = "" if x.index is None else f" [{x.index}]"
    return f"{x.dtype} = {x.op}{attr}{index}{''.join(f' v{a}' for a in x.args)}"


_HEAD = re.compile(r"loop \[(.*)\] in\((.*)\) out\((.*)\)")
_STAGE = re.compile(r"  stage \[(.*)\]")
_LINE = re.compile(r"    v(\d+): (\w+) = (\w+)(?: ([^\s\[v]\S*))?(?: \[(.*)\])?((?: v\d+)*)")


def parse_loop(text: str) -> Loop:
    """The loop of its text form.

    Raises:
        VerifyError: ``syntax``, with the line that cannot be read.
    """
    head, *rest = text.rstrip("\n").split("\n")
    m = _HEAD.fullmatch(head)
    if m is None:
        raise VerifyError("syntax", f"{head!r} is not the head of a loop")
    stages: list[tuple[tuple[Dim, ...], list[Instr]]] = []
    n = 0
    for line in rest:
        if s := _STAGE.fullmatch(line):
            stages.append((_read_dims(s[1]), []))
            continue
        x = _LINE.fullmatch(line)
        if x is None or not stages or int(x[1]) != n:
            raise VerifyError("syntax", f"{line!r} is not instruction {n} of a stage")
        slot = x[3] in ACCESSES
        attr = None if x[4] is None else int(x[4]) if slot else x[4]
        index = None if x[5] is None else parse_dim(x[5])
        stages[-1][1].append(Instr(x[3], x[2], tuple(int(a[1:]) for a in x[6].split()), index, attr))
        n += 1
    names = [tuple(w for w in m[k].split(", ") if w) for k in (2, 3)]
    return Loop(_read_dims(m[1]), tuple(Stage(inner, tuple(body)) for inner, body in stages), names[0], names[1])


def _read_dims(text: str) -> tuple[Dim, ...]:
    return tuple(parse_dim(w) for w in text.split(", ") if w)


def check_loop(loop: Loop) -> None:
    """Raise VerifyError unless a loop is well formed: ``instruction``, ``scope``, ``dtype``, ``buffer`` or ``index``."""
    for slot, dtype in enumerate(loop.dtypes):
        if dtype not in _NUMBERS:
            raise VerifyError("dtype", f"buffer {slot} has {dtype!r}, which is no dtype of numbers\n{loop}")
    n = 0
    visible: set[int] = set()
    body = loop.body
    for k, stage in enumerate(loop.stages):
        here: set[int] = set()
        names = {f"i{d}" for d in range(len(loop.outer))} | {f"r{d}" for d in range(len(stage.inner))}
        for x in stage.body:
            _check_instr(loop, x, n, k)
            for a in x.needs:
                if a not in here and a not in visible:
                    raise VerifyError("scope", f"v{n} uses v{a}, which it cannot see\n{loop}")
                if body[a].acts:
                    raise VerifyError("scope", f"v{n} uses v{a}, which has no value\n{loop}")
            if x.index is not None:
                for s in symbols_of(x.index):
                    if s[0] != "v" and s not in names:
                        raise VerifyError("index", f"v{n} has the variable {s}, which stage {k} has not\n{loop}")
            here.add(n)
            if x.op == "reduce" or not stage.inner:
                visible.add(n)
            n += 1


def _check_instr(loop: Loop, x: Instr, n: int, k: int) -> None:
    def fail(clause: str, because: str) -> VerifyError:
        return VerifyError(clause, f"v{n} in stage {k}: {because}\n{loop}")

    if x.op not in OPS:
        raise fail("instruction", f"there is no operation {x.op!r}")
    if x.dtype not in _NUMBERS:
        raise fail("dtype", f"{x.dtype!r} is no dtype of numbers")
    if x.touches:
        if not isinstance(x.attr, int) or not 0 <= x.attr < len(loop.dtypes) or x.index is None:
            raise fail("buffer", f"{x.op} takes the number of a buffer and an index")
        if loop.dtypes[x.attr] != x.dtype:
            raise fail("dtype", f"buffer {x.attr} has {loop.dtypes[x.attr]}")
    if x.op in FOLDS:
        _check_fold(loop, x, fail)
    counts = {"load": (0, 1), "store": (1, 2), "accumulate": (1, 2), "const": (0,), "index": (0,), "where": (3,)}
    wanted = counts.get(x.op, (2,) if x.op in BINARY or x.op in COMPARE else (1,))
    if x.family:
        wanted = (1, len(SEVERAL.get(x.family, ())))
    if len(x.args) not in wanted:
        raise fail("instruction", f"{x.op} takes {wanted} operands, not {len(x.args)}")
    if any(a >= n for a in x.args):
        return  # said by the caller
    given = [loop.body[a].dtype for a in x.args]
    half = {"f16", "bf16"} & {*given, x.dtype}
    if half and x.op not in ("load", "store", "cast", "const", "where"):
        raise fail("dtype", f"{x.op} does not compute in {min(half)}; cast to f32 first")
    if (x.op in BINARY or x.op in UNARY) and set(given) != {x.dtype}:
        raise fail("dtype", f"{x.op} of {given} gives no {x.dtype}")
    if x.op in COMPARE and (x.dtype != "bool" or given[0] != given[1]):
        raise fail("dtype", f"{x.op} compares {given} to {x.dtype}")
    if x.op == "bitcast" and (given[0], x.dtype) not in BITCASTS:
        raise fail("dtype", f"the bits of {given} are no {x.dtype}")
    if x.op == "where" and (given[0] != "bool" or given[1] != x.dtype or given[2] != x.dtype):
        raise fail("dtype", f"where of {given} gives no {x.dtype}")
    if x.family and (x.dtype not in ("f32", "f64") or set(given) != {x.dtype}):
        raise fail("dtype", f"{x.attr} of {given} gives no {x.dtype}")
    kinds: Mapping[str, Container[object]] = {"reduce": REDUCE, "scan": SCAN, "check": FAILURES}
    if x.op in kinds and x.attr not in kinds[x.op]:
        raise fail("instruction", f"{x.op} has no kind {x.attr!r}")


def _check_fold(loop: Loop, x: Instr, fail: Callable[[str, str], VerifyError]) -> None:
    slot = int(str(x.attr))
    if slot < len(loop.inputs) or sum(y.touches and y.attr == slot for y in loop.body) > 1:
        raise fail("buffer", f"{x.op} fills an output that nothing else touches")
    if x.dtype not in (SUMMED if FOLDS[x.op] == "sum" else COMPARED):
        raise fail("dtype", f"{x.op} does not compute in {x.dtype}")
    if not loop.outer or any(s[0] != "r" for s in symbols_of(x.index or 0)):
        raise fail("index", f"{x.op} reduces over outer points, so its element is the same at all of them")


def renumbered(x: Instr, at: Mapping[int, int]) -> Instr:
    """The instruction with the numbers that it uses replaced."""
    args = tuple([at[a] for a in x.args])
    index = _renamed(x.index, at)
    return x if args == x.args and index == x.index else Instr(x.op, x.dtype, args, index, x.attr)


def with_buffer(x: Instr, slots: Sequence[int] | Mapping[int, int]) -> Instr:
    """The instruction with the number of the buffer that it touches, if any, replaced."""
    if not x.touches or slots[int(str(x.attr))] == x.attr:
        return x
    return Instr(x.op, x.dtype, x.args, x.index, slots[int(str(x.attr))])


def _renamed(index: Dim | None, at: Mapping[int, int]) -> Dim | None:
    if index is None or isinstance(index, int) or not _looks_up(index):
        return index
    if index.op == "sym":
        name = str(index.args[0])
        return Expr("sym", (f"v{at[int(name[1:])]}",)) if name[0] == "v" else index
    return Expr(index.op, tuple(a if isinstance(a, str) else _some(_renamed(a, at)) for a in index.args))


def _some(index: Dim | None) -> Dim:
    assert index is not None
    return index

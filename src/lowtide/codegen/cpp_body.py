"""What stands inside the loops of a C++ function: the statements of a stage, and what its reductions carry.

Comes in: a normalised Loop, and which stage is meant. Goes out: lines of C++ within loops that ``cpp`` writes around them.
Promised: every value ``n`` of the body is named ``vn`` where it is seen, whatever the shape of the function.
"""

from __future__ import annotations

from collections.abc import Sequence

from lowtide.codegen import shape
from lowtide.codegen.cpp_ops import (
    COMBINE,
    LANES,
    RUNNING,
    VALUE,
    carried,
    constant,
    loaded,
    neutral,
    result,
    scalar,
    stored,
    taken,
)
from lowtide.codegen.cpp_text import Text
from lowtide.ir.graph import ITEMSIZE, int_of
from lowtide.ir.index import uses
from lowtide.ir.loops import FAILURES, FOLDS, Instr, Loop, Stage
from lowtide.ir.tiles import tile
from lowtide.schedule.rules import CACHED

TILES = (1024, 512, 256, 128)  # columns, the most where their results are kept in arrays, which shall stay in cache
KEPT_BYTES = 24_576  # of those arrays
STACKED = 3 << 19  # bytes on a stack, of 2 MiB perhaps, above which no values are kept along a row
_FOLD_BLOCKS, _FOLD_NBYTES = 8, 1 << 18  # as many blocks of folds as ``fold_blocks`` makes at least, and bytes of more
DEEP = 256  # points of a column whose sum is taken in f32
# A truth value that is gathered over lanes: as wide as what it is about, since mixed widths do not vectorise well.
FLAG = {"f32": "int32_t", "f64": "i64", "bool": "int32_t"}


class Body(Text):
    """Writes what is inside the loops of one function; short-lived."""

    def __init__(self, loop: Loop) -> None:
        super().__init__(loop)
        self.outer = [int_of(n) for n in loop.outer]
        self.shape = "flat" if not loop.outer else "columns" if shape.columns(loop) else "rows"
        self.lasting = shape.lasting(loop)
        self.folds = shape.folds(loop)  # and the stage of each
        self.kept, self.idle = shape.recomputed(loop) if self.shape == "rows" else ({}, set[int]())
        self.held = tile(loop, CACHED.held_nbytes) if self.shape == "rows" else None
        if self.stacked() > STACKED:
            self.kept, self.idle = {}, set[int]()
        self.keeps = frozenset(self.kept.values())
        arrays = sum(12 if self.in_runs(n) else 8 for n in self.lasting)
        self.tile = next((t for t in TILES if t * arrays <= KEPT_BYTES), TILES[-1])
        self.group = shape.groups(loop)  # of a reduction with several results, the first of them
        self.gathered: frozenset[int] = frozenset()  # groups whose values are taken in runs
        self.elements: dict[int, str] = {}  # loads and stores that touch an array instead of a buffer

    def stacked(self) -> int:
        """Bytes that one thread's stack holds at most: what folds leave, a tile, and values kept along a row."""
        wide = [max(4, ITEMSIZE[x.dtype]) for x in self.loop.body]  # bytes of a value, which is a number of C++
        nbytes = sum(shape.total(self.loop.stages[k]) * wide[n] for n, k in self.folds.items())
        folded = max(_FOLD_BLOCKS * nbytes, _FOLD_NBYTES) if nbytes else 0
        tiled = 0 if self.held is None else self.held.nbytes(self.loop)
        return folded + tiled + sum(self.row_length(n) * wide[n] for n in {*self.kept.values()})

    def row_length(self, n: int) -> int:
        """Length of the array that keeps an instruction's values along a row: one of few, so that texts stay equal."""
        stage = next(s for s, lo in zip(self.loop.stages, self.loop.starts, strict=True) if lo <= n < lo + len(s.body))
        return next(m for m in shape.KEPT if m >= int_of(stage.inner[0]))

    # -- reductions --------------------------------------------------------------------------------------------------

    def arg(self, n: int) -> bool:
        """Whether an instruction finds a position instead of a value."""
        x = self.loop.body[n]
        return x.op == "reduce" and str(x.attr).startswith("arg")

    def accumulators(self, reduces: Sequence[int]) -> None:
        """Declare what the reductions of a stage carry, each at its start."""
        for n in reduces:
            x = self.loop.body[n]
            if x.family:
                if self.group[n] == n:
                    self.put(" ".join(f"{kind} {name} = {start};" for kind, name, start in self.carried(n)))
                continue
            if self.arg(n):
                value = self.loop.body[x.args[0]].dtype
                self.put(f"{VALUE[value]} best{n} = {neutral(str(x.attr), value)}; i64 v{n} = -1;")
                continue
            held = FLAG["bool"] if x.attr == "any" else VALUE[x.dtype]
            self.put(f"{held} v{n} = {neutral(str(x.attr), x.dtype)};")
            if self.flagged(n):
                self.put(f"{FLAG[x.dtype]} nan{n} = 0;")

    def in_runs(self, n: int) -> bool:
        """Whether a column's sum is taken in f32 over runs of its points, and the runs' sums are added up in f64."""
        x = self.loop.body[n]
        stage = next(s for s, lo in zip(self.loop.stages, self.loop.starts, strict=True) if lo <= n < lo + len(s.body))
        return x.op == "reduce" and x.attr == "sum" and x.dtype == "f32" and shape.total(stage) > DEEP

    def scans(self, k: int) -> None:
        """Declare what the scans of a stage carry."""
        for n in self.numbers(k):
            x = self.loop.body[n]
            if x.op == "scan":
                self.put(f"{VALUE[x.dtype]} c{n} = {neutral(str(x.attr), x.dtype)};")

    def flagged(self, n: int) -> bool:
        """Whether lanes of the reduction are joined in a way that may lose a NaN."""
        x = self.loop.body[n]
        return x.attr in ("max", "min") and x.dtype in ("f32", "f64")

    def not_a_numbers(self, reduces: Sequence[int]) -> None:
        """Give back the NaN that lanes have lost."""
        for n in reduces:
            if self.flagged(n):
                self.put(f"if (nan{n}) v{n} = NOT_A_NUMBER;")

    def simd(self, k: int, reduces: Sequence[int]) -> None:
        """Say that the points of the loop that follows may be done side by side."""
        if any(self.arg(n) or (n in self.group and self.group[n] not in self.gathered) for n in reduces):
            return
        clauses = " reduction(|:bad)" if any(x.op == "check" for x in self.loop.stages[k].body) else ""
        for n in reduces:
            x = self.loop.body[n]
            if x.family:
                found = (
                    f" reduction(+:sum{n})" if x.family == "welford" else f" reduction(max:top{n}) reduction(|:odd{n})"
                )
                clauses += found if self.group[n] == n else ""
                continue
            clauses += f" reduction({LANES[str(x.attr)][0]}:v{n})" + (
                f" reduction(|:nan{n})" if self.flagged(n) else ""
            )
        self.put(f"#pragma omp simd{clauses}")

    # -- bodies ------------------------------------------------------------------------------------------------------

    def numbers(self, k: int) -> range:
        """Numbers of the instructions of a stage."""
        return range(self.loop.starts[k], self.loop.starts[k] + len(self.loop.stages[k].body))

    def stage_body(self, k: int, done: frozenset[int] = frozenset()) -> None:
        """The instructions of a stage, without those that are ``done``."""
        ranges = self.loop.ranges(k)
        for n, x in zip(self.numbers(k), self.loop.stages[k].body, strict=True):
            if n in self.kept:
                self.put(f"const {VALUE[x.dtype]} v{n} = row{self.kept[n]}[r0];")
            elif n not in done and n not in self.idle:
                self.instr(n, x, ranges, k)
            if n in self.keeps:
                self.put(f"row{n}[r0] = v{n};")

    def before(self, k: int, variable: str) -> frozenset[int]:
        """Write what does not change with the innermost variable, before its loop; the numbers of what was written."""
        written = {x.attr for x in self.loop.body if x.writes}
        fixed: set[int] = set()
        for n, x in zip(self.numbers(k), self.loop.stages[k].body, strict=True):
            moves = n in self.kept or n in self.keeps or (x.index is not None and uses(x.index, (variable,)))
            lasting = {a for a in x.needs if a < self.loop.starts[k]}
            if moves or x.acts or x.op in ("reduce", "scan") or (x.op == "load" and x.attr in written):
                continue
            if (lasting and self.shape == "columns") or not all(a in fixed for a in x.needs if a not in lasting):
                continue
            fixed.add(n)
            if n not in self.idle:
                self.instr(n, x, self.loop.ranges(k), k)
        return frozenset(fixed)

    def instr(self, n: int, x: Instr, ranges: dict[str, int], k: int) -> None:
        """One instruction as a statement."""
        kind = VALUE[x.dtype]
        if x.op == "reduce":
            self.reduce(n, x, k)
        elif x.op == "scan":
            place, combine = (f"c{n}[j]", COMBINE) if self.shape == "columns" else (f"c{n}", RUNNING)
            self.put(combine[str(x.attr)].format(place, f"v{x.args[0]}"))
            self.put(f"const {kind} v{n} = {place};")
        elif x.op == "load":
            element = self.elements.get(n) or f"b{x.attr}[{self.dim(x.index or 0, ranges)}]"
            text = loaded(x.dtype, element)
            self.put(f"const {kind} v{n} = {f'v{x.args[0]} ? {text} : ({kind})0' if x.args else text};")
        elif x.op in FOLDS:
            place = f"f{n}[{self.position(self.loop.stages[k])}]"
            self.put(COMBINE[FOLDS[x.op]].format(place, f"v{x.args[0]}"))
        elif x.writes:
            element = self.elements.get(n) or f"b{x.attr}[{self.dim(x.index or 0, ranges)}]"
            value = f"v{x.args[0]}" if x.op == "store" else f"({kind})({loaded(x.dtype, element)} + v{x.args[0]})"
            guard = f"if (v{x.args[1]}) " if len(x.args) == 2 else ""
            self.put(f"{guard}{element} = {stored(x.dtype, value)};")
        elif x.op == "check":
            self.put(f"bad |= {FAILURES[x.attr]} * !v{x.args[0]};")
        elif x.op == "const":
            self.put(f"const {kind} v{n} = {constant(x)};")
        elif x.op == "index":
            self.put(f"const i64 v{n} = {self.dim(x.index or 0, ranges)};")
        else:
            given = [self.loop.body[a].dtype for a in x.args]
            self.put(f"const {kind} v{n} = {scalar(x, [f'v{a}' for a in x.args], given)};")

    def reduce(self, n: int, x: Instr, k: int) -> None:
        """Take one value into a reduction."""
        columns = self.shape == "columns"
        value = f"v{x.args[0]}"
        if x.family:
            if self.group[n] == n:
                run = f"[r{len(self.loop.stages[k].inner) - 1} - q]" if n in self.gathered else ""
                self.put(taken(x, n, run, "[j]" if columns else ""))
            return
        if self.arg(n):
            best, at = (f"best{n}[j]", f"a{n}[j]") if columns else (f"best{n}", f"v{n}")
            test = "above" if x.attr == "argmax" else "below"
            stage = self.loop.stages[k]
            self.put(f"if ({at} < 0 || {test}({value}, {best})) {{ {best} = {value}; {at} = {self.position(stage)}; }}")
        elif columns:
            self.put(COMBINE[str(x.attr)].format(f"{'s' if self.in_runs(n) else 'a'}{n}[j]", value))
        else:
            self.put(LANES[str(x.attr)][1].format(f"v{n}", value))
            if self.flagged(n):
                self.put(f"nan{n} |= {value} != {value};")

    def carried(self, n: int) -> list[tuple[str, str, str]]:
        """Type, name and start of what the pass of a reduction with several results carries."""
        return carried(self.loop.body[n], self.group[n])

    def result(self, n: int) -> str:
        """One of several results of a pass, of what it carries."""
        return result(self.loop.body[n], self.group[n])

    def results(self, reduces: Sequence[int]) -> None:
        """Name the results of passes with several, behind their loops."""
        for n in reduces:
            if n in self.group:
                self.put(f"const {VALUE[self.loop.body[n].dtype]} v{n} = {self.result(n)};")

    def position(self, stage: Stage) -> str:
        """Row-major number of the present point among a stage's inner ones."""
        text = "0"
        for k, n in enumerate(stage.inner):
            text = f"r{k}" if k == 0 else f"({text}) * {self.number(int_of(n))} + r{k}"
        return text

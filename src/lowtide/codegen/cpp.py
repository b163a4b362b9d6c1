"""Loop -> C++: one function per loop, readable, whose inner loops a compiler vectorises.

Comes in: a static Loop. Goes out: a ``Kernel``: the text of ``extern "C" void NAME(const int64_t* P, BUFFERS...)`` and
the numbers that ``P`` holds. Promised: sizes and strides are numbers in ``P``, not in the text, so loops that differ in
them alone have the same text; the result does not depend on the number of threads; buffers are touched only at the
elements that the loop names. Stands on ``kernel.h``.

Three shapes. *flat*: no outer ranges, each stage is a nest of its own, shared out over its leading ranges; sums go
through a fixed number of blocks. *rows*: the outer points are shared out, vectors run along the inner ranges. *columns*:
vectors run along the last outer range, in tiles, and what a stage leaves for the next is an array as wide as a tile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from lowtide.codegen.cpp_ops import BUFFER, COMBINE, LANES, VALUE, constant, loaded, neutral, scalar, stored
from lowtide.ir.graph import int_of
from lowtide.ir.index import affine, bounds, uses
from lowtide.ir.loops import Instr, Loop, Stage
from lowtide.ir.normal import normalise
from lowtide.ir.symbolic import Dim

TILE = 128  # columns, the most
RUN = 4096  # points whose sum is taken in f32
ACROSS = 256  # points of a line that is read across memory
BLOCKS = 64  # partial results of a flat reduction
_NAME = "KERNEL"
# A truth value that is gathered over lanes: as wide as what it is about, since mixed widths do not vectorise well.
FLAG = {"f32": "int32_t", "f64": "i64", "bool": "int32_t"}


@dataclass(frozen=True, slots=True)
class Kernel:
    """A C++ function: its name, its text, what ``P`` holds, and how many buffers it takes."""

    name: str
    text: str
    params: tuple[int, ...]
    buffers: int


@lru_cache(maxsize=4096)
def kernel(loop: Loop) -> Kernel:
    """The function of a loop."""
    writer = _Writer(normalise(loop))
    text = writer.function()
    name = f"k{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return Kernel(name, text.replace(_NAME, name), tuple(writer.params), len(loop.dtypes))


class _Writer:
    """Writes one function; short-lived."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.params: list[int] = []
        self.lines: list[str] = []
        self.depth = 1
        self.outer = [int_of(n) for n in loop.outer]
        self.shape = "flat" if not loop.outer else "columns" if _columns(loop) else "rows"
        self.lasting = _lasting(loop)
        self.extra = len(loop.dtypes) + loop.checks  # where what a part needs besides buffers begins

    # -- text --------------------------------------------------------------------------------------------------------

    def put(self, text: str) -> None:
        self.lines.append("  " * self.depth + text)

    def open(self, text: str) -> None:
        self.put(f"{text} {{")
        self.depth += 1

    def close(self) -> None:
        self.depth -= 1
        self.put("}")

    def number(self, n: int) -> str:
        """A size or stride: 0 and 1 as they are, others as parameters."""
        if n in (0, 1):
            return str(n)
        if n not in self.params:
            self.params.append(n)
        return f"p{self.params.index(n)}"

    def dim(self, e: Dim, ranges: dict[str, int]) -> str:
        """An index expression."""
        if isinstance(e, int):
            return f"-{self.number(-e)}" if e < 0 else self.number(e)
        if e.op == "sym":
            return str(e.args[0])
        args = [a for a in e.args if not isinstance(a, str)]
        if e.op == "+":
            return f"({' + '.join(self.dim(a, ranges) for a in args)})"
        if e.op == "*":
            return f"{' * '.join(self.dim(a, ranges) for a in args)}"
        if e.op in ("//", "%"):
            lo, _ = bounds(args[0], ranges)
            a, b = (self.dim(x, ranges) for x in args)
            if lo is not None and lo >= 0:
                return f"(({a}) {'/' if e.op == '//' else '%'} {b})"
            return f"{'floor_div' if e.op == '//' else 'floor_mod'}((i64)({a}), (i64){b})"
        text = self.dim(args[0], ranges)
        for a in args[1:]:
            text = f"{'greater' if e.op == 'max' else 'lesser'}<i64>({text}, {self.dim(a, ranges)})"
        return text

    # -- the function ------------------------------------------------------------------------------------------------

    def function(self) -> str:
        """The whole text."""
        parts = self.flat() if self.shape == "flat" else self.nest()
        given = ", ".join(f"{BUFFER[t]}* b{k}" for k, t in enumerate(self.loop.dtypes))
        result = "int" if self.loop.checks else "void"
        head = [f'extern "C" {result} {_NAME}(const i64* P{", " if given else ""}{given}) {{']
        buffers = [f"b{k}" for k in range(len(self.loop.dtypes))]
        if self.loop.checks:
            head.append("  int32_t failed = 0;")
            buffers.append("&failed")
        if self.lasting and self.shape == "flat":
            head += [f"  {_NAME}_kept kept;", f"  {_NAME}_kept part[{BLOCKS}];"]
            buffers += ["&kept", "part"]
        listed = ", ".join(f"(void*){b}" for b in buffers) or "nullptr"
        tail = ["  return failed;", "}", ""] if self.loop.checks else ["}", ""]
        return "\n".join([*self.lines, *head, f"  void* const B[] = {{{listed}}};", *parts, *tail])

    def begin(self, name: str) -> int:
        """Open a part; what it needs to know of its parameters is filled in by ``end``."""
        self.depth = 1
        self.lines.append(f"static void {name}(const i64* P, void* const* B, i64 lo, i64 hi) {{")
        for k, t in enumerate(self.loop.dtypes):
            const = "const " if not any(True for _ in self.loop.stores(k)) else ""
            self.put(f"{const}{BUFFER[t]}* b{k} = ({const}{BUFFER[t]}*)B[{k}];")
        if self.loop.checks:
            self.put("int32_t bad = 0;")
        return len(self.lines)

    def end(self, at: int) -> None:
        """Close a part, and read the parameters that it uses at its top."""
        used = [k for k in range(len(self.params)) if any(_mentions(x, f"p{k}") for x in self.lines[at:])]
        if used:
            self.lines.insert(at, "  const i64 " + ", ".join(f"p{k} = P[{k}]" for k in used) + ";")
        if self.loop.checks:
            self.lines.append(f"  if (bad) __atomic_store_n((int32_t*)B[{self.extra - 1}], 1, __ATOMIC_RELAXED);")
        self.lines.append("}")

    # -- flat --------------------------------------------------------------------------------------------------------

    def flat(self) -> list[str]:
        """Every stage a part of its own; gives the lines of the driver."""
        driver: list[str] = []
        if self.lasting:
            self.lines.append(f"struct {_NAME}_kept {{")
            for n in self.lasting:
                self.lines.append(f"  {VALUE[self.loop.body[n].dtype]} v{n};")
                if self.arg(n):
                    self.lines.append(f"  {VALUE[self.loop.body[self.loop.body[n].args[0]].dtype]} best{n};")
            self.lines.append("};")
        for k, stage in enumerate(self.loop.stages):
            reduces = [n for n in self.numbers(k) if self.loop.body[n].op == "reduce"]
            name = f"{_NAME}_{k}"
            at = self.begin(name)
            if self.lasting:
                self.put(f"{_NAME}_kept* kept = ({_NAME}_kept*)B[{self.extra}];")
                for n in self.lasting:
                    if n < self.loop.starts[k]:
                        self.put(f"const {VALUE[self.loop.body[n].dtype]} v{n} = kept->v{n};")
            sizes = [int_of(n) for n in stage.inner]
            work = self.product(sizes)
            if reduces:
                self.blocks(k, sizes, reduces)
                first = self.driver_number(sizes[0]) if sizes else "1"
                driver.append(f"  share({name}, P, B, lesser<i64>({BLOCKS}, {first}), {work});")
                driver += self.combined(reduces, f"lesser<i64>({BLOCKS}, {first})")
            elif stage.ordered:
                self.serial(k, sizes)
                driver.append(f"  {name}(P, B, 0, 1);")
            else:
                self.points(k, sizes)
                units = work if len(sizes) == 1 else self.product(sizes[:-1])
                driver.append(f"  share({name}, P, B, {units}, {work});")
            self.end(at)
        return driver

    def driver_number(self, n: int) -> str:
        text = self.number(n)
        return f"P[{text[1:]}]" if text[0] == "p" else text

    def product(self, sizes: Sequence[int]) -> str:
        return " * ".join(self.driver_number(n) for n in sizes) or "1"

    def points(self, k: int, sizes: list[int]) -> None:
        """A stage without reductions, of which the part does units lo..hi."""
        if not sizes:
            self.stage_body(k)
            for n in self.numbers(k):
                if n in self.lasting:
                    self.put(f"kept->v{n} = v{n};")
            return
        last = len(sizes) - 1
        if last == 0:
            done = self.before(k, "r0")
            self.simd(k, [])
            self.open("for (i64 r0 = lo; r0 < hi; ++r0)")
            self.stage_body(k, done)
            self.close()
            return
        low, high = "0", self.number(sizes[-1])
        across = self.strided(k, f"r{last}")
        if across:  # a run of each line in turn, so that what is read across lines is still in cache
            self.open(f"for (i64 q = 0; q < {high}; q += {ACROSS})")
            self.put(f"const i64 q_ = lesser<i64>(q + {ACROSS}, {high});")
            low, high = "q", "q_"
        self.odometer("r", sizes[:-1])
        done = self.before(k, f"r{last}")
        self.simd(k, [])
        self.open(f"for (i64 r{last} = {low}; r{last} < {high}; ++r{last})")
        self.stage_body(k, done)
        self.close()
        self.step("r", sizes[:-1])
        if across:
            self.close()

    def strided(self, k: int, variable: str) -> bool:
        """Whether a load of a stage walks across memory along a variable."""
        found = [affine(x.index) for x in self.loop.stages[k].body if x.op == "load" and x.index is not None]
        return any(f is not None and f[0].get(variable, 0) >= 16 for f in found)

    def serial(self, k: int, sizes: list[int]) -> None:
        """A stage whose points must come in order."""
        self.scans(k)
        for j, n in enumerate(sizes):
            self.open(f"for (i64 r{j} = 0; r{j} < {self.number(n)}; ++r{j})")
        self.stage_body(k)
        for _ in sizes:
            self.close()

    def blocks(self, k: int, sizes: list[int], reduces: list[int]) -> None:
        """A stage with reductions; a unit is a block of the first range, and leaves its partial results."""
        slot = self.extra + 1
        first = self.number(sizes[0]) if sizes else "1"
        self.put(f"{_NAME}_kept* part = ({_NAME}_kept*)B[{slot}];")
        self.put(f"const i64 blocks = lesser<i64>({BLOCKS}, {first});")
        self.open("for (i64 u = lo; u < hi; ++u)")
        self.put(f"const i64 from_ = {first} * u / blocks, to_ = {first} * (u + 1) / blocks;")
        self.reduced(k, sizes, reduces, ("from_", "to_"))
        for n in reduces:
            self.put(f"part[u].v{n} = v{n};")
            if self.arg(n):
                self.put(f"part[u].best{n} = best{n};")
        self.close()

    def reduced(self, k: int, sizes: list[int], reduces: list[int], first: tuple[str, str]) -> None:
        """The loops of a stage with reductions, outside of which their results stand. ``first``: bounds of the first range.

        Sums in f32 are taken over runs of at most RUN points; the runs' sums are added up in f64.
        """
        runs = (
            [n for n in reduces if self.loop.body[n].attr == "sum" and self.loop.body[n].dtype == "f32"]
            if sizes
            else []
        )
        done: frozenset[int] = frozenset()
        self.accumulators([n for n in reduces if n not in runs])
        for n in runs:
            self.put(f"double w{n} = 0;")
        for j, n in enumerate(sizes):
            low, high = first if j == 0 else ("0", self.number(n))
            last = j == len(sizes) - 1
            if last and runs:
                self.open(f"for (i64 q = {low}; q < {high}; q += {RUN})")
                self.put(f"const i64 q_ = lesser<i64>(q + {RUN}, {high});")
                self.accumulators(runs)
                low, high = "q", "q_"
            if last:
                done = self.before(k, f"r{j}")
                self.simd(k, reduces)
            self.open(f"for (i64 r{j} = {low}; r{j} < {high}; ++r{j})")
        self.stage_body(k, done)
        for j in range(len(sizes)):
            self.close()
            if j == 0 and runs:
                self.put(" ".join(f"w{n} += v{n};" for n in runs))
                self.close()
        for n in runs:
            self.put(f"const float v{n} = (float)w{n};")
        self.not_a_numbers(reduces)

    def combined(self, reduces: list[int], blocks: str) -> list[str]:
        """Driver lines that join the partial results of a stage, in order."""
        out: list[str] = []
        for n in reduces:
            x = self.loop.body[n]
            kind, value = str(x.attr), self.loop.body[x.args[0]].dtype
            wide = "double" if kind == "sum" and x.dtype == "f32" else VALUE[value if self.arg(n) else x.dtype]
            start = neutral(kind, value) if self.arg(n) else neutral(kind, x.dtype)
            if self.arg(n):
                test = "above" if kind == "argmax" else "below"
                out.append(f"  {wide} best{n} = part[0].best{n}; i64 s{n} = part[0].v{n};")
                out.append(f"  for (i64 u = 1; u < {blocks}; ++u)")
                out.append(
                    f"    if ({test}(part[u].best{n}, best{n})) {{ best{n} = part[u].best{n}; s{n} = part[u].v{n}; }}"
                )
            else:
                out.append(f"  {wide} s{n} = {start};")
                join = COMBINE[kind].format(f"s{n}", f"({wide})part[u].v{n}")
                out.append(f"  for (i64 u = 0; u < {blocks}; ++u) {join}")
            out.append(f"  kept.v{n} = ({VALUE[x.dtype]})s{n};")
        return out

    # -- rows and columns --------------------------------------------------------------------------------------------

    def nest(self) -> list[str]:
        """All stages in one part that does outer points lo..hi; gives the lines of the driver."""
        columns = self.shape == "columns"
        at = self.begin(f"{_NAME}_part")
        last = len(self.outer) - 1
        if columns:
            self.put(f"const i64 width = *(const i64*)B[{self.extra}];")
            self.put(f"const i64 tiles = ({self.number(self.outer[last])} + width - 1) / width;")
            self.odometer("i", self.outer[:-1], "tiles")
            self.put(f"const i64 left = {self.number(self.outer[last])} - tile * width;")
            self.put("const i64 from_ = tile * width, many = left < width ? left : width;")
            for n in self.lasting:
                self.put(f"{VALUE[self.loop.body[n].dtype]} a{n}[{TILE}];")
        else:
            self.odometer("i", self.outer)
        for k in range(len(self.loop.stages)):
            self.nested_stage(k)
        self.step("i", self.outer[:-1] if columns else self.outer, "tiles" if columns else None)
        self.end(at)
        units = self.product(self.outer[:-1] if columns else self.outer)
        inner = max((_total(s) for s in self.loop.stages), default=1)
        work = f"{self.product(self.outer)} * {self.driver_number(inner)}"
        if not columns:
            return [f"  share({_NAME}_part, P, B, {units}, {work});"]
        across = self.driver_number(self.outer[last])
        given = "".join(f"(void*)b{k}, " for k in range(len(self.loop.dtypes)))
        given += "(void*)&failed, " if self.loop.checks else ""
        return [
            f"  const i64 width = tile_width({across}, {units}, {work});",
            f"  void* const C[] = {{{given}(void*)&width}};",
            f"  share({_NAME}_part, P, C, {units} * (({across} + width - 1) / width), {work});",
        ]

    def nested_stage(self, k: int) -> None:
        """One stage at one outer point (rows), or at the columns of a tile."""
        stage, columns = self.loop.stages[k], self.shape == "columns"
        sizes = [int_of(n) for n in stage.inner]
        reduces = [n for n in self.numbers(k) if self.loop.body[n].op == "reduce"]
        ordered = stage.ordered
        if reduces and not columns and not ordered:
            self.reduced(k, sizes, reduces, ("0", self.number(sizes[0]) if sizes else ""))
            return
        if columns:
            self.tile_accumulators([n for n in self.numbers(k) if self.loop.body[n].op in ("reduce", "scan")])
        else:
            self.accumulators(reduces)
            self.scans(k)
        done: frozenset[int] = frozenset()
        for j, n in enumerate(sizes):
            if not columns and j == len(sizes) - 1 and not ordered:
                done = self.before(k, f"r{j}")
                self.simd(k, reduces)
            self.open(f"for (i64 r{j} = 0; r{j} < {self.number(n)}; ++r{j})")
        if columns:
            done = self.before(k, f"i{len(self.outer) - 1}")
            self.simd(k, [])
            self.open("for (i64 j = 0; j < many; ++j)")
            self.put(f"const i64 i{len(self.outer) - 1} = from_ + j;")
            for n in _used(self.loop, k):
                if n < self.loop.starts[k] and n in self.lasting:
                    self.put(f"const {VALUE[self.loop.body[n].dtype]} v{n} = a{n}[j];")
        self.stage_body(k, done)
        if columns:
            for n in self.numbers(k):
                if n in self.lasting and self.loop.body[n].op != "reduce":
                    self.put(f"a{n}[j] = v{n};")
            self.close()
        for _ in sizes:
            self.close()

    def odometer(self, letter: str, sizes: Sequence[int], tiles: str | None = None) -> None:
        """Open the loop over units lo..hi, with the variables of ``sizes`` at unit lo."""
        counts = [self.number(n) for n in sizes] + ([tiles] if tiles else [])
        names = [f"{letter}{k}" for k in range(len(sizes))] + (["tile"] if tiles else [])
        for k, name in enumerate(names):
            below = " * ".join(counts[k + 1 :])
            text = f"lo / ({below})" if below else "lo"
            self.put(f"i64 {name} = {text if k == 0 else f'{text} % {counts[k]}'};")
        self.open("for (i64 u = lo; u < hi; ++u)")

    def step(self, letter: str, sizes: Sequence[int], tiles: str | None = None) -> None:
        """Go on to the next unit, and close the loop."""
        counts = [self.number(n) for n in sizes] + ([tiles] if tiles else [])
        names = [f"{letter}{k}" for k in range(len(sizes))] + (["tile"] if tiles else [])
        text = ""
        for k in range(len(names) - 1, -1, -1):
            if k == 0:
                text += f"++{names[0]};"
            else:
                text += f"if (++{names[k]} == {counts[k]}) {{ {names[k]} = 0; "
        self.put(text + " }" * (len(names) - 1))
        self.close()

    # -- reductions --------------------------------------------------------------------------------------------------

    def arg(self, n: int) -> bool:
        x = self.loop.body[n]
        return x.op == "reduce" and str(x.attr).startswith("arg")

    def accumulators(self, reduces: Sequence[int]) -> None:
        for n in reduces:
            x = self.loop.body[n]
            if self.arg(n):
                value = self.loop.body[x.args[0]].dtype
                self.put(f"{VALUE[value]} best{n} = {neutral(str(x.attr), value)}; i64 v{n} = -1;")
                continue
            held = FLAG["bool"] if x.attr == "any" else VALUE[x.dtype]
            self.put(f"{held} v{n} = {neutral(str(x.attr), x.dtype)};")
            if self.flagged(n):
                self.put(f"{FLAG[x.dtype]} nan{n} = 0;")

    def tile_accumulators(self, numbers: Sequence[int]) -> None:
        for n in numbers:
            x = self.loop.body[n]
            value = self.loop.body[x.args[0]].dtype if self.arg(n) else x.dtype
            start = neutral(str(x.attr), value)
            if self.arg(n):
                self.put(f"{VALUE[value]} best{n}[{TILE}];")
                self.put(f"for (i64 j = 0; j < many; ++j) {{ best{n}[j] = {start}; a{n}[j] = -1; }}")
                continue
            if x.op == "scan":
                self.put(f"{VALUE[x.dtype]} c{n}[{TILE}];")
            self.put(f"for (i64 j = 0; j < many; ++j) {'c' if x.op == 'scan' else 'a'}{n}[j] = {start};")

    def scans(self, k: int) -> None:
        for n in self.numbers(k):
            x = self.loop.body[n]
            if x.op == "scan":
                self.put(f"{VALUE[x.dtype]} c{n} = {neutral(str(x.attr), x.dtype)};")

    def flagged(self, n: int) -> bool:
        """Whether lanes of the reduction are joined in a way that may lose a NaN."""
        x = self.loop.body[n]
        return x.attr in ("max", "min") and x.dtype in ("f32", "f64")

    def not_a_numbers(self, reduces: Sequence[int]) -> None:
        for n in reduces:
            if self.flagged(n):
                self.put(f"if (nan{n}) v{n} = NOT_A_NUMBER;")

    def simd(self, k: int, reduces: Sequence[int]) -> None:
        """Say that the points of the loop that follows may be done side by side."""
        if any(self.arg(n) for n in reduces):
            return
        clauses = " reduction(|:bad)" if any(x.op == "check" for x in self.loop.stages[k].body) else ""
        for n in reduces:
            x = self.loop.body[n]
            clauses += f" reduction({LANES[str(x.attr)][0]}:v{n})" + (
                f" reduction(|:nan{n})" if self.flagged(n) else ""
            )
        self.put(f"#pragma omp simd{clauses}")

    # -- bodies ------------------------------------------------------------------------------------------------------

    def numbers(self, k: int) -> range:
        return range(self.loop.starts[k], self.loop.starts[k] + len(self.loop.stages[k].body))

    def stage_body(self, k: int, done: frozenset[int] = frozenset()) -> None:
        """The instructions of a stage, without those that are ``done``."""
        ranges = self.loop.ranges(k)
        for n, x in zip(self.numbers(k), self.loop.stages[k].body, strict=True):
            if n not in done:
                self.instr(n, x, ranges, k)

    def before(self, k: int, variable: str) -> frozenset[int]:
        """Write what does not change with the innermost variable, before its loop; the numbers of what was written."""
        written = {x.attr for x in self.loop.body if x.writes}
        fixed: set[int] = set()
        for n, x in zip(self.numbers(k), self.loop.stages[k].body, strict=True):
            moves = x.index is not None and uses(x.index, (variable,))
            lasting = {a for a in x.needs if a < self.loop.starts[k]}
            if moves or x.acts or x.op in ("reduce", "scan") or (x.op == "load" and x.attr in written):
                continue
            if (lasting and self.shape == "columns") or not all(a in fixed for a in x.needs if a not in lasting):
                continue
            fixed.add(n)
            self.instr(n, x, self.loop.ranges(k), k)
        return frozenset(fixed)

    def instr(self, n: int, x: Instr, ranges: dict[str, int], k: int) -> None:
        """One instruction as a statement."""
        kind = VALUE[x.dtype]
        if x.op == "reduce":
            self.reduce(n, x, k)
        elif x.op == "scan":
            place = f"c{n}[j]" if self.shape == "columns" else f"c{n}"
            self.put(COMBINE[str(x.attr)].format(place, f"v{x.args[0]}"))
            self.put(f"const {kind} v{n} = {place};")
        elif x.op == "load":
            element = f"b{x.attr}[{self.dim(x.index or 0, ranges)}]"
            text = loaded(x.dtype, element)
            self.put(f"const {kind} v{n} = {f'v{x.args[0]} ? {text} : ({kind})0' if x.args else text};")
        elif x.writes:
            element = f"b{x.attr}[{self.dim(x.index or 0, ranges)}]"
            value = f"v{x.args[0]}" if x.op == "store" else f"({kind})({loaded(x.dtype, element)} + v{x.args[0]})"
            guard = f"if (v{x.args[1]}) " if len(x.args) == 2 else ""
            self.put(f"{guard}{element} = {stored(x.dtype, value)};")
        elif x.op == "check":
            self.put(f"bad |= !v{x.args[0]};")
        elif x.op == "const":
            self.put(f"const {kind} v{n} = {constant(x)};")
        elif x.op == "index":
            self.put(f"const i64 v{n} = {self.dim(x.index or 0, ranges)};")
        else:
            given = [self.loop.body[a].dtype for a in x.args]
            self.put(f"const {kind} v{n} = {scalar(x, [f'v{a}' for a in x.args], given)};")

    def reduce(self, n: int, x: Instr, k: int) -> None:
        columns = self.shape == "columns"
        value = f"v{x.args[0]}"
        if self.arg(n):
            best, at = (f"best{n}[j]", f"a{n}[j]") if columns else (f"best{n}", f"v{n}")
            test = "above" if x.attr == "argmax" else "below"
            stage = self.loop.stages[k]
            self.put(f"if ({at} < 0 || {test}({value}, {best})) {{ {best} = {value}; {at} = {self.position(stage)}; }}")
        elif columns:
            self.put(COMBINE[str(x.attr)].format(f"a{n}[j]", value))
        else:
            self.put(LANES[str(x.attr)][1].format(f"v{n}", value))
            if self.flagged(n):
                self.put(f"nan{n} |= {value} != {value};")

    def position(self, stage: Stage) -> str:
        text = "0"
        for k, n in enumerate(stage.inner):
            text = f"r{k}" if k == 0 else f"({text}) * {self.number(int_of(n))} + r{k}"
        return text


def _mentions(line: str, name: str) -> bool:
    at = line.find(name)
    while at >= 0:
        after = line[at + len(name) : at + len(name) + 1]
        before = line[at - 1 : at]
        if not (after.isdigit() or before.isalnum() or before == "_"):
            return True
        at = line.find(name, at + 1)
    return False


def _total(stage: Stage) -> int:
    out = 1
    for n in stage.inner:
        out *= int_of(n)
    return out


def _used(loop: Loop, k: int) -> list[int]:
    return sorted({a for x in loop.stages[k].body for a in x.needs})


def _lasting(loop: Loop) -> list[int]:
    """Values that a later stage than their own uses."""
    out: set[int] = set()
    for k in range(len(loop.stages)):
        out |= {a for a in _used(loop, k) if a < loop.starts[k]}
    reduces = {n for n, x in enumerate(loop.body) if x.op == "reduce"}
    return sorted(out | reduces)


def _columns(loop: Loop) -> bool:
    """Whether vectors should run along the last outer range: more accesses lie side by side there."""
    across = f"i{len(loop.outer) - 1}"
    score = 0
    for s in loop.stages:
        if s.inner and s.ordered and not any(x.op == "scan" for x in s.body):
            return True
        along = f"r{len(s.inner) - 1}"
        for x in s.body:
            if x.op in ("load", "store") and x.index is not None and s.inner:
                found = affine(x.index)
                if found is not None and across in found[0] and along in found[0]:  # rows and columns of a whole tensor
                    score += (found[0][across] == 1) - (found[0][along] == 1)
    return score > 0 or not any(s.inner for s in loop.stages)

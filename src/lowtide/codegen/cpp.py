"""Loop -> C++: one function per loop, readable, whose inner loops a compiler vectorises.

Comes in: a static Loop. Goes out: a ``Kernel``: the text of ``extern "C" void NAME(const int64_t* P, BUFFERS...)`` and
the numbers that ``P`` holds. Promised: sizes and strides are numbers in ``P``, not in the text, so loops that differ in
them alone have one of few texts, by how long the arrays of a row or a tile must be; the result does not depend on the
number of threads; buffers are touched only at the elements that the loop names. Stands on ``kernel.h``.

Three shapes. *flat*: no outer ranges, each stage is a nest of its own, shared out over its leading ranges; sums go
through a fixed number of blocks. *rows*: the outer points are shared out, vectors run along the inner ranges; what is
summed over the outer points goes through blocks of them, as many as follows from the sizes. *columns*:
vectors run along the last outer range, in tiles, and what a stage leaves for the next is an array as wide as a tile.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from lowtide.codegen import shape
from lowtide.codegen.cpp_body import DEEP, FLAG, Body
from lowtide.codegen.cpp_ops import (
    BUFFER,
    COMBINE,
    JOIN,
    VALUE,
    neutral,
    stored,
)
from lowtide.codegen.cpp_text import coefficient, index_of
from lowtide.ir.cut import cut
from lowtide.ir.graph import ITEMSIZE, int_of
from lowtide.ir.index import affine, substitute
from lowtide.ir.loops import FOLDS, Instr, Loop
from lowtide.ir.normal import normalise
from lowtide.ir.symbolic import symbol
from lowtide.ir.tiles import Tile, pitch
from lowtide.target import Kernel

RUN = 4096  # points of a row whose sum is taken in f32, in lanes
_SHORT = 16  # instructions of a body that is written several times
GATHERED = 512  # values that a pass with several results takes at once
ACROSS = 64  # points of the last range in a tile that is turned
BLOCKS = 64  # partial results of a flat reduction
_NAME = "KERNEL"


@lru_cache(maxsize=4096)
def kernel(loop: Loop) -> Kernel:
    """The function of a loop."""
    writer = _Writer(cut(normalise(loop)))
    text = writer.function()
    name = f"k{hashlib.sha256(text.encode()).hexdigest()[:12]}"
    return Kernel(name, text.replace(_NAME, name), tuple(writer.params), len(loop.dtypes))


class _Writer(Body):
    """Writes one function; short-lived."""

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
                if self.group.get(n) == n:
                    self.lines += [f"  {kind} {name};" for kind, name, _ in self.carried(n)]
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
            elif (found := shape.turned(self.loop, k)) is not None:
                units = self.turned(k, sizes, *found)
                driver.append(f"  share({name}, P, B, {units}, {work});")
            else:
                self.points(k, sizes)
                units = work if len(sizes) == 1 else self.product(sizes[:-1])
                driver.append(f"  share({name}, P, B, {units}, {work});")
            self.end(at)
        return driver

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
        self.odometer("r", sizes[:-1])
        done = self.before(k, f"r{last}")
        self.simd(k, [])
        self.open(f"for (i64 r{last} = 0; r{last} < {self.number(sizes[-1])}; ++r{last})")
        self.stage_body(k, done)
        self.close()
        self.step("r", sizes[:-1])

    def turned(self, k: int, sizes: list[int], t: int, found: list[int]) -> str:
        """A stage of whose loads and stores those ``found`` run through memory along range ``t`` and jump along the last: tile
        by tile, what is read so is turned into an array whose rows run along the last range, and what is written so
        out of one. Gives the number of units.
        """
        last = len(sizes) - 1
        ranges = self.loop.ranges(k)
        copied = self.copied(k)
        most = max(ITEMSIZE[self.loop.body[n].dtype] for n in found)
        loads = [n for n in found if self.loop.body[n].op == "load"]
        tile = max(64, min(256, 512 // most))
        others = [n for j, n in enumerate(sizes[:-1]) if j != t]
        names = [f"r{j}" for j in range(last) if j != t]
        tiles = f"(({self.number(sizes[t])} + {tile - 1}) / {tile})"
        if copied is None:
            for n in found:
                self.put(f"alignas(64) {BUFFER[self.loop.body[n].dtype]} turned{n}[{tile * ACROSS}];")
        self.odometer("r", others, tiles, names)
        self.put(f"const i64 t0 = tile * {tile}, t1 = lesser<i64>(t0 + {tile}, {self.number(sizes[t])});")
        high = self.number(sizes[-1])
        self.open(f"for (i64 q = 0; q < {high}; q += {ACROSS})")
        self.put(f"const i64 q_ = lesser<i64>(q + {ACROSS}, {high});")
        corner = {f"r{t}": symbol("t0"), f"r{last}": symbol("q")}
        for n in loads:
            x = self.loop.body[n]
            at = self.dim(substitute(index_of(x), corner), ranges)
            jump = self.number(coefficient(x, f"r{last}"))
            if copied is not None:
                to = self.dim(substitute(index_of(copied), corner), ranges)
                into, row = f"b{copied.attr} + {to}", self.number(coefficient(copied, f"r{t}"))
            else:
                into, row = f"turned{n}", str(ACROSS)
            self.put(f"turn(b{x.attr} + {at}, {jump}, q_ - q, t1 - t0, {into}, {row});")
        if copied is None:
            self.elements = {n: f"turned{n}[(r{t} - t0) * {ACROSS} + r{last} - q]" for n in found}
            self.open(f"for (i64 r{t} = t0; r{t} < t1; ++r{t})")
            done = self.before(k, f"r{last}")
            self.simd(k, [])
            self.open(f"for (i64 r{last} = q; r{last} < q_; ++r{last})")
            self.stage_body(k, done)
            self.close()
            self.close()
            self.elements = {}
        for n in found:
            x = self.loop.body[n]
            if x.op == "store":
                at = self.dim(substitute(index_of(x), corner), ranges)
                jump = self.number(coefficient(x, f"r{last}"))
                self.put(f"turn(turned{n}, {ACROSS}, t1 - t0, q_ - q, b{x.attr} + {at}, {jump});")
        self.close()
        self.step("r", others, tiles, names)
        units = self.product(others)
        return f"{units} * (({self.driver_number(sizes[t])} + {tile - 1}) / {tile})"

    def copied(self, k: int) -> Instr | None:
        """The store of a stage that does nothing but copy one buffer into rows of another."""
        body = self.loop.stages[k].body
        if [x.op for x in body] != ["load", "store"] or len(body[1].args) != 1:
            return None
        last = f"r{len(self.loop.stages[k].inner) - 1}"
        return body[1] if affine(index_of(body[1])) is not None and coefficient(body[1], last) == 1 else None

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
            if n in self.group:
                for _, name, _ in self.carried(n) if self.group[n] == n else ():
                    self.put(f"part[u].{name} = {name};")
                continue
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
        gathered = [n for n in reduces if self.group.get(n) == n and len(self.loop.body[n].args) == 1] if sizes else []
        self.gathered = frozenset(gathered)
        self.accumulators([n for n in reduces if n not in runs])
        for n in runs:
            self.put(f"double w{n} = 0;")
        for n in gathered:
            self.put(f"{VALUE[self.loop.body[n].dtype]} run{n}[{GATHERED}];")
        for j, n in enumerate(sizes):
            low, high = first if j == 0 else ("0", self.number(n))
            last = j == len(sizes) - 1
            if last and (runs or gathered):
                run = GATHERED if gathered else RUN
                self.open(f"for (i64 q = {low}; q < {high}; q += {run})")
                self.put(f"const i64 q_ = lesser<i64>(q + {run}, {high});")
                self.accumulators(runs)
                for n in gathered:
                    kind = VALUE[self.loop.body[n].dtype]
                    welford = self.loop.body[n].family == "welford"
                    self.put(f"{kind} sum{n} = 0;" if welford else f"{kind} top{n} = -INF; {FLAG['bool']} odd{n} = 0;")
                low, high = "q", "q_"
            if last:
                done = self.before(k, f"r{j}")
                self.simd(k, reduces)
            self.open(f"for (i64 r{j} = {low}; r{j} < {high}; ++r{j})")
        self.stage_body(k, done)
        for j in range(len(sizes)):
            self.close()
            if j == 0 and (runs or gathered):
                for n in runs:
                    self.put(f"w{n} += v{n};")
                for n in gathered:
                    state = ", ".join(name for _, name, _ in self.carried(n))
                    found = f"sum{n}" if self.loop.body[n].family == "welford" else f"top{n}, odd{n}"
                    self.put(f"join_run({state}, run{n}, q_ - q, {found});")
                self.close()
        self.gathered = frozenset[int]()
        for n in runs:
            self.put(f"const float v{n} = (float)w{n};")
        self.not_a_numbers(reduces)
        self.results(reduces)

    def combined(self, reduces: list[int], blocks: str) -> list[str]:
        """Driver lines that join the partial results of a stage, in order."""
        out: list[str] = []
        for n in reduces:
            x = self.loop.body[n]
            kind, value = str(x.attr), self.loop.body[x.args[0]].dtype
            if x.family:
                if self.group[n] == n:
                    out += [f"  {wide} {name} = {start};" for wide, name, start in self.carried(n)]
                    into = ", ".join(name for _, name, _ in self.carried(n))
                    given = ", ".join(f"part[u].{name}" for _, name, _ in self.carried(n))
                    out.append(f"  for (i64 u = 0; u < {blocks}; ++u) {JOIN[x.family]}({into}, {given});")
                out.append(f"  kept.v{n} = {self.result(n)};")
                continue
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
            units = self.product(self.outer[:-1])
            self.put(f"const i64 left = {self.number(self.outer[last])} - tile * width;")
            self.put("const i64 from_ = tile * width, many = left < width ? left : width;")
            for n in self.lasting:
                wide = "double" if self.in_runs(n) else VALUE[self.loop.body[n].dtype]
                self.put(f"{wide} a{n}[{self.tile}];")
        else:
            for j, n in enumerate(self.folds, self.extra):
                kind = VALUE[self.loop.body[n].dtype]
                self.put(f"{kind}* const f{n} = ({kind}*)B[{j}];")
            for n in sorted(self.keeps):
                self.put(f"{VALUE[self.loop.body[n].dtype]} row{n}[{self.row_length(n)}];")
            units = self.open_rows()
        for k in range(len(self.loop.stages)):
            (self.tile_stage if columns else self.nested_stage)(k)
        if columns:
            self.step("i", self.outer[:-1], "tiles")
        else:
            self.close_rows()
        self.end(at)
        if self.folds:
            return self.folded(units)
        inner = max((shape.total(s) for s in self.loop.stages), default=1)
        work = f"{self.product(self.outer)} * {self.driver_number(inner)}"
        if not columns:
            return [f"  share({_NAME}_part, P, B, {units}, {work});"]
        across = self.driver_number(self.outer[last])
        given = "".join(f"(void*)b{k}, " for k in range(len(self.loop.dtypes)))
        given += "(void*)&failed, " if self.loop.checks else ""
        most = self.tile if self.lasting else 0
        return [
            f"  const i64 width = tile_width({most}, {across}, {units}, {work});",
            f"  void* const C[] = {{{given}(void*)&width}};",
            f"  share({_NAME}_part, P, C, {units} * (({across} + width - 1) / width), {work});",
        ]

    def open_rows(self) -> str:
        """Open the loop over outer points; where some accesses run across them, over tiles, whose elements are turned into
        arrays before. Gives the number of units: points or tiles."""
        held = self.held
        if held is None:
            self.odometer("i", self.outer)
            return self.product(self.outer)
        t = held.variable
        for n, length in _rows_held(held):
            kind = BUFFER[self.loop.body[n].dtype]
            self.put(f"alignas(64) {kind} turned{n}[{held.points * pitch(length)}];")
        self.odometer("i", *self.tiles_of(held))
        size = self.number(self.outer[t])
        self.put(f"const i64 t0 = tile * {held.points}, t1 = lesser<i64>(t0 + {held.points}, {size});")
        for n, length in _rows_held(held):
            if self.loop.body[n].op == "load":
                at, jump = self.corner(n, t)
                into = f"turned{n}, {pitch(length)}"
                self.put(f"turn(b{self.loop.body[n].attr} + {at}, {jump}, {self.number(length)}, t1 - t0, {into});")
        self.open(f"for (i64 i{t} = t0; i{t} < t1; ++i{t})")
        self.elements = {
            n: f"turned{numbers[0]}[(i{t} - t0) * {pitch(length)} + r0]"
            for numbers, length in zip(held.slots, held.length, strict=True)
            for n in numbers
        }
        others, _, _ = self.tiles_of(held)
        return f"{self.product(others)} * {_tiles(self.driver_number(self.outer[t]), held)}"

    def close_rows(self) -> None:
        """Go on to the next outer point or tile; what a tile leaves is turned into place before."""
        held = self.held
        if held is None:
            self.step("i", self.outer)
            return
        self.elements = {}
        self.close()
        for n, length in _rows_held(held):
            if self.loop.body[n].op == "store":
                at, jump = self.corner(n, held.variable)
                to = f"b{self.loop.body[n].attr} + {at}, {jump}"
                self.put(f"turn(turned{n}, {pitch(length)}, t1 - t0, {self.number(length)}, {to});")
        self.step("i", *self.tiles_of(held))

    def tiles_of(self, held: Tile) -> tuple[list[int], str, list[str]]:
        """The outer ranges beside the one that is cut into tiles, the number of tiles, and the names of those ranges."""
        others = [k for k in range(len(self.outer)) if k != held.variable]
        tiles = _tiles(self.number(self.outer[held.variable]), held)
        return [self.outer[k] for k in others], tiles, [f"i{k}" for k in others]

    def corner(self, n: int, t: int) -> tuple[str, str]:
        """Of what an instruction touches in a tile, the first element, and how far apart neighbours in a row are."""
        stage = next(k for k in range(len(self.loop.stages)) if n in self.numbers(k))
        x = self.loop.body[n]
        first = substitute(index_of(x), {f"i{t}": symbol("t0"), "r0": 0})
        return self.dim(first, self.loop.ranges(stage)), self.number(coefficient(x, "r0"))

    def folded(self, units: str) -> list[str]:
        """Sums and extremes over the outer points, in ``units`` units: each block of those takes what is its own, in order,
        and the blocks' results are joined, sums in f64, in order; gives the lines of the driver."""
        inner = max(shape.total(self.loop.stages[k]) for k in self.folds.values())
        sizes = {n: [int_of(m) for m in self.loop.stages[k].inner] for n, k in self.folds.items()}
        kind = {n: VALUE[self.loop.body[n].dtype] for n in self.folds}
        at = self.begin(f"{_NAME}_block")
        self.put(f"const i64 blocks = *(const i64*)B[{self.extra + len(sizes)}];")
        self.put(f"const i64 units = *(const i64*)B[{self.extra + len(sizes) + 1}];")
        self.open("for (i64 u = lo; u < hi; ++u)")
        self.put(f"void* C[{self.extra + len(sizes)}];")
        self.put(f"for (int k = 0; k < {self.extra}; ++k) C[k] = B[k];")
        for j, n in enumerate(self.folds, self.extra):
            many = self.product_here(sizes[n])
            self.put(f"{kind[n]}* const f{n} = ({kind[n]}*)B[{j}] + u * ({many});")
            x = self.loop.body[n]
            self.put(f"for (i64 c = 0; c < {many}; ++c) f{n}[c] = {neutral(FOLDS[x.op], x.dtype)};")
            self.put(f"C[{j}] = f{n};")
        self.put(f"{_NAME}_part(P, C, units * u / blocks, units * (u + 1) / blocks);")
        self.close()
        self.end(at)
        driver: list[str] = []
        nbytes = " + ".join(f"{self.product(sizes[n])} * sizeof({kind[n]})" for n in self.folds)
        points = 1 if self.held is None else self.held.points
        driver += [f"  const i64 units = {units};", f"  const i64 blocks = fold_blocks(units, {points}, {nbytes});"]
        for n in self.folds:
            many = self.product(sizes[n])
            driver.append(
                f"  {kind[n]}* const f{n} = ({kind[n]}*)__builtin_alloca(blocks * {many} * sizeof({kind[n]}));"
            )
        given = "".join(f"(void*)b{k}, " for k in range(len(self.loop.dtypes)))
        given += "(void*)&failed, " if self.loop.checks else ""
        given += "".join(f"(void*)f{n}, " for n in self.folds)
        driver.append(f"  void* const C[] = {{{given}(void*)&blocks, (void*)&units}};")
        work = f"{self.product(self.outer)} * {self.driver_number(inner)}"
        driver.append(f"  share({_NAME}_block, P, C, blocks, {work});")
        for j, n in enumerate(self.folds, self.extra):
            driver.append(self.combined_folds(j, n, sizes[n]))
        return driver

    def combined_folds(self, slot: int, n: int, sizes: list[int]) -> str:
        """The part that joins the blocks' results of one fold; gives the driver's line that calls it."""
        x = self.loop.body[n]
        kind, how = VALUE[x.dtype], FOLDS[x.op]
        wide = "double" if (how, x.dtype) == ("sum", "f32") else kind
        many = self.product_here(sizes)
        at = self.begin(f"{_NAME}_sum{n}")
        self.put(f"const i64 blocks = *(const i64*)B[{self.extra + len(self.folds)}];")
        self.put(f"const {kind}* const f{n} = (const {kind}*)B[{slot}];")
        self.open(f"for (i64 c = lo; c < hi; c += {DEEP})")
        self.put(f"const i64 m = lesser<i64>({DEEP}, hi - c);")
        self.put(f"{wide} s[{DEEP}];")
        self.put(f"for (i64 j = 0; j < m; ++j) s[j] = {neutral(how, x.dtype)};")
        join = COMBINE[how].format("s[j]", f"f{n}[u * ({many}) + c + j]")
        self.put(f"for (i64 u = 0; u < blocks; ++u) for (i64 j = 0; j < m; ++j) {join}")
        self.open("for (i64 j = 0; j < m; ++j)")
        for k in range(len(sizes)):
            below = " * ".join(self.number(m) for m in sizes[k + 1 :])
            whole = f"(c + j) / ({below})" if below else "(c + j)"
            self.put(f"const i64 r{k} = {whole if k == 0 else f'{whole} % {self.number(sizes[k])}'};")
        self.put(
            f"b{x.attr}[{self.dim(index_of(x), self.loop.ranges(self.folds[n]))}] = {stored(x.dtype, f'({kind})s[j]')};"
        )
        self.close()
        self.close()
        self.end(at)
        return f"  share({_NAME}_sum{n}, P, C, {self.product(sizes)}, blocks * {self.product(sizes)});"

    def nested_stage(self, k: int) -> None:
        """One stage at one outer point."""
        stage = self.loop.stages[k]
        sizes = [int_of(n) for n in stage.inner]
        reduces = [n for n in self.numbers(k) if self.loop.body[n].op == "reduce"]
        if reduces and not stage.ordered:
            self.reduced(k, sizes, reduces, ("0", self.number(sizes[0]) if sizes else ""))
            return
        self.accumulators(reduces)
        self.scans(k)
        done: frozenset[int] = frozenset()
        for j, n in enumerate(sizes):
            if j == len(sizes) - 1 and not stage.ordered:
                done = self.before(k, f"r{j}")
                self.simd(k, reduces)
            self.open(f"for (i64 r{j} = 0; r{j} < {self.number(n)}; ++r{j})")
        self.stage_body(k, done)
        for _ in sizes:
            self.close()
        self.results(reduces)

    def tile_stage(self, k: int) -> None:
        """One stage at the columns of a tile. Sums in f32 are taken over runs of points, four points at a time."""
        stage = self.loop.stages[k]
        sizes = [int_of(n) for n in stage.inner]
        self.tile_accumulators([n for n in self.numbers(k) if self.loop.body[n].op in ("reduce", "scan")])
        runs = [n for n in self.numbers(k) if self.in_runs(n)]
        at, run = shape.chunked(sizes, DEEP) if runs else (-1, 0)
        four = at >= 0 and at == len(sizes) - 1 and len(stage.body) <= _SHORT and not any(x.acts for x in stage.body)
        for j, n in enumerate(sizes):
            low, high = "0", self.number(n)
            if j == at:
                self.open(f"for (i64 q = 0; q < {high}; q += {run})")
                self.put(f"const i64 q_ = lesser<i64>(q + {run}, {high});")
                for m in runs:
                    self.put(f"float s{m}[{self.tile}];")
                    self.put(f"for (i64 j = 0; j < many; ++j) s{m}[j] = 0;")
                low, high = "q", "q_"
            if j == at and four:
                self.put("i64 f = q;")
                self.open("for (; f + 4 <= q_; f += 4)")
                self.tile_points(k, [f"f + {m}" for m in range(4)])
                self.close()
                low = "f"
            self.open(f"for (i64 r{j} = {low}; r{j} < {high}; ++r{j})")
        self.tile_points(k, [])
        for j in range(len(sizes) - 1, -1, -1):
            self.close()
            if j == at:
                for m in runs:
                    self.put(f"for (i64 j = 0; j < many; ++j) a{m}[j] += s{m}[j];")
                self.close()
        for n in self.numbers(k):
            if n in self.group:
                self.put(f"for (i64 j = 0; j < many; ++j) a{n}[j] = {self.result(n)}[j];")

    def tile_points(self, k: int, points: Sequence[str]) -> None:
        """The columns of a tile at one inner point, or at several ``points`` of the last inner range."""
        done = self.before(k, f"i{len(self.outer) - 1}") if not points else frozenset[int]()
        self.simd(k, [])
        self.open("for (i64 j = 0; j < many; ++j)")
        self.put(f"const i64 i{len(self.outer) - 1} = from_ + j;")
        for n in shape.used(self.loop, k):
            if n < self.loop.starts[k] and n in self.lasting:
                self.put(f"const {VALUE[self.loop.body[n].dtype]} v{n} = a{n}[j];")
        for p in points:
            self.put("{")
            self.put(f"const i64 r{len(self.loop.stages[k].inner) - 1} = {p};")
            self.stage_body(k)
            self.put("}")
        if not points:
            self.stage_body(k, done)
        for n in self.numbers(k):
            if n in self.lasting and self.loop.body[n].op != "reduce":
                self.put(f"a{n}[j] = v{n};")
        self.close()

    def tile_accumulators(self, numbers: Sequence[int]) -> None:
        for n in numbers:
            x = self.loop.body[n]
            if x.family:
                for kind, name, start in self.carried(n) if self.group[n] == n else ():
                    self.put(f"{kind} {name}[{self.tile}];")
                    self.put(f"for (i64 j = 0; j < many; ++j) {name}[j] = {start};")
                continue
            value = self.loop.body[x.args[0]].dtype if self.arg(n) else x.dtype
            start = neutral(str(x.attr), value)
            if self.arg(n):
                self.put(f"{VALUE[value]} best{n}[{self.tile}];")
                self.put(f"for (i64 j = 0; j < many; ++j) {{ best{n}[j] = {start}; a{n}[j] = -1; }}")
                continue
            if x.op == "scan":
                self.put(f"{VALUE[x.dtype]} c{n}[{self.tile}];")
            start = "0" if self.in_runs(n) else start
            self.put(f"for (i64 j = 0; j < many; ++j) {'c' if x.op == 'scan' else 'a'}{n}[j] = {start};")


def _rows_held(held: Tile) -> list[tuple[int, int]]:
    """Of what a tile holds, the first instruction that touches it, and the length of its rows."""
    return [(numbers[0], length) for numbers, length in zip(held.slots, held.length, strict=True)]


def _tiles(size: str, held: Tile) -> str:
    """How many tiles a range of this size has."""
    return f"(({size} + {held.points - 1}) / {held.points})"

"""Lines of C++ for loops: sizes as parameters, index expressions, nests, parts that threads share.

Comes in: text, sizes and index expressions, in order. Goes out: lines, and the numbers that parameters stand for.
Promised: a part declares the parameters and buffers that it uses and no others.
"""

from __future__ import annotations

from collections.abc import Sequence

from lowtide.codegen.cpp_ops import BUFFER
from lowtide.ir.index import affine, bounds
from lowtide.ir.loops import Instr, Loop
from lowtide.ir.symbolic import Dim


class Text:
    """The lines of one source so far; short-lived."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.params: list[int] = []
        self.lines: list[str] = []
        self.depth = 1
        self.extra = len(loop.dtypes) + loop.checks  # where what a part needs besides buffers begins

    def put(self, text: str) -> None:
        """A line."""
        self.lines.append("  " * self.depth + text)

    def open(self, text: str) -> None:
        """A line that begins a block."""
        self.put(f"{text} {{")
        self.depth += 1

    def close(self) -> None:
        """The end of a block."""
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

    def begin(self, name: str) -> int:
        """Open a part; what it needs to know of its parameters is filled in by ``end``."""
        self.depth = 1
        self.lines.append(f"static void {name}(const i64* P, void* const* B, i64 lo, i64 hi) {{")
        for k, t in enumerate(self.loop.dtypes):
            const = "const " if k not in self.loop.written else ""
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
            self.lines.append(f"  if (bad) __atomic_fetch_or((int32_t*)B[{self.extra - 1}], bad, __ATOMIC_RELAXED);")
        self.lines.append("}")

    def driver_number(self, n: int) -> str:
        """A size in the function itself, which has no names for parameters."""
        text = self.number(n)
        return f"P[{text[1:]}]" if text[0] == "p" else text

    def product(self, sizes: Sequence[int]) -> str:
        """A product of sizes in the function itself."""
        return " * ".join(self.driver_number(n) for n in sizes) or "1"

    def product_here(self, sizes: Sequence[int]) -> str:
        """A product of sizes in a part."""
        return " * ".join(self.number(n) for n in sizes) or "1"

    def odometer(
        self, letter: str, sizes: Sequence[int], tiles: str | None = None, names: Sequence[str] | None = None
    ) -> None:
        """Open the loop over units lo..hi, with the variables of ``sizes`` at unit lo."""
        counts = [self.number(n) for n in sizes] + ([tiles] if tiles else [])
        names = [*(names or (f"{letter}{k}" for k in range(len(sizes)))), *(["tile"] if tiles else [])]
        for k, name in enumerate(names):
            below = " * ".join(counts[k + 1 :])
            text = f"lo / ({below})" if below else "lo"
            self.put(f"i64 {name} = {text if k == 0 else f'{text} % {counts[k]}'};")
        self.open("for (i64 u = lo; u < hi; ++u)")

    def step(
        self, letter: str, sizes: Sequence[int], tiles: str | None = None, names: Sequence[str] | None = None
    ) -> None:
        """Go on to the next unit, and close the loop."""
        counts = [self.number(n) for n in sizes] + ([tiles] if tiles else [])
        names = [*(names or (f"{letter}{k}" for k in range(len(sizes)))), *(["tile"] if tiles else [])]
        text = ""
        for k in range(len(names) - 1, -1, -1):
            if k == 0:
                text += f"++{names[0]};"
            else:
                text += f"if (++{names[k]} == {counts[k]}) {{ {names[k]} = 0; "
        self.put(text + " }" * (len(names) - 1))
        self.close()


def _mentions(line: str, name: str) -> bool:
    at = line.find(name)
    while at >= 0:
        after = line[at + len(name) : at + len(name) + 1]
        before = line[at - 1 : at]
        if not (after.isdigit() or before.isalnum() or before == "_"):
            return True
        at = line.find(name, at + 1)
    return False


def index_of(x: Instr) -> Dim:
    """The index of an instruction that has one."""
    assert x.index is not None
    return x.index


def coefficient(x: Instr, variable: str) -> int:
    """What a variable is multiplied with in the index; 0 where the index is no sum of multiples."""
    found = affine(index_of(x))
    return 0 if found is None else found[0].get(variable, 0)

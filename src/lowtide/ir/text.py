"""The one text form of a Graph: what dumps, goldens and bug reports hold. It prints, diffs, and parses back.

Comes in: any Graph, or text. Goes out: text, or the Graph. Promised: ``parse(print_graph(g)) == g``, also for graphs
that do not verify, so that a broken one can be reported; a text that is none is refused with line, column and excerpt.
The grammar is in docs/design/ir.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from lowtide.core.errors import FileError
from lowtide.ir.graph import Arg, Atom, Graph, Layout, Op, Origin, Path, Ref, Section, Value, refs_in
from lowtide.ir.symbolic import Expr
from lowtide.ir.words import DEVICE, KINDS, NAME, PLACE, TAG, WORD, Scan, bare, quoted

VERSION = 1


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the text. ``place``: what stands on it, as ``("op", section, index)``, the same with ``input`` and
    ``return``, ``("value", name)``, or a word for the rest."""

    text: str
    place: tuple[str | int, ...]


def print_graph(graph: Graph) -> str:
    """The text of a graph, ending in a line break."""
    return "".join(f"{line.text}\n" for line in lines(graph))


def lines(graph: Graph) -> tuple[Line, ...]:
    """The lines of the text, each with what it speaks of."""
    printer = _Printer(graph)
    printer.head()
    for i, section in enumerate(graph.sections):
        printer.section(i, section)
    printer.rest()
    return tuple(printer.out)


def value_name(name: str) -> str:
    """``%name``, the name in quotes where it has unusual characters."""
    return f"%{bare(name, NAME)}"


def arg_text(arg: Arg) -> str:
    """The text of one argument."""
    match arg:
        case tuple():
            return f"[{', '.join(map(arg_text, arg))}]"
        case Ref():
            return value_name(arg.name)
        case Atom():
            kind = arg.kind if arg.kind in KINDS else quoted(arg.kind)
            return f"{kind}:{bare(arg.text, DEVICE)}"
        case str():
            return quoted(arg)
        case Expr() | bool() | None | int() | float():
            return str(arg)


def type_text(value: Value) -> str:
    """``f32[8,4]{4,1}+16 @cpu pinned in %base``: dtype, size, stride, offset (elements), device, ``pinned`` or not, storage if
    not its own."""
    y = value.layout
    stride = f"{{{','.join(map(str, y.stride))}}}" if y.stride else ""
    offset = f"+{y.offset}" if y.offset != 0 else ""
    pinned = " pinned" if y.pinned else ""
    base = f" in {value_name(value.storage)}" if value.storage != value.name else ""
    size = ",".join(map(str, y.size))
    return f"{bare(y.dtype, WORD)}[{size}]{stride}{offset} @{bare(y.device, DEVICE)}{pinned}{base}"


def _short_files(graph: Graph) -> dict[str, str]:
    """Path -> the shortest ending that no other path shares."""
    origins = [v.origin for v in graph.values] + [op.origin for op in graph.ops]
    paths = dict.fromkeys(o.file for o in origins)
    out: dict[str, str] = {}
    taken: set[str] = set()
    for path in paths:
        parts = path.split("/")
        endings = ("/".join(parts[-n:]) for n in range(1, len(parts) + 1))
        free = (e for e in endings if e and e not in taken and (e == path or e not in paths))
        out[path] = next(free, path)
        taken.add(out[path])
    return out


class _Printer:
    """Collects the lines of one graph; used once (``lines``)."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.out: list[Line] = []
        self.files = _short_files(graph)
        self.declared: dict[str, None] = {}
        at = {v.name: i for i, v in enumerate(graph.values)}
        where = [at.get(c, -1) for c in graph.constants]
        # Constants stand among the other definitions where ``values`` has them, if that keeps their own order.
        self.constants = list(zip(where if where == sorted(where) else [-1] * len(where), graph.constants, strict=True))
        self.constants.reverse()
        self.unprinted = set(graph.constants)
        self.indent = "  "
        self.at = at

    def add(self, text: str, *place: str | int) -> None:
        self.out.append(Line(text, place))

    def origin(self, origin: Origin) -> str:
        if origin == Origin():
            return "  # -"
        words: list[str] = []
        if origin.file or origin.line:
            words.append(f"{bare(self.files[origin.file], PLACE) if origin.file else ''}:{origin.line}")
        if origin.module:
            plain = PLACE.fullmatch(origin.module) and origin.module != "-" and origin.module[0] != "["
            words.append(origin.module if plain else quoted(origin.module))
        if origin.tags:
            words.append(f"[{' '.join(bare(tag, TAG) for tag in origin.tags)}]")
        return f"  # {' '.join(words)}"

    def new(self, name: str) -> Value | None:
        """The value that a line has to declare: known to the graph, and not declared yet."""
        if name in self.declared or name not in self.at:
            return None
        self.declared[name] = None
        return self.graph.value[name]

    def named(self, name: str) -> str:
        """A name with its type where this is the line that declares it."""
        value = self.new(name)
        if value is None:
            return value_name(name)
        return f"{value_name(name)}: {type_text(value)}{self.origin(value.origin) if value.origin != Origin() else ''}"

    def head(self) -> None:
        self.add(f"graph {bare(self.graph.name, WORD)} version {VERSION}", "graph")
        for path, short in self.files.items():
            if short != path:
                self.add(f"  file {bare(short, PLACE)} = {quoted(path)}", "file")
        if self.graph.symbols:
            self.add(f"  symbols {' '.join(bare(s, WORD) for s in self.graph.symbols)}", "symbols")

    def constants_before(self, name: str | None) -> None:
        """Print the constants that ``values`` has ahead of ``name`` (None: all that are left)."""
        limit = len(self.at) if name is None else self.at.get(name, -1)
        while self.constants and (name is None or self.constants[-1][0] < limit or name in self.unprinted):
            _, constant = self.constants.pop()
            self.unprinted.discard(constant)
            self.add(f"{self.indent}const {self.named(constant)}", "value", constant)

    def constants_of(self, names: Iterable[str]) -> None:
        """Print the constants among ``names``, which are about to be used."""
        for name in names:
            if name in self.unprinted:
                self.constants_before(name)

    def section(self, i: int, section: Section) -> None:
        self.add(f"  section {bare(section.name, WORD)}", "section", i)
        self.indent = "    "
        for k, given in enumerate(section.inputs):
            if isinstance(given, Ref):
                if given.name not in self.declared:
                    self.constants_before(given.name)
                self.add(f"    input {self.named(given.name)}", "input", i, k)
            else:
                self.add(f"    input {arg_text(given)}", "input", i, k)
        for k, op in enumerate(section.ops):
            self.op(op, i, k)
        for k, arg in enumerate(section.returns):
            self.constants_of(refs_in(arg))
            self.add(f"    return {'saved ' if k in section.saved else ''}{arg_text(arg)}", "return", i, k)

    def op(self, op: Op, i: int, k: int) -> None:
        first = next((n for n in op.outputs if n is not None and n not in self.declared), None)
        if first is not None:
            self.constants_before(first)
        self.constants_of(op.reads)
        results, later, usual = self.results(op)
        name = "" if usual == ("one", op.name) else f" as {bare(op.name, NAME)}"
        returns = "" if usual[0] == op.returns else f" returns {bare(op.returns, WORD)}"
        returns += f" at {arg_text(op.paths)}" if op.paths else ""
        args = [arg_text(a) for a in op.args] + [f"{bare(key, WORD)}={arg_text(a)}" for key, a in op.kwargs]
        mutates = f" mutates {' '.join(map(value_name, op.mutates))}" if op.mutates else ""
        effect = f" effect {bare(op.effect, WORD)}" if op.effect is not None else ""
        after = "".join(f" after {bare(n, NAME)}" for n in op.after)
        group = f" group {bare(op.group, WORD)}" if op.group else ""
        said = f"{mutates}{effect}{after}{group}{name}{returns}"
        call = f"{'view ' if op.view else ''}{bare(op.target, WORD)}({', '.join(args)}){said}"
        origin = self.origin(op.origin) if op.origin != Origin() else ""
        self.add(f"    {results}{call}{origin}", "op", i, k)
        for value in later:
            own = self.origin(value.origin) if value.origin != op.origin else ""
            self.add(f"      {value_name(value.name)}: {type_text(value)}{own}", "op", i, k)

    def results(self, op: Op) -> tuple[str, list[Value], tuple[str, str]]:
        """What stands before the call, the values that lines of their own declare, and the (returns, name) that a
        reader takes from this."""
        if len(op.outputs) == 1 and op.returns != "tuple":
            name = op.outputs[0]
            if name is None:
                return "_ = ", [], ("one", "")
            value = self.new(name)
            inline = value is not None and value.origin == op.origin
            typed = f": {type_text(value)}" if value is not None and inline else ""
            later = [] if value is None or inline else [value]
            return f"{value_name(name)}{typed} = ", later, ("one", name)
        if not op.outputs and op.returns != "tuple":
            return "call ", [], ("none", "")
        later = [v for n in op.outputs if n is not None and (v := self.new(n)) is not None]
        names = ", ".join("_" if n is None else value_name(n) for n in op.outputs)
        return f"({names}) = ", later, ("tuple", "")

    def rest(self) -> None:
        self.constants_before(None)
        for v in self.graph.values:
            if self.new(v.name) is not None:  # nothing defines it, which verify will say
                own = self.origin(v.origin) if v.origin != Origin() else ""
                self.add(f"  {value_name(v.name)}: {type_text(v)}{own}", "value", v.name)
        if list(self.declared) != [v.name for v in self.graph.values]:
            self.add(f"  order {' '.join(value_name(v.name) for v in self.graph.values)}", "order")
        for i, section in enumerate(self.graph.sections):
            if section.saved != tuple(sorted({k for k in section.saved if 0 <= k < len(section.returns)})):
                self.add(f"  saved {i} {' '.join(map(str, section.saved))}", "saved")


def excerpt(graph: Graph, place: tuple[str | int, ...], around: int = 10) -> str:
    """About ``around`` lines of the text around ``place``, its own marked with ``>``."""
    all_lines = lines(graph)
    hit = next((i for i, line in enumerate(all_lines) if line.place == place), 0)
    first = max(0, min(hit - around // 2, len(all_lines) - around))
    return "\n".join(_marked(all_lines[first : first + around], place))


def _marked(shown: tuple[Line, ...], place: tuple[str | int, ...]) -> Iterator[str]:
    for line in shown:
        yield f"{'>' if line.place == place else ' '} {line.text}"


def parse(text: str, file: str = "<text>") -> Graph:
    """The Graph of a text. It is not verified.

    Raises:
        FileError: not the text of a graph; names line and column, says what was expected, shows the line.
    """
    reader = _Reader(file)
    for number, line in enumerate(text.split("\n"), 1):
        scan = Scan(line, number, file)
        scan.space()
        if scan.rest() and not scan.rest().startswith("#"):
            reader.line(scan)
    return reader.graph()


class _Reader:
    """Collects the lines of one text into a Graph; used once (``parse``)."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.name: str | None = None
        self.files: dict[str, str] = {}
        self.symbols: tuple[str, ...] = ()
        self.constants: list[str] = []
        self.values: dict[str, Value] = {}
        self.sections: list[_OpenSection] = []
        self.order: tuple[str, ...] | None = None

    def line(self, scan: Scan) -> None:
        if self.name is None:
            self.header(scan)
        elif word := scan.maybe(r"(file|symbols|const|section|input|return|order|saved)(?=\s)"):
            getattr(self, f"read_{word}")(scan)
        else:
            self.op_or_value(scan)
        scan.end()

    def header(self, scan: Scan) -> None:
        scan.need(r"graph(?=\s)", "'graph' and its name, as the first line,")
        name = scan.word(WORD, "the graph's name")
        scan.need("version", "'version'")
        at, version = scan.at, scan.whole()
        if version != VERSION:
            scan.fail(f"version {VERSION} is expected, not {version}", at)
        self.name = name

    def read_file(self, scan: Scan) -> None:
        short = scan.word(PLACE, "a file's short name")
        scan.need("=", "'='")
        self.files[short] = scan.string()

    def read_symbols(self, scan: Scan) -> None:
        while scan.rest():
            self.symbols += (scan.word(WORD, "the name of a size"),)

    def read_const(self, scan: Scan) -> None:
        self.constants.append(self.named(scan))

    def read_section(self, scan: Scan) -> None:
        self.sections.append(_OpenSection(scan.word(WORD, "the section's name")))

    def here(self, scan: Scan) -> _OpenSection:
        if not self.sections:
            scan.fail("this stands in no section")
        return self.sections[-1]

    def read_input(self, scan: Scan) -> None:
        inputs, at = self.here(scan).inputs, scan.at
        if scan.rest().startswith("%"):
            inputs.append(Ref(self.named(scan)))
            return
        given = scan.arg()
        if given is not None and not isinstance(given, Expr):
            scan.fail("an input is a value, a size or None", at)
        inputs.append(given)

    def read_return(self, scan: Scan) -> None:
        section = self.here(scan)
        if scan.maybe(r"saved(?=\s+\S)"):
            section.saved += (len(section.returns),)
        section.returns.append(scan.arg())

    def read_order(self, scan: Scan) -> None:
        at, self.order = scan.at, scan.values()
        if sorted(self.order) != sorted(self.values):
            scan.fail("the order has to name every value above it once", at)

    def read_saved(self, scan: Scan) -> None:
        at, index = scan.at, scan.whole()
        if not 0 <= index < len(self.sections):
            scan.fail(f"there is no section {index}", at)
        self.sections[index].saved = ()
        while scan.rest():
            self.sections[index].saved += (scan.whole(),)

    def named(self, scan: Scan) -> str:
        """A value's name, and its type and origin where they stand here."""
        at, name = scan.at, scan.value()
        if scan.maybe(":"):
            layout, storage = self.typed(scan, name)
            self.define(scan, at, Value(name, layout, storage, self.origin(scan) or Origin()))
        return name

    def typed(self, scan: Scan, name: str) -> tuple[Layout, str]:
        layout = scan.layout()
        return layout, scan.value() if scan.maybe(r"in(?=\s)") else name

    def define(self, scan: Scan, at: int, value: Value) -> None:
        if value.name in self.values:
            scan.fail(f"%{value.name} has its type already", at)
        self.values[value.name] = value

    def origin(self, scan: Scan) -> Origin | None:
        """What stands behind ``#``: file:line, module and tags, ``-`` for none. None where there is no ``#``."""
        if not scan.maybe("#"):
            return None
        if scan.maybe(r"-(?=\s|$)"):
            return Origin()
        file, line, module = "", 0, ""
        if re.match(r'("(?:[^"\\]|\\.)*"|[^\s":#]*):', scan.rest()):
            short = "" if scan.rest().startswith(":") else scan.word(PLACE, "a file")
            file = self.files.get(short, short)
            scan.need(":", "':'")
            line = scan.whole()
        if scan.rest() and not scan.rest().startswith("["):
            module = scan.word(PLACE, "a module path")
        tags: list[str] = []
        if scan.maybe(r"\["):
            while not scan.maybe(r"\]"):
                tags.append(scan.word(TAG, "a tag or ']'"))
        return Origin(file, line, module, tuple(tags))

    def op_or_value(self, scan: Scan) -> None:
        start, outputs, returns, layout, storage = scan.at, list[str | None](), "none", None, ""
        if scan.maybe(r"call(?=\s)"):
            pass
        elif scan.maybe(r"\("):
            returns = "tuple"
            while not scan.maybe(r"\)"):
                if outputs:
                    scan.need(",", "',' or ')'")
                outputs.append(None if scan.maybe(r"_(?=\s*[,)])") else scan.value())
        elif scan.maybe(r"_(?=\s*=)"):
            returns, outputs = "one", [None]
        else:
            if not scan.rest().startswith("%"):
                scan.fail("a line of a graph is expected: an input, an operation, a return, ...")
            returns, outputs = "one", [scan.value()]
            if scan.maybe(":"):
                layout, storage = self.typed(scan, str(outputs[0]))
        if layout is not None and not scan.rest().startswith("="):
            self.own_line(scan, start, Value(str(outputs[0]), layout, storage))
            return
        if returns != "none":
            scan.need("=", "'='")
        op = self.op(scan, tuple(outputs), returns)
        if layout is not None:
            self.define(scan, start, Value(str(outputs[0]), layout, storage, op.origin))
        self.here(scan).ops.append(op)

    def own_line(self, scan: Scan, start: int, value: Value) -> None:
        """A type on a line of its own; without an origin it has that of the operation above."""
        ops = self.sections[-1].ops if self.sections else []
        above = ops[-1].origin if ops and value.name in ops[-1].outputs else Origin()
        own = self.origin(scan)
        self.define(scan, start, Value(value.name, value.layout, value.storage, above if own is None else own))

    def op(self, scan: Scan, outputs: tuple[str | None, ...], returns: str) -> Op:
        view = scan.maybe(r'view\s+(?=[\w"])') is not None
        target = scan.word(WORD, "an operation such as aten.add.Tensor")
        args, named = scan.call_args()
        mutates = scan.values() if scan.maybe(r"mutates(?=\s)") else ()
        effect = scan.word(WORD, "an effect") if scan.maybe(r"effect(?=\s)") else None
        after: list[str] = []
        while scan.maybe(r"after(?=\s)"):
            after.append(scan.word(NAME, "an operation's name"))
        group = scan.word(WORD, "a group's name") if scan.maybe(r"group(?=\s)") else ""
        name = (outputs[0] or "") if returns == "one" else ""
        name = scan.word(NAME, "the operation's name") if scan.maybe(r"as(?=\s)") else name
        returns = scan.word(WORD, "one, tuple or none") if scan.maybe(r"returns(?=\s)") else returns
        paths = self.paths(scan) if scan.maybe(r"at(?=\s)") else ()
        origin = self.origin(scan) or Origin()
        places = (origin, paths, tuple(after), group)
        return Op(name, target, args, named, outputs, returns, view, mutates, effect, *places)

    def paths(self, scan: Scan) -> tuple[Path, ...]:
        """Where the outputs lie in a nest: a list of lists of positions and keys."""
        at, given = scan.at, scan.arg()
        out: list[Path] = []
        for path in given if isinstance(given, tuple) and given else (given,):  # an empty list is no place either
            steps = path if isinstance(path, tuple) else ()
            out.append(tuple(s for s in steps if isinstance(s, int | str) and not isinstance(s, bool)))
            if not steps or len(out[-1]) < len(steps):
                scan.fail("a list of places is expected, each a list of positions and keys", at)
        return tuple(out)

    def graph(self) -> Graph:
        if self.name is None:
            raise FileError(self.file, "line 1", "no graph stands here")
        values = tuple(self.values[n] for n in self.order or self.values)
        sections = tuple(
            Section(s.name, tuple(s.inputs), tuple(s.ops), tuple(s.returns), s.saved) for s in self.sections
        )
        return Graph(self.name, values, sections, tuple(self.constants), self.symbols)


@dataclass
class _OpenSection:
    """A section while it is read."""

    name: str
    inputs: list[Ref | Expr | None] = field(default_factory=list[Ref | Expr | None])
    ops: list[Op] = field(default_factory=list[Op])
    returns: list[Arg] = field(default_factory=list[Arg])
    saved: tuple[int, ...] = ()

    def closed(self) -> Section:
        return Section(self.name, tuple(self.inputs), tuple(self.ops), tuple(self.returns), self.saved)

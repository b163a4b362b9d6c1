"""What every Graph must keep, checked: the one definition of a well-formed graph.

Comes in: any Graph, from capture, a pass, text or JSON. Goes out: nothing, or a VerifyError with the clause that is
broken, ten lines of the graph's text around the culprit, and the user's line. Promised: no clause depends on another
stage; the clauses are listed in docs/design/ir.md and each has a test that breaks it.
"""

from __future__ import annotations

import linecache
from collections.abc import Iterable, Iterator
from typing import NoReturn

from lowtide.core.errors import VerifyError
from lowtide.ir.graph import ITEMSIZE, WAIT, Arg, Atom, Graph, Layout, Op, Origin, Path, Ref, Section, Value, refs_in
from lowtide.ir.symbolic import Dim, Expr, symbols_of
from lowtide.ir.text import excerpt
from lowtide.ir.words import KINDS

# What an operation may do beyond its results and ``mutates``. "random" draws from a generator.
EFFECTS = ("random",)

Place = tuple[str | int, ...]


def verify(graph: Graph) -> None:
    """Check every clause, in the order of the program.

    Raises:
        VerifyError: the first broken clause.
    """
    _Verifier(graph).run()


class _Verifier:
    """Walks one graph with what it has seen so far; used once (``verify``)."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.symbols = frozenset(graph.symbols)
        self.defined: dict[str, None] = {}  # every value so far, in order of definition
        self.made: set[str] = set()  # by operations
        self.saved: set[str] = set()  # by sections so far
        self.scope: set[str] = set()  # in the section at hand
        self.op_names: set[str] = set()

    def fail(self, clause: str, message: str, place: Place, origin: Origin | None = None) -> NoReturn:
        where = f"\n  {_user_line(origin)}" if origin is not None and origin.file else ""
        raise VerifyError(clause, f"{message}{where}\n{excerpt(self.graph, place)}")

    def run(self) -> None:
        self.names()
        for value in self.graph.values:
            self.layout(value)
        for i, section in enumerate(self.graph.sections):
            self.section(section, i)
        self.all_defined()
        for value in self.graph.values:
            self.storage(value)
        self.bound_symbols()
        self.used_saves()

    def names(self) -> None:
        """Names that stand for themselves are given once."""
        graph = self.graph
        _once(self, "value-defined-once", (v.name for v in graph.values), "value %{} is listed twice", "value")
        _once(self, "constant", graph.constants, "constant %{} is listed twice", "value")
        _once(self, "symbol", graph.symbols, "size {} is declared twice", "symbols")
        _once(self, "section", (s.name for s in graph.sections), "two sections are called {!r}", "section")
        if not graph.sections:
            self.fail("section", "a graph has at least one section", ("graph",))
        for name in graph.constants:
            if name not in graph.value:
                self.fail("value-known", f"constant %{name} is no value of the graph", ("value", name))

    def layout(self, value: Value) -> None:
        """dtype, ranks, signs and symbols of one layout."""
        y, name = value.layout, f"%{value.name}"
        if y.dtype not in ITEMSIZE:
            self.value_fail("dtype", f"{name} has the dtype {y.dtype!r}; known: {', '.join(ITEMSIZE)}", value)
        if len(y.size) != len(y.stride):
            self.value_fail("rank", f"{name} has {len(y.size)} sizes and {len(y.stride)} strides", value)
        if y.pinned and y.device != "cpu":
            self.value_fail("pinned", f"{name} is pinned on {y.device}; only memory of the host can be", value)
        for what, dims in (("size", y.size), ("stride", y.stride), ("offset", (y.offset,))):
            for d in dims:
                if isinstance(d, int) and d < 0:
                    self.value_fail("negative", f"{name} has the {what} {d}", value)
                if unknown := symbols_of(d) - self.symbols:
                    self.value_fail("symbol", f"{name} has the undeclared size {min(unknown)} in its {what}", value)

    def value_fail(self, clause: str, message: str, value: Value) -> NoReturn:
        self.fail(clause, message, self.place_of(value.name), value.origin)

    def place_of(self, name: str) -> Place:
        """The line that declares a value: an input, an operation, or one of its own."""
        if name in self.graph.constants:
            return ("value", name)
        for i, s in enumerate(self.graph.sections):
            for k, given in enumerate(s.inputs):
                if given == Ref(name):
                    return ("input", i, k)
            for k, op in enumerate(s.ops):
                if name in op.outputs:
                    return ("op", i, k)
        return ("value", name)

    def section(self, section: Section, i: int) -> None:
        self.scope = set(self.graph.constants)
        for k, given in enumerate(section.inputs):
            self.input(given, ("input", i, k), section)
        for k, op in enumerate(section.ops):
            place = ("op", i, k)
            if op.name in self.op_names or not op.name:
                self.fail("op-name", f"the name {op.name!r} is empty or that of an operation above", place, op.origin)
            self.op_names.add(op.name)
            self.op(op, place)
        self.placed(section, i)
        self.waited(section, i)
        self.returns(section, i)

    def placed(self, section: Section, i: int) -> None:
        """What comes after others stands behind them, and what is in a group side by side."""
        above: set[str] = set()
        ended: set[str] = set()
        group = ""
        for k, op in enumerate(section.ops):
            place = ("op", i, k)
            if op.view and (op.after or op.group):
                self.fail(
                    "view", f"{op.name} is a view, which is no step, and its place is asked for", place, op.origin
                )
            for a in op.after:
                if a not in above:
                    because = f"{op.name} comes after {a}, which is no operation above it in {section.name}, or a view"
                    self.fail("after", because, place, op.origin)
            if op.view:
                continue
            above.add(op.name)
            if op.group != group:
                ended.add(group)
                group = op.group
                if group and group in ended:
                    self.fail("group", f"{op.name} is in {group!r}, which others have ended above", place, op.origin)

    def waited(self, section: Section, i: int) -> None:
        """What waits for a copy has that copy above it, and what is begun between host and device is waited for."""
        begun: dict[str, list[int]] = {}
        for k, op in enumerate(section.ops):
            into = op.args[0].name if op.args and isinstance(op.args[0], Ref) else ""
            if op.target == "aten.copy_.default" and op.args[2:] == (True,):
                begun.setdefault(into, []).append(k)
            elif op.target == WAIT and len(found := begun.pop(into, [])) != 1:
                because = f"{op.name} waits for %{into}, into which {len(found)} copies are begun above it"
                self.fail("wait", because, ("op", i, k), op.origin)
        for k in (k for found in begun.values() for k in found):
            op = section.ops[k]
            devices = {self.graph.value[n].layout.device for n in op.reads}
            if len(devices) == 2 and "cpu" in devices:
                because = f"{op.name} begins a copy, and nothing in {section.name} waits until it is done"
                self.fail("wait", because, ("op", i, k), op.origin)

    def input(self, given: Ref | Expr | None, place: Place, section: Section) -> None:
        if isinstance(given, Expr):
            self.known_symbols(given, place, None)
        if not isinstance(given, Ref):
            return
        name = given.name
        if name not in self.graph.value:
            self.fail("value-known", f"input %{name} of {section.name} is no value of the graph", place)
        if name in self.graph.constants:
            if name not in self.saved:
                self.fail("constant", f"%{name} is a constant and an input of {section.name}", place)
            return
        earlier = name in self.defined and place[1] != 0 and name not in self.scope
        if earlier and name not in self.saved:
            self.fail("saved", f"{section.name} takes %{name}, which no earlier section saves for it", place)
        self.define(name)

    def define(self, name: str) -> None:
        self.defined[name] = None
        self.scope.add(name)

    def op(self, op: Op, place: Place) -> None:
        args = (*op.args, *(a for _, a in op.kwargs))
        for arg in args:
            self.arg(arg, place, op)
        known = {"one": len(op.outputs) == 1, "tuple": True, "none": not op.outputs}
        if not known.get(op.returns, False):
            because = f"{op.name} returns {op.returns!r} and has {len(op.outputs)} outputs"
            self.fail("returns", f"{because}; 'one' has one, 'none' has none, 'tuple' has any", place, op.origin)
        if wrong := _misplaced(op):
            self.fail("returns", f"{op.name} {wrong}", place, op.origin)
        if op.returns == "one" and op.outputs[0] not in (None, op.name):
            self.fail(
                "op-name", f"{op.name!r} has the one output %{op.outputs[0]}, whose name it takes", place, op.origin
            )
        if op.effect is not None and op.effect not in EFFECTS:
            self.fail(
                "effect", f"{op.name} has the effect {op.effect!r}; known: {', '.join(EFFECTS)}", place, op.origin
            )
        for m in op.mutates:
            if m not in op.reads:
                self.fail("mutates", f"{op.name} changes %{m}, which is not among its arguments", place, op.origin)
        if op.view and op.mutates:
            self.fail("view", f"{op.name} is a view and changes %{op.mutates[0]}", place, op.origin)
        for name in op.outputs:
            if name is not None:
                self.output(op, name, place)

    def output(self, op: Op, name: str, place: Place) -> None:
        if name not in self.graph.value:
            self.fail("value-known", f"output %{name} of {op.name} is no value of the graph", place, op.origin)
        if name in self.defined or name in self.graph.constants:
            self.fail("value-defined-once", f"{op.name} defines %{name}, which is defined already", place, op.origin)
        storage = self.graph.value[name].storage
        stood_on = {self.graph.value[r].storage for r in op.reads}
        if storage not in stood_on and (op.view or storage != name):
            what = "views" if op.view else "gives"
            because = f"{op.name} {what} %{name} in %{storage}, on which none of its arguments stands"
            self.fail("storage", because, place, op.origin)
        self.define(name)
        self.made.add(name)

    def arg(self, arg: Arg, place: Place, op: Op | None) -> None:
        """Everything in one argument is known here."""
        origin = op.origin if op is not None else None
        for name in refs_in(arg):
            if name not in self.graph.value:
                self.fail("value-known", f"%{name} is no value of the graph", place, origin)
            if name not in self.scope:
                self.fail("defined-before-used", f"%{name} is not defined in this section up to here", place, origin)
        for leaf in _leaves(arg):
            if isinstance(leaf, Atom) and leaf.kind not in KINDS:
                self.fail("atom", f"{leaf.kind!r} is no kind of argument; known: {', '.join(KINDS)}", place, origin)
            if isinstance(leaf, Expr):
                self.known_symbols(leaf, place, origin)

    def known_symbols(self, dim: Dim, place: Place, origin: Origin | None) -> None:
        if unknown := symbols_of(dim) - self.symbols:
            self.fail("symbol", f"size {min(unknown)} is used and not declared", place, origin)

    def returns(self, section: Section, i: int) -> None:
        for k, arg in enumerate(section.returns):
            self.arg(arg, ("return", i, k), None)
        if list(section.saved) != sorted(set(section.saved)):
            self.fail("saved", f"saved positions {section.saved} of {section.name} do not ascend", ("section", i))
        for k in section.saved:
            if not 0 <= k < len(section.returns):
                self.fail("saved", f"{section.name} saves position {k} of {len(section.returns)}", ("section", i))
            arg = section.returns[k]
            if isinstance(arg, Ref):
                self.saved.add(arg.name)
            elif isinstance(arg, str | float | tuple | Atom):
                self.fail("saved", f"{section.name} saves {arg!r}, which is neither value nor size", ("return", i, k))

    def all_defined(self) -> None:
        """Every value has a definition, and ``values`` has them in that order."""
        graph = self.graph
        for v in graph.values:
            if v.name not in self.defined and v.name not in graph.constants:
                self.value_fail("value-defined-once", f"nothing defines %{v.name}", v)
        listed = [v.name for v in graph.values if v.name in self.defined]
        for name, expected in zip(listed, self.defined, strict=True):
            if name != expected:
                self.value_fail("order", f"values list %{name} where %{expected} is defined", graph.value[name])
        if graph.constants != tuple(v.name for v in graph.values if v.name in graph.constants):
            self.fail("order", "constants stand in another order than among the values", ("value", graph.constants[0]))

    def storage(self, value: Value) -> None:
        """A storage is a value that owns its bytes, and holds everything that stands on it."""
        graph, name = self.graph, f"%{value.name}"
        owner = graph.value.get(value.storage)
        if owner is None or owner.storage != owner.name:
            self.value_fail("storage", f"{name} stands on %{value.storage}, which owns no bytes", value)
        if owner is value:
            return
        y, whole = value.layout, owner.layout
        if y.device != whole.device:
            self.value_fail("storage", f"{name} is on {y.device}, its storage %{owner.name} on {whole.device}", value)
        if y.pinned != whole.pinned:
            self.value_fail("pinned", f"of {name} and its storage %{owner.name} only one is pinned", value)
        caller_owned = owner.name not in self.made  # then only the caller knows how far the bytes reach
        if not caller_owned and y.static and whole.static and y.extent > whole.extent:
            because = f"{name} reaches to byte {y.extent} of %{owner.name}, which has {whole.extent}"
            self.value_fail("extent", because, value)

    def bound_symbols(self) -> None:
        """Every declared size can be read off an input."""
        bound: set[str] = set()
        for s in self.graph.sections:
            for given in s.inputs:
                if isinstance(given, Expr):
                    bound |= symbols_of(given)
                elif given is not None and given.name not in self.made:
                    bound |= _symbols_in(self.graph.value[given.name].layout)
        for name in self.graph.symbols:
            if name not in bound:
                self.fail("symbol", f"size {name} is declared, and no input has it", ("symbols",))

    def used_saves(self) -> None:
        """What is saved is taken by a later section."""
        for i, section in enumerate(self.graph.sections):
            later = {g.name for s in self.graph.sections[i + 1 :] for g in s.inputs if isinstance(g, Ref)}
            for k in section.saved:
                arg = section.returns[k]
                if isinstance(arg, Ref) and arg.name not in later:
                    self.fail("saved", f"no later section takes %{arg.name}", ("return", i, k))


def _once(check: _Verifier, clause: str, names: Iterable[str], message: str, kind: str) -> None:
    seen: set[str] = set()
    for i, name in enumerate(names):
        if name in seen:
            place = {"value": ("value", name), "section": ("section", i)}.get(kind, (kind,))
            check.fail(clause, message.format(name), check.place_of(name) if kind == "value" else place)
        seen.add(name)


def _misplaced(op: Op) -> str:
    """What is wrong with the places of an operation's results, or nothing."""
    if not op.paths:
        return ""
    if op.returns != "tuple" or len(op.paths) != len(op.outputs):
        many = f"says where {len(op.paths)} results lie, returns {op.returns!r} and has {len(op.outputs)} outputs"
        return f"{many}; a tuple says it of each"
    inner = {p[:k] for p in op.paths for k in range(1, len(p))}
    seen: set[Path] = set()
    for p in op.paths:
        if not p:
            return "has a result at a place without steps, which is that of the whole"
        if any(isinstance(s, int) and s < 0 for s in p):
            return f"has a result at {list(p)}; positions count from 0"
        if p in seen:
            return f"has two results at {list(p)}"
        if p in inner:
            return f"has a result at {list(p)}, where others lie within"
        seen.add(p)
    return ""


def _leaves(arg: Arg) -> Iterator[Arg]:
    if isinstance(arg, tuple):
        for a in arg:
            yield from _leaves(a)
    else:
        yield arg


def _symbols_in(y: Layout) -> frozenset[str]:
    return frozenset[str]().union(*(symbols_of(d) for d in (*y.size, *y.stride, y.offset)))


def _user_line(origin: Origin) -> str:
    """``model.py:41 layers.0.fc1:  h = self.fc1(x)``, the source text where the file is there to read."""
    source = linecache.getline(origin.file, origin.line).strip() if origin.line > 0 else ""
    return f"{origin}:  {source}" if source else str(origin)

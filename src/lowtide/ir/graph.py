"""The Graph: a program as operations on named values that have real layouts.

Comes from ``frontend`` (or from text, ``ir.text``); goes to ``schedule``. Promised: frozen; every value is defined
once, before it is used; a value knows the storage it stands on, so views, mutation and aliasing are explicit.

A graph has one *section* per call: ``inference``, or ``forward`` and ``backward``. Sections share values: what the
forward section returns in its ``saved`` positions are inputs of the backward section under the same name, so that both
can be planned as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property

from lowtide.ir.symbolic import Dim, Expr, evaluate

ITEMSIZE: Mapping[str, int] = {
    "bool": 1, "u8": 1, "i8": 1, "i16": 2, "u16": 2, "i32": 4, "u32": 4, "i64": 8, "u64": 8,
    "f8e4m3": 1, "f8e5m2": 1, "f16": 2, "bf16": 2, "f32": 4, "f64": 8, "c32": 4, "c64": 8, "c128": 16, "object": 1,
}  # fmt: skip
# No tensor but an object of the caller's that only operators from outside torch look into. It has one dimension, the bytes
# of the tensors in it.
OBJECT = "object"
PINNED = "pinned"  # memory of the host that stays where it is, so that devices copy from and to it by themselves
# Until a copy is done that was begun into the first argument; what it reads, if that is the host's, is the second.
WAIT = "lowtide.wait.default"
TRUSTED = ("aten", "prims")  # namespaces of torch's own operators, whose schemas are true


@dataclass(frozen=True)
class Layout:
    """Where the elements of a value lie in its storage: size and stride per dimension, offset, all in elements. ``pinned``: in
    memory of the host that stays where it is. Two layouts are equal where all six agree."""

    # Without slots, as Op is: an instance keeps what it computed of itself.

    dtype: str
    device: str
    size: tuple[Dim, ...]
    stride: tuple[Dim, ...]
    offset: Dim = 0
    pinned: bool = False

    @property
    def memory(self) -> str:
        """Whose bytes these are: the device's, or ``PINNED``, which are the host's and are counted under a head of their own."""
        return PINNED if self.pinned else self.device

    @cached_property
    def static(self) -> bool:
        """No symbols left."""
        return not any(isinstance(d, Expr) for d in (*self.size, *self.stride, self.offset))

    @cached_property
    def extent(self) -> int:
        """Bytes from the start of the storage to the end of the furthest element; 0 without elements.

        Raises:
            ValueError: a dimension is symbolic; specialise the graph first.
        """
        if not self.static:
            raise ValueError(f"extent of a symbolic layout: {self.size}")
        if 0 in self.size:
            return 0
        reach = int_of(self.offset)
        for n, stride in zip(self.size, self.stride, strict=True):
            reach += (int_of(n) - 1) * int_of(stride)
        return (reach + 1) * ITEMSIZE[self.dtype]


def int_of(dim: Dim) -> int:
    """A dimension known to be a plain int."""
    assert isinstance(dim, int)
    return dim


@dataclass(frozen=True, slots=True)
class Origin:
    """Where in the user's program a value comes from. ``tags``: what the program said there, as ``name=text``."""

    file: str = ""
    line: int = 0
    module: str = ""
    tags: tuple[str, ...] = ()

    def __str__(self) -> str:
        place = f"{self.file.rsplit('/', 1)[-1]}:{self.line}" if self.file else ""
        tags = f"[{' '.join(self.tags)}]" if self.tags else ""
        return " ".join(part for part in (place, self.module, tags) if part)


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor. ``storage`` is the name of the value that owns its bytes (its own name, if it is not a view)."""

    name: str
    layout: Layout
    storage: str
    origin: Origin = Origin()


@dataclass(frozen=True, slots=True)
class Ref:
    """An argument that is a value of the graph."""

    name: str

    def __str__(self) -> str:
        return f"%{self.name}"


@dataclass(frozen=True, slots=True)
class Atom:
    """An argument from a fixed vocabulary: ``kind`` is dtype, device, format, layout or constant."""

    kind: str
    text: str

    def __str__(self) -> str:
        return f"{self.kind}:{self.text}"


Arg = Ref | Atom | Expr | int | float | bool | str | None | tuple["Arg", ...]


Path = tuple[int | str, ...]  # to a member of a nest: positions in lists and tuples, keys of mappings


def refs_in(arg: Arg) -> Iterator[str]:
    """Names of the values in an argument, in order, lists included."""
    if isinstance(arg, Ref):
        yield arg.name
    elif isinstance(arg, tuple):
        for a in arg:
            yield from refs_in(a)


@dataclass(frozen=True)
class Op:
    """One operation: an ATen overload (``target`` such as ``aten.add.Tensor``) on arguments.

    ``outputs``: names it defines (None for a result that nobody uses). ``returns``: ``"one"`` value, a ``"tuple"`` of
    them, or ``"none"`` that we look at. ``view``: every output stands on an argument's storage and nothing is computed.
    ``mutates``: values whose bytes it changes. ``effect``: operations with the same effect keep their order.
    ``paths``: of a tuple that holds lists, tuples or mappings, where each output lies: positions and keys from outside
    inwards; empty where output k is member k. ``after``: names of operations of its section that run before it though no data
    says so. ``group``: operations of a section that name the same one run side by side, views aside.
    """

    name: str
    target: str
    args: tuple[Arg, ...]
    kwargs: tuple[tuple[str, Arg], ...] = ()
    outputs: tuple[str | None, ...] = ()
    returns: str = "one"
    view: bool = False
    mutates: tuple[str, ...] = ()
    effect: str | None = None
    origin: Origin = Origin()
    paths: tuple[Path, ...] = ()
    after: tuple[str, ...] = ()
    group: str = ""

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """Names of all values among the arguments, each once, in order of appearance; every stage asks for them many times."""
        return tuple(dict.fromkeys(n for a in (*self.args, *(a for _, a in self.kwargs)) for n in refs_in(a)))


@dataclass(frozen=True, slots=True)
class Section:
    """One call of the program. ``inputs`` in calling order: a value's name, a size (an int argument), or None for an
    argument that is not looked at; ``returns`` in order; ``saved``: positions of ``returns`` that only a later section
    receives."""

    name: str
    inputs: tuple[Ref | Expr | None, ...]
    ops: tuple[Op, ...]
    returns: tuple[Arg, ...]
    saved: tuple[int, ...] = ()


@dataclass(frozen=True)
class Graph:
    """A program. ``values`` in order of definition; ``constants`` are inputs that the program owns."""

    name: str
    values: tuple[Value, ...]
    sections: tuple[Section, ...]
    constants: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()

    @cached_property
    def value(self) -> Mapping[str, Value]:
        """Name -> value."""
        return {v.name: v for v in self.values}

    @cached_property
    def ops(self) -> tuple[Op, ...]:
        """All operations in program order."""
        return tuple(op for s in self.sections for op in s.ops)

    @cached_property
    def maker(self) -> Mapping[str, Op]:
        """Value -> the operation that defines it. Inputs and constants have none."""
        return {n: op for op in self.ops for n in op.outputs if n is not None}

    @cached_property
    def devices(self) -> frozenset[str]:
        """Where values lie."""
        return frozenset(v.layout.device for v in self.values)

    @cached_property
    def placed_by_hand(self) -> frozenset[str]:
        """Names of the operations whose place is asked for: that are in a group, or come after others, and those others."""
        found = {n for op in self.ops if op.after for n in (op.name, *op.after)}
        return frozenset(found.union(op.name for op in self.ops if op.group))

    @cached_property
    def caller_owned(self) -> frozenset[str]:
        """Storages that are the caller's for the whole program: inputs that no section produced, and constants."""
        made = self.maker
        given = {i.name for s in self.sections for i in s.inputs if isinstance(i, Ref)}
        return frozenset(self.value[n].storage for n in (*given, *self.constants) if self.value[n].storage not in made)

    @cached_property
    def nbytes(self) -> Mapping[str, int]:
        """Storage -> bytes: the furthest reach of any value that stands on it. Static graphs only."""
        out: dict[str, int] = {}
        for v in self.values:
            out[v.storage] = max(out.get(v.storage, 0), v.layout.extent)
        return out


def renamed_after(ops: Sequence[Op], before: Sequence[Op], became: Mapping[str, tuple[str, ...]]) -> tuple[Op, ...]:
    """Operations of a section with what each comes after under the names of now.

    ``before``: the section as it was. ``became``: what stands for each of its operations that is no longer there under its name:
    several, or none. What came after it then comes after those, and after what it came after itself and none of those does.
    """
    if not any(op.after for op in ops):
        return tuple(ops)
    asked = {op.name: frozenset(op.after) for op in ops}
    now: dict[str, dict[str, None]] = {}
    for op in before:
        found = became.get(op.name, (op.name,))
        there = frozenset[str]().union(*(asked.get(n, ()) for n in found))
        now[op.name] = dict.fromkeys((*found, *(n for a in op.after if a not in there for n in now[a])))
    return tuple(
        replace(op, after=tuple(dict.fromkeys(n for a in op.after for n in now[a] if n != op.name))) if op.after else op
        for op in ops
    )


def with_views(section: Section, ops: Sequence[Op]) -> list[Op]:
    """Operations of a section with its views put in front of what first needs them; those that nothing needs are left out."""
    view = {o: op for op in section.ops if op.view for o in op.outputs if o is not None}
    out: list[Op] = []
    placed: set[str] = set()

    def need(names: Sequence[str]) -> None:
        todo = [n for n in reversed(names) if n in view]
        while todo:
            op = view[todo[-1]]
            if op.name in placed:
                todo.pop()
                continue
            missing = [r for r in op.reads if r in view and view[r].name not in placed]
            if missing:
                todo += missing
                continue
            placed.add(op.name)
            out.append(op)
            todo.pop()

    for op in ops:
        need(op.reads)
        out.append(op)
    need([n for a in section.returns for n in refs_in(a)])
    return out


def specialise(graph: Graph, bindings: Mapping[str, int]) -> Graph:
    """The graph with every symbol replaced by its size; an input that was a size becomes one that is not looked at.

    The same object where there is no symbol.

    Raises:
        VerifyError: ``symbol``, one has no binding; ``expression``, a size has no whole value.
    """
    if not graph.symbols:
        return graph

    @cache
    def number(d: Expr) -> int:
        return evaluate(d, bindings)

    def dim(d: Dim) -> int:
        return number(d) if isinstance(d, Expr) else d

    @cache
    def layout(y: Layout) -> Layout:
        return replace(y, size=tuple(map(dim, y.size)), stride=tuple(map(dim, y.stride)), offset=dim(y.offset))

    def arg(a: Arg) -> Arg:
        if isinstance(a, Expr):
            return number(a)
        return tuple(map(arg, a)) if isinstance(a, tuple) else a

    def op(o: Op) -> Op:
        if not any(_varies(a) for a in (*o.args, *(a for _, a in o.kwargs))):
            return o
        return replace(o, args=tuple(map(arg, o.args)), kwargs=tuple((k, arg(a)) for k, a in o.kwargs))

    def section(s: Section) -> Section:
        inputs = tuple(i if isinstance(i, Ref) else None for i in s.inputs)
        return replace(s, inputs=inputs, ops=tuple(map(op, s.ops)), returns=tuple(map(arg, s.returns)))

    values = tuple(v if v.layout.static else replace(v, layout=layout(v.layout)) for v in graph.values)
    return Graph(graph.name, values, tuple(map(section, graph.sections)), graph.constants, ())


def _varies(a: Arg) -> bool:
    return isinstance(a, Expr) or (isinstance(a, tuple) and any(map(_varies, a)))

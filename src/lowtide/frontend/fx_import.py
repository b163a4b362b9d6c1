"""ATen fx graphs -> Graph.

Comes in: the fx graph of an inference call, or of a forward and a backward call that belong together, as AOTAutograd
makes them (functional but for input mutations). Goes out: one Graph with a section per call, and the constants that it
names. Promised: no guard is installed; every value carries the user's line and module; what cannot be expressed raises
Unsupported with the node and the line.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import fx

from lowtide.core.errors import Unsupported
from lowtide.core.reason import Reason
from lowtide.frontend.annotated import LONGEST, annotated
from lowtide.frontend.pinned import asks_for_pinned
from lowtide.frontend.sizes import dim_of
from lowtide.ir.graph import OBJECT, Arg, Atom, Graph, Layout, Op, Origin, Path, Ref, Section, Value, refs_in
from lowtide.ir.symbolic import Dim, Expr, symbols_of
from lowtide.program import usable
from lowtide.torch_compat import Constants, OpOverload, opaque_nbytes, resizes_storage, schema_views, unbacked

DTYPES = {
    torch.bool: "bool", torch.uint8: "u8", torch.int8: "i8", torch.int16: "i16", torch.int32: "i32",
    torch.int64: "i64", torch.uint16: "u16", torch.uint32: "u32", torch.uint64: "u64", torch.float8_e4m3fn: "f8e4m3",
    torch.float8_e5m2: "f8e5m2", torch.float16: "f16", torch.bfloat16: "bf16", torch.float32: "f32",
    torch.float64: "f64", torch.complex32: "c32", torch.complex64: "c64", torch.complex128: "c128",
}  # fmt: skip

# Views by their schema that are more than a layout on the same bytes: computed instead.
_COMPUTED = {"aten._conj.default": "aten._conj_physical.default", "aten._neg_view.default": "aten.neg.default"}

# Views by what they do, though their schema declares a new tensor.
_UNDECLARED_VIEWS = {"aten._unsafe_view.default": 0}
_RANDOM = torch.Tag.nondeterministic_seeded

# Normalisations keep mean and deviation (results 1 and 2) in the type of their parameters where that is the wider one.
# torch's meta functions say the type of the input instead (2.13), half of the bytes and nothing that can be tried alone.
_STATISTICS = frozenset(
    (
        "native_layer_norm", "native_group_norm", "native_batch_norm", "_native_batch_norm_legit",
        "_native_batch_norm_legit_functional", "_batch_norm_with_update", "_batch_norm_with_update_functional",
    )
)  # fmt: skip
_NARROW = (torch.bfloat16, torch.float16)


class Importer:
    """Builds one Graph; used once. ``unbacked``: sizes may depend on data."""

    unbacked = False

    def __init__(self) -> None:
        self.values: dict[str, Value] = {}
        self.constants: dict[str, Any] = {}  # tensors, and objects that nobody here looks into
        self.symbols: dict[str, None] = {}
        self.env: dict[fx.Node, Any] = {}  # arguments; of what gives a mapping, mappings of them
        self.saved: dict[str, Arg] = {}
        self.taken: set[str] = set()
        self.wide: dict[str, torch.dtype] = {}  # storages whose type is not the one that their fake tensors say

    def section(self, name: str, gm: fx.GraphModule, kept: int | None) -> Section:
        """``kept``: how many of the returned positions the caller gets; the rest is saved for the next section."""
        self.env = {}
        inputs: list[Ref | Expr | None] = []
        ops: list[Op] = []
        returns: tuple[Arg, ...] = ()
        for node in gm.graph.nodes:
            if node.op == "placeholder":
                inputs.append(self._input(node))
            elif node.op == "get_attr":
                self._constant(gm, node)
            elif node.op == "call_function":
                ops.extend(self._call(node))
            elif node.op == "output":
                returns = tuple(self._arg(a, node) for a in node.args[0])
                saved = node.args[0][kept:] if kept is not None else ()
                self.saved = {n.name: self.env[n] for n in saved if isinstance(n, fx.Node)}
            else:
                raise Unsupported(Reason(str(node), f"fx node kind {node.op!r}"))
        first_saved = len(returns) if kept is None else kept
        return Section(name, tuple(inputs), tuple(ops), returns, tuple(range(first_saved, len(returns))))

    def _name(self, wanted: str) -> str:
        name = base = re.sub(r"\W", "_", wanted)
        while name in self.taken or not usable(name):
            name = base = f"{base}_r"
        self.taken.add(name)
        return name

    def _define(
        self, node: fx.Node, val: torch.Tensor, storage: str | None, suffix: str = "", dtype: torch.dtype | None = None
    ) -> Ref:
        """``dtype``: the real one, where ``val`` says another; its views say so too."""
        dtype = self.wide.get(storage or "", dtype)
        if type(val).__name__ != "FakeTensor" or val.layout is not torch.strided or val.is_quantized:
            what = type(val).__name__ if val.layout is torch.strided else str(val.layout)
            raise Unsupported(Reason(f"{node}", f"{what} values are not planned", origin_of(node).file or None))
        if not self.unbacked and unbacked(val):
            raise Unsupported(Reason(f"{node.target}", f"the size of its result depends on data ({origin_of(node)})"))
        kind = val.dtype if dtype is None else dtype
        if kind not in DTYPES:
            raise Unsupported(Reason(f"{node}", f"has the dtype {kind}, of which we know no layout"))
        name = self._name(node.name + suffix)
        size, stride = tuple(map(dim_of, val.size())), tuple(map(dim_of, val.stride()))
        offset = dim_of(val.storage_offset())
        for d in (*size, *stride, offset):
            self.symbols.update(dict.fromkeys(sorted(symbols_of(d))))
        if dtype is not None:
            self.wide[storage or name] = dtype
        pinned = self.values[storage].layout.pinned if storage else asks_for_pinned(node)
        layout = Layout(DTYPES[kind], str(val.device), size, stride, offset, pinned)
        self.values[name] = Value(name, layout, storage or name, origin_of(node))
        return Ref(name)

    def _input(self, node: fx.Node) -> Ref | Expr | None:
        val = node.meta.get("val")
        if node.name in self.saved:
            known = self.saved[node.name]
            self.env[node] = known
            return known if isinstance(known, Ref | Expr) else None
        if isinstance(val, torch.Tensor):
            self.env[node] = ref = self._define(node, val, None)
            return ref
        if isinstance(val, torch.SymInt):
            self.env[node] = expr = self._size(val, f"{node}", "a size that depends on data")
            return expr if isinstance(expr, Expr) else None
        if val is None or isinstance(val, int):
            self.env[node] = val
            return None
        made = self._object(node, val)
        if made is None:
            raise Unsupported(Reason(f"input {node}", f"is a {type(val).__name__}"))
        self.env[node] = made
        return made

    def _object(self, node: fx.Node, val: Any, suffix: str = "") -> Ref | None:
        """An object that nobody here looks into, as a value of as many bytes as the tensors in it have; None where ``val`` is
        none."""
        nbytes = opaque_nbytes(val)
        if nbytes is None:
            return None
        if isinstance(nbytes, torch.SymInt):
            nbytes = self._size(
                nbytes, f"{node.target}", f"makes an object whose size depends on data ({origin_of(node)})"
            )
        name = self._name(node.name + suffix)
        self.values[name] = Value(name, Layout(OBJECT, "cpu", (nbytes,), (1,)), name, origin_of(node))
        return Ref(name)

    def _size(self, val: torch.SymInt, what: str, because: str) -> Dim:
        """A size that a call is given or gives. ``what``, ``because``: the reason where it depends on data and may not."""
        if not self.unbacked and unbacked(val):
            raise Unsupported(Reason(what, because))
        expr = dim_of(val)
        self.symbols.update(dict.fromkeys(sorted(symbols_of(expr))))
        return expr

    def _constant(self, gm: fx.GraphModule, node: fx.Node) -> None:
        held: Any = gm
        for part in str(node.target).split("."):
            held = getattr(held, part)
        tensor = isinstance(held, torch.Tensor) and isinstance(node.meta.get("val"), torch.Tensor)
        known = next((name for name, t in self.constants.items() if t is held), None)
        if known is None:
            made = self._define(node, node.meta["val"], None) if tensor else self._object(node, held)
            if made is None:
                user = next(iter(node.users), node)
                what = getattr(user.target, "__name__", str(user.target))
                raise Unsupported(
                    Reason(
                        what, f"takes a program of its own ({node.target}), which is not planned ({origin_of(user)})"
                    )
                )
            known = made.name
            self.constants[known] = held
        self.env[node] = Ref(known)

    def _call(self, node: fx.Node) -> Iterator[Op]:
        val, target = node.meta.get("val"), node.target
        if isinstance(val, torch.SymInt):
            self.env[node] = dim_of(val)
            return
        if target is operator.getitem:
            whole = self.env[node.args[0]]
            assert isinstance(whole, tuple | dict)
            self.env[node] = whole[node.args[1]]
            return
        if not isinstance(target, OpOverload):
            raise Unsupported(
                Reason(f"{getattr(target, '__name__', target)}", f"is not an operator ({origin_of(node)})")
            )
        if isinstance(val, torch.SymFloat | torch.SymBool | bool | float | int):
            raise Unsupported(Reason(f"{target}", f"gives a scalar that depends on data ({origin_of(node)})"))
        yield self._operator(node, target, val)

    def _operator(self, node: fx.Node, target: OpOverload, val: Any) -> Op:
        if resizes_storage(node):
            raise Unsupported(Reason(f"{target}", f"gives a storage other bytes than were planned ({origin_of(node)})"))
        schema = target._schema
        arguments = bound(node, schema)
        placed = len(node.args)
        for i, a in enumerate(schema.arguments):
            if a.name in node.kwargs and not a.kwarg_only:
                placed = i + 1
        # A copy between devices that nobody waits for would still read or write when planned bytes are another's already.
        now = [False if a.name == "non_blocking" else x for a, x in zip(schema.arguments, arguments, strict=True)]
        args = tuple(self._arg(a, node) for a in now[:placed])
        given = {
            a.name: x for a, x in zip(schema.arguments[placed:], now[placed:], strict=True) if a.name in node.kwargs
        }
        kwargs = tuple((k, self._arg(a, node)) for k, a in sorted(given.items()))
        views = schema_views(target)
        called = _COMPUTED.get(str(target), str(target))
        if called != str(target):
            views = (None,)
        if str(target) in _UNDECLARED_VIEWS:
            views = (_UNDECLARED_VIEWS[str(target)],)
        mutates = tuple(
            n
            for a, given in zip(schema.arguments, arguments, strict=True)
            if a.alias_info is not None and a.alias_info.is_write
            for n in refs_in(self._arg(given, node))
        )
        # Whoever looks into an object may change it, and no schema says so.
        given_refs = dict.fromkeys(n for a in (*args, *(a for _, a in kwargs)) for n in refs_in(a))
        mutates += tuple(n for n in given_refs if self.values[n].layout.dtype == OBJECT)
        bases = [None if v is None else next(iter(refs_in(self._arg(arguments[v], node))), None) for v in views]
        outputs, returns, paths = self._results(node, val, bases)
        view = bool(views) and all(v is not None for v in views) and not mutates
        effect = "random" if _RANDOM in target.tags else None
        name = self._name(node.name) if returns != "one" else str(outputs[0])
        return Op(name, called, args, kwargs, outputs, returns, view, mutates, effect, origin_of(node), paths)

    def _results(
        self, node: fx.Node, val: Any, bases: Sequence[str | None]
    ) -> tuple[tuple[str | None, ...], str, tuple[Path, ...]]:
        """Define what a call returns: the outputs, their kind, and where they lie in a nest. ``bases``: per return of the
        schema what it stands on; a return that is a list, or a mapping, is all views of one base or all new."""

        def storage(path: Path) -> str | None:
            base = bases[path[0] if len(bases) > 1 and isinstance(path[0], int) else 0] if bases else None
            return self.values[base].storage if base is not None else None

        if val is None:
            self.env[node] = None
            return (), "none", ()
        if isinstance(val, torch.Tensor):
            self.env[node] = ref = self._define(node, val, storage((0,)))
            return (ref.name,), "one", ()
        if not isinstance(val, tuple | list | dict):
            made = self._object(node, val)
            if made is None:
                raise Unsupported(Reason(f"{node.target}", f"returns a {type(val).__name__}"))
            self.env[node] = made
            return (made.name,), "one", ()
        wide, used = _statistics_dtype(node), _taken(node)
        outputs: dict[Path, str | None] = {}

        def read(v: Any, path: Path) -> Any:
            if isinstance(v, dict) and all(isinstance(k, int | str) for k in v):
                return {k: read(x, (*path, k)) for k, x in v.items()}
            if isinstance(v, tuple | list):
                return tuple(read(x, (*path, i)) for i, x in enumerate(v))
            at = len(outputs)
            outputs[path] = None
            if path not in used:
                return None
            if v is None or isinstance(v, bool | int | float):
                return v  # known since it was captured
            if isinstance(v, torch.SymInt | torch.SymFloat | torch.SymBool):
                return self._number_among(node, v, at)
            suffix = "".join(f"_{step}" for step in path)
            if not isinstance(v, torch.Tensor):
                ref = self._object(node, v, suffix)
                if ref is None:
                    what = f"has a {type(v).__name__} among its results ({origin_of(node)})"
                    raise Unsupported(Reason(f"{node.target}", what))
            else:
                ref = self._define(node, v, storage(path), suffix, wide if path in ((1,), (2,)) else None)
            outputs[path] = ref.name
            return ref

        self.env[node] = read(val, ())
        flat = all(path == (k,) for k, path in enumerate(outputs))
        return tuple(outputs.values()), "tuple", () if flat else tuple(outputs)

    def _number_among(self, node: fx.Node, val: Any, position: int) -> Arg:
        """A number among the results of an operation, at a ``position`` among its outputs: a size is what its expression says,
        over sizes that are known otherwise."""
        if isinstance(val, torch.SymInt):
            return self._size(val, f"{node.target}", f"has a size that depends on data ({origin_of(node)})")
        raise Unsupported(Reason(f"{node.target}", f"has a number that depends on data ({origin_of(node)})"))

    def _arg(self, a: Any, node: fx.Node) -> Arg:
        if isinstance(a, fx.Node) and not isinstance(self.env[a], dict):
            return self.env[a]
        if a is None or isinstance(a, bool | int | float | str):
            return a
        if isinstance(a, list | tuple):
            return tuple(self._arg(x, node) for x in a)
        if isinstance(a, torch.dtype) and a in DTYPES:
            return Atom("dtype", DTYPES[a])
        if isinstance(a, torch.device):
            return Atom("device", str(a))
        if isinstance(a, torch.layout):
            return Atom("layout", str(a).removeprefix("torch."))
        if isinstance(a, torch.memory_format):
            return Atom("format", str(a).removeprefix("torch."))
        raise Unsupported(Reason(f"{node.target}", f"takes a {type(a).__name__} argument ({origin_of(node)})"))


def _taken(node: fx.Node) -> set[Path]:
    """The places among a call's results that something asks for."""
    out: set[Path] = set()
    waiting: list[tuple[fx.Node, Path]] = [(node, ())]
    while waiting:
        at, path = waiting.pop()
        out.add(path)
        waiting += [(u, (*path, u.args[1])) for u in at.users if u.target is operator.getitem]  # type: ignore[misc]
    return out


def bound(node: fx.Node, schema: Any) -> list[Any]:
    """A call's arguments in the order of its operator's schema: given by place, by name, or the schema's default.

    Raises:
        Unsupported: one that has no default is missing, there are too many, or the schema has none of that name.
    """

    def wrong(because: str) -> Unsupported:
        return Unsupported(Reason(f"{node.target}", f"{because} ({origin_of(node)})"))

    placed = sum(not a.kwarg_only for a in schema.arguments)
    if len(node.args) > placed:
        raise wrong(f"is given {len(node.args)} arguments by their place, and takes {placed}")
    out = list(node.args)
    names = [a.name for a in schema.arguments]
    for name in node.kwargs:
        if name not in names[len(out) :]:
            raise wrong(f"is given {name} twice" if name in names else f"takes no argument called {name}")
    for a in schema.arguments[len(out) :]:
        if a.name not in node.kwargs and not a.has_default_value():
            raise wrong(f"is called without its argument {a.name}")
        out.append(node.kwargs.get(a.name, a.default_value))
    return out


def _statistics_dtype(node: fx.Node) -> torch.dtype | None:
    """The type of a normalisation's mean and deviation where it is not the input's, else None."""
    target = node.target
    if not isinstance(target, OpOverload) or target.namespace != "aten":
        return None
    if target.overloadpacket.__name__ not in _STATISTICS:
        return None
    given = [a.meta.get("val") for a in node.args if isinstance(a, fx.Node)]
    types = [x.dtype for x in given if isinstance(x, torch.Tensor)]
    return torch.float32 if types and types[0] in _NARROW and torch.float32 in types[1:] else None


def origin_of(node: fx.Node) -> Origin:
    """The user's innermost line, the module path, and what the program said of a node (``torch.fx.traceback.annotate``)."""
    trace = node.meta.get("stack_trace") or ""
    places = re.findall(r'File "([^"]+)", line (\d+)', trace)
    file, line = places[-1] if places else ("", "0")
    stack = list((node.meta.get("nn_module_stack") or node.meta.get("fwd_nn_module_stack") or {}).values())
    path = str(stack[-1][0]) if stack else ""
    path = (
        re.sub(r"\[['\"]?(\w+)['\"]?\]", r".\1", re.sub(r"^L\['\w+'\]\.?|_modules", "", path))
        .replace("..", ".")
        .strip(".")
    )
    said = (node.meta.get("custom") or {}).items()
    tags = sorted(f"{k}={v}" for k, v in said if isinstance(k, str) and isinstance(v, bool | int | float | str))
    return Origin(file, int(line), path, tuple(re.sub(r"[^\w.=/-]", "_", t, flags=re.ASCII)[:LONGEST] for t in tags))


def import_graph(
    name: str, calls: Sequence[tuple[str, fx.GraphModule]], *, kept: int | None = None
) -> tuple[Graph, Constants]:
    """One Graph for ``calls`` (section name, fx graph), and its constants by name.

    ``kept``: of the first call's results, how many the caller gets; the others are saved for the second call.

    Raises:
        Unsupported: with the node, why, and the user's line.
    """
    importer = Importer()
    sections = tuple(importer.section(section, gm, kept if i == 0 else None) for i, (section, gm) in enumerate(calls))
    graph = Graph(name, tuple(importer.values.values()), sections, tuple(importer.constants), tuple(importer.symbols))
    return annotated(graph), importer.constants

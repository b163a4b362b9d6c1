"""ATen fx graphs with data-dependent sizes, conditionals and loops -> Block.

Comes in: one fx graph as ``torch.export`` or AOTAutograd makes it. Goes out: a Block and its constants. Promised: no guard
is installed; results whose size depends on data, numbers read off tensors, ``torch.cond``, ``while_loop``, ``scan`` and
``nested_compile_region`` are all expressed; regions that are alike are one Block; what still cannot be raises Unsupported
with the node and the user's line.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import fx

from lowtide.core.errors import Unsupported
from lowtide.core.reason import Reason
from lowtide.executor.block import (
    CALL,
    COND,
    LOOP,
    OFFSET,
    REGION,
    SCALAR,
    SCAN,
    STACK,
    VIEW,
    Bind,
    Block,
    Given,
    Line,
    needed,
    symbols_in,
)
from lowtide.frontend.fx_import import Importer, origin_of
from lowtide.frontend.sizes import dim_of
from lowtide.ir.graph import Arg, Expr, Graph, Op, Ref, Section, Value
from lowtide.ir.index import mul
from lowtide.ir.strides import filled, same_places
from lowtide.ir.symbolic import Dim, symbol, symbols_of
from lowtide.torch_compat import (
    Constants,
    OpOverload,
    cond_operator,
    scan_operator,
    stacking_while_operator,
    while_operator,
)

# Functions on numbers that captured graphs call, under the name that a Block uses for them.
NUMBERS: Mapping[str, Callable[..., Any]] = {
    **{
        f"operator.{n}": getattr(operator, n)
        for n in ("add", "sub", "mul", "truediv", "floordiv", "mod", "neg", "pow", "pos", "abs",
                  "lt", "le", "gt", "ge", "eq", "ne", "and_", "or_", "not_", "xor")
    },
    **{f"math.{n}": getattr(math, n) for n in ("trunc", "floor", "ceil", "sqrt", "exp", "log", "sin", "cos", "tanh")},
    "builtins.round": round, "builtins.int": int, "builtins.float": float, "builtins.bool": bool,
    "torch.sym_max": torch.sym_max, "torch.sym_min": torch.sym_min, "torch.sym_not": torch.sym_not,
    "torch.sym_float": torch.sym_float, "torch.sym_int": torch.sym_int, "torch.sym_ite": torch.sym_ite,
    "torch.sym_sum": torch.sym_sum, "torch.sym_sqrt": math.sqrt,
}  # fmt: skip
_NUMBER_NAMES = {f: name for name, f in NUMBERS.items()}

_EMBEDDING, _PICK, _VIEW = "aten.embedding.default", "aten.index_select.default", "aten.view.default"
ITEM, ASSERT = "number.item", "number.assert"
_INVOKE = torch.ops.higher_order.invoke_subgraph
_ITEMS = ("aten.item.default", "aten._local_scalar_dense.default")
# What only tells the compiler about ranges, or was checked when it was captured.
_IGNORED = frozenset(
    (
        "aten.sym_constrain_range.default",
        "aten.sym_constrain_range_for_size.default",
        "aten._assert_tensor_metadata.default",
    )
)


# What torch computes as another operation, which, unlike it, has a form that writes into given bytes: that one's name, and
# the arguments that it has behind those of the first.
_WRITTEN_AS: Mapping[str, tuple[str, tuple[Arg, ...]]] = {"aten.relu.default": ("aten.clamp_min.default", (0,))}


class _Dynamic(Importer):
    """An importer that knows unbacked sizes, numbers and nested programs; used once per block."""

    unbacked = True

    def __init__(
        self, name: str, bound: frozenset[str], is_nested: bool, regions: dict[tuple[Any, ...], Block]
    ) -> None:
        super().__init__()
        self.regions = regions
        self.block, self.outside, self.is_nested = name, bound, is_nested
        self.lines: list[Line] = []
        self.given: list[Given] = []
        self.known: set[str] = set()
        self.held: dict[str, Any] = {}  # constants of programs inside
        self.among: list[tuple[int, Dim]] = []  # numbers that the operation at hand gives beside its tensors

    def build(self, gm: fx.GraphModule) -> Block:
        inputs: list[Ref | Expr | None] = []
        returns: tuple[Arg, ...] = ()
        for node in gm.graph.nodes:
            if node.op == "placeholder":
                inputs.append(self._given(node, len(inputs)))
            elif node.op == "get_attr":
                self._attribute(gm, node)
            elif node.op == "call_function":
                self._line(gm, node)
            elif node.op == "output":
                wanted = node.args[0]
                flat = wanted if isinstance(wanted, tuple | list) else (wanted,)
                returns = tuple(self._arg(a, node) for a in flat)
            else:
                raise Unsupported(Reason(str(node), f"fx node kind {node.op!r}"))
        lines = _without_unused(self.lines, returns)
        used = {s for line in lines for s in needed(line)} | {s for a in returns for s in symbols_in(a)}
        used |= {s for v in self.values.values() for s in _layout_symbols(v)}
        free = tuple(sorted(used - self.known))
        missing = sorted(set(free) - self.outside)
        if missing:
            raise Unsupported(Reason(f"size {missing[0]}", "cannot be read off any input or result"))
        section = Section(self.block, tuple(inputs), tuple(line.op for line in lines), returns)
        symbols = tuple(sorted(self.known | set(free)))
        graph = Graph(self.block, tuple(self.values.values()), (section,), tuple(self.constants), symbols)
        return Block(graph, tuple(lines), tuple(self.given), free, self.is_nested)

    # -- inputs and constants ----------------------------------------------------------------------------------------

    def _given(self, node: fx.Node, position: int) -> Ref | Expr | None:
        val = node.meta.get("val")
        if isinstance(val, torch.SymFloat | torch.SymBool | float):
            self.env[node] = self._number(node.name)
            self.given.append(Given(node.name, position, None))
            return None
        found = self._input(node)
        if isinstance(val, torch.SymInt) and isinstance(found, Expr):
            self._learn_given(found, position, None)
        elif isinstance(found, Ref):
            layout = self.values[found.name].layout
            for d, dim in (*enumerate(layout.size), (OFFSET, layout.offset)):
                self._learn_given(dim, position, d)
        return found

    def _learn_given(self, dim: Any, position: int, d: int | None) -> None:
        name = _plain(dim)
        if name is not None and name not in self.known:
            self.known.add(name)
            self.given.append(Given(name, position, d))

    def _number(self, name: str) -> Expr:
        """A number that is no size, under the name of its node."""
        self.known.add(name)
        return symbol(name)

    def _attribute(self, gm: fx.GraphModule, node: fx.Node) -> None:
        held: Any = gm
        for part in str(node.target).split("."):
            held = getattr(held, part)
        if not isinstance(held, fx.GraphModule):
            self._constant(gm, node)

    # -- lines -------------------------------------------------------------------------------------------------------

    def _line(self, gm: fx.GraphModule, node: fx.Node) -> None:
        val, target = node.meta.get("val"), node.target
        if target is operator.getitem:
            whole = self.env[node.args[0]]  # type: ignore[index]
            if not isinstance(whole, tuple | dict):
                raise Unsupported(Reason(f"{node}", f"takes a piece of {whole} ({origin_of(node)})"))
            piece = whole[node.args[1]]  # type: ignore[index]
            said = self.known | self.outside  # a size beside tensors may be an expression over others
            if not isinstance(piece, dict) and not symbols_in(piece) <= said:
                raise Unsupported(Reason(f"{node}", f"is a size that nothing else says ({origin_of(node)})"))
            self.env[node] = piece
        elif str(target) in _ITEMS:
            self._item(node, val)
        elif isinstance(val, torch.SymInt | torch.SymFloat | torch.SymBool | bool | int | float):
            self._compute(node, val)
        elif target is cond_operator:
            self._nested(gm, node, val, COND)
        elif target is while_operator or target is stacking_while_operator:
            self._nested(gm, node, val, LOOP if target is while_operator else STACK)
        elif target is scan_operator:
            self._scan(gm, node, val)
        elif target is _INVOKE:
            self._region(gm, node, val)
        elif str(target) in _IGNORED:
            self.env[node] = None
        elif str(target) in ("aten._assert_scalar.default", "aten._assert_async.msg"):
            self._assertion(node)
        elif isinstance(target, OpOverload):
            if str(target) == _EMBEDDING and self._rows(node, val):
                return
            op = self._operator(node, target, val)
            called, more = _WRITTEN_AS.get(op.target, (op.target, ()))
            op = replace(op, target=called, args=(*op.args, *more))
            layouts = [self.values[o] if o is not None else None for o in op.outputs]
            binds = (*self._binds(layouts), *self._given_numbers())
            self.lines.append(Line(op, VIEW if op.view else CALL, binds, (), 0, self._unsure(node, op)))
        else:
            raise Unsupported(
                Reason(f"{getattr(target, '__name__', target)}", f"is not an operator ({origin_of(node)})")
            )

    def _rows(self, node: fx.Node, val: Any) -> bool:
        """Rows of a table as torch makes them, by an operation that has a form that writes into given bytes: all indices lie in
        one row, and so do the rows. False where the indices do not lie so."""
        table, index = self._arg(node.args[0], node), self._arg(node.args[1], node)
        if not isinstance(table, Ref) or not isinstance(index, Ref):
            return False
        given, rows, where = self.values[index.name], self.values[table.name].layout, origin_of(node)
        if not given.layout.size or not same_places(given.layout.size, given.layout.stride, filled(given.layout.size)):
            return False
        count = functools.reduce(mul, given.layout.size)
        name, picked = self._name(f"{node.name}_index"), self._name(f"{node.name}_rows")
        flat = replace(given.layout, size=(count,), stride=(1,))
        made = replace(rows, size=(count, rows.size[1]), stride=(rows.size[1], 1), offset=0, pinned=False)
        self.values[name] = Value(name, flat, given.storage, where)
        self.values[picked] = Value(picked, made, picked, where)
        self.env[node] = result = self._define(node, val, picked)
        args, shape = (table, 0, Ref(name)), self.values[result.name].layout.size
        self.lines += [
            Line(Op(name, _VIEW, (index, (-1,)), (), (name,), "one", view=True, origin=where), VIEW),
            Line(Op(picked, _PICK, args, (), (picked,), "one", origin=where)),
            Line(
                Op(result.name, _VIEW, (Ref(picked), shape), (), (result.name,), "one", view=True, origin=where), VIEW
            ),
        ]
        return True

    def _unsure(self, node: fx.Node, op: Op) -> bool:
        """A view by its schema, whose result was a copy when it was captured (or is made by a composite operator)."""
        val, base = node.meta.get("val"), node.args[0] if node.args else None
        if not op.view or not isinstance(val, torch.Tensor) or not isinstance(base, fx.Node):
            return False
        given = base.meta.get("val")
        if not isinstance(given, torch.Tensor) or op.target in ("aten.view.default", "aten._unsafe_view.default"):
            return False
        return given.untyped_storage()._cdata != val.untyped_storage()._cdata

    def _binds(self, values: list[Value | None]) -> tuple[Bind, ...]:
        out: list[Bind] = []
        for i, v in enumerate(values):
            dims = [*enumerate(v.layout.size), (OFFSET, v.layout.offset)] if v is not None else []
            for d, dim in dims:
                name = _plain(dim)
                if name is not None and name not in self.known and name not in self.outside:
                    self.known.add(name)
                    out.append(Bind(name, i, d))
        return tuple(out)

    def _number_among(self, node: fx.Node, val: Any, position: int) -> Arg:
        """Noted as the operation's own: whether a size says nothing new is known once the tensors beside it are."""
        expr = dim_of(val) if isinstance(val, torch.SymInt) else symbol(f"{node.name}_{position}")
        self.among.append((position, expr))
        return expr

    def _given_numbers(self) -> Iterator[Bind]:
        """Of the operation that was read last, what its numbers make known."""
        for position, expr in self.among:
            name = _plain(expr)
            if name is not None and name not in self.known and name not in self.outside:
                self.known.add(name)
                yield Bind(name, position, None)
        self.among.clear()

    def _scalar_line(self, node: fx.Node, target: str, args: tuple[Arg, ...], name: str | None) -> None:
        binds = (Bind(name, 0, None),) if name is not None else ()
        op = Op(self._name(node.name), target, args, (), (), "none", origin=origin_of(node))
        self.lines.append(Line(op, SCALAR, binds))

    def _item(self, node: fx.Node, val: Any) -> None:
        name = node.name
        if isinstance(val, torch.SymInt):
            expr = dim_of(val)
            plain = _plain(expr)
            if plain is None or plain in self.known:  # its value is known otherwise
                self.env[node] = expr
                return
            name = plain
        self.env[node] = self._number(name)
        self._scalar_line(node, ITEM, (self._arg(node.args[0], node),), name)

    def _compute(self, node: fx.Node, val: Any) -> None:
        if isinstance(val, bool | int | float):
            self.env[node] = val
            return
        if isinstance(val, torch.SymInt):
            try:
                expr = dim_of(val)
            except Unsupported:
                expr = None
            if expr is not None and symbols_of(expr) <= self.known | self.outside:
                self.env[node] = expr
                return
        function = _NUMBER_NAMES.get(node.target)  # type: ignore[arg-type]
        if function is None:
            raise Unsupported(Reason(f"{node.target}", f"gives a number that depends on data ({origin_of(node)})"))
        args = tuple(self._arg(a, node) for a in node.args)
        self.env[node] = self._number(node.name)
        self._scalar_line(node, function, args, node.name)

    def _assertion(self, node: fx.Node) -> None:
        self.env[node] = None
        what, message = self._arg(node.args[0], node), self._arg(node.args[1], node)
        if isinstance(what, bool) and what:
            return
        self._scalar_line(node, ASSERT, (what, message), None)

    # -- conditionals and loops --------------------------------------------------------------------------------------

    def _nested(self, gm: fx.GraphModule, node: fx.Node, val: Any, kind: str) -> None:
        if kind == COND:
            what, yes, no, operands = node.args
            parts, args, carried = (yes, no), (what, *operands), 0  # type: ignore[misc]
        else:
            test, body, first, more = node.args
            parts, args, carried = (test, body), (*first, *more), len(first)  # type: ignore[misc,arg-type]
        inside: list[Block] = []
        for part in parts:
            inside.append(self._inside(f"{self.block}.{part}", _held(gm, part)))
        self._outer(node, val, kind, tuple(self._arg(a, node) for a in args), tuple(inside), carried)
        layouts = [self.values[o].layout for o in self.lines[-1].op.outputs if o is not None]
        if kind == STACK and not all(same_places(x.size, x.stride, filled(x.size)) for x in layouts):
            raise Unsupported(
                Reason(f"{node}", f"stacks rows that do not lie one behind the other ({origin_of(node)})")
            )

    def _scan(self, gm: fx.GraphModule, node: fx.Node, val: Any) -> None:
        """A loop over rows. The sizes of what its turns give are known before it."""
        part, first, sliced, more = node.args
        args = tuple(self._arg(a, node) for a in (*first, *sliced, *more))  # type: ignore[misc]
        carried, rows = len(first), len(sliced)  # type: ignore[arg-type]
        if not rows or not all(isinstance(x, torch.Tensor) for x in val):
            raise Unsupported(Reason(f"{node}", f"has no rows, or gives what is no tensor ({origin_of(node)})"))
        body = self._inside(f"{self.block}.{part}", _held(gm, part))
        written = _written(args, (body,))
        for i, (a, taken) in enumerate(zip(args, body.inputs, strict=True)):
            if i < carried + rows or not isinstance(a, Ref) or not isinstance(taken, Ref) or a.name not in written:
                continue
            given, wanted = self.values[a.name].layout, body.graph.value[taken.name].layout
            if given.stride != wanted.stride:  # a turn would write a copy
                why = f"is {given} and written, the loop was captured for {wanted} ({origin_of(node)})"
                raise Unsupported(Reason(f"operand {i} of {node}", why))
        self._outer(node, val, SCAN, args, (body,), carried, rows)
        if self.lines[-1].binds:
            raise Unsupported(Reason(f"{node}", f"gives rows whose size depends on data ({origin_of(node)})"))

    def _inside(self, name: str, module: fx.GraphModule) -> Block:
        inner = _Dynamic(name, frozenset(self.known | self.outside), True, self.regions)
        found = inner.build(module)
        self.held.update({f"{inner.block}:{k}": t for k, t in inner.constants.items()})
        self.held.update(inner.held)
        return found

    def _region(self, gm: fx.GraphModule, node: fx.Node, val: Any) -> None:
        """The call of a region: of one block for all regions that are alike."""
        part, _, *operands = node.args
        module = _held(gm, part)
        key = _likeness(module)
        block = self.regions.get(key)
        if block is None:
            block = self._inside(f"{self.block}.{part}", module)
            self.regions[key] = block
        args = tuple(self._arg(a, node) for a in operands)
        written = _written(args, (block,))
        for i, (a, taken) in enumerate(zip(args, block.inputs, strict=True)):
            given = self.values[a.name].layout if isinstance(a, Ref) else None
            wanted = block.graph.value[taken.name].layout if isinstance(taken, Ref) else None
            fits = given is None and wanted is None
            if isinstance(a, Ref) and given is not None and wanted is not None:
                fits = (given.size, given.dtype) == (wanted.size, wanted.dtype)
                fits = fits and (given.stride == wanted.stride or a.name not in written)
            if not fits:
                raise Unsupported(
                    Reason(
                        f"operand {i} of {node}",
                        f"is {given}, the region was captured for {wanted} ({origin_of(node)})",
                    )
                )
        self._outer(node, val, REGION, args, (block,), 0)

    def _outer(
        self,
        node: fx.Node,
        val: Any,
        kind: str,
        given: tuple[Arg, ...],
        inside: tuple[Block, ...],
        carried: int,
        sliced: int = 0,
    ) -> None:
        """The line that runs blocks, and its results."""
        outputs = tuple(val) if isinstance(val, tuple | list) else (val,)
        refs: list[Arg] = []
        names: list[str | None] = []
        for i, v in enumerate(outputs):
            if isinstance(v, torch.Tensor):
                ref = self._define(node, v, None, f"_{i}")
                refs.append(ref)
                names.append(ref.name)
            else:
                refs.append(self._number(f"{node.name}_{i}") if v is not None and not isinstance(v, int | float) else v)
                names.append(None)
        self.env[node] = tuple(refs)
        values = [self.values[n] if n is not None else None for n in names]
        numbers = [Bind(f"{node.name}_{i}", i, None) for i, r in enumerate(refs) if isinstance(r, Expr)]
        op = Op(
            self._name(node.name), f"lowtide.{kind}", given, (), tuple(names), "tuple",
            mutates=_written(given[kind == COND :], inside), origin=origin_of(node),
        )  # fmt: skip
        binds = (*self._binds(values), *numbers)
        self.lines.append(Line(op, kind, binds, inside, carried, sliced=sliced))


def _held(gm: fx.GraphModule, part: Any) -> fx.GraphModule:
    """The graph that a node names."""
    found: Any = gm
    for word in str(part.target).split("."):
        found = getattr(found, word)
    return found


def _written(operands: Sequence[Arg], inside: Sequence[Block]) -> tuple[str, ...]:
    """The operands whose bytes some block inside writes."""
    out: dict[str, None] = {}
    for b in inside:
        written = {b.graph.value[m].storage for line in b.lines for m in line.op.mutates}
        for given, taken in zip(operands, b.inputs, strict=True):
            if isinstance(given, Ref) and isinstance(taken, Ref) and b.graph.value[taken.name].storage in written:
                out[given.name] = None
    return tuple(out)


def _likeness(module: fx.GraphModule) -> tuple[Any, ...]:
    """Equal for regions that do the same on operands of the same form: their code and what every value in it is."""
    if any(n.op == "get_attr" for n in module.graph.nodes):
        return (id(module),)
    seen: list[str] = [module.code]
    for n in module.graph.nodes:
        val = n.meta.get("val")
        flat = val if isinstance(val, tuple | list) else (val,)
        seen += [f"{v.dtype}{v.device}{v.shape}{v.stride()}" if isinstance(v, torch.Tensor) else str(v) for v in flat]
    return tuple(seen)


def _plain(dim: Any) -> str | None:
    """The name of a dimension that is one symbol."""
    return str(dim.args[0]) if isinstance(dim, Expr) and dim.op == "sym" else None


def _layout_symbols(v: Value) -> frozenset[str]:
    return frozenset(s for d in (*v.layout.size, *v.layout.stride, v.layout.offset) for s in symbols_of(d))


def _without_unused(lines: list[Line], returns: tuple[Arg, ...]) -> list[Line]:
    """Leave out computations on numbers that nobody needs, and assertions that a size is at least 0."""
    sized = {b.symbol for line in lines for b in line.binds if b.dim is not None}
    used = {s for a in returns for s in symbols_in(a)}
    trivial: set[str] = set()
    for line in lines:
        a = line.op.args
        if line.op.target == "operator.ge" and a[1:] == (0,) and symbols_in(a[0]) <= sized:
            trivial |= {b.symbol for b in line.binds}
    out: list[Line] = []
    for line in reversed(lines):
        if line.kind == SCALAR:
            asserts = line.op.target == ASSERT and not (symbols_in(line.op.args[0]) & trivial)
            if not asserts and not any(b.symbol in used for b in line.binds) and line.op.target != ITEM:
                continue
        used |= needed(line)
        out.append(line)
    return out[::-1]


def import_block(name: str, gm: fx.GraphModule) -> tuple[Block, Constants]:
    """The Block of an fx graph; its constants by ``block:value``.

    Raises:
        Unsupported: with the node, why, and the user's line.
    """
    importer = _Dynamic(name, frozenset(), False, {})
    block = importer.build(gm)
    held = {f"{name}:{k}": t for k, t in importer.constants.items()}
    return block, {**held, **importer.held}

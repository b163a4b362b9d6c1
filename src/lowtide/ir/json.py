"""A Graph as JSON of version 1, for other programs; people read ``ir.text``.

Comes in: a Graph, or JSON. Goes out: JSON, or the Graph. Promised: ``load(dump(g)) == g``; JSON that is no graph is
refused with the JSON path of the fault. The schema is docs/schemas/graph-1.schema.json.

Arguments: null, true, a whole number and a text stand for themselves, a list for a list. The others are objects of one
field: ``{"value": name}``, ``{"size": "(s0*4)"}``, ``{"float": "1e-05"}`` (exact, with inf, nan and -0.0), and
``{"dtype": "f32"}``, ``device``, ``format``, ``layout``, ``constant`` for a word of a fixed vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

from lowtide.core.codec import VERSION, Cursor, dumps, loads
from lowtide.core.errors import VerifyError
from lowtide.ir.graph import Arg, Atom, Graph, Layout, Op, Origin, Path, Ref, Section, Value
from lowtide.ir.symbolic import Dim, Expr, parse_dim
from lowtide.ir.words import DEEPEST, KINDS

_T = TypeVar("_T")


def dump(graph: Graph, *, indent: int | None = None) -> str:
    """JSON text of a graph."""
    return dumps(encode(graph), indent=indent)


def load(text: str, file: str = "<text>") -> Graph:
    """The Graph of a JSON text. It is not verified. Raises FileError with the place of the first fault."""
    return decode(loads(text, file))


def encode(graph: Graph) -> dict[str, object]:
    """The graph as JSON values; fields that have their default are left out."""
    return {
        "version": VERSION,
        "kind": "graph",
        "name": graph.name,
        "symbols": list(graph.symbols),
        "constants": list(graph.constants),
        "values": [_value(v) for v in graph.values],
        "sections": [_section(s) for s in graph.sections],
    }


def _value(v: Value) -> dict[str, object]:
    y = v.layout
    out: dict[str, object] = {"name": v.name, "dtype": y.dtype, "device": y.device}
    out |= {"size": [_dim(d) for d in y.size], "stride": [_dim(d) for d in y.stride]}
    out |= {"offset": _dim(y.offset)} if y.offset != 0 else {}
    out |= {"pinned": True} if y.pinned else {}
    out |= {"storage": v.storage} if v.storage != v.name else {}
    return out | _origin(v.origin)


def _origin(o: Origin) -> dict[str, object]:
    if o == Origin():
        return {}
    tags = {"tags": list(o.tags)} if o.tags else {}
    return {"origin": {"file": o.file, "line": o.line, "module": o.module, **tags}}


def _dim(d: Dim) -> int | str:
    return d if isinstance(d, int) else str(d)


def _arg(arg: Arg) -> object:
    match arg:
        case Ref():
            return {"value": arg.name}
        case Expr():
            return {"size": str(arg)}
        case Atom():
            return {arg.kind: arg.text}
        case tuple():
            return [_arg(a) for a in arg]
        case float():
            return {"float": repr(arg)}
        case bool() | int() | str() | None:
            return arg


def _section(s: Section) -> dict[str, object]:
    return {
        "name": s.name,
        "inputs": [_arg(i) for i in s.inputs],
        "ops": [_op(op) for op in s.ops],
        "returns": [_arg(a) for a in s.returns],
        "saved": list(s.saved),
    }


def _op(op: Op) -> dict[str, object]:
    out: dict[str, object] = {"name": op.name, "target": op.target, "args": [_arg(a) for a in op.args]}
    out |= {"kwargs": [[k, _arg(a)] for k, a in op.kwargs]} if op.kwargs else {}
    out |= {"outputs": list(op.outputs), "returns": op.returns}
    out |= {"view": True} if op.view else {}
    out |= {"mutates": list(op.mutates)} if op.mutates else {}
    out |= {"effect": op.effect} if op.effect is not None else {}
    out |= {"paths": [list(p) for p in op.paths]} if op.paths else {}
    out |= {"after": list(op.after)} if op.after else {}
    out |= {"group": op.group} if op.group else {}
    return out | _origin(op.origin)


def decode(top: Cursor) -> Graph:
    """The Graph of JSON values. Raises FileError with the place of the first fault."""
    f = top.fields(("version", "kind", "name", "symbols", "constants", "values", "sections"))
    f["version"].version()
    if f["kind"].text() != "graph":
        f["kind"].fail(f"'graph' is expected, not {f['kind'].text()!r}")
    return Graph(
        f["name"].text(),
        _all(f["values"], _read_value),
        _all(f["sections"], _read_section),
        _all(f["constants"], Cursor.text),
        _all(f["symbols"], Cursor.text),
    )


def _all(at: Cursor, read: Callable[[Cursor], _T]) -> tuple[_T, ...]:
    return tuple(read(c) for c in at.items())


def _read_value(at: Cursor) -> Value:
    f = at.fields(("name", "dtype", "device", "size", "stride"), ("offset", "pinned", "storage", "origin"))
    offset = _read_dim(f["offset"]) if "offset" in f else 0
    size, stride = _all(f["size"], _read_dim), _all(f["stride"], _read_dim)
    pinned = "pinned" in f and f["pinned"].flag()
    layout = Layout(f["dtype"].text(), f["device"].text(), size, stride, offset, pinned)
    name = f["name"].text()
    return Value(name, layout, f["storage"].text() if "storage" in f else name, _read_origin(f))


def _read_origin(fields: dict[str, Cursor]) -> Origin:
    if "origin" not in fields:
        return Origin()
    f = fields["origin"].fields(("file", "line", "module"), ("tags",))
    tags = _all(f["tags"], Cursor.text) if "tags" in f else ()
    return Origin(f["file"].text(), f["line"].whole(None), f["module"].text(), tags)


def _read_dim(at: Cursor) -> Dim:
    return _read_size(at) if isinstance(at.value, str) else at.whole(None)


def _read_size(at: Cursor) -> Dim:
    try:
        return parse_dim(at.text())
    except VerifyError as e:
        at.fail(str(e))


def _read_arg(at: Cursor, depth: int = 0) -> Arg:
    if depth > DEEPEST:
        at.fail(f"lists stand more than {DEEPEST} deep in one another")
    value = at.value
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, list):
        return tuple(_read_arg(c, depth + 1) for c in at.items())
    fields = at.fields((), ("value", "size", "float", *KINDS))
    if len(fields) != 1:
        at.fail(f"an argument is an object of one field, not of {len(fields)}")
    kind, inner = next(iter(fields.items()))
    match kind:
        case "value":
            return Ref(inner.text())
        case "size":
            return _read_size(inner)
        case "float":
            return _read_float(inner)
        case _:
            return Atom(kind, inner.text())


def _read_float(at: Cursor) -> float:
    try:
        number = float(at.text())
    except ValueError:
        at.fail(f"{at.text()!r} is not a number")
    return math.nan if math.isnan(number) else number  # one nan object: equality asks identity first


def _read_input(at: Cursor) -> Ref | Expr | None:
    given = _read_arg(at)
    if given is not None and not isinstance(given, Ref | Expr):
        at.fail("an input is a value, a size or null")
    return given


def _read_section(at: Cursor) -> Section:
    f = at.fields(("name", "inputs", "ops", "returns", "saved"))
    inputs, ops = _all(f["inputs"], _read_input), _all(f["ops"], _read_op)
    return Section(f["name"].text(), inputs, ops, _all(f["returns"], _read_arg), _all(f["saved"], Cursor.whole))


def _read_named(at: Cursor) -> tuple[str, Arg]:
    pair = list(at.items())
    if len(pair) != 2:
        at.fail(f"a pair of name and argument is expected, not {len(pair)} members")
    return pair[0].text(), _read_arg(pair[1])


def _read_output(at: Cursor) -> str | None:
    return None if at.value is None else at.text()


def _read_path(at: Cursor) -> Path:
    return _all(at, lambda step: step.text() if isinstance(step.value, str) else step.whole())


def _read_op(at: Cursor) -> Op:
    f = at.fields(
        ("name", "target", "args", "outputs", "returns"),
        ("kwargs", "view", "mutates", "effect", "origin", "paths", "after", "group"),
    )
    return Op(
        f["name"].text(),
        f["target"].text(),
        _all(f["args"], _read_arg),
        _all(f["kwargs"], _read_named) if "kwargs" in f else (),
        _all(f["outputs"], _read_output),
        f["returns"].text(),
        f["view"].flag() if "view" in f else False,
        _all(f["mutates"], Cursor.text) if "mutates" in f else (),
        f["effect"].text() if "effect" in f else None,
        _read_origin(f),
        _all(f["paths"], _read_path) if "paths" in f else (),
        _all(f["after"], Cursor.text) if "after" in f else (),
        f["group"].text() if "group" in f else "",
    )

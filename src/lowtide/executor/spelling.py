"""How each operation of a block is called: measured facts, and torch's own fast binding where it does the very same.

Comes in: a block and the sizes of its first run. Goes out: one ``Spelling`` per operation. Promised: a public binding is
used in place of ``torch.ops`` only where both were seen to dispatch the same operators with the same arguments (tried on
fake tensors, so nothing is computed); results whose size depends on data are not tried out.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch

from lowtide.executor.block import CALL, VIEW, Block, trusted
from lowtide.executor.emit import Spelling
from lowtide.executor.learned import Recent
from lowtide.executor.lives import static
from lowtide.ir.graph import Graph, Op, refs_in
from lowtide.runtime.calls import empty, overload, python_of
from lowtide.runtime.probe import probe, signature
from lowtide.schedule.schedule import OpFacts, kwargs_into
from lowtide.torch_compat import dispatched, fake_mode, nn_binding

_lock = threading.Lock()
_tried: Recent[str, str] = Recent(20_000)


def spellings(block: Block, bindings: Mapping[str, int], copied: frozenset[str]) -> dict[str, Spelling]:
    """Facts and callables by operation name. ``copied``: operations whose results turned out to alias something."""
    graph = static(block, bindings)
    ops = graph.sections[0].ops
    tried = tuple(
        op
        for op, line in zip(ops, block.lines, strict=True)
        if line.kind == CALL and not line.binds and trusted(op) and not depends_on_data(graph, op)
    )
    section = replace(graph.sections[0], ops=tried)
    facts = probe(replace(graph, sections=(section,)))
    out: dict[str, Spelling] = {}
    for op, line in zip(ops, block.lines, strict=True):
        if line.kind in (CALL, VIEW):
            known = facts.get(op.name, OpFacts())
            plain, into = _bindings(graph, op, known) if op in tried or op.view else (_only_one(op), "")
            names = _result_names(known) if len(op.outputs) > 1 else ()
            out[op.name] = Spelling(known, plain, into, op.name in copied, not trusted(op), names)
    return out


def depends_on_data(graph: Graph, op: Op) -> bool:
    """Whether the size of an operation's result depends on what its operands hold."""
    if torch.Tag.dynamic_output_shape not in overload(op.target).tags:
        return False
    masks = any(graph.value[r].layout.dtype in ("bool", "u8") for a in op.args[1:] for r in refs_in(a))
    return masks or not op.target.startswith("aten.index.")


def _result_names(facts: OpFacts) -> tuple[str, ...]:
    """What the form that writes into given bytes calls its several results."""
    return tuple(a.name for a in overload(facts.out)._schema.arguments if a.is_out) if facts.out is not None else ()


def _only_one(op: Op) -> str:
    """The fast binding of an operator of torch's own that has a single form, so that there is no other to dispatch."""
    space, name, *_ = op.target.split(".")
    one = space == "aten" and set(getattr(torch.ops.aten, name).overloads()) <= {"default", "out"}
    return f"torch:{name}" if one and _public(name) is not None else ""


def _bindings(graph: Graph, op: Op, facts: OpFacts) -> tuple[str, str]:
    """Names of the fast bindings for the plain and for the ``out`` form; empty where ``torch.ops`` is called."""
    name = op.target.split(".")[1]
    found = _public(name)
    if found is None:
        return "", ""
    key = f"{signature(graph, op)} {facts.out}"
    with _lock:
        known = _tried.get(key)
    if known is None:
        known = f"{int(_same(graph, op, found, None))}{int(facts.out is not None and _same(graph, op, found, facts))}"
        with _lock:
            _tried.put(key, known)
    return f"torch:{name}" if known[0] == "1" else "", f"torch:{name}" if known[1] == "1" else ""


def _public(name: str) -> Callable[..., Any] | None:
    found = getattr(torch, name, None)
    if not callable(found) or type(found).__name__ != "builtin_function_or_method":
        found = nn_binding(name)
    return found


def callable_of(name: str) -> Callable[..., Any]:
    """What ``torch:name`` stands for."""
    found = _public(name)
    assert found is not None
    return found


def _same(graph: Graph, op: Op, found: Callable[..., Any], into: OpFacts | None) -> bool:
    """Whether the public binding dispatches what the overload does."""
    with torch.inference_mode(False), torch.no_grad(), fake_mode():
        tensors = {name: empty(graph.value[name].layout) for name in op.reads}
        args = [python_of(a, tensors.__getitem__) for a in op.args]
        named = op.kwargs if into is None else kwargs_into(op)
        kwargs = {k: python_of(a, tensors.__getitem__) for k, a in named}
        target, short = op.target, dict(kwargs)
        if into is not None:
            target, given = str(into.out), tuple(empty(graph.value[str(o)].layout) for o in op.outputs)
            kwargs.update(zip(_result_names(into) if len(given) > 1 else (into.out_name,), given, strict=True))
            short[into.out_name if len(given) == 1 else "out"] = given[0] if len(given) == 1 else given
        try:
            wanted = dispatched(lambda: overload(target)(*args, **kwargs))
            return wanted == dispatched(lambda: found(*args, **short))
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError):
            return False

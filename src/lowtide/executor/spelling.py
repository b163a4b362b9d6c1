"""How each operation of a block is called: measured facts, and torch's own fast binding where it does the very same.

Comes in: a block and the sizes of its first run. Goes out: one ``Spelling`` per operation. Promised: a public binding is
used in place of ``torch.ops`` only where both were seen to dispatch the same operators with the same arguments (tried on
fake tensors, so nothing is computed); results whose size depends on data are not tried out.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import torch

from lowtide.executor.block import CALL, VIEW, Block, trusted
from lowtide.executor.emit import Spelling
from lowtide.executor.learned import Recent
from lowtide.executor.lives import static
from lowtide.executor.storages import room
from lowtide.ir.graph import Graph, Op, refs_in
from lowtide.runtime.calls import empty, overload, python_of
from lowtide.runtime.probe import probe, signature
from lowtide.schedule.schedule import OpFacts
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
            grows = _growing(op) if depends_on_data(graph, op) and known.out is None else ""
            out[op.name] = Spelling(known, plain, into, op.name in copied, not trusted(op), names, grows)
    return out


def depends_on_data(graph: Graph, op: Op) -> bool:
    """Whether the size of an operation's result depends on what its operands hold."""
    if torch.Tag.dynamic_output_shape not in overload(op.target).tags:
        return False
    masks = any(graph.value[r].layout.dtype in ("bool", "u8") for a in op.args[1:] for r in refs_in(a))
    return masks or not op.target.startswith("aten.index.")


# What writes a result whose size the data decides into a tensor that may not grow beyond its storage, and how.
_GROWING = {
    "aten.nonzero.default": "torch:nonzero",
    "aten.masked_select.default": "torch:masked_select",
    "aten.index.Tensor": "op:aten.index.Tensor_out",
}


def _growing(op: Op) -> str:
    """The form of an operation that gives its result bytes in a room of fixed size, where this torch was seen to do so."""
    found = _GROWING.get(op.target, "")
    return found if found and not op.kwargs and _stays_inside(op.target) else ""


@functools.cache
def _stays_inside(target: str) -> bool:
    """Whether the form writes into the room it is given, and raises and touches nothing around a room that is too small. Tried
    once, on a thread of its own, where no mode of the caller's is in force."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_tried_inside, target).result()


def _tried_inside(target: str) -> bool:
    with torch.no_grad():
        mask, x = torch.arange(24) % 3 > 0, torch.arange(24.0) + 1
        both = mask.view(4, 6), x.view(4, 6)
        small = {"aten.nonzero.default": (mask,), "aten.masked_select.default": (x, mask)}.get(target, (x, [mask]))
        wide = {"aten.nonzero.default": both[:1], "aten.masked_select.default": both[::-1]}.get(
            target, (both[1], [both[0]])
        )
        name = _GROWING[target]
        into = overload(name[3:]) if name.startswith("op:") else callable_of(name[6:])
        forms = [into]
        if target == "aten.index.Tensor":
            forms.append(lambda x, by, *, out: torch.index_select(x, 0, torch.nonzero(by[0]).view(-1), out=out))
        return all(
            _keeps(form, overload(target), args)
            for k, form in enumerate(forms)
            for args in ((small, wide) if k == 0 else (small,))
        )


def _keeps(into: Callable[..., Any], plain: Callable[..., Any], args: tuple[Any, ...]) -> bool:
    want = plain(*args)
    around = torch.full((1024,), 0xFF, dtype=torch.uint8)
    for nbytes, fits in ((512, True), (want.nbytes, True), (want.nbytes - want.element_size(), False), (0, False)):
        inside, before = room(around, 256, nbytes, want.dtype), around.clone()
        try:
            into(*args, out=inside.resize_(0))
        except RuntimeError:
            if fits:
                return False
            wrote = around[256 : 256 + nbytes]
            wrote.fill_(0xFF)
        else:
            if not fits or inside.data_ptr() != around.data_ptr() + 256 or not torch.equal(inside, want):
                return False
            inside.copy_(torch.full_like(inside, 0))
            around[256 : 256 + nbytes] = 0xFF
        if not torch.equal(around, before):
            return False
    return True


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
        kwargs = {k: python_of(a, tensors.__getitem__) for k, a in op.kwargs}
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

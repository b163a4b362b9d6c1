"""Convolutions in the layout that the library computes in: channels last.

Comes in: a captured graph without a backward, of static sizes, on the CPU. Goes out: one with the same values, in which
what convolutions read has its channels next to each other in memory. Given another layout oneDNN copies its input and its
result, which costs time and a workspace as large as both. Everything between two convolutions follows the strides of what
it reads, so a copy is only made where a layout enters. Promised: results have the strides they had; random numbers are
drawn in the order of memory that they were drawn in; a graph that this cannot express, or where the copies would be many,
stays as it is. Graphs with a backward are left alone: hardly faster, and peaks grew (docs/design/loops.md).
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import fx

from lowtide.frontend.made import call, evaluate, tensors
from lowtide.ir.strides import BY_STORAGE, fill_order, inverse, same_places
from lowtide.torch_compat import OpOverload

aten = torch.ops.aten
_MARGIN = 2


class _Refused(Exception):
    """The graph has something that this pass cannot keep right."""


def channels_last(gm: fx.GraphModule) -> None:
    """Rewrite ``gm`` in place, if it has convolutions over images."""
    if not any(_over_images(n) for n in gm.graph.nodes) or any(_foreign(n) for n in gm.graph.nodes):
        return
    graph, copied = fx.Graph(), dict[fx.Node, fx.Node]()
    graph.set_codegen(gm.graph._codegen)
    result = graph.graph_copy(gm.graph, copied)
    (old_output,) = gm.graph.find_nodes(op="output")
    output = graph.output(result)
    output.meta = dict(old_output.meta)
    given = {new: old.meta.get("val") for old, new in copied.items()}
    try:
        _rewrite(graph, given)
    except _Refused:
        return
    if _worth(graph, given):
        gm.graph = graph
        gm.recompile()


def _worth(graph: fx.Graph, given: Collection[fx.Node]) -> bool:
    """Whether the bytes that are copied now are well below those that the library copied before: a convolution's input and
    result then, now its weight (but for one of a single point, whose layout is the same) and what we copy ourselves."""
    convolutions = [n for n in graph.nodes if _over_images(n)]
    weights = [n.args[1].meta["val"] for n in convolutions]
    before = sum(n.meta["val"].nbytes + n.args[0].meta["val"].nbytes for n in convolutions)
    now = sum(w.nbytes for w in weights if not w.is_contiguous(memory_format=torch.channels_last))
    now += sum(n.meta["val"].nbytes for n in graph.nodes if n.target is aten.clone.default and n not in given)
    return _MARGIN * now < before


def _over_images(node: fx.Node) -> bool:
    if node.target is not aten.convolution.default or node.args[6]:  # transposed
        return False
    x = node.args[0].meta["val"]
    return x.dim() == 4 and x.device.type == "cpu"


def _foreign(node: fx.Node) -> bool:
    """Programs inside, sizes that are not known, devices that convolve otherwise."""
    if node.op == "call_function" and not isinstance(node.target, OpOverload) and node.target is not operator.getitem:
        return True
    value = node.meta.get("val")
    return isinstance(value, torch.SymInt) or any(
        v.device.type != "cpu" or any(isinstance(n, torch.SymInt) for n in v.shape) for v in tensors(value)
    )


def _rewrite(graph: fx.Graph, before: dict[fx.Node, Any]) -> None:
    """``before``: what each node's value was."""
    turned: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op == "output":
            _restore(graph, node, before)
        if node.op != "call_function":
            continue
        if _over_images(node):
            _read(graph, node, turned)
        moved = [a for a in node.all_input_nodes if _strides(a.meta.get("val")) != _strides(before.get(a))]
        if moved and node.target is not aten.copy_.default:
            if _by_memory(node):
                _as_before(graph, node, moved, before)
            else:
                _again(graph, node, moved, before)


def _read(graph: fx.Graph, node: fx.Node, turned: dict[fx.Node, fx.Node]) -> None:
    source = node.args[0]
    if source.meta["val"].is_contiguous(memory_format=torch.channels_last):
        return
    if source not in turned:
        with graph.inserting_before(node):
            turned[source] = _copy(graph, source, node, torch.channels_last)
    node.update_arg(0, turned[source])


def _again(graph: fx.Graph, node: fx.Node, moved: list[fx.Node], before: dict[fx.Node, Any]) -> None:
    """The node's value from what it reads now; a view that the new strides do not allow is one of a copy."""
    try:
        evaluate(node)
    except (RuntimeError, ValueError):
        _as_before(graph, node, moved, before)
        evaluate(node)


def _by_memory(node: fx.Node) -> bool:
    return str(node.target) in BY_STORAGE or (
        isinstance(node.target, OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags
    )


def _as_before(graph: fx.Graph, node: fx.Node, moved: list[fx.Node], before: dict[fx.Node, Any]) -> None:
    """Give the node copies that have the strides from before."""
    for source in moved:
        with graph.inserting_before(node):
            node.replace_input_with(source, _with_strides(graph, source, node, before.get(source)))


def _restore(graph: fx.Graph, output: fx.Node, before: dict[fx.Node, Any]) -> None:
    for source in output.all_input_nodes:
        if _strides(source.meta.get("val")) != _strides(before.get(source)):
            with graph.inserting_before(output):
                output.replace_input_with(source, _with_strides(graph, source, source, before.get(source)))


def _with_strides(graph: fx.Graph, source: fx.Node, like: fx.Node, wanted: Any) -> fx.Node:
    if not isinstance(wanted, torch.Tensor):
        raise _Refused
    now = source.meta["val"]
    if same_places(now.shape, now.stride(), wanted.stride()) and now.storage_offset() == 0:
        return call(graph, like, aten.as_strided.default, source, list(now.shape), list(wanted.stride()))
    order = fill_order(wanted.shape, wanted.stride())[::-1]
    turned = call(graph, like, aten.permute.default, source, list(order))
    dense = _copy(graph, turned, like, torch.contiguous_format)
    made = call(graph, like, aten.permute.default, dense, list(inverse(order)))
    if made.meta["val"].stride() != wanted.stride():
        raise _Refused
    return made


def _copy(graph: fx.Graph, source: fx.Node, like: fx.Node, form: torch.memory_format) -> fx.Node:
    return call(graph, like, aten.clone.default, source, memory_format=form)


def _strides(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_strides(v) for v in value)
    return value.stride() if isinstance(value, torch.Tensor) else None

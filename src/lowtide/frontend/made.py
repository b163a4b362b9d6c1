"""Operations that we put into a captured graph, with their values and where they come from."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

ORIGIN = ("stack_trace", "nn_module_stack", "seq_nr", "partitioner_tag")


def call(graph: fx.Graph, like: fx.Node, op: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """An operation at the graph's place of insertion, of the user's line that ``like`` is of."""
    made = graph.call_function(op, args, kwargs)
    made.meta = {k: v for k, v in like.meta.items() if k in ORIGIN}
    evaluate(made)
    return made


def evaluate(node: fx.Node) -> None:
    """Give the node the (fake) value that follows from its inputs' values."""
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    with next(v.fake_mode for v in tensors(node.all_input_nodes[0].meta["val"])):
        node.meta["val"] = node.target(*args, **kwargs)


def tensors(value: Any) -> tuple[Any, ...]:
    """The tensors of a node's value: itself, or those of its parts."""
    values = value if isinstance(value, tuple | list) else (value,)
    return tuple(v for v in values if isinstance(v, torch.Tensor))

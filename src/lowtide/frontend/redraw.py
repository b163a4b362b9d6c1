"""Random numbers that checkpointing draws again, as plain operations.

Comes in: the forward and backward graph of a partition. Goes out: the same graphs, changed in place. PyTorch wraps a
random operation that backward repeats in a higher-order operator: one notes the generator's state and draws, one draws
from a noted state. Promised: the same numbers from operations that a plan can hold, ordered like all other draws:

    state = rng_state(); y = op(...)                                                    in forward
    now = rng_state(); set_rng_state(state); y = op(...); set_rng_state(now)            in backward
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from lowtide.torch_compat import draw_and_note, draw_from

STATE_NBYTES = torch.get_rng_state().nbytes

_library = torch.library.Library("lowtide", "FRAGMENT")
_library.define("rng_state() -> Tensor", tags=(torch.Tag.nondeterministic_seeded,))
_library.define("set_rng_state(Tensor state) -> ()", tags=(torch.Tag.nondeterministic_seeded,))
_library.impl("rng_state", torch.get_rng_state, "CompositeExplicitAutograd")
_library.impl("set_rng_state", torch.set_rng_state, "CPU")


def unwrap_draws(fw: fx.GraphModule, bw: fx.GraphModule) -> None:
    """Replace every wrapped draw on the CPU in both graphs, and call a saved state the same in both."""
    for gm in (fw, bw):
        found = [*gm.graph.find_nodes(op="call_function", target=draw_and_note)]
        found += gm.graph.find_nodes(op="call_function", target=draw_from)
        ours = [n for n in gm.graph.nodes if n in found and _on_cpu(n)]  # in program order
        for node in ours:
            _unwrap(gm.graph, node)
        if ours:
            gm.recompile()
    taken = [n for n in bw.graph.find_nodes(op="placeholder") if n.name.startswith("rng_state_output")]
    (output,) = fw.graph.find_nodes(op="output")
    for given, received in zip(output.args[0][len(output.args[0]) - len(taken) :], taken, strict=True):
        given._rename(received.name)  # PyTorch returns the states last, in this order
    if taken:
        fw.recompile()


def _on_cpu(node: fx.Node) -> bool:
    values = [a.meta.get("val") for a in node.all_input_nodes]
    return all(v.device.type == "cpu" for v in values if isinstance(v, torch.Tensor))


def _unwrap(graph: fx.Graph, node: fx.Node) -> None:
    with graph.inserting_before(node):
        if node.target is draw_and_note:
            op, *rest = node.args
            state = _state(graph, node)
            drawn = _drawn(graph, node, op, rest)
        else:
            state, op, *rest = node.args
            state.meta["val"] = _fake_state(graph)
            now = _state(graph, node)
            graph.call_function(torch.ops.lowtide.set_rng_state.default, (state,)).meta = {**node.meta, "val": None}
            drawn = _drawn(graph, node, op, rest)
            graph.call_function(torch.ops.lowtide.set_rng_state.default, (now,)).meta = {**node.meta, "val": None}
    if node.target is draw_from:
        node.replace_all_uses_with(drawn)
    else:
        for part in list(node.users):
            part.replace_all_uses_with((state, drawn)[part.args[1]])
            graph.erase_node(part)
    graph.erase_node(node)


def _state(graph: fx.Graph, like: fx.Node) -> fx.Node:
    made = graph.call_function(torch.ops.lowtide.rng_state.default)
    made.meta = {**like.meta, "val": _fake_state(graph)}
    return made


def _drawn(graph: fx.Graph, node: fx.Node, op: Any, args: list[Any]) -> fx.Node:
    made = graph.call_function(op, tuple(args), dict(node.kwargs))
    made.meta = dict(node.meta)
    values = fx.map_arg(args, lambda a: a.meta["val"])
    keywords = fx.map_arg(dict(node.kwargs), lambda a: a.meta["val"])
    with _fake_mode(graph):
        made.meta["val"] = op(*values, **keywords)
    return made


def _fake_state(graph: fx.Graph) -> torch.Tensor:
    with _fake_mode(graph):
        return torch.empty(STATE_NBYTES, dtype=torch.uint8, device="cpu")


def _fake_mode(graph: fx.Graph) -> Any:
    values = (n.meta.get("val") for n in graph.nodes)
    return next(v.fake_mode for v in values if isinstance(v, torch.Tensor))

"""What each step of a schedule moves, computes and takes: bytes, arithmetic operations, seconds.

Comes in: a Schedule with static sizes, and a ``Machine``. Goes out: a ``NodeEstimate`` per operation. Promised: it raises for
nothing but names that somebody gave and no step has; of a kernel only what it reads and writes outside itself counts; a
library call counts what its operands and results reach, and the multiplications and additions of products, convolutions and
attention (0 of what is unknown); nothing counts twice.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from lowtide.core.errors import UserError
from lowtide.core.units import format_bytes
from lowtide.ir.graph import ITEMSIZE, WAIT, Graph, Layout, Op, Ref, int_of
from lowtide.schedule.cost import Machine, loop_cost
from lowtide.schedule.schedule import Schedule, Step


@dataclass(frozen=True, slots=True)
class NodeEstimate:
    """One run of a step: bytes read and written, operations (multiplications and additions; a polynomial counts ten), and
    seconds, the call included. ``known``: the seconds were given, not estimated."""

    nbytes: int
    operations: int
    seconds: float
    known: bool = False

    def __str__(self) -> str:
        seconds = f"{self.seconds * 1e6:.3g} µs{' as given' if self.known else ''}"
        return f"{format_bytes(self.nbytes)} moved, {self.operations:.3g} operations, {seconds}"


def estimates(
    schedule: Schedule,
    machine: Machine = Machine(),  # noqa: B008
    known: Mapping[str, float] | None = None,
) -> Mapping[str, NodeEstimate]:
    """By name of the operation, in order of the steps. ``known``: seconds of operations, by name, which stand for what would
    be estimated: measured (``runtime.timing``) or given by hand.

    Raises:
        UserError: ``known`` names what is no step.
    """
    found = {s.op.name: estimate(schedule.graph, s, machine) for s in schedule.steps}
    given = known or {}
    refuse_unknown(given, found.keys())
    return found | {n: replace(found[n], seconds=t, known=True) for n, t in given.items()}


def refuse_unknown(given: Iterable[str], steps: Collection[str]) -> None:
    """Raise UserError for the first name that is none of the ``steps``, with the nearest one that is."""
    for name in given:
        if name not in steps:
            near = difflib.get_close_matches(name, steps, 1)
            raise UserError(f"no step is named {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""))


def estimate(graph: Graph, step: Step, machine: Machine) -> NodeEstimate:
    """Of one step."""
    if step.loop is not None:
        cost = loop_cost(step.loop, machine)
        return NodeEstimate(cost.nbytes, cost.operations, cost.seconds(machine))
    op = step.op
    if op.target == WAIT:
        return NodeEstimate(0, 0, machine.call_seconds)  # what it waits for is counted where it begins
    touched = dict.fromkeys((*op.reads, *op.mutates, *(o for o in op.outputs if o is not None)))
    nbytes = sum(_reached(graph.value[n].layout) for n in touched)
    count = _COUNTED.get(op.target.split(".")[1] if "." in op.target else "")
    operations = _safely(count, graph, op) if count is not None else 0
    kind = next((graph.value[o].layout.dtype for o in op.outputs if o is not None), "f32")
    seconds = max(machine.moving_seconds(nbytes), machine.matmul_seconds(kind, operations)) + machine.call_seconds
    return NodeEstimate(nbytes, operations, seconds)


def _reached(layout: Layout) -> int:
    """Bytes of the elements that a tensor has, each once: what is broadcast along a dimension is read from cache."""
    dims = zip(layout.size, layout.stride, strict=True)
    return math.prod(int_of(n) for n, stride in dims if stride != 0 or n == 0) * ITEMSIZE[layout.dtype]


# -- arithmetic of library calls -----------------------------------------------------------------------------------------


def _safely(count: Callable[[Graph, Op], int], graph: Graph, op: Op) -> int:
    try:
        return count(graph, op)
    except (IndexError, AttributeError, KeyError, TypeError):
        return 0  # an overload with other arguments: an estimate is no reason to fail


def _size(graph: Graph, op: Op, k: int) -> tuple[int, ...]:
    given = op.args[k]
    assert isinstance(given, Ref)
    return tuple(int_of(n) for n in graph.value[given.name].layout.size)


def _product(first: int) -> Callable[[Graph, Op], int]:
    """Of matrices, whose first is argument ``first``: [.., m, k] by [.., k, n]."""

    def count(graph: Graph, op: Op) -> int:
        return 2 * math.prod(_size(graph, op, first)) * _size(graph, op, first + 1)[-1]

    return count


def _linear(graph: Graph, op: Op) -> int:
    return 2 * math.prod(_size(graph, op, 0)) * _size(graph, op, 1)[0]


def _convolution(graph: Graph, op: Op) -> int:
    out = next(o for o in op.outputs if o is not None)
    weight = _size(graph, op, 1)
    transposed = op.args[6] is True
    points = math.prod(_size(graph, op, 0) if transposed else map(int_of, graph.value[out].layout.size))
    return 2 * points * math.prod(weight[1:])


def _convolution_backward(graph: Graph, op: Op) -> int:
    """As much as forward for each of the gradients of input and weight that is asked for."""
    weight, transposed = _size(graph, op, 2), op.args[7] is True
    points = math.prod(_size(graph, op, 1 if transposed else 0))
    asked = op.args[10]
    assert isinstance(asked, tuple)
    return 2 * points * math.prod(weight[1:]) * sum(x is True for x in asked[:2])


def _attention(factor: int, first: int) -> Callable[[Graph, Op], int]:
    """Of query, key and value from argument ``first``: ``factor`` products of [queries, width] by [width, keys]."""

    def count(graph: Graph, op: Op) -> int:
        return 2 * factor * math.prod(_size(graph, op, first)) * _size(graph, op, first + 1)[-2]

    return count


_COUNTED: Mapping[str, Callable[[Graph, Op], int]] = {
    "mm": _product(0),
    "bmm": _product(0),
    "matmul": _product(0),
    "addmm": _product(1),
    "baddbmm": _product(1),
    "linear": _linear,
    "convolution": _convolution,
    "convolution_backward": _convolution_backward,
    "_scaled_dot_product_flash_attention_for_cpu": _attention(2, 0),
    "_scaled_dot_product_flash_attention_for_cpu_backward": _attention(5, 1),
}

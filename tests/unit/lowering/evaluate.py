"""Run an ATen overload by its lowering rule: through the NumPy oracle, or through the generated C++."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from built import build, call_at
from lowtide.frontend.fx_import import DTYPES
from lowtide.ir.graph import Arg, Atom, Graph, Layout, Op, Ref, Section, Value, refs_in
from lowtide.ir.interpret import interpret
from lowtide.ir.loops import Loop
from lowtide.ir.lowered import LOOP, Lowered, check_lowered
from lowtide.ir.verify import verify
from lowtide.lowering.lower import lower
from lowtide.runtime.calls import overload

Run = Callable[[Loop, Sequence[torch.Tensor]], None]


def graph_of(
    target: str, args: Sequence[Any], kwargs: dict[str, Any], results: Any
) -> tuple[Graph, dict[str, torch.Tensor]]:
    """A graph of one operation on these arguments, and its inputs by name. ``results``: what eager gives."""
    values: list[Value] = []
    tensors: dict[str, torch.Tensor] = {}

    def layout(t: torch.Tensor) -> Layout:
        return Layout(DTYPES[t.dtype], "cpu", tuple(t.shape), tuple(t.stride()), t.storage_offset())

    def arg(a: Any) -> Arg:
        if isinstance(a, torch.Tensor):
            known = next((n for n, x in tensors.items() if x is a), None)
            if known is not None:
                return Ref(known)
            name = f"x{len(tensors)}"
            tensors[name] = a
            values.append(Value(name, layout(a), name))
            return Ref(name)
        if isinstance(a, list | tuple):
            return tuple(arg(x) for x in a)
        if isinstance(a, torch.dtype):
            return Atom("dtype", DTYPES[a])
        if isinstance(a, torch.device):
            return Atom("device", str(a))
        if isinstance(a, torch.layout | torch.memory_format):
            return Atom("format", str(a))
        return a

    given = tuple(arg(a) for a in args)
    named = tuple((k, arg(a)) for k, a in sorted(kwargs.items()))
    flat = [results] if isinstance(results, torch.Tensor) else list(results)
    outputs: list[str | None] = []
    for k, r in enumerate(flat):
        if not isinstance(r, torch.Tensor):
            outputs.append(None)
            continue
        name = f"y{k}"
        values.append(Value(name, layout(r) if r.storage_offset() == 0 else layout(r.clone()), name))
        outputs.append(name)
    one = isinstance(results, torch.Tensor)
    op = Op("y0" if one else "op", target, given, named, tuple(outputs), "one" if one else "tuple")
    inputs = tuple(Ref(n) for n in tensors)
    section = Section("inference", inputs, (op,), tuple(Ref(o) for o in outputs if o is not None))
    return Graph("one", tuple(values), (section,)), tensors


def by_cpp(loop: Loop, buffers: Sequence[torch.Tensor]) -> None:
    """Compile and call the kernel of a loop."""
    build([loop])
    call_kernel(loop, buffers)


def call_kernel(loop: Loop, buffers: Sequence[torch.Tensor]) -> None:
    """Call a kernel that is loaded already."""
    call_at(loop, *(b.data_ptr() for b in buffers))


def by_oracle(loop: Loop, buffers: Sequence[torch.Tensor]) -> None:
    """Interpret a loop. Buffers are seen as flat arrays from their first element to the end of their storage."""
    arrays = []
    for b in buffers:
        whole = torch.empty(0, dtype=b.dtype).set_(b.untyped_storage())[b.storage_offset() :]
        arrays.append((whole.view(torch.uint16) if b.dtype == torch.bfloat16 else whole).numpy())
    interpret(loop, arrays)


def lowered_results(lowered: Lowered, tensors: dict[str, torch.Tensor], run: Run) -> dict[str, torch.Tensor]:
    """Every value that the loops of a lowered graph make, filled with garbage before."""
    held = dict(tensors)
    for op in lowered.graph.ops:
        assert op.target == LOOP, f"{op.target} was not lowered: {[str(r) for r in lowered.reasons]}"
        for o in op.outputs:
            x = lowered.graph.value[str(o)].layout
            dtype = next(t for t, n in DTYPES.items() if n == x.dtype)
            made = torch.empty_strided(x.size, x.stride, dtype=dtype)
            made.untyped_storage().fill_(0x7F if dtype != torch.bool else 1)
            held[str(o)] = made
        names = [n for a in op.args for n in refs_in(a)] + [str(o) for o in op.outputs]
        run(lowered.loops[op.name], [held[n] for n in names])
    return held


def lower_call(
    target: str, args: Sequence[Any], kwargs: dict[str, Any] | None = None
) -> tuple[Lowered, dict[str, torch.Tensor], Any]:
    """The lowered graph of one call, its inputs, and eager's results."""
    results = overload(target)(*args, **(kwargs or {}))
    graph, tensors = graph_of(target, args, kwargs or {}, results)
    verify(graph)
    lowered = lower(graph)
    verify(lowered.graph)
    check_lowered(lowered)
    return lowered, tensors, results


__all__ = ["by_cpp", "by_oracle", "call_kernel", "lower_call", "lowered_results"]

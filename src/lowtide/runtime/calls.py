"""Operations of a Graph as calls into torch: targets by name, arguments from their frozen form, tensors from layouts."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lowtide.core.errors import BugError
from lowtide.ir.graph import TRUSTED, Arg, Atom, Graph, Layout, Op, Path, Ref
from lowtide.schedule.schedule import runs_on

DTYPES: Mapping[str, torch.dtype] = {
    "bool": torch.bool, "u8": torch.uint8, "i8": torch.int8, "i16": torch.int16, "i32": torch.int32,
    "i64": torch.int64, "u16": torch.uint16, "u32": torch.uint32, "u64": torch.uint64, "f8e4m3": torch.float8_e4m3fn,
    "f8e5m2": torch.float8_e5m2, "f16": torch.float16, "bf16": torch.bfloat16, "f32": torch.float32,
    "f64": torch.float64, "c32": torch.complex32, "c64": torch.complex64, "c128": torch.complex128,
}  # fmt: skip


def overload(target: str) -> Any:
    """The operator named ``namespace.name.overload``."""
    namespace, name, which = target.split(".", 2)
    return getattr(getattr(getattr(torch.ops, namespace), name), which)


def atom(a: Atom) -> Any:
    """The torch object that an Atom names."""
    if a.kind == "dtype":
        return DTYPES[a.text]
    if a.kind == "device":
        return torch.device(a.text)
    if a.kind in ("layout", "format"):
        return getattr(torch, a.text)
    raise BugError(f"argument of kind {a.kind!r}")


def python_of(arg: Arg, tensor: Callable[[str], Any]) -> Any:
    """An argument as torch takes it; ``tensor`` gives the tensor of a value's name."""
    if isinstance(arg, Ref):
        return tensor(arg.name)
    if isinstance(arg, tuple):
        return [python_of(a, tensor) for a in arg]
    return atom(arg) if isinstance(arg, Atom) else arg


def leaves(results: Any, paths: Sequence[Path]) -> list[Any]:
    """The members of a call's nested results that lie at these places."""
    return [functools.reduce(operator.getitem, path, results) for path in paths]


def results_of(op: Op, results: Any) -> list[Any]:
    """What a call gave, one for each output of its operation."""
    if op.paths:
        return leaves(results, op.paths)
    return [results] if op.returns == "one" else list(results)


def empty(layout: Layout) -> torch.Tensor:
    """A fresh tensor with a static layout's size and stride (offset 0), its contents unset."""
    return torch.empty_strided(layout.size, layout.stride, dtype=DTYPES[layout.dtype], device=layout.device)


@dataclass(frozen=True)
class Trial:
    """One operation on tensors of its own. ``tensors``: what it reads, by name; ``args`` and ``kwargs`` hold the same ones."""

    call: Any
    tensors: Mapping[str, torch.Tensor]
    args: list[Any]
    kwargs: dict[str, Any]

    def __call__(self) -> Any:
        """Run it."""
        return self.call(*self.args, **self.kwargs)


# What torch raises where an operation does not take made-up operands.
REFUSALS = (RuntimeError, IndexError, ValueError, NotImplementedError)


def trial(graph: Graph, op: Op) -> Trial | str:
    """An operation of a static graph, ready to be tried alone; or why it is not: one from outside torch may do anything when
    it is run on made-up operands, and the random state of a device other than the CPU is not put back."""
    if op.target.split(".", 1)[0] not in TRUSTED:
        return "an operator from outside torch is not tried alone"
    device = runs_on(graph, op)
    if device != "cpu" and op.effect == "random":
        return f"it would draw random numbers of {device} to be tried"
    tensors = {name: _operand(graph.value[name].layout) for name in op.reads}
    args = [python_of(a, tensors.__getitem__) for a in op.args]
    kwargs = {k: python_of(a, tensors.__getitem__) for k, a in op.kwargs}
    return Trial(overload(op.target), tensors, args, kwargs)


def _operand(layout: Layout) -> torch.Tensor:
    """Halves, or zeros where there are no fractions."""
    t = empty(layout)
    return t.fill_(0.5) if t.is_floating_point() else t.zero_()

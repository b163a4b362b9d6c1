"""``torch.export`` programs: an ExportedProgram -> a callable with a promised peak.

Comes in: what ``torch.export.export`` returns. Goes out: a callable with the program's own signature that gives the same
numbers. Promised: parameters, buffers and constants stay where they are; buffers and arguments that the program changes
are changed; sizes may vary within what the export allows: each is planned when first seen. Arguments are held against
what was exported before anything runs, and copied where their strides differ.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind

from lowtide.backend import build_planned
from lowtide.core.errors import Unsupported, UserError
from lowtide.core.options import Options
from lowtide.core.reason import Reason
from lowtide.frontend.sizes import dim_of
from lowtide.ir.symbolic import Dim, Expr, evaluate, symbols_of
from lowtide.runtime.load import exact
from lowtide.runtime.records import Record
from lowtide.torch_compat import tree_flatten, tree_unflatten

_numbers = itertools.count()
_INPUTS = (InputKind.USER_INPUT, InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
_MUTATIONS = (OutputKind.BUFFER_MUTATION, OutputKind.PARAMETER_MUTATION, OutputKind.USER_INPUT_MUTATION)


def compile_exported(program: ExportedProgram, *, options: Mapping[str, object] | None = None) -> Callable[..., Any]:
    """Plan an exported program. The result is called like ``program.module()``, without gradients.

    Raises:
        UserError: not an ExportedProgram; when called, arguments that the program was not exported for.
        OptionError, OverBudget: as for ``torch.compile``.
        Unsupported: the program does what we cannot express; the message says what and where.
    """
    if not isinstance(program, ExportedProgram):
        raise UserError(f"an ExportedProgram is expected (from torch.export.export), not a {type(program).__name__}")
    chosen = Options.of(options)
    lowered = program.run_decompositions({})
    signature = lowered.graph_signature
    _refuse_unknown_kinds(signature.input_specs, signature.output_specs)
    record = Record(f"export{next(_numbers)}")
    run = build_planned(record, chosen, [("inference", lowered.graph_module)], None)
    if run is None:
        raise Unsupported(record.fallback or Reason("the program", "cannot be expressed"))
    section = run.section(0)
    held = [_tensor(program, s.target) if s.kind is not InputKind.USER_INPUT else None for s in signature.input_specs]
    arguments = _arguments(lowered)
    written = [(i, s.kind, s.target) for i, s in enumerate(signature.output_specs) if s.kind in _MUTATIONS]
    names = [a.name for a in arguments]

    def call(*args: Any, **kwargs: Any) -> Any:
        users = _flat(lowered.call_spec.in_spec, args, kwargs)
        bound = _bound(arguments, users)
        with torch.no_grad():
            fitting = iter([a.fit(given, bound) for a, given in zip(arguments, users, strict=True)])
            results = section([next(fitting) if t is None else t for t in held])
            for i, kind, target in written:
                own = kind is not OutputKind.USER_INPUT_MUTATION
                (_tensor(program, target) if own else users[names.index(str(target))]).copy_(results[i])
        kept = [r for r, s in zip(results, signature.output_specs, strict=True) if s.kind is OutputKind.USER_OUTPUT]
        return tree_unflatten(kept, lowered.call_spec.out_spec)

    return call


@dataclass(frozen=True, slots=True)
class _Argument:
    """What the caller must pass at one place: a tensor of that layout (``value`` is an example of it), a size, or exactly
    ``value``. limits: smallest and largest value of each symbol."""

    name: str
    value: Any
    size: tuple[Dim, ...]
    stride: tuple[Dim, ...]
    limits: Mapping[str, tuple[int, float]]

    def bind(self, given: Any, bound: dict[str, int]) -> None:
        """Refuse what does not fit, and learn sizes from what does.

        Raises:
            UserError: with the argument and what is wrong about it.
        """
        if isinstance(self.value, torch.SymInt):
            self._learn(self.size[0], given, bound, "")
        elif not isinstance(self.value, torch.Tensor):
            if type(given) is not type(self.value) or given != self.value:
                raise UserError(f"argument {self.name} was {self.value!r} at export and is {given!r} now")
        else:
            if not isinstance(given, torch.Tensor):
                raise UserError(f"argument {self.name} is a tensor, not a {type(given).__name__}")
            wanted = (self.value.dtype, self.value.device, len(self.size))
            found = (given.dtype, given.device, given.dim())
            if wanted != found or given.layout is not torch.strided:
                raise UserError(f"argument {self.name}: (dtype, device, rank) are {wanted} in the program, not {found}")
            for i, (dim, n) in enumerate(zip(self.size, given.shape, strict=True)):
                self._learn(dim, n, bound, f" dimension {i}")

    def _learn(self, dim: Dim, n: Any, bound: dict[str, int], where: str) -> None:
        name = str(dim.args[0]) if isinstance(dim, Expr) and dim.op == "sym" else None
        if type(n) is not int:
            raise UserError(f"argument {self.name} is a size, not {n!r}")
        if name is not None and name not in bound:
            low, high = self.limits.get(name, (0, math.inf))
            if not low <= n <= high:
                raise UserError(
                    f"argument {self.name}{where}: {n} is outside {low}..{high:g}, for which it was exported"
                )
            bound[name] = n
        elif isinstance(dim, int) or symbols_of(dim) <= bound.keys():
            wanted = evaluate(dim, bound)
            if wanted != n:
                raise UserError(f"argument {self.name}{where}: {wanted} is expected, not {n}")

    def fit(self, given: Any, bound: Mapping[str, int]) -> Any:
        """The argument with the strides for which the program was planned: itself, or a copy."""
        if not isinstance(self.value, torch.Tensor):
            return given
        stride = tuple(evaluate(d, bound) for d in self.stride)
        same = all(n <= 1 or a == b for n, a, b in zip(given.shape, given.stride(), stride, strict=True))
        return given if same or given.numel() == 0 else exact(given, given.shape, stride)


def _arguments(program: ExportedProgram) -> list[_Argument]:
    """What the caller passes, in order, read off the placeholders."""
    limits = {str(s): (int(r.lower), float(r.upper)) for s, r in program.range_constraints.items()}
    nodes = {n.name: n for n in program.graph.find_nodes(op="placeholder")}
    out: list[_Argument] = []
    for s in program.graph_signature.input_specs:
        if s.kind is InputKind.USER_INPUT:
            constant = isinstance(s.arg, ConstantArgument)
            value = s.arg.value if constant else nodes[s.arg.name].meta["val"]
            size: tuple[Dim, ...] = ()
            stride: tuple[Dim, ...] = ()
            if isinstance(value, torch.Tensor):
                size, stride = tuple(map(dim_of, value.size())), tuple(map(dim_of, value.stride()))
            elif isinstance(value, torch.SymInt):
                size = (dim_of(value),)
            out.append(_Argument(s.arg.name, value, size, stride, limits))
    return out


def _flat(spec: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Any]:
    """The leaves of the arguments, keyword arguments in the program's order."""
    _, named = tree_unflatten(list(range(spec.num_leaves)), spec)
    if named.keys() == kwargs.keys():
        kwargs = {k: kwargs[k] for k in named}
    flat, found = tree_flatten((args, kwargs))
    if found != spec:
        raise UserError(f"the exported program takes arguments of the form {spec}, not {found}")
    return flat


def _bound(arguments: list[_Argument], users: list[Any]) -> dict[str, int]:
    """Symbol -> size, from arguments that all fit. Twice over them: an expression may come before its symbols."""
    bound: dict[str, int] = {}
    for _ in range(2):
        for a, given in zip(arguments, users, strict=True):
            a.bind(given, bound)
    return bound


def _refuse_unknown_kinds(inputs: list[Any], outputs: list[Any]) -> None:
    for s in [*(s for s in inputs if s.kind not in _INPUTS), *(s for s in outputs if s.kind not in _MUTATIONS)]:
        if s.kind is not OutputKind.USER_OUTPUT:
            raise Unsupported(Reason(f"{s.arg}", f"inputs and outputs of kind {s.kind.name} are not planned"))


def _tensor(program: ExportedProgram, target: str | None) -> torch.Tensor:
    """The tensor of a parameter, buffer or constant by its name in the module."""
    state: Mapping[str, Any] = program.state_dict
    return state[str(target)] if str(target) in state else program.constants[str(target)]

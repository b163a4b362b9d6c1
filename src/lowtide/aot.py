"""``torch.export`` programs: an ExportedProgram -> a callable with a promised peak.

Comes in: what ``torch.export.export`` returns. Goes out: a callable with the program's own signature that gives the same
numbers. Promised: parameters, buffers and constants stay where they are; buffers that the program changes are changed;
sizes may vary within what the export allows: each is planned when first seen.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

from lowtide.backend import build_planned
from lowtide.core.errors import Unsupported, UserError
from lowtide.core.options import Options
from lowtide.core.reason import Reason
from lowtide.runtime.records import Record
from lowtide.torch_compat import tree_flatten, tree_unflatten

_numbers = itertools.count()


def compile_exported(program: ExportedProgram, *, options: Mapping[str, object] | None = None) -> Callable[..., Any]:
    """Plan an exported program. The result is called like ``program.module()``, without gradients.

    Raises:
        UserError: not an ExportedProgram.
        OptionError, OverBudget: as for ``torch.compile``.
        Unsupported: the program does what we cannot express; the message says what and where.
    """
    if not isinstance(program, ExportedProgram):
        raise UserError(f"an ExportedProgram is expected (from torch.export.export), not a {type(program).__name__}")
    lowered = program.run_decompositions({})
    held = _held(lowered)
    signature = lowered.graph_signature
    record = Record(f"export{next(_numbers)}")
    run = build_planned(record, Options.of(options), [("inference", lowered.graph_module)], None)
    if run is None:
        raise Unsupported(record.fallback or Reason("the program", "cannot be expressed"))
    section = run.section(0)
    given = [held.get(s.arg.name) for s in signature.input_specs]
    written = [
        (i, _tensor(program, s.target))
        for i, s in enumerate(signature.output_specs)
        if s.kind is OutputKind.BUFFER_MUTATION
    ]

    def call(*args: Any, **kwargs: Any) -> Any:
        flat, spec = tree_flatten((args, kwargs))
        if spec != lowered.call_spec.in_spec:
            raise UserError(f"the exported program takes {lowered.call_spec.in_spec}, not {spec}")
        users = iter(flat)
        with torch.no_grad():
            results = section([next(users) if t is None else t for t in given])
            for i, buffer in written:
                buffer.copy_(results[i])
        kept = [r for r, s in zip(results, signature.output_specs, strict=True) if s.kind is OutputKind.USER_OUTPUT]
        return tree_unflatten(kept, lowered.call_spec.out_spec)

    return call


def _tensor(program: ExportedProgram, target: str | None) -> torch.Tensor:
    """The tensor of a parameter, buffer or constant by its name in the module."""
    state: Mapping[str, Any] = program.state_dict
    return state[str(target)] if str(target) in state else program.constants[str(target)]


def _held(program: ExportedProgram) -> dict[str, torch.Tensor]:
    """Argument name -> tensor, for everything that the program itself owns."""
    own = (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR)
    return {s.arg.name: _tensor(program, s.target) for s in program.graph_signature.input_specs if s.kind in own}

"""Lowtide: a memory-planning compiler for PyTorch.

``torch.compile(model, backend="lowtide")`` needs no import of this package. Its names are loaded when first used, so
that ``import lowtide`` costs next to nothing and the planners work without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lowtide.analysis import memory_analysis
    from lowtide.aot import compile_exported, plan_at_run_time
    from lowtide.codegen.targets import add_target, libraries_only
    from lowtide.core.options import Options
    from lowtide.executor.trace import place_allocations, trace_memory
    from lowtide.pictures import write_pictures
    from lowtide.runtime.load import release_retained

__version__ = "0.1.0"

# Public name -> module that defines it.
_HOME = {
    "add_target": "lowtide.codegen.targets",
    "compile_exported": "lowtide.aot",
    "libraries_only": "lowtide.codegen.targets",
    "memory_analysis": "lowtide.analysis",
    "place_allocations": "lowtide.executor.trace",
    "plan_at_run_time": "lowtide.aot",
    "release_retained": "lowtide.runtime.load",
    "trace_memory": "lowtide.executor.trace",
    "write_pictures": "lowtide.pictures",
    "Options": "lowtide.core.options",
}

__all__ = [
    "Options",
    "__version__",
    "add_target",
    "compile_exported",
    "libraries_only",
    "memory_analysis",
    "place_allocations",
    "plan_at_run_time",
    "release_retained",
    "trace_memory",
    "write_pictures",
]


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'lowtide' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

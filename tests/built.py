"""A loop that several tests need, and kernels of loops, built and called on arrays. Used by the tests of codegen and lowering."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from lowtide.codegen.cpp import kernel
from lowtide.codegen.cpp_source import kernel_sources
from lowtide.ir.build import LoopBuilder
from lowtide.ir.loops import Loop
from lowtide.runtime import kernels


def sum_over(points: int) -> Loop:
    """The sum of as many f32 numbers."""
    b = LoopBuilder()
    b.inputs, b.outputs = ["f32"], ["f32"]
    (r,) = b.stage((points,))
    total = b.reduce("sum", b.load(0, "f32", r))
    b.stage()
    b.store(1, 0, total)
    return b.build()


def build(loops: Iterable[Loop], files: int = 1, level: str = "-O3") -> None:
    """Compile and load the kernels of ``loops``, in as many files as are to be compiled side by side.
    ``level``: of optimisation; of any but that of users the kernels are to be nobody else's."""
    sources = kernel_sources([kernel(x) for x in loops], files)
    flags = [tuple(level if f == "-O3" else f for f in s.flags) for s in sources]
    kernels.finish(kernels.start([replace(s, flags=f) for s, f in zip(sources, flags, strict=True)]))


def call_at(loop: Loop, *addresses: int) -> int:
    """Call a kernel that is loaded on memory at these addresses; its status."""
    k = kernel(loop)
    return kernels.function(k.name, k.buffers)(kernels.numbers(",".join(map(str, k.params))), *addresses)


def call(loop: Loop, *buffers: np.ndarray) -> int:
    """Call a kernel that is loaded; its status."""
    return call_at(loop, *(b.ctypes.data for b in buffers))


def run(loop: Loop, *buffers: np.ndarray) -> None:
    """Build a kernel and call it."""
    build([loop])
    call(loop, *buffers)

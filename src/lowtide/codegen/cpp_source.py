"""Kernels -> C++ sources, few enough to start a compiler for, even enough to compile side by side.

Comes in: the kernels of a graph. Goes out: complete sources, and which kernels each defines. Promised: a kernel that
occurs often is in one source once; the same kernels give the same sources, so that the cache knows them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lowtide.program import Source
from lowtide.target import Kernel

# C++14, because <cmath> of later ones brings special functions, which take longer to read than a small kernel to compile.
FLAGS = (
    "-O3", "-march=native", "-std=c++14", "-shared", "-fPIC", "-fopenmp", "-fno-math-errno", "-fno-trapping-math",
    "-fwrapv", "-w",
)  # fmt: skip
_LEAST = 6_000  # characters of kernels that are worth a compiler of their own


def kernel_sources(kernels: Sequence[Kernel], parts: int) -> tuple[Source, ...]:
    """At most ``parts`` sources."""
    distinct = sorted({k.name: k for k in kernels}.values(), key=lambda k: (-len(k.text), k.name))
    total = sum(len(k.text) for k in distinct)
    bins: list[list[Kernel]] = [[] for _ in range(max(1, min(parts, total // _LEAST + 1)))]
    lengths = [0] * len(bins)
    for k in distinct:
        least = lengths.index(min(lengths))
        bins[least].append(k)
        lengths[least] += len(k.text)
    header = Path(__file__).with_name("kernel.h").read_text(encoding="utf-8")
    out: list[Source] = []
    for held in bins:
        ordered = sorted(held, key=lambda k: k.name)
        text = "\n".join([header, *(k.text for k in ordered)])
        if ordered:
            out.append(Source(text, tuple(k.name for k in ordered), FLAGS))
    return tuple(out)

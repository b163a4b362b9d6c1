"""The targets that there are: one per device.

Comes in: a graph. Goes out: the target that computes it. Promised: a device that has none is refused with its name.
"""

from __future__ import annotations

from collections.abc import Mapping

from lowtide.codegen.cpp import kernel
from lowtide.codegen.cpp_ops import BUFFER
from lowtide.codegen.cpp_source import kernel_sources
from lowtide.core.errors import Unsupported
from lowtide.core.reason import Reason
from lowtide.ir.graph import Graph
from lowtide.schedule.rules import CACHED
from lowtide.target import Target

CPU = Target(device="cpu", dtypes=frozenset(BUFFER), rules=CACHED, kernel=kernel, sources=kernel_sources)
TARGETS: Mapping[str, Target] = {t.device: t for t in (CPU,)}


def target_of(graph: Graph) -> Target:
    """The target of the device on which the first value of a graph lies; the CPU's, where there is none.

    Raises:
        Unsupported: a value lies where no target computes.
    """
    devices = [v.layout.device for v in graph.values] or [CPU.device]
    odd = next((d for d in devices if d not in TARGETS), None)
    if odd is not None:
        known = ", ".join(TARGETS)
        raise Unsupported(Reason(f"graph {graph.name}", f"no target computes on {odd}, only on {known}"))
    return TARGETS[devices[0]]

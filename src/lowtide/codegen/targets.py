"""The targets that there are: one per kind of device.

Comes in: a graph. Goes out: the target whose kernels it gets. Promised: a value on a device of which there is no target is
refused with its name and the user's line; nothing else says which devices are planned.
"""

from __future__ import annotations

from lowtide.codegen.cpp import kernel
from lowtide.codegen.cpp_ops import BUFFER
from lowtide.codegen.cpp_source import kernel_sources
from lowtide.core.errors import BugError, Unsupported, UserError
from lowtide.core.reason import Reason
from lowtide.ir.graph import Graph
from lowtide.ir.loops import Loop
from lowtide.schedule.rules import CACHED
from lowtide.target import Kernel, Target

CPU = Target(device="cpu", dtypes=frozenset(BUFFER), rules=CACHED, padding=None, kernel=kernel, sources=kernel_sources)
TARGETS: dict[str, Target] = {CPU.device: CPU}


def libraries_only(device: str) -> Target:
    """A target without kernels of its own: its device computes by library calls alone, in planned memory. ``device``: the kind,
    as torch names it."""

    def none(loop: Loop) -> Kernel:
        raise BugError(f"a kernel for {device} is asked for, where there are none: {loop}")

    return Target(
        device=device, dtypes=frozenset(), rules=CACHED, padding=None, kernel=none, sources=lambda kernels, parts: ()
    )


def add_target(target: Target) -> None:
    """Have programs planned whose values lie on a further kind of device, from now on and in the whole process:
    ``lowtide.add_target(lowtide.libraries_only("xpu"))``.

    Raises:
        UserError: there is a target for that kind already, or it has kernels: a program gets those of one target.
    """
    if target.device in TARGETS:
        raise UserError(f"there is a target for {target.device} already")
    if target.dtypes:
        raise UserError(f"kernels are generated for {CPU.device} alone so far, so that {target.device} can have none")
    TARGETS[target.device] = target


def target_of(graph: Graph) -> Target:
    """The target whose kernels a graph gets: of those on whose devices its values lie the first that has any, else the first;
    the CPU's, where there is no value.

    Raises:
        Unsupported: a value lies where no target computes.
    """
    found: dict[str, Target] = {}
    for v in graph.values:
        kind = v.layout.device.partition(":")[0]
        if kind not in TARGETS:
            known, line = ", ".join(TARGETS), f" ({v.origin})" if str(v.origin) else ""
            raise Unsupported(Reason(f"%{v.name}", f"no target computes on {v.layout.device}, only on {known}{line}"))
        found[kind] = TARGETS[kind]
    return next((t for t in found.values() if t.dtypes), next(iter(found.values()), CPU))

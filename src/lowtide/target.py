"""What a target answers: the list of questions that lowering, fusion and code generation ask of a kind of device.

Comes in: nothing. Goes out: ``Target``, of which ``codegen.targets`` has one per kind and the pipeline hands on the answers.
Promised: no question has a usual answer, so a target that leaves one out cannot be made: ``TypeError`` names what is missing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lowtide.ir.layouts import Padding
from lowtide.ir.loops import Loop
from lowtide.program import Source
from lowtide.schedule.rules import Rules


@dataclass(frozen=True, slots=True)
class Kernel:
    """A function that computes a loop: its name, its text, the numbers that it is given first, and how many buffers it takes."""

    name: str
    text: str
    params: tuple[int, ...]
    buffers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A kind of device that programs are planned for.

    device: the kind, as torch names it (``cuda``, of which ``cuda:0`` is one). dtypes: of the elements that its kernels hold;
    operations on others stay library calls, all of them where there are none: then no kernel is asked for. rules: what may
    become one kernel, and which pairs are tried first. padding: how far apart lines of matrices should be that its products
    read; None where it pays to have them side by side, as for every target there is. kernel: the function of a loop.
    sources: kernels as at most so many sources, to be built side by side.
    """

    device: str
    dtypes: frozenset[str]
    rules: Rules
    padding: Padding | None
    kernel: Callable[[Loop], Kernel]
    sources: Callable[[Sequence[Kernel], int], tuple[Source, ...]]

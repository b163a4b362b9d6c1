"""One captured program under many sets of options: a backend that captures as ``lowtide`` does, compiles once per set, and runs
the one that is chosen before each call.

Shared by the tests of random programs and of whole models: what is captured is the same for all of them, so that what differs
between two sets is what the planner and the scheduler decided.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from lowtide.backend import build_planned, simplify
from lowtide.core.options import SLABS, Options
from lowtide.frontend.partition import partition
from lowtide.order.check import check_order
from lowtide.plan.replay import replay
from lowtide.runtime.dispatch import Dispatch
from lowtide.runtime.records import Planned, Record, forget
from lowtide.schedule.schedule import memory_graph
from lowtide.torch_compat import aot_backend, boxed

EVERY = tuple(
    Options(fuse=fuse, inplace=inplace, slabs=slabs, reorder=reorder, verify=True)
    for fuse, inplace, slabs, reorder in itertools.product((True, False), (True, False), SLABS, (True, False))
)


class Switched:
    """The backend. ``options``: with which of ``every`` the next call runs. ``graphs``: what it captured."""

    def __init__(self, every: Sequence[Options]) -> None:
        self.every, self.options = every, every[0]
        self.graphs: list[_Captured] = []

    def __call__(self, gm: torch.fx.GraphModule, inputs: Sequence[Any]) -> Callable[..., Any]:
        found = _Captured(self)
        self.graphs.append(found)
        return aot_backend(
            fw_compiler=lambda *_: boxed(found.section(0)),
            bw_compiler=lambda *_: boxed(found.section(1)),
            inference_compiler=found.inference,
            partition_fn=found.partition,
        )(gm, inputs)

    @staticmethod
    def reset() -> None:
        """``torch.compiler.reset()``: forget all programs, as after ``lowtide`` itself."""
        forget()

    def planned(self) -> list[Planned]:
        """What the chosen options made of each graph, forward and backward together."""
        return [graph.records[self.options].planned[0] for graph in self.graphs]

    def kernels(self) -> tuple[str, ...]:
        """What runs under the chosen options, in whatever order and wherever its numbers lie."""
        steps = [s for p in self.planned() for s in p.schedule.steps]
        return tuple(sorted(str(s.loop) if s.loop is not None else s.op.target for s in steps))

    def check(self) -> None:
        """The order against the program's own, and the plan step by step.

        Raises:
            VerifyError: a checker finds one of them wrong.
        """
        for planned in self.planned():
            schedule = planned.schedule
            place = {op.name: k for k, op in enumerate(schedule.graph.ops)}
            steps = tuple(sorted(schedule.steps, key=lambda s: place[s.op.name]))
            program = memory_graph(replace(schedule, steps=steps))
            at = {n.name: i for i, n in enumerate(program.nodes)}
            check_order(program, [at[n.name] for n in memory_graph(schedule).nodes])
            replay(schedule, planned.plan)


class _Captured:
    """One graph: its program under each set of options."""

    def __init__(self, switched: Switched) -> None:
        self.switched = switched
        self.records = {options: Record("switched") for options in switched.every}
        self.programs: dict[Options, Dispatch] = {}

    def partition(self, joint: torch.fx.GraphModule, inputs: Any, **given: Any) -> tuple[Any, Any]:
        fw, bw = partition(joint, inputs, **given)
        self.compile([("forward", fw), ("backward", bw)], given["num_fwd_outputs"])
        return fw, bw

    def inference(self, gm: torch.fx.GraphModule, _: Sequence[Any]) -> Callable[..., Any]:
        simplify(gm, self.switched.options)
        self.compile([("inference", gm)], None)
        return boxed(self.section(0))

    def compile(self, calls: list[tuple[str, torch.fx.GraphModule]], kept: int | None) -> None:
        for options, record in self.records.items():
            made = build_planned(record, options, calls, kept)
            assert made is not None, record.fallback
            self.programs[options] = made

    def section(self, index: int) -> Callable[[list[Any]], Any]:
        calls = {options: made.section(index) for options, made in self.programs.items()}
        return lambda args: calls[self.switched.options](args)

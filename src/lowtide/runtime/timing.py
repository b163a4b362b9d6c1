"""How long single library calls take on this machine, measured where somebody asks.

Comes in: a Schedule. Goes out: seconds by name of the operation. Promised: each distinct call (operator, arguments, layouts,
threads) runs a few times per process, on tensors of its own, and is remembered; the caller's tensors and random state are
untouched; on a device that computes beside the host a call ends when its work is done; what cannot be tried alone is left out.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import torch

from lowtide.ir.graph import Graph, Op
from lowtide.runtime.calls import REFUSALS, trial
from lowtide.runtime.probe import signature
from lowtide.schedule.schedule import Schedule, runs_on

_TIMES = 5
_taken: dict[tuple[str, int], float | None] = {}


def call_seconds(schedule: Schedule) -> dict[str, float]:
    """The best of a few runs of every library call that can be tried alone."""
    threads = torch.get_num_threads()
    calls = [s.op for s in schedule.steps if s.loop is None]

    def take_all() -> dict[str, float]:
        torch.set_num_threads(threads)  # of this thread
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            found = {op.name: _known(schedule.graph, op, threads) for op in calls}
        return {name: seconds for name, seconds in found.items() if seconds is not None}

    # On a thread of its own, where no fake tensors, autocast, profiler or other mode of the caller's is in force.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(take_all).result()


def _known(graph: Graph, op: Op, threads: int) -> float | None:
    key = signature(graph, op), threads
    if key not in _taken:
        _taken[key] = _measured(graph, op)
    return _taken[key]


def _measured(graph: Graph, op: Op) -> float | None:
    call = trial(graph, op)
    if isinstance(call, str):
        return None
    device = runs_on(graph, op)
    best: float | None = None
    for _ in range(_TIMES):
        _wait_for(device)
        start = time.perf_counter()
        try:
            call()
            _wait_for(device)
        except REFUSALS:
            return None
        taken = time.perf_counter() - start
        best = taken if best is None else min(best, taken)
    return best


def _wait_for(device: str) -> None:
    """Until all work that was begun on a device is done; the CPU's is when a call returns."""
    if device != "cpu":
        torch.accelerator.synchronize(device)

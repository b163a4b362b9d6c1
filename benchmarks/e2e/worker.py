"""One model under one backend in one mode, in this fresh process; started by ``benchmarks.e2e`` with the heap counter.

Comes in: a JSON object as the only argument (model, backend, mode, size, dropout). Goes out, a JSON line each: first what
was measured, then for every line ``time N`` on standard input the seconds of N iterations; ``end`` ends. What libraries
print goes to standard error.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

import torch
from benchmarks.heap import counter
from benchmarks.suite.entry import without_dropout
from benchmarks.suite.models import MODELS, missing

from lowtide.torch_compat import memory_events

THREADS = 2


class Iteration:
    """A model in a mode, ready to run again and again."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.mode: str = given["mode"]
        case = MODELS[given["model"]].build(given["size"])
        self.module = case.module if given["dropout"] else without_dropout(case.module)
        self.module.train(self.mode != "infer")
        self.inputs = dict(case.inputs)
        module, loss = self.module, case.loss
        self.function: Callable[..., torch.Tensor] = _compiled(
            lambda **inputs: loss(module(**inputs)), given["backend"]
        )
        wanted = [p for p in module.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(wanted, lr=1e-4) if self.mode == "step" else None

    def run(self) -> torch.Tensor:
        """One iteration; gradients stay until ``clear``."""
        if self.mode == "infer":
            with torch.no_grad():
                return self.function(**self.inputs)
        loss = self.function(**self.inputs)
        loss.backward()
        if self.optimizer is not None:
            self.optimizer.step()
        return loss.detach()

    def clear(self) -> None:
        """Let go of the gradients."""
        self.module.zero_grad(set_to_none=True)

    def once(self) -> None:
        """One iteration and nothing left of it."""
        self.run()
        self.clear()


def _compiled(function: Callable[..., Any], backend: str) -> Callable[..., Any]:
    if backend == "eager":
        return function
    if backend == "inductor-tuned":
        import torch._functorch.config as config

        config.ban_recompute_used_far_apart = False
        config.ban_recompute_long_fusible_chains = False
        config.ban_recompute_materialized_backward = False
        backend = "inductor"
    return torch.compile(function, backend=backend)


def _release() -> None:
    """What a backend keeps between calls counts in its peak: give it back."""
    if "lowtide" in sys.modules:
        import lowtide

        lowtide.release_retained()
    gc.collect()


def first_call(work: Iteration) -> dict[str, Any]:
    """The first iteration: seconds, how many of them were capture, the loss, the norm of each parameter's gradient."""
    torch.manual_seed(1)
    start = time.perf_counter()
    loss = work.run()
    seconds = time.perf_counter() - start
    norms = {n: p.grad.double().norm().item() for n, p in work.module.named_parameters() if p.grad is not None}
    work.clear()
    return {"first_seconds": seconds, "capture_seconds": _capture_seconds(), "loss": loss.item(), "norms": norms}


def _capture_seconds() -> float | None:
    """Seconds that Dynamo and AOTAutograd took, without the compiler that they call in between."""
    from torch._dynamo.utils import compilation_time_metrics as seconds

    if "_compile.compile_inner" not in seconds:
        return None
    inside = ["compile_fx.<locals>.fw_compiler_base", "inductor_codecache_torch_key"]
    inside += ["_recursive_pre_grad_passes", "_recursive_joint_graph_passes"]
    own = sum(sum(seconds.get(name, ())) for name in inside)
    if "lowtide" in sys.modules:
        import lowtide

        own += sum({g.name: g.compile_seconds for g in lowtide.memory_analysis().graphs}.values())
    return sum(seconds["_compile.compile_inner"]) - own


def peaks(work: Iteration) -> dict[str, Any]:
    """Peaks of a steady iteration over what is alive before it, counted on the heap and by the framework."""
    heap = counter()
    work.once()
    seen, kept = [], 0
    for _ in range(2):
        gc.collect()
        if heap is not None:
            held = heap.live()
            _release()
            before = heap.live()
            kept = max(kept, held - before)
            heap.mark()
            loss = work.run()
            seen.append(heap.peak() - before)
            del loss
            work.clear()
    _release()
    _, events = memory_events(work.run)
    work.clear()
    allocator = max(itertools.accumulate(events, initial=0))
    return {"heap_peak_nbytes": max(seen, default=None), "allocator_peak_nbytes": allocator, "kept_nbytes": kept}


def promise(work: Iteration) -> dict[str, Any]:
    """What Lowtide promises for this iteration, and what it could not plan."""
    import lowtide

    _release()
    found = lowtide.memory_analysis(work.run)
    work.clear()
    return {
        "promised_nbytes": found.promised_peak_bytes,
        "lower_bound_nbytes": found.lower_bound_bytes,
        "graphs": len(found.graphs),
        "fallbacks": [f"{g.name}: {g.fallback}" for g in found.graphs if g.fallback],
    }


def times(work: Iteration, count: int) -> list[float]:
    """Seconds of ``count`` iterations, after one that is not counted."""
    work.once()
    found = []
    for _ in range(count):
        start = time.perf_counter()
        loss = work.run()
        found.append(time.perf_counter() - start)
        del loss
        work.clear()
    return found


def main(given: dict[str, Any], answer: TextIO) -> None:
    """Measure, answer, and then time on demand."""
    torch.set_num_threads(THREADS)
    why = missing(MODELS[given["model"]])
    if why:
        print(json.dumps({"error": why}), file=answer, flush=True)
        return
    work = Iteration(given)
    params = sum(p.numel() * p.element_size() for p in work.module.parameters())
    found: dict[str, Any] = {"params_nbytes": params, **first_call(work), **peaks(work)}
    if given["backend"] == "lowtide":
        found |= promise(work)
    print(json.dumps(found), file=answer, flush=True)
    for line in sys.stdin:
        word, _, count = line.partition(" ")
        if word.strip() == "end":
            return
        print(json.dumps(times(work, int(count))), file=answer, flush=True)


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "w") as own:
        os.dup2(2, 1)
        main(json.loads(sys.argv[1]), own)

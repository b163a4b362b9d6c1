"""Generated kernels, library calls, buffers and allocations of a training step, beside those of Inductor.

    python -m benchmarks.counts                        # the table, from what was counted before
    python -m benchmarks.counts --inductor gpt2 vit    # count Inductor's anew (needs torch and the model libraries)

Ours are the rows of ``benchmarks.fusion`` (``benchmarks/corpus/fusion.json``). Inductor's are read off the code that it writes
for the same models (``benchmarks/corpus/inductor.json``); no kernel of its is built, since what it writes does not depend on
that: its graphs run eagerly once its code is known. Its defaults, with nothing taken from its caches.

A *buffer* is a tensor that the program makes, wherever its bytes come from; an *allocation* is a request for memory in one call
(ours: a slab or a tensor of its own; Inductor's: all that takes over no other buffer); a *library call* is one to ATen or below.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "corpus"
OURS, PEER = HERE / "fusion.json", HERE / "inductor.json"
Row = dict[str, int]
MODELS = (
    "gpt2", "bert", "t5", "llama", "distilbert", "vit", "resnet50", "mobilenet_v3", "densenet121", "convnext_tiny", "unet",
)  # fmt: skip

_KERNEL = re.compile(r"^\s+cpp_fused\w*\(")
_NEW = re.compile(r"^\s+buf\d+ = empty_strided\w*\(")
_REUSED = re.compile(r"^\s+buf\d+ = .*# reuse$")
_LIBRARY = re.compile(r"^\s+(?:(buf\d+) = )?(?:extern_kernels|torch\.ops|aten)\.\w")
_PART = re.compile(r"^\s+buf\d+ = (buf\d+)\[\d+\]")


def counted(code: str) -> Row:
    """Counts of one of Inductor's programs, from its text."""
    lines = code.splitlines()
    parents = {m[1] for line in lines if (m := _PART.match(line))}
    calls = [m for line in lines if (m := _LIBRARY.match(line))]
    new = sum(bool(_NEW.match(line)) for line in lines)
    made = sum(m[1] is not None and m[1] not in parents for m in calls) + sum(bool(_PART.match(x)) for x in lines)
    reused = sum(bool(_REUSED.match(line)) for line in lines)
    return {
        "kernels": sum(bool(_KERNEL.match(line)) for line in lines),
        "library": len(calls),
        "buffers": new + made + reused,
        "allocations": new + made,
    }


def inductor(name: str) -> Row:
    """Counts of Inductor's forward and backward of one model, added up."""
    import torch
    from benchmarks.suite.entry import without_dropout
    from benchmarks.suite.models import MODELS as SUITE
    from torch._inductor import metrics
    from torch._inductor.compile_fx import compile_fx, compile_fx_inner
    from torch._inductor.graph import GraphLowering

    codes: list[str] = []

    class Written(Exception):
        """The code is known, and nothing more is wanted."""

    def keep(code: str) -> None:
        codes.append(code)
        raise Written

    def inner(gm: Any, inputs: Sequence[Any], **given: Any) -> Callable[..., Any]:
        before = len(codes)
        try:
            compile_fx_inner(copy.deepcopy(gm), inputs, **given)
        except Exception:
            if len(codes) == before:
                raise
        return torch._functorch.aot_autograd.make_boxed_func(gm.forward)

    metrics.reset()
    case = SUITE[name].build("bench")
    module = without_dropout(case.module).train()
    started = time.perf_counter()
    with torch._inductor.config.patch(force_disable_caches=True):
        GraphLowering.save_output_code = keep
        try:
            step = torch.compile(
                lambda **x: case.loss(module(**x)), backend=lambda g, x: compile_fx(g, x, inner_compile=inner)
            )
            step(**case.inputs).backward()
        finally:
            GraphLowering.save_output_code = None
    rows = [counted(code) for code in codes]
    total = {key: sum(r[key] for r in rows) for key in rows[0]}
    return total | {"metric": metrics.generated_kernel_count, "seconds": round(time.perf_counter() - started)}


def table(ours: dict[str, Any], peer: dict[str, Row]) -> str:
    """A row per model that both were counted for: ours, Inductor's."""
    head = (
        "model",
        "kernels",
        "Inductor",
        "library calls",
        "Inductor",
        "buffers",
        "Inductor",
        "allocations",
        "Inductor",
    )
    lines = [f"| {' | '.join(head)} |", f"|---|{'--:|' * (len(head) - 1)}"]
    for name in MODELS:
        mine, other = ours.get(f"{name}-train"), peer.get(name)
        if mine is None or other is None or "library" not in mine:
            continue
        cells = [(mine["kernels"], other["kernels"]), (mine["library"], other["library"])]
        cells += [(mine["buffers"], other["buffers"]), (mine["allocations"], other["allocations"])]
        lines.append(f"| {' | '.join((name, *(str(n) for pair in cells for n in pair)))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inductor", nargs="+", choices=MODELS, metavar="MODEL")
    words = parser.parse_args()
    peer: dict[str, Row] = json.loads(PEER.read_text(encoding="utf-8")) if PEER.exists() else {}
    for name in words.inductor or ():
        with tempfile.TemporaryDirectory() as folder:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = folder
            peer[name] = inductor(name)
        print(f"{name}: {peer[name]}", file=sys.stderr, flush=True)
        PEER.write_text(json.dumps(peer, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(table(json.loads(OURS.read_text(encoding="utf-8")), peer))


if __name__ == "__main__":
    main()

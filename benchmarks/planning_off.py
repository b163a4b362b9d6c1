"""Training peaks with planning on and off: the promise that slabs never cost bytes, measured on every model of the suite.

    python -m benchmarks.planning_off [gpt2 resnet50 ...] [--size bench] [--json FILE]

For every model one training iteration (forward and backward, gradients included) with ``slabs="none"`` (every tensor by
itself) and with the default. *Promised* is what Lowtide says before; *measured* is what the framework's CPU allocator counted
in a later iteration, with what is kept between calls given back first. Each model runs in a process of its own. Models that
are not planned at all are listed with the reason. Prints Markdown.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
OPTIONS: dict[str, dict[str, object]] = {"off": {"slabs": "none"}, "on": {}}


def one(model: str, size: str) -> dict[str, Any]:
    """Figures of one model, measured in this process."""
    import torch
    from benchmarks.suite.entry import without_dropout
    from benchmarks.suite.models import MODELS, missing

    import lowtide

    torch.set_num_threads(2)
    why = missing(MODELS[model])
    if why:
        return {"why": why}
    case = MODELS[model].build(size)  # type: ignore[arg-type]
    module, found = without_dropout(case.module).train(), dict[str, Any]()
    for name, options in OPTIONS.items():
        torch._dynamo.reset()
        lowtide.release_retained()
        run = torch.compile(lambda **inputs: case.loss(module(**inputs)), backend="lowtide", options=options)

        def step(run: Any = run) -> None:
            run(**case.inputs).backward()

        for _ in range(2):
            step()
            module.zero_grad(set_to_none=True)
        analysis = lowtide.memory_analysis(step)
        module.zero_grad(set_to_none=True)
        found[name] = {
            "promised": analysis.promised_peak_bytes,
            "measured": analysis.measured_peak_bytes,
            "allocations": analysis.allocations,
            "layout": [g.layout for g in analysis.graphs],
            "fallback": [g.fallback for g in analysis.graphs if g.fallback],
        }
    return found


def line(model: str, found: dict[str, Any]) -> str:
    """A row of the table."""
    if "why" in found:
        return f"| {model} | not run: {found['why']} |"
    off, on = found["off"], found["on"]
    mib = [f"{n / 2**20:.2f}" for n in (off["promised"], off["measured"], on["promised"], on["measured"])]
    verdict = "higher" if on["measured"] > off["measured"] else "lower" if on["measured"] < off["measured"] else "equal"
    notes = "; ".join(dict.fromkeys(on["fallback"])) or ", ".join(t.partition(" (")[0] for t in on["layout"])
    return f"| {model} | {' | '.join(mib)} | {verdict} | {off['allocations']} | {on['allocations']} | {notes} |"


def main() -> None:
    """Read the command line; with ``--one``, measure in this process and print JSON."""
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("models", nargs="*")
    words.add_argument("--size", default="bench", choices=("bench", "tiny"))
    words.add_argument("--json", type=Path, help="also write all figures here")
    words.add_argument("--one", help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.one:
        print(json.dumps(one(given.one, given.size)))
        return
    from benchmarks.suite.models import MODELS

    print(
        "| model | off: promised, MiB | off: measured | on: promised | on: measured | on is | allocations off | on | plan |"
    )
    print("|-|-:|-:|-:|-:|-|-:|-:|-|")
    everything: dict[str, Any] = {}
    for model in given.models or MODELS:
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-m",
            "benchmarks.planning_off",
            "--one",
            model,
            "--size",
            given.size,
        ]
        ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=dict(os.environ), check=False)
        lines = ran.stdout.strip().splitlines()
        everything[model] = (
            json.loads(lines[-1]) if ran.returncode == 0 and lines else {"why": f"exit {ran.returncode}"}
        )
        print(line(model, everything[model]), flush=True)
    if given.json:
        given.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Cold first call, stage by stage, beside Inductor's: ``python -m benchmarks.cold [MODELS] [--mode infer] [--docs]``.

A process of its own for every (model, backend), one after the other, two threads, empty compile caches, loops on. Of ours,
times are of wrapped functions, each without those within it; compilers run beside, so their own seconds are apart.
``--docs`` writes the table into docs/benchmarks/kernels.md.
"""

from __future__ import annotations

import argparse
import datetime
import functools
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.e2e.worker import THREADS, Iteration, first_call
from benchmarks.suite.models import MODELS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/benchmarks/kernels.md"
BEGIN, END = "<!-- cold: begin -->", "<!-- cold: end -->"
COLUMNS = ("capture", "lowering and fusion", "facts of library calls", "order and plan", "waiting for C++", "loading")
MAIN = {
    # module -> function -> the column that its time belongs to
    "lowtide.pipeline": {
        "lower_graph": COLUMNS[1], "inlined_in_places": COLUMNS[1], "fuse_wholes": COLUMNS[1], "laid_out": COLUMNS[1],
        "order_steps": COLUMNS[3], "plan_memory": COLUMNS[3], "refine": COLUMNS[3], "work_beside_copies": COLUMNS[3],
    },
    "lowtide.backend": {"probe": COLUMNS[2], "load": COLUMNS[5]},
    "lowtide.runtime.kernels": {"finish": COLUMNS[4]},
}  # fmt: skip


class Clock:
    """Seconds per column on the main thread, without what is within; and of compilers, wherever they run."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.compiler: dict[str, list[float]] = defaultdict(list)
        self.within = [0.0]

    def timed(self, column: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time added to ``column``."""

        @functools.wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            if threading.current_thread() is not threading.main_thread():
                return function(*args, **kwargs)
            started = time.perf_counter()
            self.within.append(0.0)
            try:
                return function(*args, **kwargs)
            finally:
                whole = time.perf_counter() - started
                self.seconds[column] += whole - self.within.pop()
                self.within[-1] += whole

        return call

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """``native._compile``, its time noted under what is compiled."""

        def call(tool: str, source: str, flags: tuple[str, ...], target: Path) -> None:
            started = time.perf_counter()
            function(tool, source, flags, target)
            self.compiler[target.name.partition("-")[0]].append(time.perf_counter() - started)

        return call


def measure(model: str, mode: str, backend: str) -> dict[str, Any]:
    """The first call in this process."""
    clock = Clock()
    torch.set_num_threads(THREADS)
    work = Iteration({"model": model, "mode": mode, "backend": "eager", "size": "bench", "dropout": False})
    options = {"kernels": "loops"} if backend == "lowtide" else None
    work.function = torch.compile(work.function, backend=backend, options=options)
    if backend == "lowtide":
        from lowtide.core import native

        for module, names in MAIN.items():
            for name, column in names.items():
                setattr(sys.modules[module], name, clock.timed(column, getattr(sys.modules[module], name)))
        native._compile = clock.compiled(native._compile)
    found = first_call(work)
    return {
        "first": found["first_seconds"],
        "capture": found["capture_seconds"],
        "stages": clock.seconds,
        "compiler": clock.compiler,
    }


def apart(model: str, mode: str, backend: str) -> dict[str, Any]:
    """The same in a process of its own with empty caches."""
    with tempfile.TemporaryDirectory(prefix="lowtide-cold-") as folder:
        caches = {f"{n}_CACHE_DIR": f"{folder}/{n}" for n in ("LOWTIDE", "TORCHINDUCTOR", "TRITON")}
        out = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "benchmarks.cold", "--one", model, mode, backend],
            env=os.environ | caches | {"OMP_NUM_THREADS": "2", "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}"},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    return json.loads(out.stdout.splitlines()[-1])


def row(model: str, mode: str) -> str:
    """A line of the table."""
    ours, theirs = apart(model, mode, "lowtide"), apart(model, mode, "inductor")
    added, other = (x["first"] - x["capture"] for x in (ours, theirs))
    stages = [ours["stages"].get(c, 0.0) for c in COLUMNS[1:]]
    cells = [ours["capture"], *stages, added - sum(stages), added, theirs["capture"], other]
    compilers = "; ".join(f"{k} {' + '.join(f'{s:.1f}' for s in v)}" for k, v in sorted(ours["compiler"].items()))
    text = " | ".join(f"{s:.1f}" for s in cells)
    return f"| {model}, {mode} | {text} | {added / other:.2f} | {compilers} |"


def table(models: list[str], modes: list[str]) -> str:
    """The table in Markdown."""
    names = [*COLUMNS, "first run and the rest", "added to capture", "Inductor's capture", "Inductor adds"]
    head = ["model", *(f"{n}, s" for n in names), "ours / Inductor", "compilers beside, s each"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for model in models:
        for mode in modes:
            lines.append(row(model, mode))
            print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def main() -> None:
    """Measure and print, and with ``--docs`` write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cold", description=__doc__.partition("\n\n")[0])
    parser.add_argument("models", nargs="*", default=["gpt2", "resnet50"], help=f"of {', '.join(MODELS)}")
    parser.add_argument("--mode", default="train", help="train, infer, or both with a comma (default: %(default)s)")
    parser.add_argument("--docs", action="store_true", help="write the table into docs/benchmarks/kernels.md")
    parser.add_argument("--one", nargs=3, metavar=("MODEL", "MODE", "BACKEND"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        own = os.dup(1)
        os.dup2(2, 1)
        found = measure(*given.one)
        with os.fdopen(own, "w") as out:
            print(json.dumps(found), file=out)
        return
    text = f"Measured {datetime.date.today().isoformat()}, in one run.\n\n{table(given.models, given.mode.split(','))}"
    print(text)
    if given.docs:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page.partition(BEGIN)[0], page.partition(END)[2]
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()

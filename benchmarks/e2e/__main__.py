"""``python -m benchmarks.e2e``: peak, time and first call of models under several backends.

Every (model, backend, mode) runs in a process of its own with the heap counter preloaded, two threads and empty compile
caches. The processes of one model and mode are kept, and their iterations are timed in turns, so that what disturbs the
machine disturbs all. Eager always runs: loss and each gradient's norm are held against it. Two runs never overlap.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.e2e.rows import BACKENDS, MODES, Row, Table, read, write
from benchmarks.e2e.show import rich_table, update_page
from benchmarks.heap import preloaded
from benchmarks.suite.models import MODELS
from filelock import FileLock, Timeout
from rich.console import Console

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/benchmarks.md"
OF_LOSS, OF_NORM, OF_LARGEST = 1e-5, 1e-2, 1e-5  # coarse: the tests compare closely


class Worker:
    """A process that measures one row."""

    def __init__(self, row: Row, size: str, dropout: bool, cold: bool, limit: float) -> None:
        self.row, self.limit = row, limit
        self.folder = tempfile.mkdtemp(prefix="lowtide-e2e-")
        given = {"model": row.model, "backend": row.backend, "mode": row.mode, "size": size, "dropout": dropout}
        # The checkout first, so that its own benchmarks and its own lowtide are the ones measured, whatever is installed.
        environment = preloaded(os.environ) | {
            "OMP_NUM_THREADS": "2",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'src'}",
        }
        if cold:
            environment |= {f"{n}_CACHE_DIR": f"{self.folder}/{n}" for n in ("LOWTIDE", "TORCHINDUCTOR", "TRITON")}
        self.log = Path(self.folder) / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "benchmarks.e2e.worker", json.dumps(given)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                cwd=ROOT,
            )

    def answer(self) -> Any:
        """The next line; None if the process ended or took longer than the limit."""
        assert self.process.stdout is not None
        alarm = threading.Timer(self.limit, self.process.kill)
        alarm.start()
        try:
            line = self.process.stdout.readline()
        finally:
            alarm.cancel()
        return json.loads(line) if line else None

    def ask(self, line: str) -> Any:
        """Send a line and wait for the answer."""
        assert self.process.stdin is not None
        try:
            print(line, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            return None
        return self.answer()

    def why(self) -> str:
        """The last thing it said, for a process that ended early."""
        code = self.process.wait()  # first, so that all of what it said is there
        lines = [x for x in self.log.read_text(errors="replace").splitlines() if x.strip()]
        return f"exit {code}: {lines[-1][:300] if lines else 'it said nothing'}"

    def end(self) -> None:
        """Stop the process and drop its files."""
        self.process.kill()
        self.process.communicate()
        shutil.rmtree(self.folder, ignore_errors=True)


def measured(row: Row, found: Mapping[str, Any], reference: Mapping[str, Any] | None) -> Row:
    """The row with what its process answered, compared with eager's answer."""
    if "error" in found:
        return replace(row, error=found["error"])
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in found.items() if k != "norms"}
    return replace(row, **given, wrong=() if reference is None else differences(found, reference))


def differences(found: Mapping[str, Any], eager: Mapping[str, Any]) -> tuple[str, ...]:
    """Where the loss or a parameter's gradient norm is not eager's."""
    wrong = []
    if not abs(found["loss"] - eager["loss"]) <= OF_LOSS * abs(eager["loss"]):
        wrong.append(f"loss {found['loss']!r} where eager has {eager['loss']!r}")
    largest = max(eager["norms"].values(), default=0.0)
    for name, norm in eager["norms"].items():
        got = found["norms"].get(name)
        if got is None:
            wrong.append(f"gradient of {name} is missing")
        elif not abs(got - norm) <= OF_NORM * norm + OF_LARGEST * largest:
            wrong.append(f"gradient of {name} has norm {got:.4g} where eager has {norm:.4g}")
    return tuple(wrong)


def measure(model: str, mode: str, backends: Sequence[str], given: argparse.Namespace) -> Iterator[Row]:
    """The rows of one model in one mode."""
    today = datetime.date.today().isoformat()
    alive: list[Worker] = []
    rows: list[Row] = []
    reference: Mapping[str, Any] | None = None
    try:
        for backend in backends:
            worker = Worker(Row(model, backend, mode, today), given.size, given.dropout, not given.warm, given.limit)
            alive.append(worker)
            found = worker.answer()
            row = replace(worker.row, error=worker.why()) if found is None else measured(worker.row, found, reference)
            if backend == "eager" and row.error is None:
                reference = found
            rows.append(row)
            if row.error:
                alive.remove(worker)
                worker.end()
        seconds: dict[str, list[float]] = {w.row.backend: [] for w in alive}
        for _ in range(given.rounds):
            for worker in alive:
                seconds[worker.row.backend] += worker.ask(f"time {given.iterations}") or []
        for row in rows:
            taken = seconds.get(row.backend)
            yield replace(row, step_seconds=statistics.median(taken), least_seconds=min(taken)) if taken else row
    finally:
        for worker in alive:
            worker.end()


def where() -> tuple[str, str]:
    """The machine and the versions, one line each."""
    from importlib.metadata import PackageNotFoundError, version

    cpu = platform.machine()
    with contextlib.suppress(OSError):
        named = [x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")]
        cpu = named[0].partition(":")[2].strip() if named else cpu
    versions = [f"Python {platform.python_version()}"]
    for package in ("torch", "transformers", "diffusers", "torchvision", "lowtide"):
        with contextlib.suppress(PackageNotFoundError):
            versions.append(f"{package} {version(package)}")
    return f"{cpu}, {os.cpu_count()} cores, 2 threads used", ", ".join(versions)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.e2e", description=__doc__.partition("\n\n")[0])
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="default: those from model libraries; 'all', 'plain'"
    )
    parser.add_argument("--modes", default="train,infer", help=f"of {','.join(MODES)} (default: %(default)s)")
    parser.add_argument("--backends", default=",".join(BACKENDS), help="default: %(default)s")
    parser.add_argument("--json", type=Path, default=ROOT / "out/e2e.json", help="where rows are kept (%(default)s)")
    parser.add_argument("--docs", action="store_true", help="write the tables of docs/benchmarks.md from all kept rows")
    parser.add_argument("--size", choices=("bench", "tiny"), default="bench")
    parser.add_argument("--rounds", type=int, default=4, help="turns per process when timing (%(default)s)")
    parser.add_argument("--iterations", type=int, default=3, help="timed iterations per turn (%(default)s)")
    parser.add_argument("--warm", action="store_true", help="use the user's compile caches")
    parser.add_argument("--dropout", action="store_true", help="leave dropout on (numbers then differ from eager's)")
    parser.add_argument("--limit", type=float, default=900.0, help="seconds before a process is ended (%(default)s)")
    parser.add_argument("--wait", type=float, default=-1, help="seconds to wait for another run to end (default: ever)")
    given = parser.parse_args()
    named = {"all": list(MODELS), "plain": [m for m in MODELS if not MODELS[m].needs], "": []}
    library = [m for m in MODELS if MODELS[m].needs]
    given.models = [m for word in given.models for m in named.get(word, [word])] or library
    given.modes, given.backends = given.modes.split(","), given.backends.split(",")
    for what, words, known in (
        ("model", given.models, MODELS),
        ("mode", given.modes, MODES),
        ("backend", given.backends, BACKENDS),
    ):
        for word in words:
            if word not in known:
                parser.error(f"no {what} {word!r}; known: {', '.join(known)}")
    return given


def main() -> int:
    """Measure what the command line asks for; exit code 1 if something failed or differs from eager."""
    given = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the processes that were started end too
    console = Console(width=None if sys.stdout.isatty() else 150)
    backends = [b for b in BACKENDS if b in given.backends or b == "eager"]
    machine, versions = where()
    command = "python -m benchmarks.e2e " + " ".join(sys.argv[1:])
    table = Table(machine, versions, command.strip(), read(given.json))
    lock = FileLock(Path(tempfile.gettempdir()) / f"lowtide-benchmark-{os.getuid()}.lock")
    fine = True
    try:
        lock.acquire(timeout=given.wait)
    except Timeout:
        print("another benchmark is running", file=sys.stderr)
        return 1
    with lock:
        for mode in given.modes:
            for model in given.models:
                rows = list(measure(model, mode, backends, given))
                fine &= not any(r.error or r.wrong for r in rows)
                table = table.with_rows(rows, MODELS)
                write(given.json, table)
                console.print(rich_table(rows))
    if given.docs:
        update_page(PAGE, table)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())

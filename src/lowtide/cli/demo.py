"""``lowtide demo``: the same small GPT trained eagerly and under Lowtide, with everything that can be compared.

Comes in: options. Goes out: a table (or JSON) on stdout, progress on stderr, and one HTML page. Promised: no network,
the same weights and batches for everyone, and compile caches that are empty at the start, so that first calls compare.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib
import json
import os
import platform
import tempfile
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import lowtide
from lowtide.core.errors import UserError
from lowtide.core.units import format_bytes
from lowtide.report.page import Chart, Curve, Table, page

if TYPE_CHECKING:
    from lowtide.demo.train import Run

_HEAD = (
    "",
    "first call",
    "step, median",
    "of eager's",
    "measured peak",
    "promised peak",
    "last loss",
    "largest loss difference",
)


def demo(
    steps: Annotated[int, typer.Option(min=2, help="Training steps of each.")] = 40,
    against: Annotated[str | None, typer.Option(help="One more torch.compile backend, such as inductor.")] = None,
    page_file: Annotated[Path, typer.Option("--page", help="Where the page goes.")] = Path("lowtide-demo.html"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train a small GPT on this project's own documentation, eagerly and under Lowtide, side by side."""
    backends = [None, "lowtide", *([against] if against else [])]
    with _cold_caches():
        runs, refused, source = compare(backends, steps)
    facts = facts_of(source, steps, runs)
    page_file.parent.mkdir(parents=True, exist_ok=True)
    page_file.write_text(as_page(runs, facts))
    if as_json:
        print(json.dumps({"runs": [_record(r) for r in runs], "failed": refused, "facts": facts}, indent=1))
        return
    print(as_text(runs))
    for name, because in refused.items():
        print(f"\n{name} failed: {because}")
    print(f"\nmemory timeline: {page_file.resolve()}")


def compare(backends: Sequence[str | None], steps: int, **size: int) -> tuple[list[Run], dict[str, str], str]:
    """Train under each backend: what was measured, the foreign backends that failed and why, and the text's source.

    Raises:
        UserError: torch is missing, or a backend has an unknown name.
    """
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        raise UserError("the demo needs torch: pip install 'lowtide[torch]'") from None
    train = importlib.import_module("lowtide.demo.train").train
    sizes = importlib.import_module("lowtide.demo.gpt").Size(**size)
    known = torch.compiler.list_backends(exclude_tags=None)
    for name in backends:
        if name is not None and name not in known:
            raise UserError(f"torch.compile has no backend {name!r} here; it has {', '.join(known)}")
    text, source = importlib.import_module("lowtide.demo.text").corpus()
    with _progress(steps, len(backends)) as told:
        bars = [told(name or "eager") for name in backends]

        def on_step(k: int, step: int, loss: float) -> None:
            bars[k](step, loss)

        runs, refused = train(backends, text, sizes, steps, on_step)
    torch.compiler.reset()
    return runs, refused, source


@contextlib.contextmanager
def _cold_caches() -> Generator[None]:
    """Every compiler starts from an empty cache, and leaves the user's alone."""
    names = ("LOWTIDE_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory(prefix="lowtide-demo-", ignore_cleanup_errors=True) as folder:
        os.environ.update({name: str(Path(folder, name.lower())) for name in names})
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value


@contextlib.contextmanager
def _progress(steps: int, count: int) -> Generator[Callable[[str], Callable[[int, float], None]]]:
    """On a terminal bars on stderr; elsewhere a line per run when it ends."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    console = Console(stderr=True)
    loss_column = TextColumn("{task.fields[loss]}")
    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        loss_column,
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:

        def told(name: str) -> Callable[[int, float], None]:
            bar = bars.add_task(name, total=steps, loss="first call, which compiles" if name != "eager" else "")

            def on_step(step: int, loss: float) -> None:
                bars.update(bar, completed=step + 1, loss=f"loss {loss:.4f}")
                if step + 1 == steps and not console.is_terminal:
                    console.print(f"{name}: {steps} steps, loss {loss:.4f}", highlight=False)

            return on_step

        yield told


def _row(run: Run, eager: Run) -> tuple[str, ...]:
    return (
        run.name,
        f"{run.first_seconds:.2f} s",
        f"{run.step_seconds * 1e3:.0f} ms",
        "" if run is eager else f"{run.times(eager):.2f}",
        format_bytes(run.measured_peak_nbytes),
        "" if run.promised_peak_nbytes is None else format_bytes(run.promised_peak_nbytes),
        f"{run.losses[-1]:.6f}",
        "" if run is eager else f"{max(abs(a - b) for a, b in zip(run.losses, eager.losses, strict=True)):.1e}",
    )


def as_text(runs: Sequence[Run]) -> str:
    """Two plain tables: some losses side by side, then the figures."""
    steps = len(runs[0].losses)
    shown = sorted({*range(0, steps, max(1, steps // 8)), steps - 1})
    losses = [("step", *(r.name for r in runs))]
    losses += [(str(s + 1), *(f"{r.losses[s]:.6f}" for r in runs)) for s in shown]
    return f"{_columns(losses)}\n\n{_columns([_HEAD, *(_row(r, runs[0]) for r in runs)])}"


def _columns(rows: Sequence[tuple[str, ...]]) -> str:
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(f"{c:{'<' if i == 0 else '>'}{w}}" for i, (c, w) in enumerate(zip(r, wide, strict=True)))
        for r in rows
    )
    return "\n".join(line.rstrip() for line in lines)


def as_page(runs: Sequence[Run], facts: dict[str, str]) -> str:
    """The HTML page: figures, memory over one iteration, losses."""
    memory = Chart(
        "Memory of one training iteration",
        "Bytes that the framework's allocator holds beyond what the caller already has (parameters, optimizer state, "
        "inputs), allocation by allocation; forward and backward are each drawn to the same width. What is left at the "
        "end are the gradients.",
        "",
        "MiB",
        tuple(_memory_curve(r) for r in runs),
        ((1.0, "forward ends"), (2.0, "backward ends")),
    )
    loss = Chart(
        "Loss",
        "The same weights and batches for everyone: lines that cover each other are the point.",
        "step",
        "loss",
        tuple(Curve(r.name, tuple((i + 1.0, x) for i, x in enumerate(r.losses))) for r in runs),
        zero=False,
    )
    intro = "One small GPT, trained eagerly and through torch.compile, from the same weights on the same batches."
    return page(
        "Lowtide beside eager PyTorch",
        intro,
        Table(_HEAD, tuple(_row(r, runs[0]) for r in runs)),
        [memory, loss],
        facts,
    )


def _memory_curve(run: Run) -> Curve:
    points = [(0.0, 0.0)]
    for start, live in enumerate((run.forward, run.backward)):
        points += [(start + (i + 1) / len(live), nbytes / 2**20) for i, nbytes in enumerate(live)]
    promised = None if run.promised_peak_nbytes is None else run.promised_peak_nbytes / 2**20
    return Curve(run.name, tuple(points), steps=True, level=promised, level_name=f"promised by {run.name}")


def _record(run: Run) -> dict[str, Any]:
    kept = {k: v for k, v in asdict(run).items() if k not in ("forward", "backward", "size")}
    return kept | {"first_seconds": run.first_seconds, "step_seconds": run.step_seconds}


def facts_of(source: str, steps: int, runs: Sequence[Run]) -> dict[str, str]:
    """How the figures came about, by name."""
    torch, size = importlib.import_module("torch"), runs[0].size
    return {
        "date": datetime.datetime.now().astimezone().isoformat(timespec="minutes"),
        "versions": f"lowtide {lowtide.__version__}, torch {torch.__version__}, Python {platform.python_version()}",
        "machine": f"{platform.system()} {platform.machine()}, {torch.get_num_threads()} threads",
        "model": f"GPT over bytes, {size.layers} layers, width {size.width}, {size.heads} heads",
        "batch": f"{size.batch} pieces of {size.context} bytes, AdamW",
        "text": source,
        "steps": f"{steps} for each of {', '.join(r.name for r in runs)}",
        "first call": "the whole first step, with compile caches that were empty",
        "step": "median of the others: forward, backward, optimizer; all take turns",
        "of eager's": "the median over the steps of its time divided by eager's at the same step",
        "peak": "most bytes at once from the forward call to the end of the backward call, beyond what the caller held",
    }

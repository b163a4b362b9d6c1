"""Measured rows as a table for the terminal and as the tables of docs/benchmarks.md.

Promised: only what stands between the two marks of a table is replaced on the page.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.e2e.rows import BACKENDS, MODES, Row, Table
from rich.table import Table as Shown

_MIB = 1 << 20
_TITLES = {
    "train": "Training iteration (forward and backward)",
    "infer": "Inference (no_grad, eval)",
    "step": "Training step with AdamW",
}


def mib(nbytes: int | None) -> str:
    """Bytes as MiB, with a decimal where that matters."""
    if nbytes is None:
        return "–"
    return f"{nbytes / _MIB:.1f}" if nbytes < 100 * _MIB else f"{nbytes / _MIB:.0f}"


def _seconds(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value * 1e3:.0f}" if value >= 0.1 else f"{value * 1e3:.1f}"


def _rest(row: Row | None) -> float | None:
    """Seconds of the first call beyond capture."""
    if row is None or row.first_seconds is None or row.capture_seconds is None:
        return None
    return row.first_seconds - row.capture_seconds


def rich_table(rows: Sequence[Row]) -> Shown:
    """The rows of one model in one mode."""
    first = rows[0]
    shown = Shown(
        title=f"{first.model} {first.mode}: {mib(first.params_nbytes)} MiB of parameters", title_justify="left"
    )
    for name in ("backend", "peak MiB", "allocator", "promised", "step ms", "first s", "capture s", "rest s"):
        shown.add_column(name, justify="left" if name == "backend" else "right")
    shown.add_column("remarks", overflow="fold")
    for r in rows:
        more = f" (and {len(r.wrong) - 1} more)" if len(r.wrong) > 1 else ""
        remarks = [r.error or "", f"WRONG: {r.wrong[0]}{more}" if r.wrong else "", *r.fallbacks]
        shown.add_row(
            r.backend,
            mib(r.heap_peak_nbytes),
            mib(r.allocator_peak_nbytes),
            mib(r.promised_nbytes),
            _ms(r.step_seconds),
            _seconds(r.first_seconds),
            _seconds(r.capture_seconds),
            _seconds(_rest(r)),
            "; ".join(x for x in remarks if x),
        )
    return shown


def markdown(table: Table) -> str:
    """All tables of the page."""
    days = sorted({r.date for r in table.rows})
    dates = f"{days[0]} to {days[-1]}" if len(days) > 1 else "".join(days)
    head = [f"Measured {dates} on {table.machine}; {table.versions}.", "", f"Last command: `{table.command}`"]
    parts = ["\n".join(head)]
    for mode in MODES:
        if table.models(mode):
            parts += [f"### {_TITLES[mode]}", _peaks(table, mode), _times(table, mode)]
    wrong = [
        f"* {r.model}, {r.mode}, {r.backend}: {_first(r)}" for r in table.rows if r.wrong or r.error or r.fallbacks
    ]
    if wrong:
        parts.append("Wrong, failed, or not planned:\n\n" + "\n".join(wrong))
    return "\n\n".join(parts) + "\n"


def _first(row: Row) -> str:
    if row.error:
        return row.error
    found = row.wrong or row.fallbacks
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return found[0] + more


def _peaks(table: Table, mode: str) -> str:
    """Peaks per model, with Lowtide's promise, and how it compares."""
    lines = [
        "Peak in MiB, whole heap; then for Lowtide what it promised and what the framework's allocator counted.",
        "",
        "| model | parameters | eager | Inductor | Inductor tuned | Lowtide | promised | allocator | of Inductor | of tuned |",
        "|---|" + "---:|" * 9,
    ]
    ratios: dict[str, list[float]] = {"inductor": [], "inductor-tuned": []}
    for model in table.models(mode):
        rows = {b: table.find(model, b, mode) for b in BACKENDS}
        peaks = {b: r.heap_peak_nbytes if r else None for b, r in rows.items()}
        ours, own = rows["lowtide"], peaks["lowtide"]
        cells = [mib(peaks[b]) + (" (wrong)" if (r := rows[b]) and r.wrong else "") for b in BACKENDS]
        cells += [mib(ours.promised_nbytes if ours else None), mib(ours.allocator_peak_nbytes if ours else None)]
        for peer in ratios:
            theirs = peaks[peer]
            if own and theirs:
                ratios[peer].append(own / theirs)
            cells.append(f"{own / theirs:.2f}" if own and theirs else "–")
        params = next((r.params_nbytes for r in rows.values() if r and r.params_nbytes), None)
        lines.append(f"| {model} | {mib(params)} | " + " | ".join(cells) + " |")
    means = [f"{_mean(ratios[p]):.2f}" if ratios[p] else "–" for p in ratios]
    lines.append("| geometric mean | | | | | | | | " + " | ".join(means) + " |")
    ours = [r for m in table.models(mode) if (r := table.find(m, "lowtide", mode)) is not None and r.error is None]
    return "\n".join([*lines, *_kept(ours)])


def _kept(rows: list[Row]) -> list[str]:
    """How far promises were from what the allocator counted, and what libraries took beside it."""
    told = [r for r in rows if r.promised_nbytes and r.allocator_peak_nbytes and r.heap_peak_nbytes]
    if not told:
        return []
    off = max(told, key=lambda r: abs(r.allocator_peak_nbytes / r.promised_nbytes - 1))
    beside = max(told, key=lambda r: r.heap_peak_nbytes - r.allocator_peak_nbytes)
    excess = beside.heap_peak_nbytes - beside.allocator_peak_nbytes
    return [
        "",
        f"Farthest from its promise: {off.model}, by {abs(off.allocator_peak_nbytes - off.promised_nbytes)} bytes "
        f"({abs(off.allocator_peak_nbytes / off.promised_nbytes - 1):.4%}). The whole heap's peak is above the allocator's by "
        f"{mib(excess)} MiB at most ({beside.model}): scratch memory of libraries, and Python's own objects.",
    ]


def _times(table: Table, mode: str) -> str:
    """Times per model: an iteration, and the first call beyond capture."""
    names = {"eager": "eager", "inductor": "Inductor", "inductor-tuned": "tuned", "lowtide": "Lowtide"}
    lines = [
        "Iteration in ms (median, in turns), and the cold first call in s: capture (Dynamo and AOTAutograd) + the rest.",
        "",
        "| model | " + " | ".join(f"{n}, ms" for n in names.values()) + " | of Inductor | ",
        "|---|" + "---:|" * 8,
    ]
    lines[-2] += " | ".join(f"{n}, first" for b, n in names.items() if b != "eager") + " |"
    ratios = []
    for model in table.models(mode):
        rows = {b: table.find(model, b, mode) for b in BACKENDS}
        cells = [_ms(r.step_seconds if r else None) for r in rows.values()]
        ours, theirs = rows["lowtide"], rows["inductor"]
        if ours and theirs and ours.step_seconds and theirs.step_seconds:
            ratios.append(ours.step_seconds / theirs.step_seconds)
            cells.append(f"{ratios[-1]:.2f}")
        else:
            cells.append("–")
        for backend in BACKENDS[1:]:
            row = rows[backend]
            cells.append(f"{_seconds(row.capture_seconds)} + {_seconds(_rest(row))}" if row and not row.error else "–")
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    lines.append(f"| geometric mean | | | | | {_mean(ratios):.2f} | | | |" if ratios else "")
    return "\n".join(lines).rstrip()


def _mean(values: Iterable[float]) -> float:
    logs = [math.log(v) for v in values]
    return math.exp(sum(logs) / len(logs))


def update_page(page: Path, table: Table) -> None:
    """Replace what stands between the marks on the page.

    Raises:
        ValueError: the page does not have each mark once, in order.
    """
    begin, end = "<!-- e2e: begin -->\n", "<!-- e2e: end -->\n"
    text = page.read_text(encoding="utf-8")
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise ValueError(f"{page} needs the lines {begin.strip()} and {end.strip()}, once each and in this order")
    before, after = text.partition(begin)[0], text.partition(end)[2]
    page.write_text(f"{before}{begin}\n{markdown(table)}\n{end}{after}", encoding="utf-8")

"""Rows of the end-to-end benchmark: kept in a file, compared with eager, shown on the page between its marks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.e2e.rows import Row, Table, read, write
from benchmarks.e2e.show import markdown, mib, update_page

ROOT = Path(__file__).parents[2]
MIB = 1 << 20


def row(backend: str, peak: int, **more: object) -> Row:
    given = {"heap_peak_nbytes": peak * MIB, "step_seconds": 0.1, "first_seconds": 9.0, "capture_seconds": 4.0} | more
    return Row("gpt2", backend, "train", "2026-01-02", 53 * MIB, **given)  # type: ignore[arg-type]


def table(*rows: Row) -> Table:
    return Table("a machine", "torch 2", "python -m benchmarks.e2e", rows)


def test_a_file_keeps_one_row_per_model_backend_and_mode(tmp_path: Path):
    file = tmp_path / "deep" / "rows.json"
    assert read(file) == ()
    first = table().with_rows([row("lowtide", 200), row("eager", 300)], ["gpt2"])
    write(file, first)
    again = Table("m", "v", "c", read(file)).with_rows([row("lowtide", 150, wrong=("loss",))], ["gpt2"])
    assert [r.backend for r in again.rows] == ["eager", "lowtide"]
    assert again.find("gpt2", "lowtide", "train") == row("lowtide", 150, wrong=("loss",))
    write(file, again)
    assert read(file) == again.rows
    file.write_text(json.dumps({"version": 0, "rows": []}))
    with pytest.raises(ValueError, match="version 1"):
        read(file)


def test_tables_compare_with_both_peers_and_keep_what_was_wrong():
    rows = [row("eager", 300), row("inductor", 200), row("inductor-tuned", 160), row("lowtide", 100)]
    rows[3] = row("lowtide", 100, promised_nbytes=99 * MIB, allocator_peak_nbytes=99 * MIB, step_seconds=0.05)
    rows[1] = row("inductor", 200, wrong=("gradient of w is zero", "and another"))
    text = markdown(table(*rows))
    line = next(x for x in text.splitlines() if x.startswith("| gpt2 |"))
    assert line == "| gpt2 | 53.0 | 300 | 200 (wrong) | 160 | 100 | 99.0 | 99.0 | 0.50 | 0.62 |"
    times = [x for x in text.splitlines() if x.startswith("| gpt2 |")][1]
    assert times == "| gpt2 | 100 | 100 | 100 | 50.0 | 0.50 | 4.0 + 5.0 | 4.0 + 5.0 | 4.0 + 5.0 |"
    assert "* gpt2, train, inductor: gradient of w is zero (and 1 more)" in text
    assert "| geometric mean | | | | | | | | 0.50 | 0.62 |" in text
    head = [x.count("|") for x in text.splitlines() if x.startswith(("| model", "|---", "| gpt2", "| geometric"))]
    assert len(set(head[:4])) == 1 and len(set(head[4:])) == 1, "all rows of a table have its columns"


def test_what_was_not_measured_is_a_dash():
    text = markdown(table(row("lowtide", 100, step_seconds=None, first_seconds=None), Row("t5", "eager", "train", "d")))
    assert "| t5 | – |" in text
    assert mib(None) == "–" and mib(5 * MIB // 2) == "2.5" and mib(1000 * MIB) == "1000"
    failed = markdown(table(Row("t5", "lowtide", "train", "d", error="exit 1: boom")))
    assert "* t5, train, lowtide: exit 1: boom" in failed


def test_only_what_stands_between_the_marks_is_replaced(tmp_path: Path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- e2e: begin -->\nstale words\n<!-- e2e: end -->\nafter\n")
    update_page(page, table(row("lowtide", 100)))
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "stale" not in text and "| gpt2 |" in text
    update_page(page, table(row("lowtide", 100)))
    assert page.read_text() == text
    page.write_text("no marks\n")
    with pytest.raises(ValueError, match="e2e: begin"):
        update_page(page, table())


@pytest.mark.torch
def test_differences_from_eager_are_named():
    from benchmarks.e2e.__main__ import differences

    eager = {"loss": 1.0, "norms": {"a": 1.0, "b": 2.0, "tiny": 1e-9}}
    assert not differences({"loss": 1.000001, "norms": {"a": 1.005, "b": 2.0, "tiny": 3e-9}}, eager)
    seen = differences({"loss": 1.01, "norms": {"a": 0.0, "tiny": float("nan")}}, eager)
    assert [x.split(" has")[0].split(" is")[0].split(" 1.01")[0] for x in seen] == [
        "loss",
        "gradient of a",
        "gradient of b",
        "gradient of tiny",
    ]


@pytest.mark.torch
def test_the_page_of_the_project_has_its_marks(tmp_path: Path):
    copy = tmp_path / "benchmarks.md"
    copy.write_text((ROOT / "docs/benchmarks.md").read_text())
    update_page(copy, table(row("lowtide", 100)))


@pytest.mark.torch
@pytest.mark.slow
def test_one_command_measures(tmp_path: Path):
    words = ["gpt", "--size", "tiny", "--modes", "train,infer", "--backends", "eager,lowtide", "--rounds", "1"]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.e2e", *words, "--json", str(tmp_path / "rows.json"), "--limit", "250"],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},  # a lock of its own
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {(r.backend, r.mode): r for r in read(tmp_path / "rows.json")}
    assert len(rows) == 4
    for one in rows.values():
        assert one.heap_peak_nbytes >= one.allocator_peak_nbytes > 0 and one.step_seconds > 0 and not one.wrong
    for mode in ("train", "infer"):
        ours = rows["lowtide", mode]
        assert abs(ours.promised_nbytes - ours.allocator_peak_nbytes) <= max(64, 0.01 * ours.allocator_peak_nbytes)
        assert not ours.fallbacks and ours.graphs == 1
        assert ours.capture_seconds < ours.first_seconds

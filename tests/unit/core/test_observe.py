"""Each rung of LOWTIDE_DEBUG, and the files of LOWTIDE_DUMP."""

from __future__ import annotations

import logging
import os
import re
import stat
from pathlib import Path
from typing import NoReturn

import pytest

from lowtide.core.errors import BugError, OptionError
from lowtide.core.observe import STAGES, TOP, Observers, from_environment

# rung: what it adds to the one below
ADDS = {0: set(), 1: {"summary"}, 2: set(), 3: {"schedule", "order"}, 4: {"plan"}, 5: {"program", "kernels"}}
ADDS[6] = {"capture", "lower", "fusion", "layouts"}


def never() -> NoReturn:
    raise AssertionError("made although nobody looks")


@pytest.mark.parametrize("level", range(TOP + 1))
def test_each_rung_shows_what_the_ones_below_show_and_more(level: int):
    said: list[str] = []
    observers = Observers(level, None, "graph0", said.append)
    shown: set[str] = set().union(*(ADDS[n] for n in range(level + 1)))
    for stage in STAGES:
        observers.see(stage, f"text of {stage}\n" if stage in shown else never, 0.0123, 2048)
    text = "\n".join(said)
    assert set(re.findall(r"text of (\w+)", text)) == shown
    times = re.findall(r"^lowtide: graph0: (\w+) took 12\.3 ms, peak 2\.00 KiB \(2048 bytes\)$", text, re.MULTILINE)
    assert times == (list(STAGES) if level >= 2 else [])
    if level == 1:
        assert said == ["lowtide: graph0: text of summary"]


def test_without_seconds_there_is_no_line_of_times():
    said: list[str] = []
    Observers(2, None, "g", said.append).see("plan", never)
    assert said == []


def test_texts_are_made_once_where_both_look(tmp_path: Path):
    made: list[int] = []

    def text() -> str:
        made.append(1)
        return "once"

    Observers(6, tmp_path, "g", lambda _: None).of_graph("g").see("capture", text)
    assert made == [1]


def test_the_environment():
    assert from_environment({}) == Observers()
    assert from_environment({"LOWTIDE_DEBUG": "", "LOWTIDE_DUMP": ""}) == Observers()
    assert from_environment({"LOWTIDE_DEBUG": "3"}).level == 3
    for wrong in ("7", "-1", "yes", "1.0", " 1"):
        with pytest.raises(OptionError, match=f"LOWTIDE_DEBUG is a whole number from 0 to 6, not '{wrong}'"):
            from_environment({"LOWTIDE_DEBUG": wrong})


def test_speaking_goes_to_standard_error(capfd: pytest.CaptureFixture[str]):
    from_environment({"LOWTIDE_DEBUG": "1"}).of_graph("graph0").see("summary", "promised 1 MiB\n")
    assert capfd.readouterr() == ("", "lowtide: graph0: promised 1 MiB\n")


def test_files_are_numbered_private_and_never_overwritten(tmp_path: Path):
    top = tmp_path / "new" / "dump"
    observers = from_environment({"LOWTIDE_DUMP": str(top)})
    for _ in range(2):
        one = observers.of_graph("graph0")
        for stage in ("capture", "schedule", "plan", "program"):
            one.see(stage, f"{stage} é")
        one.see("schedule", lambda: "another shape\n")
    observers.of_graph("graph1").see("capture", "x")
    names = ["000_capture.ir", "001_schedule.txt", "002_plan.json", "003_program.py", "004_schedule.txt"]
    assert sorted(p.name for p in top.iterdir()) == ["graph0", "graph0.2", "graph1"]
    assert sorted(p.name for p in (top / "graph0").iterdir()) == names
    assert sorted(p.name for p in (top / "graph0.2").iterdir()) == names
    assert (top / "graph0/001_schedule.txt").read_text(encoding="utf-8") == "schedule é\n"
    assert (top / "graph0/004_schedule.txt").read_text(encoding="utf-8") == "another shape\n"
    for path in top.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0


@pytest.mark.spec("SC-72")
def test_a_folder_that_cannot_be_written_is_named_once_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def warned() -> str:
        (record,) = caplog.records
        caplog.clear()
        assert record.levelno == logging.WARNING
        return record.getMessage()

    (tmp_path / "file").write_text("")
    assert from_environment({"LOWTIDE_DEBUG": "2", "LOWTIDE_DUMP": str(tmp_path / "file")}) == Observers(2)
    assert re.match(r"LOWTIDE_DUMP asks for files at .*/file, which cannot be written: File exists", warned())
    assert from_environment({"LOWTIDE_DUMP": str(tmp_path / "file/in")}) == Observers()
    assert "/file/in, which cannot be written: Not a directory" in warned()

    observers = from_environment({"LOWTIDE_DUMP": str(tmp_path / "fine")})
    one = observers.of_graph("g")

    def full(*_: object, **__: object) -> NoReturn:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "open", full)
    for stage in ("plan", "program"):
        one.see(stage, "{}")
    assert "fine/g, which cannot be written: No space left on device" in warned()
    monkeypatch.undo()
    monkeypatch.setattr(Path, "mkdir", full)
    silent = observers.of_graph("h")
    assert "fine, which cannot be written: No space left on device" in warned()
    silent.see("plan", "{}")
    assert silent.folder is None and not caplog.records


def test_graphs_with_odd_names_stay_in_the_folder(tmp_path: Path):
    Observers(folder=tmp_path).of_graph("../a b").see("capture", "x")
    assert [p.name for p in tmp_path.iterdir()] == ["___a_b"]


def test_a_stage_that_nobody_knows_is_our_bug():
    with pytest.raises(BugError, match="'schedul'; known: summary, capture"):
        Observers().see("schedul", "")

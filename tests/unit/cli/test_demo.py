"""lowtide demo: what it prints and writes, with a backend that torch always has in place of ours."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from lowtide.cli import demo as verb
from lowtide.cli.main import main

TINY = {"layers": 1, "width": 32, "heads": 2, "context": 16, "batch": 4}


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = verb.compare

    def compare(backends: list[str | None], steps: int) -> object:
        return whole([b and b.replace("lowtide", "aot_eager") for b in backends], steps, **TINY)

    monkeypatch.setattr(verb, "compare", compare)


@pytest.mark.torch
@pytest.mark.usefixtures("tiny")
def test_tables_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    file = tmp_path / "folder/page.html"
    assert main(["demo", "--steps", "3", "--page", str(file)]) == 0
    out, err = capsys.readouterr()
    assert [line.split()[0] for line in out.splitlines()[:4]] == ["step", "1", "2", "3"]
    assert str(file) in out and "eager: 3 steps" in err and "\x1b" not in out + err
    text = file.read_text()
    assert "backward ends" in text and "http" not in text


@pytest.mark.torch
@pytest.mark.usefixtures("tiny")
def test_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["demo", "--steps", "2", "--json", "--page", str(tmp_path / "page.html")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [r["name"] for r in told["runs"]] == ["eager", "aot_eager"] and told["failed"] == {}
    assert all(len(r["losses"]) == 2 and r["measured_peak_nbytes"] > 0 for r in told["runs"])


@pytest.mark.torch
def test_unknown_backend_is_refused(capsys: pytest.CaptureFixture[str]):
    assert main(["demo", "--against", "inducter"]) == 1
    assert "no backend 'inducter'" in capsys.readouterr().err


def test_without_torch_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    monkeypatch.setitem(sys.modules, "torch", None)
    assert main(["demo"]) == 1
    assert "pip install 'lowtide[torch]'" in capsys.readouterr().err

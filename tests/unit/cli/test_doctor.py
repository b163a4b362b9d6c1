"""lowtide doctor tells facts, also about what is missing."""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path

import pytest

from lowtide.cli.doctor import findings
from lowtide.cli.main import main


def test_json_has_every_fact(capsys: pytest.CaptureFixture[str]):
    assert main(["doctor", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert list(facts) == [
        "lowtide",
        "python",
        "machine",
        "torch",
        "gpu",
        "entry point",
        "compiler",
        "cache",
        "solvers",
    ]


@pytest.mark.torch
def test_torch_is_a_fact():
    torch = importlib.import_module("torch")
    assert findings()["torch"].startswith(f"{torch.__version__}, {torch.get_num_threads()} threads")


def test_missing_torch_is_a_fact():
    assert findings()["torch"].startswith("missing (")
    assert findings()["gpu"] == "not looked for without torch"


def test_missing_compiler_is_a_fact(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert findings()["compiler"].startswith("missing")
    monkeypatch.setenv("CXX", "/nowhere/c++")
    assert findings()["compiler"] == "missing: CXX names '/nowhere/c++'"


def test_cache_folder_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("LOWTIDE_CACHE_DIR", str(tmp_path))
    (tmp_path / "x").write_bytes(b"12345")
    assert findings()["cache"] == f"{tmp_path}, 1 files, 5 bytes, writable"
    monkeypatch.delenv("LOWTIDE_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "y"))
    assert findings()["cache"].startswith(f"{tmp_path}/y/lowtide (made")


def test_files_that_a_build_takes_along_meanwhile_are_not_counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("LOWTIDE_CACHE_DIR", str(tmp_path))
    (tmp_path / "x").write_bytes(b"12345")
    monkeypatch.setattr(os, "walk", lambda _: [(str(tmp_path), [], ["x"]), (str(tmp_path / ".build-1"), [], ["lock"])])
    assert findings()["cache"] == f"{tmp_path}, 1 files, 5 bytes, writable"

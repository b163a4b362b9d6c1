"""``lowtide trace``: a script as it is, one function of it, its picture, and what goes wrong with them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lowtide.cli.main import BUG, OK, USER, main
from lowtide.executor import hook, trace

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(hook.unavailable() is not None, reason="allocations cannot be noted here"),
]

SCRIPT = """
import sys
import torch

class Net:
    def forward(self, x):
        a = x * 2  # 4 MiB
        b = a + 1  # 4 MiB
        return b.sum()

def step(n):
    return Net().forward(torch.ones(n * 1024, 1024))

def fails():
    raise ValueError("no such luck")

print("the script says", sys.argv[1:])
if __name__ == "__main__":
    step(1)
    if "fail" in sys.argv:
        fails()
    if "leave" in sys.argv:
        sys.exit(5)
    step(2)
"""


@pytest.fixture
def script(tmp_path: Path) -> str:
    path = tmp_path / "some_script.py"
    path.write_text(SCRIPT)
    return str(path)


def test_a_whole_script(script: str, capsys: pytest.CaptureFixture[str]):
    assert main(["trace", script, "--", "one", "--two"]) == OK
    out, err = capsys.readouterr()
    assert "the script says ['one', '--two']" in err and "says" not in out
    assert "live peak            24.0 MiB" in out and "planned              24.0 MiB" in out
    assert "some_script.py:8 (aten.add.Tensor)" in out and "some_script.py:12 (aten.ones" in out


def test_one_call_of_a_function_as_json(script: str, capsys: pytest.CaptureFixture[str]):
    assert main(["trace", script, "--function", "Net.forward", "--nth", "1", "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert found["version"] == 1 and 8 << 20 <= found["peak_nbytes"] < 9 << 20
    assert found["lower_bound"] <= found["planned_nbytes"] <= found["caching_nbytes"]
    assert {h["line"].partition(" ")[0] for h in found["holders"][:2]} == {"some_script.py:7", "some_script.py:8"}
    assert main(["trace", script, "--function", "forward", "--nth", "2", "--json", "--no-lines"]) == OK
    assert 16 << 20 <= json.loads(capsys.readouterr().out)["peak_nbytes"] < 17 << 20


def test_the_picture(script: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    page = tmp_path / "page.html"
    assert main(["trace", script, "--function", "step", "--html", str(page)]) == OK
    assert "some_script.py:8" in page.read_text()
    assert main(["trace", script, "--function", "step", "--html", str(tmp_path / "no" / "page.svg")]) == USER
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing.py"], "is not a file"),
        (["SCRIPT", "--", "fail"], "raised ValueError in line 15: no such luck"),
        (["SCRIPT", "--", "leave"], "ended with 5"),
        (["SCRIPT", "--function", "stepp"], "never called in the script; did you mean 'step'?"),
        (["SCRIPT", "--function", "step", "--nth", "3"], "step was called 2 times"),
        (["SCRIPT", "--top", "none"], "see lowtide trace --help"),
    ],
)
def test_what_goes_wrong_is_said_in_one_line(
    script: str, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["trace", *(script if w == "SCRIPT" else w for w in words)]) == USER
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in last and last.startswith("lowtide: ")


def test_without_a_compiler(script: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    from lowtide.core.reason import Reason

    monkeypatch.setattr(trace, "unavailable", lambda: Reason("allocations cannot be noted or placed", "no compiler"))
    assert main(["trace", script]) == USER != BUG
    assert "no compiler" in capsys.readouterr().err

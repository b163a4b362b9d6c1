"""``lowtide order``: its JSON, its table, its refusals, and that it needs no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lowtide.cli.main import main
from lowtide.memory.json import dumps

GRAPH = {
    "version": 1,
    "buffers": [
        {"name": "x", "nbytes": 50, "input": True, "freeable": True},
        {"name": "a", "nbytes": 30},
        {"name": "b", "nbytes": 10},
        {"name": "y", "nbytes": 5, "output": True},
    ],
    "nodes": [
        {"name": "big", "writes": ["a"], "device": "cpu"},
        {"name": "shrink", "reads": ["x"], "writes": ["b"]},
        {"name": "join", "reads": ["a", "b"], "writes": ["y"]},
    ],
}


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "g.json"
    path.write_text(json.dumps(GRAPH))
    return str(path)


@pytest.mark.spec("PK-12", "PK-18")
def test_json(file: str, capsys: pytest.CaptureFixture[str]):
    assert main(["order", file, "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["status"], found["peak"], found["lower_bound"]) == ("OPTIMAL", 60, 60)
    assert found["order"] == ["shrink", "big", "join"]
    assert found["candidates"]["program"] == 90
    assert found["candidates"]["search"] == 60
    assert found["devices"] == {"cpu": 60}
    assert found["seconds"] >= 0
    assert err == ""


@pytest.mark.spec("SC-22")
def test_nodes_may_come_in_any_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "backwards.json"
    big, shrink, join = GRAPH["nodes"]
    path.write_text(json.dumps({**GRAPH, "nodes": [join, shrink, big]}))
    assert main(["order", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["order"], found["candidates"]["program"]) == (["shrink", "big", "join"], 60)


def test_table_and_file(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    out = tmp_path / "out.json"
    assert main(["order", file, "-o", str(out)]) == 0
    text = capsys.readouterr().out
    assert "proved optimal" in text
    assert "program" in text
    assert json.loads(out.read_text())["peak"] == 60


def test_no_steps_compare_the_classic_orders(file: str, capsys: pytest.CaptureFixture[str]):
    assert main(["order", file, "--json", "--budget-steps", "0"]) == 0
    assert json.loads(capsys.readouterr().out)["peak"] == 60


@pytest.mark.spec("PK-20")
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "line 1, column 2: not JSON"),
        ('{"version": 1, "buffers": [], "nodes": [{"name": "n", "reads": ["q"]}]}', "nodes[0].reads[0]: there is no"),
    ],
)
def test_a_bad_file_is_refused_with_place_and_reason(
    tmp_path: Path, text: str, message: str, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "bad.json"
    path.write_text(text)
    assert main(["order", str(path)]) == 1
    err = capsys.readouterr().err
    assert message in err
    assert str(path) in err


def test_mistakes_of_the_caller(file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["order", str(tmp_path / "none.json")]) == 1
    assert main(["order", file, "--device", "cuda"]) == 1
    assert "has: cpu" in capsys.readouterr().err
    assert main(["order", file, "--budget-steps", "-1"]) == 1
    assert main(["order", file, "-o", str(tmp_path / "no" / "such" / "folder.json")]) == 1


def test_reads_standard_input_without_torch():
    code = (
        "import sys; from lowtide.cli.main import main; "
        "c = main(['order', '-', '--json']); sys.exit(c + 5 * ('torch' in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], input=json.dumps(GRAPH), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["status"] == "OPTIMAL"


@pytest.mark.spec("PK-12")
@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_a_terminal_only(tmp_path: Path, terminal: bool):
    sys.path.insert(0, str(Path(__file__).parents[3] / "benchmarks"))
    try:
        import graphs
    finally:
        del sys.path[0]
    path = tmp_path / "long.json"
    path.write_text(dumps(graphs.make("scratch", 2, 300)))
    ours, theirs = os.openpty() if terminal else os.pipe()
    command = [sys.executable, "-m", "lowtide.cli.main", "order", str(path), "--json", "--budget-steps", "900000"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    try:
        told = os.read(ours, 1 << 16).decode()
    except OSError:  # a terminal nobody wrote to
        told = ""
    os.close(ours)
    assert done.returncode == 0
    assert json.loads(done.stdout)["steps"] > 0
    assert ("steps, peak" in told) == terminal

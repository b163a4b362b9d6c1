"""``lowtide pack`` as a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from lowtide.core.codec import loads
from lowtide.plan.check import check
from lowtide.plan.problem_csv import parse_csv
from lowtide.plan.problem_json import parse_plan

CSV = "id,lower,upper,size\na,0,3,8\nb,2,5,4\nc,4,6,8\n"
PROBLEMS = Path(__file__).parents[3] / "benchmarks/problems"


def lowtide(*words, stdin=None):
    command = [sys.executable, "-m", "lowtide.cli.main", "pack", *map(str, words)]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)


@pytest.fixture
def csv(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(CSV)
    return path


def test_table(csv):
    out = lowtide(csv)
    assert out.returncode == 0, out.stderr
    assert out.stdout.startswith("OPTIMAL: 3 buffers in 12 bytes")
    assert "lower bound  12 bytes" in out.stdout


@pytest.mark.spec("PP-35")
def test_json_from_standard_input():
    out = lowtide("-", "--json", "--capacity", "1KiB", stdin=CSV)
    assert out.returncode == 0, out.stderr
    answer = json.loads(out.stdout)
    assert {"status", "height", "lower_bound", "seconds", "packer", "offsets"} <= set(answer)
    assert (answer["status"], answer["height"]) == ("OPTIMAL", 12)
    check(parse_csv(CSV), answer["offsets"], height=12)


def test_json_problem_in_and_plan_out(tmp_path, csv):
    plan = tmp_path / "plan.json"
    assert lowtide(csv, "-o", plan).returncode == 0
    problem, offsets, height = parse_plan(loads(plan.read_text()))
    check(problem, offsets, height=height)
    again = tmp_path / "problem.json"
    again.write_text(json.dumps(json.loads(plan.read_text())["problem"]))
    out = lowtide(again, "--json")
    assert json.loads(out.stdout)["height"] == height


def test_csv_out_has_offsets(tmp_path, csv):
    written = tmp_path / "out.csv"
    assert lowtide(csv, "-o", written).returncode == 0
    problem = parse_csv(written.read_text())
    check(problem, {b.id: b.offset for b in problem.buffers})


def test_pages(tmp_path, csv):
    for name, begin in (("p.html", "<!doctype html>"), ("p.svg", "<svg")):
        assert lowtide(csv, "--html", tmp_path / name).returncode == 0
        assert (tmp_path / name).read_text().startswith(begin)


def test_over_capacity_is_exit_code_3_and_names_the_conflict(csv):
    out = lowtide(csv, "--capacity", 11, "--json")
    assert out.returncode == 3
    answer = json.loads(out.stdout)
    assert answer["status"] == "INFEASIBLE"
    assert answer["conflict"] in (["a", "b"], ["b", "c"])
    assert answer["lower_bound"] == 12


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["nowhere.csv"], "cannot be read"),
        (["-", "--capacity", "many"], "is not a size"),
        (["-", "-o", "plan.txt"], ".json or .csv"),
        (["-", "--html", "/no/such/folder/p.html"], "cannot be written"),
        (["-", "--nonsense"], "nonsense"),
    ],
)
def test_mistakes_are_exit_code_1_and_one_clear_message(words, said):
    out = lowtide(*words, stdin=CSV)
    assert out.returncode == 1, out.stdout + out.stderr
    assert said in out.stderr
    assert "Traceback" not in out.stderr


def test_malformed_input_names_file_and_line(tmp_path):
    bad = tmp_path / "bad.csv"
    bad.write_text(CSV + "d,zero,1,1\n")
    out = lowtide(bad)
    assert out.returncode == 1
    assert f"{bad}: line 5:" in out.stderr


def test_starts_without_torch_and_heavy_packages(csv):
    code = (
        "import sys, lowtide.cli.main as m; m.main(['pack', sys.argv[1], '--json']);"
        "print([x for x in ('torch', 'numpy', 'jinja2', 'ortools') if x in sys.modules], file=sys.stderr)"
    )
    out = subprocess.run([sys.executable, "-c", code, str(csv)], capture_output=True, text=True, check=True)
    assert out.stderr.strip() == "[]"


def test_an_instance_of_minimalloc():
    out = lowtide(PROBLEMS / "C.1048576.csv", "--capacity", "1MiB", "--json", "--nodes", 50000, "--time", 60)
    assert out.returncode == 0, out.stderr
    assert json.loads(out.stdout)["status"] in ("OPTIMAL", "FEASIBLE")

"""The regression corpus: what becomes of captured graphs is what was accepted, and is printed beside it."""

from __future__ import annotations

import json
import sys

import pytest
from benchmarks import fusion
from benchmarks.fusion import ACCEPTED, GRAPHS, SAME, Row, measure, table

from lowtide.core import native

needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="without a C++ compiler nothing becomes a loop")
ACCEPTED_ROWS: dict[str, Row] = json.loads(ACCEPTED.read_text(encoding="utf-8"))
QUICK = ("convnet-train", "gpt2-train.1", "mlp_bn-train", "norms-train", "outputs-train", "vit-infer")
SECONDS = ("loops_s", "plan_s", "all_s")


def row(**given: float) -> Row:
    return dict.fromkeys((*SAME, *SECONDS), 1) | given


def as_accepted(name: str) -> None:
    found, old = measure(GRAPHS / f"{name}.json.gz"), ACCEPTED_ROWS[name]
    assert found.keys() == old.keys()
    assert {k: found[k] for k in SAME} == {k: old[k] for k in SAME}, "python -m benchmarks.fusion --accept accepts it"


@needs_compiler
@pytest.mark.spec("G7")
@pytest.mark.parametrize("name", QUICK)
def test_small_graphs_are_compiled_as_accepted(name: str):
    as_accepted(name)


@needs_compiler
@pytest.mark.slow
@pytest.mark.spec("G7")
@pytest.mark.parametrize("name", [n for n in ACCEPTED_ROWS if n not in QUICK])
def test_all_graphs_are_compiled_as_accepted(name: str):
    as_accepted(name)


@pytest.mark.spec("G9", "SC-33")
def test_the_accepted_figures_are_of_every_graph_and_none_peaks_higher_than_library_calls_alone():
    assert {f"{n}.json.gz" for n in ACCEPTED_ROWS} == {p.name for p in GRAPHS.iterdir()}
    for name, x in ACCEPTED_ROWS.items():
        assert 0 < x["bound"] <= x["peak"] <= x["arena"] <= x["aten"], name
        assert x["sources"] <= x["kernels"] <= x["loops"], name


def test_what_differs_is_shown_beside_what_was():
    new, old = row(kernels=6, peak=2 << 20, all_s=3.0), row(kernels=12, peak=4 << 20, all_s=1.5)
    head, _, line, *means = table({"net": new}, {"net": old}).splitlines()
    shown = dict(zip(head.split(" | "), line.split(" | "), strict=True))
    assert (shown["kernels"], shown["peak"], shown["library"]) == ("12 -> 6", "4.0 -> 2.0", "1")
    assert shown["all, s |"] == "1.5 -> 3.0 |"
    assert "kernels: 0.500 of before, geometric mean of 1" in means
    assert "all_s: 2.000 of before, geometric mean of 1" in means


def test_a_new_graph_has_nothing_beside_it():
    text = table({"net": row(kernels=6)}, {})
    assert "->" not in text and "of before" not in text


def test_without_a_compiler_nothing_is_measured(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(native, "compiler", lambda: None)
    with pytest.raises(SystemExit, match="compiler must be installed"):
        measure(GRAPHS / "gpt2-train.1.json.gz")


def test_what_is_kept_is_shown_of_those_that_are_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setattr(sys, "argv", ["fusion", "--kept", "--only", "bert", "gpt2-infer.1"])
    fusion.main()
    rows = capsys.readouterr().out.splitlines()[2:]
    assert [line.split(" | ")[0] for line in rows] == ["| bert-infer", "| bert-train", "| gpt2-infer.1"]

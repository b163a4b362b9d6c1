"""The picture of a schedule: a row per step, a bar per buffer, nothing from outside that is not escaped."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest

from lowtide.cli.main import main
from lowtide.core.errors import FileError
from lowtide.core.options import Options
from lowtide.core.units import format_bytes
from lowtide.ir.graph import Origin
from lowtide.plan.choose import plan_memory
from lowtide.plan.plan import MemoryPlan
from lowtide.plan.refused import refusals
from lowtide.report.steps import dump_steps, load_steps, page, svg
from lowtide.schedule.buffers import buffers
from lowtide.schedule.estimate import estimates
from lowtide.schedule.schedule import CALL, Schedule, memory_graph
from plans import training

SVG = "{http://www.w3.org/2000/svg}"


def planned() -> tuple[Schedule, MemoryPlan]:
    made = training()
    graph = made.graph
    odd = Origin("/home/<b>me</b>/net.py", 7, 'a"&b')
    values = tuple(replace(v, origin=odd) for v in graph.values)
    steps = tuple(replace(s, op=replace(s.op, origin=odd)) for s in made.steps)
    sections = tuple(replace(s, ops=tuple(replace(o, origin=odd) for o in s.ops)) for s in graph.sections)
    graph = replace(graph, values=values, sections=sections)
    made = replace(made, graph=graph, steps=steps, members={"y": ("one", "two<x>")})
    return made, plan_memory(made, Options())


@pytest.mark.spec("SC-72")
def test_every_step_and_buffer_is_there_once() -> None:
    made, plan = planned()
    root = ET.fromstring(svg(made, plan, estimates(made)))
    groups = [g for g in root.iter(f"{SVG}g") if g.get("class") == "step"]
    assert len(groups) == len(made.steps)
    names = [s.op.name for s in made.steps]
    for name, g in zip(names, groups, strict=True):
        title = g.findtext(f"{SVG}title") or ""
        assert f"%{name}" in title or made.steps[names.index(name)].op.mutates
        assert "net.py:7" in title and "estimated" in title
    bars = [r for r in root.iter(f"{SVG}rect") if r.get("class") == "bar"]
    titles = [r.findtext(f"{SVG}title") or "" for r in bars]
    assert sorted(t.split()[0] for t in titles) == sorted(f"%{p.storage}" for p in plan.places if p.nbytes)
    for p in plan.places:
        (text,) = (t for t in titles if t.split()[0] == f"%{p.storage}")
        assert format_bytes(p.nbytes) in text and f"steps {p.first} to {p.end - 1}" in text and "net.py:7" in text
        assert buffers(made)[p.storage].uses in text
    assert "two<x>" in [t.text for t in root.iter(f"{SVG}text")]


@pytest.mark.spec("SC-72")
def test_bars_that_are_alive_together_do_not_overlap() -> None:
    made, plan = planned()
    root = ET.fromstring(svg(made, plan, {}))
    boxes = [
        tuple(float(r.get(k) or 0) for k in ("x", "width", "y", "height"))
        for r in root.iter(f"{SVG}rect")
        if r.get("class") == "bar"
    ]
    for i, (x, w, y, h) in enumerate(boxes):
        for x2, w2, y2, h2 in boxes[:i]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y


@pytest.mark.spec("SC-72")
def test_marks_are_the_accesses() -> None:
    made, plan = planned()
    root = ET.fromstring(svg(made, plan, {}))
    marks = sum(1 for _ in root.iter(f"{SVG}circle"))
    held = {p.storage for p in plan.places if p.nbytes}
    nodes = [n for n in memory_graph(made).nodes if not n.name.startswith(CALL)]  # a call hands on, it reads nothing
    assert marks == sum(len({s for s in (*n.reads, *n.writes) if s in held}) for n in nodes)


@pytest.mark.spec("SC-72")
def test_a_page_loads_nothing() -> None:
    made, plan = planned()
    text = page(made, plan, {})
    assert "<script" not in text and "src=" not in text and "url(" not in text and "<b>" not in text
    assert set(re.findall(r"https?://[^\"]+", text)) == {"http://www.w3.org/2000/svg"}
    assert page(made, plan, {}) == text


@pytest.mark.spec("SC-72")
def test_the_command_line_shows_what_was_dumped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, plan = planned()
    assert load_steps(dump_steps(made, plan)) == (made, plan)
    file = tmp_path / "steps.json"
    file.write_text(dump_steps(made, plan))
    assert main(["show", str(file)]) == 0
    out = capsys.readouterr().out
    assert "section backward" in out and "of one, two<x>" in out and "moved" in out
    assert " in a slab: " not in out
    assert main(["show", str(file), "--refused"]) == 0
    assert out + "".join(f"{r}\n" for r in refusals(made, plan)) == capsys.readouterr().out
    for name, start in (("a.html", "<!doctype html>"), ("a.svg", "<svg ")):
        assert main(["show", str(file), "--html", str(tmp_path / name)]) == 0
        assert (tmp_path / name).read_text().startswith(start)
    assert main(["show", str(file), "--html", str(tmp_path / "no" / "a.html")]) == 1
    assert "cannot be written" in capsys.readouterr().err
    assert main(["show", str(file), "--refused", "--html", str(tmp_path / "b.html")]) == 1
    assert "--refused goes with" in capsys.readouterr().err and not (tmp_path / "b.html").exists()


@pytest.mark.spec("SC-72")
def test_the_command_line_shows_it_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, plan = planned()
    file = tmp_path / "steps.json"
    file.write_text(dump_steps(made, plan))
    assert main(["show", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [s["name"] for s in told["steps"]] == [s.op.name for s in made.steps]
    assert told["promised_bytes"] == plan.promised_nbytes == max(s["live_bytes"] for s in told["steps"])
    assert {s["section"] for s in told["steps"]} == {"forward", "backward"} and "refused" not in told
    assert sum(s["seconds"] for s in told["steps"]) == sum(e.seconds for e in estimates(made).values())
    assert main(["show", str(file), "--json", "--refused"]) == 0
    refused = json.loads(capsys.readouterr().out)["refused"]
    assert [(r["what"], r["because"]) for r in refused] == [(r.what, r.because) for r in refusals(made, plan)] != []
    assert main(["show", str(file), "--json", "--html", str(tmp_path / "b.html")]) == 1
    assert "--json goes with" in capsys.readouterr().err and not (tmp_path / "b.html").exists()


@pytest.mark.spec("SC-72")
def test_a_plan_of_another_schedule_is_refused() -> None:
    made, plan = planned()
    with pytest.raises(FileError, match="another schedule"):
        load_steps(dump_steps(made, replace(plan, live=plan.live[:-1])))

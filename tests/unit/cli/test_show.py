"""``lowtide show``: of a plan for two devices the JSON says whose bytes are told, and tells those of both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lowtide.cli.main import main
from lowtide.core.options import Options
from lowtide.ir.graph import Graph, Layout, Op, Ref, Section, Value
from lowtide.plan.choose import plan_memory
from lowtide.report.steps import dump_steps
from lowtide.schedule.schedule import schedule


@pytest.mark.spec("SC-72")
def test_the_json_tells_the_bytes_of_every_device(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device, nbytes = {"s": "cpu", "l": "cuda:0"}, {"s": 1024, "l": 4096}
    names = [f"{kind}{i}" for i in range(4) for kind in "sl"]
    values = tuple(Value(n, Layout("u8", device[n[0]], (nbytes[n[0]],), (1,)), n) for n in names)
    ops = tuple(Op(n, "aten.mm.default", (Ref(f"{n[0]}{int(n[1]) - 1}"),), (), (n,)) for n in names[2:])
    graph = Graph("g", values, (Section("inference", (Ref("s0"), Ref("l0")), ops, (Ref("s3"), Ref("l3"))),))
    made = schedule(graph, {})
    plan = plan_memory(made, Options())
    file = tmp_path / "steps.json"
    file.write_text(dump_steps(made, plan))
    assert main(["show", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["device"] == plan.device == "cuda:0"
    assert told["promised_bytes"] == max(s["live_bytes"] for s in told["steps"]) == 8192
    (other,) = told["others"]
    (figures,) = plan.others
    assert other["device"] == figures.device == "cpu" and other["lower_bound_bytes"] == figures.lower_bound
    assert list(other["live_bytes"]) == [s["name"] for s in told["steps"]]
    assert tuple(other["live_bytes"].values()) == figures.live
    assert other["promised_bytes"] == max(figures.live) == 2048

"""What of the suite's models becomes generated loops: all that is elementwise, reduces, looks up or moves data."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.fusion import read
from benchmarks.suite.entry import Case
from benchmarks.suite.models import MODELS

import lowtide
from lowtide.lowering.coverage import coverage
from lowtide.lowering.lower import is_library, lower

GRAPHS = sorted(Path(__file__).parents[2].glob("benchmarks/corpus/fusion/*.json.gz"))
SORTED = "lookup-train"  # of it topk and sort are left, which order equal elements as ATen does

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore"), pytest.mark.usefixtures("fresh_compiler")]


def train(case: Case) -> str:
    """What ``memory_analysis`` prints after one step of training."""
    step = torch.compile(
        lambda **given: case.loss(case.module(**given)), backend="lowtide", options={"kernels": "loops", "verify": True}
    )
    step(**case.inputs).backward()
    return str(lowtide.memory_analysis())


@pytest.mark.spec("G12")
@pytest.mark.parametrize("name", ["gpt_dropout", "mlp_bn"])
def test_a_step_of_training_is_lowered_whole_and_says_so(name: str):
    told = train(MODELS[name].build())
    covered = lowtide.memory_analysis().coverage
    assert covered is not None and covered.fraction == 1 and not covered.left and covered.loops > 30
    assert all(is_library(target) for target, _ in covered.libraries)
    line = f"computed: {covered.loops} of {covered.loops} elementwise, reducing and moving operations"
    assert f"{line} in generated loops (100 %); best in libraries: mm" in told
    drawn = dict(covered.draws)
    assert drawn.get("aten.native_dropout.default", 0) > 0 if name == "gpt_dropout" else not drawn


@pytest.mark.spec("G12")
def test_what_is_left_is_named_with_its_reason():
    torch.compile(
        lambda x: x.relu().to(torch.complex64).abs(), backend="lowtide", options={"kernels": "loops", "verify": True}
    )(torch.randn(8))
    covered = lowtide.memory_analysis().coverage
    assert covered is not None and 0 < covered.fraction < 1
    assert {target for target, _ in covered.left} == {"aten._to_copy.default", "aten.abs.default"}
    told = str(lowtide.memory_analysis())
    assert "1 of 3 elementwise, reducing and moving operations in generated loops (33 %); left: " in told
    assert told.count("is c64 on cpu") >= 1


@pytest.mark.slow
@pytest.mark.spec("G12")
@pytest.mark.parametrize("path", [pytest.param(p, id=p.name.removesuffix(".json.gz")) for p in GRAPHS])
def test_every_captured_graph_is_lowered_whole(path: Path):
    graph, _ = read(path)
    lowered = lower(graph)
    covered = coverage(graph, lowered)
    assert len(lowered.reasons) == sum(n for _, n in covered.left)
    if path.name.startswith(SORTED):
        assert {target for target, _ in covered.left} <= {"aten.topk.default", "aten.sort.default"}
    else:
        assert covered.fraction == 1 and not lowered.reasons, covered

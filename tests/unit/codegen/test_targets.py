"""A target answers every question, and is asked: by lowering, fusion and code generation alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import pytest

from lowtide.codegen.targets import CPU, TARGETS, add_target, libraries_only, target_of
from lowtide.core import native
from lowtide.core.errors import BugError, Unsupported, UserError
from lowtide.core.observe import Observers
from lowtide.core.options import Options
from lowtide.ir.loops import Loop
from lowtide.ir.text import parse
from lowtide.pipeline import compile_graph
from lowtide.schedule.rules import CACHED
from lowtide.target import Kernel, Target

TEXT = """graph g version 1
  section inference
    input %x: f32[64,48]{48,1} @cpu
    input %y: f64[8]{1} @cpu
    %a: f32[64,48]{48,1} @cpu = aten.exp.default(%x)
    %s: f32[64]{1} @cpu = aten.sum.dim_IntList(%a, [1])
    %z: f64[8]{1} @cpu = aten.exp.default(%y)
    return [%a, %s, %z]
"""


@pytest.mark.spec("SC-11")
@pytest.mark.parametrize("question", [f.name for f in fields(Target)])
def test_a_target_that_leaves_a_question_out_cannot_be_made(question: str) -> None:
    answers = {f.name: getattr(CPU, f.name) for f in fields(Target) if f.name != question}
    with pytest.raises(TypeError, match=f"missing 1 required keyword-only argument: '{question}'"):
        Target(**answers)


@pytest.mark.spec("SC-11")
@pytest.mark.skipif(native.compiler() is None, reason="without a compiler nothing is asked")
def test_every_stage_asks_the_target() -> None:
    """One that knows no f64, makes one kernel of nothing that touches more than two buffers, and calls its kernels otherwise."""
    asked: list[Loop] = []

    def named(loop: Loop) -> Kernel:
        asked.append(loop)
        return Kernel(f"null{'rows' if loop.outer else 'flat'}", "", (7,), len(loop.dtypes))

    def nothing(kernels: Sequence[Kernel], parts: int) -> tuple[()]:
        assert parts > 0 and {k.name for k in kernels} <= {"nullrows", "nullflat"}
        return ()

    null = replace(CPU, dtypes=frozenset({"f32"}), rules=replace(CACHED, most_buffers=2), kernel=named, sources=nothing)
    graph = parse(TEXT)
    for target, kernels, why in ((CPU, [("a", "s"), ("z",)], []), (null, [("a",), ("s",)], ["%y is f64 on cpu"])):
        found = compile_graph(graph, lambda g: {}, Options(), Observers(), target=target)
        assert sorted(s.op.outputs for s in found.schedule.steps if s.loop is not None) == kernels
        assert [r.because for r in found.schedule.reasons] == why
    assert len(asked) == 4, "each of two loops is named for its source and for its call"
    assert "kernel_nullrows_2(" in found.program.source and "exp(y" in found.program.source
    assert found.program.kernels == ()


@pytest.mark.spec("SC-69", "IR-58")
def test_each_kind_of_device_has_one_target_and_others_are_refused_by_name() -> None:
    assert [t.device for t in TARGETS.values()] == list(TARGETS)
    assert target_of(parse(TEXT)) is CPU
    with pytest.raises(Unsupported, match="%x: no target computes on cuda:0, only on cpu"):
        target_of(parse(TEXT.replace("@cpu", "@cuda:0")))
    with pytest.raises(Unsupported, match="no target computes on cuda:0"):
        compile_graph(parse(TEXT.replace("f64[8]{1} @cpu", "f64[8]{1} @cuda:0")), lambda g: {}, Options(), Observers())


@pytest.mark.spec("SC-69", "SC-12")
def test_a_graph_on_two_kinds_of_devices_gets_the_kernels_of_the_one_that_has_any(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(TARGETS, "cuda", cuda := libraries_only("cuda"))
    assert target_of(parse(TEXT.replace("@cpu", "@cuda:1"))) is cuda
    mixed = parse(
        TEXT.replace("f32[64,48]{48,1} @cpu", "f32[64,48]{48,1} @cuda:0").replace(
            "f32[64]{1} @cpu", "f32[64]{1} @cuda:0"
        )
    )
    assert target_of(mixed) is CPU
    steps = compile_graph(mixed, lambda g: {}, Options(), Observers()).schedule.steps
    assert [s.op.target for s in steps if s.loop is None] == ["aten.exp.default", "aten.sum.dim_IntList"]
    alone = compile_graph(parse(TEXT.replace("@cpu", "@cuda:1")), lambda g: {}, Options(), Observers())
    assert not any(s.loop for s in alone.schedule.steps) and alone.coverage is None
    with pytest.raises(BugError, match="a kernel for cuda"):
        cuda.kernel(Loop((), (), (), ()))


@pytest.mark.spec("SC-69")
def test_a_target_that_cannot_be_added_is_refused() -> None:
    with pytest.raises(UserError, match="a target for cpu already"):
        add_target(libraries_only("cpu"))
    with pytest.raises(UserError, match="kernels are generated for cpu alone"):
        add_target(replace(CPU, device="other"))
    assert "other" not in TARGETS

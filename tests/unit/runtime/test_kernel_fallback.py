"""Where kernels cannot be built, ATen computes everything, and the report says why in the compiler's own words."""

from __future__ import annotations

import pytest

from lowtide.core import native
from lowtide.core.options import Options
from lowtide.pipeline import compile_built
from plans import training

LOOPS = Options(kernels="loops")


def _reasons() -> list[str]:
    made = training()
    compiled = compile_built(made.graph, lambda _: {s.op.name: s.facts for s in made.steps}, LOOPS)
    assert not compiled.program.kernels
    return [str(r) for r in compiled.schedule.reasons]


def test_no_compiler(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert any("no C++ compiler" in r and "install g++" in r for r in _reasons())


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path):
    tool = tmp_path / "cxx"
    tool.write_text('#!/bin/sh\n[ "$1" = --version ] && echo c++ 1.0 && exit 0\necho "cc1plus: out of luck"\nexit 1\n')
    tool.chmod(0o755)
    monkeypatch.setenv("CXX", str(tool))
    monkeypatch.setenv("LOWTIDE_CACHE_DIR", str(tmp_path / "cache"))
    assert native.compiler() == str(tool)
    assert any("out of luck" in r and "ATen computes everything" in r for r in _reasons())

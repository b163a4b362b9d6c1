"""The public face: what ``lowtide`` offers is a list kept here on purpose, and is loaded only when asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import lowtide

PUBLIC = [
    "Options",
    "__version__",
    "add_target",
    "compile_exported",
    "libraries_only",
    "memory_analysis",
    "place_allocations",
    "plan_at_run_time",
    "release_retained",
    "trace_memory",
    "write_pictures",
]


def test_public_names_are_pinned():
    assert sorted(lowtide.__all__) == sorted(PUBLIC)


@pytest.mark.torch
@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_loads(name: str):
    assert getattr(lowtide, name) is getattr(lowtide, name)
    assert name in dir(lowtide)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Opsions'"):
        _ = lowtide.Opsions


def test_importing_the_package_imports_next_to_nothing():
    code = "import sys; n = set(sys.modules); import lowtide; print(*sorted(set(sys.modules) - n))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert [m for m in out if m.startswith("lowtide")] == ["lowtide"]
    assert not {"torch", "numpy", "rich", "typer"} & set(out)

"""The suite of programs whose sizes vary, shared with the benchmark."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

_FILE = Path(__file__).parents[3] / "benchmarks/varying.py"


@cache
def varying() -> Any:
    spec = importlib.util.spec_from_file_location("lowtide_varying", _FILE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["lowtide_varying"] = module
    spec.loader.exec_module(module)
    return module


@cache
def suite() -> dict[str, tuple[Any, Any]]:
    """Name -> (program, exported). Exporting warns of a name of torch's own, and takes a second each."""
    return {p.name: (p, p.exported()) for p in varying().programs()}


@pytest.fixture(scope="session", params=["transformer", "detection", "nested", "beam", "ragged", "small ops", "words"])
def program(request: pytest.FixtureRequest) -> Iterator[tuple[Any, Any]]:
    yield suite()[request.param]

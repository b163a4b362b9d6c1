"""What the end-to-end tests share: the backend under test and a clean start for each.

``SUITE_BACKEND=aot_eager`` (or another name) runs them against that backend instead.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

BACKEND = os.environ.get("SUITE_BACKEND", "lowtide")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if BACKEND == "lowtide" and importlib.util.find_spec("lowtide.backend") is None:
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(pytest.mark.skip(reason="lowtide.backend is not there yet"))


@pytest.fixture
def backend() -> str:
    """The name of the backend under test."""
    return BACKEND


@pytest.fixture
def ours() -> bool:
    """Whether the backend under test is Lowtide."""
    return BACKEND == "lowtide"


@pytest.fixture
def compiled() -> Iterator[Callable[..., Any]]:
    """``compiled(f)`` is ``torch.compile`` with the backend under test; nothing compiled survives the test."""
    import torch

    torch.compiler.reset()
    torch.manual_seed(0)

    def compile_one(f: Callable[..., Any], **given: Any) -> Callable[..., Any]:
        if BACKEND == "lowtide":
            given.setdefault("options", {"verify": True})
        return torch.compile(f, backend=BACKEND, **given)

    yield compile_one
    torch.compiler.reset()


@pytest.fixture
def graphs(ours: bool) -> Callable[[], list[Any]]:
    """What Lowtide compiled since the test began (nothing for another backend)."""

    def listed() -> list[Any]:
        if not ours:
            return []
        import lowtide

        return list(lowtide.memory_analysis().graphs)

    return listed

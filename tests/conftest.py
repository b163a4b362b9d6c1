"""What all tests share: goldens, hypothesis profiles, and no torch for the layers that must not need it.

In their tests ``import torch`` fails, but in those marked ``torch``. With ``--no-torch`` it fails from the start, for all,
and those that are marked are left out.
``--update-golden`` accepts the present text of every golden that is compared.
``HYPOTHESIS_PROFILE`` is ``default`` (the same examples each time), ``few`` or ``many`` (new ones each time).
"""

from __future__ import annotations

import gc
import importlib.abc
import logging
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from torch_free import FOLDERS, no_torch

if "PYTEST_XDIST_WORKER" in os.environ:  # one core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")

_ANY_MACHINE = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("default", derandomize=True, max_examples=60, **_ANY_MACHINE)
settings.register_profile("few", derandomize=True, max_examples=5, **_ANY_MACHINE)
settings.register_profile("many", max_examples=2000, **_ANY_MACHINE)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

GOLDEN = Path(__file__).parent / "golden"


class _NoTorch(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname.partition(".")[0] == "torch":
            raise ImportError(f"{fullname} is not to be imported here")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--no-torch", action="store_true", help="make every import of torch fail")
    parser.addoption("--update-golden", action="store_true", help="accept what the goldens are compared with")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--no-torch"):
        assert "torch" not in sys.modules
        sys.meta_path.insert(0, _NoTorch())


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--no-torch"):
        needing = [item for item in items if item.get_closest_marker("torch")]
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]


def pytest_collection_finish() -> None:
    """What is imported by now stays. Whoever measures memory collects garbage first, and would look through all of torch and of
    these tests each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True, trylast=True)  # within pytest's own, which has begun to listen
def pytest_runtest_call() -> Iterator[None]:
    """Nobody listens to torch's trace: where somebody does, torch writes down every tensor and graph that it compiles, and
    pytest (from 9.2) listens to each logger that does not pass on what it is told."""
    trace = logging.getLogger("torch.__trace")
    for listener in [h for h in trace.handlers if type(h).__module__ == "_pytest.logging"]:
        trace.removeHandler(listener)
    yield


@pytest.fixture(autouse=True)
def torch_where_it_may_be_needed(request: pytest.FixtureRequest) -> Iterator[None]:
    """Takes torch away from the tests of the torch-free layers, which share a process with others."""
    free = not request.node.get_closest_marker("torch") and any(f in request.path.parents for f in FOLDERS)
    with no_torch() if free else nullcontext():
        yield


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    """Nothing compiled before or after, and the same random numbers each time. Of tests that need torch."""
    import torch

    torch.compiler.reset()
    torch.manual_seed(0)
    yield
    torch.compiler.reset()


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[..., None]:
    """``golden(text)`` compares with tests/golden/<test file>/<test>.txt; a second word ends the file's name."""

    def compare(text: str, ending: str = "txt") -> None:
        name = re.sub(r"[^\w.-]+", "_", request.node.name).strip("_")
        file = GOLDEN / request.path.stem / f"{name}.{ending}"
        if request.config.getoption("--update-golden"):
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        assert file.exists(), f"no golden {file.relative_to(GOLDEN)} yet: run once with --update-golden"
        assert text == file.read_text(), f"differs from {file.relative_to(GOLDEN)}; --update-golden accepts it"

    return compare

"""The second device of these tests, made known to torch and to Lowtide once per process.

From then on torch takes it for the accelerator of the process, so these tests run after all others.
"""

from __future__ import annotations

import ctypes
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from lowtide import add_target, libraries_only  # noqa: E402
from lowtide.codegen.targets import TARGETS  # noqa: E402
from lowtide.core import native  # noqa: E402
from lowtide.executor.shaping import c10_flags  # noqa: E402

NAME = "lowtide_test"
HERE = Path(__file__).parent
_libraries: list[ctypes.CDLL] = []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: HERE in item.path.parents)


def _module() -> types.ModuleType:
    """What torch asks the module of a device."""
    found = types.ModuleType(f"torch.{NAME}")
    answers = {"is_available": True, "is_initialized": True, "current_device": 0, "device_count": 1}
    for name, answer in (answers | {"_is_in_bad_fork": False}).items():
        setattr(found, name, lambda answer=answer: answer)
    found.manual_seed_all = lambda seed: None  # type: ignore[attr-defined]
    return found


@pytest.fixture(scope="session")
def registered() -> str:
    """The device's name; torch and Lowtide know it."""
    if native.compiler() is None:
        pytest.skip("there is no C++ compiler")
    if NAME not in TARGETS:
        quick = tuple("-O0" if f == "-O3" else f for f in c10_flags())
        source = (HERE / "device.cpp").read_text(encoding="utf-8")
        _libraries.append(native.load(source, "device", (*quick, "-ltorch_cpu")))
        _libraries[0].lowtide_test_begin()
        torch.utils.rename_privateuse1_backend(NAME)
        torch._register_device_module(NAME, _module())
        add_target(libraries_only(NAME))
    return NAME


@pytest.fixture
def device(registered: str) -> Iterator[str]:
    """The device, with nothing compiled before or after."""
    torch.compiler.reset()
    torch.manual_seed(0)
    yield registered
    torch.compiler.reset()


@pytest.fixture
def library(device: str) -> Iterator[ctypes.CDLL]:
    """The device from inside: ``lowtide_test_late``, ``lowtide_test_recorded``. Nothing is late before or after."""
    yield _libraries[0]
    _libraries[0].lowtide_test_late(False)
    torch.accelerator.synchronize()

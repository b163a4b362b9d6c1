"""What the machine does per second: measured when asked, kept for the next process, never believed blindly."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from lowtide.runtime import rates
from lowtide.schedule.cost import Machine

pytestmark = pytest.mark.torch

FOUND = Machine(2e10, 6e10, 1e-6, in_cache=((1 << 20, 5e10),), matmul=(("f32", 1e11), ("f64", 5e10)))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LOWTIDE_CACHE_DIR", str(tmp_path / "cache"))
    rates._machine.cache_clear()
    yield tmp_path / "cache"
    rates._machine.cache_clear()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Measurements are replaced by FOUND; what they were limited to is noted."""
    noted: list[float] = []

    def measured(seconds: float = float("inf")) -> Machine:
        noted.append(seconds)
        return FOUND

    monkeypatch.setattr(rates, "measured", measured)
    return noted


@pytest.mark.spec("SC-62")
def test_measured_once_and_kept_privately(folder: Path, calls: list[float]) -> None:
    assert rates.machine() == rates.machine() == FOUND
    rates._machine.cache_clear()
    assert rates.machine() == FOUND
    assert calls == [rates.QUICK]
    (file,) = folder.iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert rates._path(1) != rates._path(2)


@pytest.mark.spec("SC-62")
@pytest.mark.parametrize(
    "damage",
    [
        lambda text: "",
        lambda text: text[:-3],
        lambda text: "[" * 100_000,
        lambda text: "[]",
        lambda text: text.replace('"matmul"', '"other"'),
        lambda text: text.replace("1e-06", "0.0"),
        lambda text: text.replace("1e-06", "NaN"),
        lambda text: text.replace("1e-06", '"fast"'),
        lambda text: text.replace("20000000000.0", "true"),
        lambda text: text.replace("50000000000.0", "-1.0"),
        lambda text: text.replace("[1048576,", '["1048576",'),
        lambda text: text.replace("60000000000.0", "1e30"),
    ],
)
def test_a_damaged_file_is_measured_again(folder: Path, calls: list[float], damage) -> None:
    rates.machine()
    (file,) = folder.iterdir()
    broken = damage(file.read_text())
    assert broken != file.read_text()
    file.write_text(broken)
    rates._machine.cache_clear()
    assert rates.machine() == FOUND
    assert len(calls) == 2
    rates._machine.cache_clear()
    assert rates.machine() == FOUND
    assert len(calls) == 2  # mended


@pytest.mark.spec("SC-62")
def test_a_folder_that_cannot_be_written_is_no_error(folder: Path, calls: list[float]) -> None:
    folder.write_text("a file")
    assert rates.machine() == FOUND


@pytest.mark.spec("SC-62")
def test_real_figures_are_possible_and_a_file_takes_them() -> None:
    found = rates.refresh()
    assert {"f32", "f64"} <= {name for name, _ in found.matmul}
    assert rates._read(rates._path(rates.torch.get_num_threads())) == found == rates.machine()


@pytest.mark.spec("SC-62")
def test_what_is_out_of_time_or_impossible_is_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    def figures(end: float):
        yield "call_seconds", 2e-6
        yield "bytes_per_second", 1.0
        yield "matmul f32", 3e30
        yield "cache 1024", 2e10

    monkeypatch.setattr(rates, "_figures", figures)
    usual, found = Machine(), rates.measured()
    assert found.call_seconds == pytest.approx(2e-6, rel=0.1)
    assert (found.bytes_per_second, found.matmul) == (usual.bytes_per_second, usual.matmul)
    assert [n for n, _ in found.in_cache] == [1024]
    assert rates.measured(0.0).in_cache == ()


@pytest.mark.spec("SC-62")
def test_nothing_is_measured_at_import(folder: Path) -> None:
    subprocess.run([sys.executable, "-c", "import lowtide.backend, lowtide.runtime.rates"], check=True)
    assert not list(folder.glob("rates-*"))

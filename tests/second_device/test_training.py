"""Runs ``training.py``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.torch


@pytest.mark.spec("IR-58", "G9")
def test_training(registered: str) -> None:
    """``registered``: so that the device is built, or the test skipped, before."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", str(Path(__file__).parent / "training.py")]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=250, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "1 passed" in done.stdout

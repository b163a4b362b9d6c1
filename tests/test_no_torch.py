"""The planner and the command line need no torch: shown in interpreters where importing it fails.

Their own tests run without torch each time (conftest.py); here all of them do so in a process that never had it.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from torch_free import FOLDERS, LAYERS

ROOT = Path(__file__).parents[1]

_IMPORT_ALL = """
import importlib, pathlib, pkgutil, sys
class NoTorch:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError(name)
sys.meta_path.insert(0, NoTorch())
for top in sys.argv[1:]:
    package = importlib.import_module(f"lowtide.{top}")
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)
print("torch" in sys.modules)
"""


def python(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, cwd=ROOT, env={**os.environ, **environment}
    )


def test_torch_free_layers_import_without_torch():
    done = python("-c", _IMPORT_ALL, *LAYERS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False"]


@pytest.mark.slow
def test_torch_free_layers_pass_their_tests_without_torch():
    folders = [str(folder) for folder in FOLDERS]
    done = python("-m", "pytest", "--no-torch", "-q", "-p", "no:cacheprovider", *folders, HYPOTHESIS_PROFILE="few")
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]


@pytest.mark.parametrize(
    "words", [["--help"], ["--version"], ["pack", "--help"], ["order", "--help"], ["doctor", "--help"]]
)
def test_command_line_starts_without_torch(words: list[str]):
    code = "import sys; from lowtide.cli.main import main; c = main(sys.argv[1:]); print(c, 'torch' in sys.modules)"
    done = python("-c", code, *words)
    assert done.stdout.splitlines()[-1] == "0 False", done.stdout + done.stderr

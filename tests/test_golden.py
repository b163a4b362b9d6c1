"""The golden fixture compares, complains and accepts."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ["pytester"]


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    pytester.makeconftest((Path(__file__).parent / "conftest.py").read_text())
    return pytester


def test_golden_is_made_compared_and_refused(project: pytest.Pytester):
    project.makepyfile(test_a="def test_text(golden):\n    golden('one\\n')\n")
    project.runpytest().stdout.fnmatch_lines(["*no golden test_a/test_text.txt yet*"])
    project.runpytest("--update-golden").assert_outcomes(passed=1)
    project.runpytest().assert_outcomes(passed=1)
    project.makepyfile(test_a="def test_text(golden):\n    golden('two\\n')\n")
    project.runpytest().stdout.fnmatch_lines(["*differs from test_a/test_text.txt*"])

"""docs/design/types.md names every field of the types that the stages hand to each other."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[3] / "docs/design/types.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `([A-Z]\w+)` \| (.*) \|$", PAGE, re.MULTILINE)
HOMES = re.findall(r"^## .*: `([\w.]+)`$", PAGE, re.MULTILINE)


@pytest.mark.parametrize(("name", "row"), ROWS, ids=[name for name, _ in ROWS])
def test_each_row_names_every_field(name: str, row: str):
    type_ = next(t for home in HOMES if (t := getattr(importlib.import_module(home), name, None)) is not None)
    fields = {f.name for f in dataclasses.fields(type_)}
    missing = {f for f in fields if not re.search(rf"`\[?{f}\b|, {f}\)`", row)}
    assert not missing


def test_the_types_that_stages_extend_are_there():
    titles = " ".join(re.findall(r"^## (.*)$", PAGE, re.MULTILINE))
    for name in ("Graph", "MemoryGraph", "Lifetime", "Timeline", "Schedule", "PackProblem", "MemoryPlan", "Program"):
        assert re.search(rf"\b{name}\b", titles)
    assert {"Options", "Reason"} <= set(re.findall(r"\w+", titles))

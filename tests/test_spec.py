"""docs/specification.md and the tests' marks fit together."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_SCRIPT = Path(__file__).parents[1] / "scripts/spec.py"
_spec = importlib.util.spec_from_file_location("spec_script", _SCRIPT)
assert _spec is not None and _spec.loader is not None
spec = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(spec)


def test_marks_and_states_fit():
    states = spec.rows((spec.ROOT / "docs/specification.md").read_text())
    assert len(states) >= 267
    assert spec.faults(states, spec.tests_of_rows()) == []


def test_faults_are_found():
    page = "| G1 | one | built |\n| G2 | two | planned |\n| IR-03 | three | finished |\n"
    source = "@pytest.mark.spec('G2', 'G9')\ndef test_x(): pass\npytestmark = pytest.mark.spec('ML1')\n"
    assert spec.marks(source) == {"G2", "G9", "ML1"}
    found = spec.faults(spec.rows(page), {row: ["t.py"] for row in spec.marks(source)})
    assert sorted(found) == [
        "G1 is called built and has no test",
        "IR-03 has the unknown state 'finished'",
        "t.py: no row 'G9' in docs/specification.md",
        "t.py: no row 'ML1' in docs/specification.md",
    ]

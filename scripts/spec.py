"""Which rows of docs/specification.md have a test: ``python scripts/spec.py [--json] [--missing]``.

Reads the rows and their state from the page, and the marks ``@pytest.mark.spec("PK-09", ...)`` and ``pytestmark`` from
the tests by their syntax, so that nothing is imported. Ends with exit code 1 if a mark names no row, if a row is called
``built`` without a test, or if a state is unknown.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import sys
import textwrap
from pathlib import Path

ROOT = Path(__file__).parents[1]
STATES = ("built", "partial", "planned")
_ROW = re.compile(r"^\| ((?:G|ML)\d+|(?:IR|DP|SC|PK|PP|RT)-\d+) \| (.+) \| (\w+) \|$")


def rows(page: str) -> dict[str, str]:
    """Row -> state, in the page's order."""
    return {m.group(1): m.group(3) for line in page.splitlines() if (m := _ROW.match(line))}


def marks(source: str) -> set[str]:
    """Row ids that the tests of one file are marked with."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("mark.spec"):
            found |= {a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return found


def tests_of_rows() -> dict[str, list[str]]:
    """Row -> test files that are marked with it."""
    out: dict[str, list[str]] = {}
    for file in sorted((ROOT / "tests").rglob("test_*.py")):
        for row in sorted(marks(file.read_text())):
            out.setdefault(row, []).append(str(file.relative_to(ROOT)))
    return out


def faults(states: dict[str, str], tests: dict[str, list[str]]) -> list[str]:
    """What does not fit together, one line each."""
    out = [f"{files[0]}: no row {row!r} in docs/specification.md" for row, files in tests.items() if row not in states]
    out += [f"{row} is called built and has no test" for row, s in states.items() if s == "built" and row not in tests]
    out += [f"{row} has the unknown state {s!r}" for row, s in states.items() if s not in STATES]
    return out


def main() -> int:
    """Print the rows with and without a test."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--missing", action="store_true", help="print only the rows without a test")
    given = parser.parse_args()
    states, tests = rows((ROOT / "docs/specification.md").read_text()), tests_of_rows()
    wrong = faults(states, tests)
    if given.json:
        print(json.dumps({"states": states, "tests": tests, "faults": wrong}, indent=1))
    else:
        if not given.missing:
            for row, state in states.items():
                if row in tests:
                    print(f"{row:6} {state:8} {' '.join(tests[row])}")
        without = [row for row in states if row not in tests]
        print(textwrap.fill(" ".join(without), 110, initial_indent="\nwithout a test: ", break_on_hyphens=False))
        count = {s: sum(x == s for x in states.values()) for s in STATES}
        print(f"\n{len(states)} rows: {count}; {len(states) - len(without)} have a test")
    for line in wrong:
        print(f"spec: {line}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

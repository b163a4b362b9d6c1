"""``python -m benchmarks`` lists the benchmarks; ``python -m benchmarks NAME ARGS`` runs one."""

from __future__ import annotations

import ast
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent


def known() -> dict[str, str]:
    """Every module or package here that can be run, with the first line of what it says of itself."""
    found = {}
    for path in sorted([*HERE.glob("*.py"), *HERE.glob("*/__main__.py")]):
        name = path.parent.name if path.name == "__main__.py" else path.stem
        text = path.read_text(encoding="utf-8")
        if path != Path(__file__) and '__name__ == "__main__"' in text:
            found[name] = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return found


def main() -> None:
    """Run what is named, or list what there is."""
    benchmarks = known()
    if len(sys.argv) < 2:
        for name, says in benchmarks.items():
            print(f"python -m benchmarks.{name:<14}{says}")
        return
    name = sys.argv.pop(1)
    if name not in benchmarks:
        sys.exit(f"no benchmark {name!r}; there are: {', '.join(benchmarks)}")
    runpy.run_module(f"benchmarks.{name}", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()

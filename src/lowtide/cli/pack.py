"""``lowtide pack``: place buffers with sizes and lifetimes in the fewest bytes, or within a capacity.

Comes in: minimalloc's CSV or version-1 JSON. Goes out: a table or one JSON object, and on demand a plan file and a
page. Promised: no torch; what is printed has passed the independent checker.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lowtide.core.codec import dumps, loads, read_text
from lowtide.core.errors import FileError, OptionError
from lowtide.core.units import format_bytes, parse_bytes
from lowtide.plan.check import check
from lowtide.plan.pack import pack as find_placement
from lowtide.plan.problem import INFEASIBLE, PackProblem, PackResult, total_size
from lowtide.plan.problem_csv import format_csv, parse_csv
from lowtide.plan.problem_json import parse_problem, plan_value, result_value

OVER = 3  # exit code: proved not to fit, or no placement within the capacity was found
_CHECKED = 20_000  # buffers; above it the quadratic checker would take minutes, and --check asks for it


def pack(
    file: Annotated[str, typer.Argument(help="problem as .csv (minimalloc) or .json; - reads standard input")],
    capacity: Annotated[
        str | None, typer.Option(help="bytes there are, such as 1MiB; none: as few as possible")
    ] = None,
    time: Annotated[float, typer.Option(help="seconds after which the best known is taken", min=0.0)] = 10.0,
    nodes: Annotated[
        int | None, typer.Option(help="most steps of the exact search, for repeatable runs", min=1)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="print one JSON object")] = False,
    output: Annotated[str | None, typer.Option("-o", "--output", help="write plan.json or a CSV with offsets")] = None,
    html: Annotated[str | None, typer.Option(help="write a page with the picture (.svg: the picture alone)")] = None,
    check_all: Annotated[bool, typer.Option("--check", help="check also where that takes minutes")] = False,
) -> None:
    """Place buffers with sizes and lifetimes in the fewest bytes."""
    problem = read_problem(file, None if capacity is None else parse_bytes(capacity))
    if output is not None and Path(output).suffix not in (".json", ".csv"):
        raise OptionError(f"-o takes a name that ends in .json or .csv, not {output!r}")
    if output is not None and output.endswith(".csv"):
        format_csv(problem)  # refuse before the work, not after it
    result = find_placement(problem, seconds=time, nodes=nodes)
    if result.offsets and (check_all or len(problem.buffers) <= _CHECKED):
        check(_uncapped(problem), result.offsets, height=result.height)
    if output is not None and result.offsets:
        _write(output, _plan_text(output, problem, result))
    if html is not None and result.offsets:
        from lowtide.report.packing import page, svg  # here, because most calls draw nothing and start sooner without

        _write(html, svg(problem, result) if html.endswith(".svg") else page(problem, result))
    print(dumps(result_value(result)) if json else _table(problem, result))
    over = problem.capacity is not None and result.height > problem.capacity
    if over or result.status == INFEASIBLE:
        raise typer.Exit(OVER)


def read_problem(file: str, capacity: int | None) -> PackProblem:
    """The problem in a file; its kind is told by the suffix, or by the first character on standard input."""
    text = read_text(file)
    if file.endswith(".json") or (not file.endswith(".csv") and text.lstrip()[:1] == "{"):
        problem = parse_problem(loads(text, file))
        from dataclasses import replace

        return problem if capacity is None else replace(problem, capacity=capacity)
    return parse_csv(text, file, capacity)


def _uncapped(problem: PackProblem) -> PackProblem:
    """Without the capacity: a placement above it is still shown, and must still be a correct one."""
    return PackProblem(problem.buffers, None, problem.exclusions, problem.merges)


def _plan_text(output: str, problem: PackProblem, result: PackResult) -> str:
    if output.endswith(".csv"):
        return format_csv(problem, result.offsets)
    return dumps(plan_value(problem, result), indent=1) + "\n"


def _write(path: str, text: str) -> None:
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as e:
        raise FileError(path, "", f"cannot be written: {e.strerror or e}") from None


def _table(problem: PackProblem, result: PackResult) -> str:
    unshared = total_size(problem)
    lines = [
        f"{result.status}: {len(problem.buffers)} buffers in {result.height} bytes ({format_bytes(result.height)})",
        f"  lower bound  {result.lower_bound} bytes, gap {100 * result.gap:.2f} %",
        f"  unshared     {unshared} bytes",
    ]
    if problem.capacity is not None:
        lines.append(f"  capacity     {problem.capacity} bytes")
    lines.append(f"  found by     {result.packer}, {result.seconds:.3f} s, {result.nodes} steps of search")
    if result.conflict:
        shown = ", ".join(result.conflict[:12]) + (" ..." if len(result.conflict) > 12 else "")
        lines.append(f"  cannot fit   {len(result.conflict)} buffers together: {shown}")
    lines += [f"  note         {note}" for note in result.notes]
    lines.append("  packer            height   over bound")
    best: dict[str, int] = {}
    for name, height in result.tried:
        best[name] = min(height, best.get(name, height))
    for name, height in sorted(best.items(), key=lambda x: x[1]):
        over = f"{height / result.lower_bound:.4f}" if result.lower_bound else "-"
        lines.append(f"  {name:15} {height:>9}   {over}")
    return "\n".join(lines)

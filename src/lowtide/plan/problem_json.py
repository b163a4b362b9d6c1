"""Version-1 JSON of packing problems and plans (``docs/schemas``).

    {"version": 1, "capacity": null,
     "buffers": [{"id": "a", "size": 64, "intervals": [[0, 3]], "alignment": 64, "offset": null}]}

Comes in: text, or problems and results. Goes out: the other of the two. Promised: unknown and missing fields are
refused with their place; ``parse(write(problem)) == problem``. Sizes, offsets and heights are bytes, intervals are
half-open steps.
"""

from __future__ import annotations

from collections.abc import Mapping

from lowtide.core.codec import VERSION, Cursor
from lowtide.plan.problem import PackBuffer, PackProblem, PackResult, total_size, validate

_OPTIONAL = ("alignment", "offset", "windows", "arms", "hint", "line")


def parse_problem(at: Cursor) -> PackProblem:
    """The problem that a JSON value states.

    Raises:
        FileError: with the JSON path and the reason.
    """
    fields = at.fields(("version", "buffers"), ("capacity", "exclusions", "merges"))
    fields["version"].version()
    capacity = fields.get("capacity")
    problem = PackProblem(
        buffers=tuple(_buffer(x) for x in fields["buffers"].items()),
        capacity=_optional(capacity),
        exclusions=_pairs(fields.get("exclusions")),
        merges=_pairs(fields.get("merges")),
    )
    validate(problem, at.file)
    return problem


def _optional(at: Cursor | None) -> int | None:
    return None if at is None or at.value is None else at.whole()


def _two(at: Cursor) -> tuple[Cursor, Cursor]:
    both = list(at.items())
    if len(both) != 2:
        at.fail(f"a pair is expected, not {len(both)} values")
    return both[0], both[1]


def _pairs(at: Cursor | None) -> tuple[tuple[str, str], ...]:
    if at is None:
        return ()
    return tuple((a.text(), b.text()) for a, b in map(_two, at.items()))


def _buffer(at: Cursor) -> PackBuffer:
    fields = at.fields(("id", "size", "intervals"), _OPTIONAL)
    windows = fields.get("windows")
    line = fields.get("line")
    arms = fields.get("arms")
    return PackBuffer(
        id=fields["id"].text(),
        size=fields["size"].whole(),
        intervals=tuple((a.whole(None), b.whole(None)) for a, b in map(_two, fields["intervals"].items())),
        alignment=fields["alignment"].whole(1) if "alignment" in fields else 64,
        offset=_optional(fields.get("offset")),
        windows=tuple(map(_window, windows.items())) if windows is not None else (),
        arms=tuple((a.text(), b.whole()) for a, b in map(_two, arms.items())) if arms is not None else (),
        hint=_optional(fields.get("hint")),
        line=None if line is None or line.value is None else line.text(),
    )


def _window(at: Cursor) -> tuple[int, int] | None:
    if at.value is None:
        return None
    low, high = _two(at)
    return low.whole(), high.whole()


def problem_value(problem: PackProblem) -> dict[str, object]:
    """The JSON value of a problem; fields that hold nothing special are left out."""
    value: dict[str, object] = {
        "version": VERSION,
        "capacity": problem.capacity,
        "buffers": [_buffer_value(b) for b in problem.buffers],
    }
    for name, pairs in (("exclusions", problem.exclusions), ("merges", problem.merges)):
        if pairs:
            value[name] = [list(p) for p in pairs]
    return value


def _buffer_value(b: PackBuffer) -> dict[str, object]:
    value: dict[str, object] = {
        "id": b.id,
        "size": b.size,
        "intervals": [list(i) for i in b.intervals],
        "alignment": b.alignment,
        "offset": b.offset,
    }
    if b.windows:
        value["windows"] = [None if w is None else list(w) for w in b.windows]
    if b.arms:
        value["arms"] = [list(a) for a in b.arms]
    if b.hint is not None:
        value["hint"] = b.hint
    if b.line is not None:
        value["line"] = b.line
    return value


def result_value(result: PackResult) -> dict[str, object]:
    """The JSON value of a result alone: what ``lowtide pack --json`` prints."""
    return {
        "version": VERSION,
        "status": result.status,
        "height": result.height,
        "lower_bound": result.lower_bound,
        "gap": round(result.gap, 6),
        "seconds": round(result.seconds, 6),
        "packer": result.packer,
        "nodes": result.nodes,
        "tried": [{"packer": name, "height": height} for name, height in result.tried],
        "conflict": list(result.conflict),
        "notes": list(result.notes),
        "offsets": result.offsets,
    }


def plan_value(problem: PackProblem, result: PackResult) -> dict[str, object]:
    """The JSON value of a plan: the problem, one pool with its height, bound and gap, the offsets, and the bytes alive
    per step (``[step, bytes]`` from each step on at which that number changes)."""
    return {
        "version": VERSION,
        "problem": problem_value(problem),
        "pools": [
            {
                "name": "pool0",
                "height": result.height,
                "lower_bound": result.lower_bound,
                "gap": round(result.gap, 6),
                "unshared": total_size(problem),
                "offsets": result.offsets,
                "occupancy": occupancy_steps(problem),
            }
        ],
        "status": result.status,
        "packer": result.packer,
        "tried": [{"packer": name, "height": height} for name, height in result.tried],
    }


def occupancy_steps(problem: PackProblem) -> list[list[int]]:
    """``[step, bytes alive from that step on]``, only where the number changes. Arms of conditionals add up here."""
    change: dict[int, int] = {}
    for b in problem.buffers:
        for first, end, low, high in b.segments():
            change[first] = change.get(first, 0) + high - low
            change[end] = change.get(end, 0) - (high - low)
    out: list[list[int]] = []
    total = 0
    for step in sorted(change):
        if change[step]:
            total += change[step]
            out.append([step, total])
    return out


def parse_plan(at: Cursor) -> tuple[PackProblem, Mapping[str, int], int]:
    """Problem, offsets and promised height of a plan file with one pool.

    Raises:
        FileError: with the JSON path and the reason. Whether the plan is correct is for ``plan.check`` to say.
    """
    fields = at.fields(("version", "problem", "pools"), ("status", "packer", "tried"))
    fields["version"].version()
    problem = parse_problem(fields["problem"])
    pools = list(fields["pools"].items())
    if len(pools) != 1:
        fields["pools"].fail(f"one pool is expected, not {len(pools)}")
    pool = pools[0].fields(("name", "height", "lower_bound", "offsets"), ("gap", "unshared", "occupancy"))
    ids = tuple(b.id for b in problem.buffers)
    offsets = {name: value.whole() for name, value in pool["offsets"].fields((), ids).items()}
    return problem, offsets, pool["height"].whole()

"""A Schedule as JSON of version 1.

Comes in: a Schedule, or JSON. Goes out: the other. Promised: ``load(dump(s)) == s``; JSON that is no schedule is refused
with the JSON path of the fault. Steps name the operations of the graph that stands beside them.
"""

from __future__ import annotations

from lowtide.core.codec import VERSION, Cursor, dumps, loads
from lowtide.core.errors import VerifyError
from lowtide.core.json import read_reason, reason_to_json
from lowtide.ir.graph import Op
from lowtide.ir.json import decode, encode
from lowtide.ir.loops import Loop, parse_loop
from lowtide.schedule.schedule import OpFacts, Schedule, Step

_TEXTS = ("out", "out_name", "overwrite")
_BYTES = ("workspace", "out_workspace")


def dump(schedule: Schedule, *, indent: int | None = None) -> str:
    """JSON text of a schedule, its graph included."""
    return dumps(to_json(schedule), indent=indent)


def load(text: str, file: str = "<text>") -> Schedule:
    """The Schedule of a JSON text. Raises FileError with the place of the first fault."""
    return read_schedule(loads(text, file))


def to_json(schedule: Schedule) -> dict[str, object]:
    """The JSON object; facts that have their default are left out."""
    out: dict[str, object] = {
        "version": VERSION,
        "kind": "schedule",
        "graph": encode(schedule.graph),
        "steps": [
            {
                "op": s.op.name,
                "section": s.section,
                "facts": _facts(s.facts),
                "inplace": [list(pair) for pair in s.inplace],
            }
            | ({"loop": str(s.loop)} if s.loop is not None else {})
            for s in schedule.steps
        ],
        "reasons": [reason_to_json(r) for r in schedule.reasons],
    }
    if schedule.members:
        out["members"] = {n: list(m) for n, m in schedule.members.items()}
    if schedule.allocators:
        out["allocators"] = dict(schedule.allocators)
    return out


def _facts(facts: OpFacts) -> dict[str, object]:
    usual = OpFacts()
    names = (*_TEXTS, *_BYTES, "pointwise")
    out: dict[str, object] = {n: getattr(facts, n) for n in names if getattr(facts, n) != getattr(usual, n)}
    out |= {"restride": list(facts.restride)} if facts.restride else {}
    return out | ({"note": reason_to_json(facts.note)} if facts.note is not None else {})


def read_schedule(at: Cursor) -> Schedule:
    """The Schedule of a JSON object. Raises FileError with the place of the first fault."""
    f = at.fields(("version", "kind", "graph", "steps", "reasons"), ("members", "allocators"))
    f["version"].version()
    if f["kind"].text() != "schedule":
        f["kind"].fail(f"'schedule' is expected, not {f['kind'].text()!r}")
    graph = decode(f["graph"])
    ops = {(i, op.name): op for i, s in enumerate(graph.sections) for op in s.ops}
    steps = tuple(_step(s, ops) for s in f["steps"].items())
    members = {n: tuple(c.text() for c in m.items()) for n, m in f["members"].members()} if "members" in f else {}
    allocators = {s: c.text() for s, c in f["allocators"].members()} if "allocators" in f else {}
    return Schedule(graph, steps, tuple(read_reason(r) for r in f["reasons"].items()), members, allocators)


def _step(at: Cursor, ops: dict[tuple[int, str], Op]) -> Step:
    f = at.fields(("op", "section", "facts", "inplace"), ("loop",))
    section, name = f["section"].whole(), f["op"].text()
    if (section, name) not in ops:
        f["op"].fail(f"section {section} of the graph has no operation {name!r}")
    pairs: list[tuple[str, str]] = []
    for pair in f["inplace"].items():
        both = [c.text() for c in pair.items()]
        if len(both) != 2:
            pair.fail(f"a pair of names is expected, not {len(both)}")
        pairs.append((both[0], both[1]))
    return Step(ops[section, name], section, _read_facts(f["facts"]), tuple(pairs), _loop(f))


def _loop(f: dict[str, Cursor]) -> Loop | None:
    if "loop" not in f:
        return None
    try:
        return parse_loop(f["loop"].text())
    except VerifyError as e:
        f["loop"].fail(str(e))


def _read_facts(at: Cursor) -> OpFacts:
    f = at.fields((), (*_TEXTS, *_BYTES, "pointwise", "restride", "note"))
    usual = OpFacts()
    return OpFacts(
        out=f["out"].text() if "out" in f else usual.out,
        out_name=f["out_name"].text() if "out_name" in f else usual.out_name,
        workspace=f["workspace"].whole() if "workspace" in f else usual.workspace,
        out_workspace=f["out_workspace"].whole() if "out_workspace" in f else usual.out_workspace,
        overwrite=f["overwrite"].text() if "overwrite" in f else usual.overwrite,
        pointwise=f["pointwise"].flag() if "pointwise" in f else usual.pointwise,
        restride=tuple(c.whole() for c in f["restride"].items()) if "restride" in f else usual.restride,
        note=read_reason(f["note"]) if "note" in f else usual.note,
    )

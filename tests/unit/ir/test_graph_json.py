"""Graphs as JSON: they come back equal, and a bad file is refused with the place of the fault."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given

from lowtide.core.errors import FileError
from lowtide.ir.graph import Graph
from lowtide.ir.json import dump, encode, load
from strategies import example, graphs, same

SCHEMA = Path(__file__).parents[3] / "docs/schemas/graph-1.schema.json"


@given(graphs(asked=True))
def test_json_comes_back(g: Graph):
    text = dump(g)
    same(load(text), g)
    assert dump(load(text, "g.json"), indent=1) == dump(g, indent=1)
    json.loads(text, parse_constant=pytest.fail)  # no NaN or Infinity, which JSON has not


Top = dict[str, object]


def at(top: Top, *path: str | int) -> object:
    found: object = top
    for step in path:
        found = found[step]  # type: ignore[index]
    return found


FAULTS: list[tuple[str, Callable[[Top], object], str, str]] = [
    ("version", lambda t: t.update(version=2), "version", "version 1 is expected, not 2"),
    ("kind", lambda t: t.update(kind="plan"), "kind", "'graph' is expected"),
    ("missing", lambda t: t.pop("values"), "top level", '"values" is missing'),
    ("unknown", lambda t: t.update(extra=1), "top level", 'unknown field "extra"'),
    ("size", lambda t: at(t, "values", 3).update(size=[2.5]), "values[3].size[0]", "a whole number"),
    ("expression", lambda t: at(t, "values", 3).update(size=["(s0"]), "values[3].size[0]", "is not a size"),
    ("input", lambda t: at(t, "sections", 0, "inputs").append("x"), "sections[0].inputs[4]", "a value, a size or null"),
    ("output", lambda t: at(t, "sections", 0, "ops", 0).update(outputs=[1]), "sections[0].ops[0].outputs[0]", "a text"),
    ("pair", lambda t: at(t, "sections", 1, "ops", 0).update(kwargs=[["a"]]), "sections[1].ops[0].kwargs[0]", "a pair"),
    ("argument", lambda t: at(t, "sections", 0).update(returns=[{}]), "sections[0].returns[0]", "one field"),
    ("kind of", lambda t: at(t, "sections", 0).update(returns=[{"dtyp": ""}]), "sections[0].returns[0]", '"dtyp"'),
    (
        "float",
        lambda t: at(t, "sections", 0).update(returns=[{"float": "x"}]),
        "sections[0].returns[0].float",
        "number",
    ),
    ("number", lambda t: at(t, "sections", 0).update(returns=[1.5]), "sections[0].returns[0]", "an object"),
    ("saved", lambda t: at(t, "sections", 0).update(saved=[-1]), "sections[0].saved[0]", "below 0"),
    ("flag", lambda t: at(t, "sections", 0, "ops", 1).update(view=1), "sections[0].ops[1].view", "true or false"),
]


@pytest.mark.parametrize(("damage", "place", "because"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_bad_json_is_refused_with_the_place(damage: Callable[[Top], object], place: str, because: str):
    top = copy.deepcopy(encode(example()))
    damage(top)
    with pytest.raises(FileError) as refused:
        load(json.dumps(top), "bad.json")
    assert (refused.value.file, refused.value.place) == ("bad.json", place)
    assert because in refused.value.because


def test_lists_in_lists_end_somewhere():
    top = encode(example())
    for depth, fine in ((60, True), (70, False), (100_000, False)):
        text = json.dumps(top).replace('"saved": [1, 2, 3]', '"saved": []')
        text = text.replace('"returns": [{"value": "norm"}', '"returns": [' + "[" * depth + "]" * depth)
        if fine:
            load(text)
        else:
            with pytest.raises(FileError, match=r"deep|usable"):
                load(text)


def fields(of: dict[str, object], schema: dict[str, object], defs: dict[str, object]) -> None:
    """Every field that we write is in the schema, and what the schema requires is written."""
    if "$ref" in schema:
        schema = defs[str(schema["$ref"]).rsplit("/", 1)[-1]]  # type: ignore[assignment]
    known = schema["properties"]
    assert set(of) <= set(known), set(of) - set(known)  # type: ignore[arg-type]
    assert set(schema["required"]) <= set(of)  # type: ignore[arg-type]
    for name, value in of.items():
        inner = known[name]  # type: ignore[index]
        members = [value] if isinstance(value, dict) else value if isinstance(value, list) else []
        inner = inner.get("items", inner) if isinstance(value, list) else inner
        if inner.get("type") == "object" or inner.get("$ref") in ("#/$defs/value", "#/$defs/section", "#/$defs/op"):
            for m in members:
                fields(m, inner, defs)


def test_the_schema_has_the_fields_that_are_written():
    schema = json.loads(SCHEMA.read_text())
    fields(encode(example()), schema, schema["$defs"])

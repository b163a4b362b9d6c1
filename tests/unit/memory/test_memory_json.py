"""The JSON form of a memory graph: round trip, the documented example, and every refusal with place and reason."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import graphs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.core.errors import FileError
from lowtide.memory.json import dumps, load, loads
from lowtide.memory.lifetime import timeline

EXAMPLE = """
{"version": 1,
 "buffers": [{"name": "x", "nbytes": 4096, "input": true, "freeable": true},
             {"name": "y", "nbytes": 4096, "output": true}],
 "nodes":   [{"name": "op0", "reads": ["x"], "writes": ["y"], "after": [], "workspace": 0, "inplace": [["x", "y"]]}]}
"""


@pytest.mark.spec("PK-20")
@given(st.sampled_from(sorted(graphs.SHAPES)), st.integers(0, 10**6), st.integers(0, 20))
def test_round_trip(shape: str, seed: int, n: int):
    g = graphs.make(shape, seed, max(n, 1))
    again = loads(dumps(g, indent=random.Random(seed).choice((None, 1))))
    assert again == g
    assert timeline(again) == timeline(g)


@pytest.mark.spec("PK-20")
def test_documented_example():
    g = loads(EXAMPLE)
    assert timeline(g).live == (4096,)
    assert g.nodes[0].inplace == (("x", "y"),)


def graph(buffers: list[dict], nodes: list[dict]) -> str:
    return json.dumps({"version": 1, "buffers": buffers, "nodes": nodes})


X = {"name": "x", "nbytes": 4, "input": True}
Y = {"name": "y", "nbytes": 4}
BAD = {
    "not JSON": ("{", "line 1, column 2: not JSON"),
    "no object": ("[]", "top level: an object is expected"),
    "no version": ('{"buffers": [], "nodes": []}', 'top level: field "version" is missing'),
    "other version": ('{"version": 2, "buffers": [], "nodes": []}', "version: version 1 is expected, not 2"),
    "unknown field": ('{"version": 1, "buffers": [], "nodes": [], "edges": []}', 'top level: unknown field "edges"'),
    "negative size": (graph([{"name": "x", "nbytes": -1}], []), "buffers[0].nbytes: -1 is below 0"),
    "size is a fraction": (graph([{"name": "x", "nbytes": 1.5}], []), "buffers[0].nbytes: a whole number is expected"),
    "size is a bool": (graph([{"name": "x", "nbytes": True}], []), "buffers[0].nbytes: a whole number is expected"),
    "no size": (graph([{"name": "x"}], []), 'buffers[0]: field "nbytes" is missing'),
    "empty name": (graph([{"name": "", "nbytes": 1}], []), "buffers[0].name: a name cannot be empty"),
    "buffer twice": (graph([Y, X, Y], []), "buffers[2].name: a buffer 'y' stands already at buffers[0]"),
    "alias of unknown": (graph([{**Y, "alias_of": "q"}], []), "buffers[0].alias_of: 'y' stands on 'q'"),
    "alias of itself": (graph([{**Y, "alias_of": "y"}], []), "buffers[0].alias_of: 'y' stands on 'y'"),
    "alias of a later one": (graph([{**Y, "alias_of": "x"}, X], []), "buffers[0].alias_of: 'y' stands on 'x'"),
    "freeable result": (graph([{**Y, "freeable": True}], []), "buffers[0].freeable: 'y' is freeable but no input"),
    "freeable alias": (
        graph([X, {**Y, "alias_of": "x", "input": True, "freeable": True}], []),
        "buffers[1].freeable: 'y' stands on 'x'",
    ),
    "input over a result": (graph([Y, {**X, "alias_of": "y"}], []), "buffers[1].input: 'x' is an input, but 'y'"),
    "alias elsewhere": (
        graph([X, {**Y, "alias_of": "x", "device": "cuda"}], []),
        "buffers[1].device: 'y' is on 'cuda', but 'x'",
    ),
    "output without writer": (graph([{**Y, "output": True}], []), "buffers[0]: 'y' is an output, but nothing writes"),
    "node twice": (graph([], [{"name": "n"}, {"name": "n"}]), "nodes[1].name: a node 'n' stands already at nodes[0]"),
    "reads unknown": (graph([], [{"name": "n", "reads": ["q"]}]), "nodes[0].reads[0]: there is no buffer 'q'"),
    "reads what nothing writes": (
        graph([X, Y], [{"name": "n", "reads": ["x", "y"]}]),
        "nodes[0].reads[1]: 'n' reads 'y', which no other node writes",
    ),
    "reads its own write": (graph([Y], [{"name": "n", "reads": ["y"], "writes": ["y"]}]), "nodes[0].reads[0]"),
    "reads are no list": (graph([X], [{"name": "n", "reads": "x"}]), "nodes[0].reads: a list is expected"),
    "writes unknown": (graph([], [{"name": "n", "writes": ["q"]}]), "nodes[0].writes[0]: there is no buffer 'q'"),
    "writes an input": (
        graph([X], [{"name": "n", "reads": ["x"], "writes": ["x"]}]),
        "nodes[0].writes[0]: 'n' writes the input 'x'",
    ),
    "written by two": (
        graph([Y], [{"name": "n", "writes": ["y"]}, {"name": "m", "writes": ["y"]}]),
        "nodes[1].writes[0]: 'm' writes 'y', which 'n' has written already",
    ),
    "written twice by one": (graph([Y], [{"name": "n", "writes": ["y", "y"]}]), "nodes[0].writes[1]: 'n' writes 'y'"),
    "after unknown": (graph([], [{"name": "n", "after": ["q"]}]), "nodes[0].after[0]: there is no node 'q'"),
    "after itself": (graph([], [{"name": "n", "after": ["n"]}]), "nodes[0].after[0]: 'n' cannot run after itself"),
    "cycle": (
        graph([], [{"name": "n", "after": ["m"]}, {"name": "m", "after": ["n"]}]),
        "nodes: not all nodes can run: cycle: n needs m needs n",
    ),
    "negative workspace": (graph([], [{"name": "n", "workspace": -5}]), "nodes[0].workspace: -5 is below 0"),
    "pair of one": (
        graph([X], [{"name": "n", "reads": ["x"], "inplace": [["x"]]}]),
        "nodes[0].inplace[0]: an in-place pair is",
    ),
    "pair not read": (
        graph([X, Y], [{"name": "n", "writes": ["y"], "inplace": [["x", "y"]]}]),
        "nodes[0].inplace[0]: 'x' is not among the node's reads",
    ),
    "pair not written": (
        graph([X, Y], [{"name": "n", "reads": ["x"], "inplace": [["x", "y"]]}]),
        "nodes[0].inplace[0]: 'y' is not among the node's writes",
    ),
}


@pytest.mark.spec("PK-20", "PK-15")
@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_with_place_and_reason(case: str):
    text, message = BAD[case]
    with pytest.raises(FileError, match=re.escape(message)) as caught:
        loads(text, "g.json")
    assert str(caught.value).startswith("g.json: ")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileError, match="cannot be read"):
        load(tmp_path / "no.json")


def test_whole_buffers_written_in_parts_and_unwritten_views_can_be_read():
    buffers = [Y, *({"name": n, "nbytes": 0, "alias_of": "y"} for n in ("left", "right", "view"))]
    nodes = [{"name": "l", "writes": ["left"]}, {"name": "r", "writes": ["right"]}, {"name": "u", "reads": ["y"]}]
    assert loads(graph(buffers, nodes)).predecessors[2] == (0, 1)
    views = [X, {"name": "v", "nbytes": 0, "alias_of": "x", "output": True}]
    assert loads(graph(views, [{"name": "u", "reads": ["v"]}])).predecessors == ((),)


def test_the_schema_and_the_reader_know_the_same_fields():
    schema = json.loads((Path(__file__).parents[3] / "docs/schemas/order-graph-1.schema.json").read_text())
    for kind, example in (("buffer", {"name": "b", "nbytes": 1}), ("node", {"name": "n"})):
        fields = schema["$defs"][kind]
        assert fields["required"] == list(example)
        wrong = {**example, "surplus": 1}
        with pytest.raises(FileError) as caught:
            loads(graph([wrong], []) if kind == "buffer" else graph([], [wrong]))
        known = str(caught.value).partition("known: ")[2].split(", ")
        assert sorted(known) == sorted(fields["properties"])

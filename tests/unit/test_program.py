"""Programs as data: which names generated code may use, and the JSON form."""

from __future__ import annotations

import ast
import json
import keyword

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.codegen.host import emit
from lowtide.core.codec import dumps
from lowtide.core.options import Options
from lowtide.plan.choose import plan_memory
from lowtide.program import usable
from lowtide.schedule.schedule import Schedule
from plans import schedules
from strategies import static_graphs


@pytest.mark.spec("G8")
@given(st.text(max_size=8) | st.sampled_from([*keyword.kwlist, "args", "run", "h0", "h17", "_unused3", "x", "add_1"]))
def test_a_usable_name_is_an_identifier_that_the_code_does_not_use_itself(name: str):
    if usable(name):
        ast.parse(f"{name} = 1")
        assert name not in {"args", "run", "float", "_"} and not (name[0] == "h" and name[1:].isdigit())
    else:
        assert not name.isidentifier() or keyword.iskeyword(name) or name[0] in "_arehm" or name == "float"


@pytest.mark.spec("G7", "G8")
@given(schedules(static_graphs(most=6)))
def test_programs_are_python_and_their_json_is_whole(made: Schedule):
    program = emit(made, plan_memory(made, Options()))
    tree = ast.parse(program.source)
    functions = [n.name for n in tree.body if isinstance(n, ast.FunctionDef)]
    assert [e.function for e in program.entries] == functions
    data = json.loads(dumps(program.to_json()))
    assert data["version"] == 1 and data["source"] == program.source and data["bound"] == dict(program.bound)
    assert [e["function"] for e in data["entries"]] == functions
    for shown, entry in zip(data["entries"], program.entries, strict=True):
        assert [s["nbytes"] for s in shown["slabs"]] == [s.nbytes for s in entry.slabs]
        assert [h["offset"] for s in shown["slabs"] for h in s["headers"]] == [
            h.offset for s in entry.slabs for h in s.headers
        ]

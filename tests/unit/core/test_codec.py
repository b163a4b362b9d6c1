"""Reading JSON strictly: everything that is wrong is refused with its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lowtide.core.codec import Cursor, dumps, loads, read
from lowtide.core.errors import FileError

READS: list[tuple[str, Callable[[Cursor], object], str, str]] = [
    ('{"a": [1, "x"]}', lambda c: [i.whole() for i in c.fields(("a",))["a"].items()], "a[1]", "a whole number"),
    ('{"a": {"b": true}}', lambda c: c.fields(("a",))["a"].fields(("b",))["b"].whole(), "a.b", "a whole number"),
    ("1.0", Cursor.whole, "top level", "a whole number is expected, not 1.0"),
    ("-1", Cursor.whole, "top level", "below 0"),
    ("1", Cursor.text, "top level", "a text is expected"),
    ("1", Cursor.flag, "top level", "true or false is expected"),
    ("{}", lambda c: list(c.items()), "top level", "a list is expected"),
    ("[]", lambda c: c.fields(()), "top level", "an object is expected"),
    (
        '{"b": {"odd name": ""}}',
        lambda c: [m.whole() for _, m in c.fields(("b",))["b"].members()],
        "b.odd name",
        "a wh",
    ),
    ("[]", lambda c: list(c.members()), "top level", "an object is expected"),
    ('{"b": 1}', lambda c: c.fields(("a",), ("c",)), "top level", 'unknown field "b"; known: a, c'),
    ("{}", lambda c: c.fields(("a",)), "top level", 'field "a" is missing'),
    ("2", Cursor.version, "top level", "version 1 is expected, not 2"),
    ("true", Cursor.version, "top level", "version 1"),
]


@pytest.mark.parametrize(("text", "reader", "place", "because"), READS)
def test_wrong_values_are_refused_with_their_place(
    text: str, reader: Callable[[Cursor], object], place: str, because: str
):
    with pytest.raises(FileError) as refused:
        reader(loads(text, "f.json"))
    assert (refused.value.file, refused.value.place) == ("f.json", place)
    assert because in refused.value.because


@pytest.mark.parametrize(
    ("text", "because"),
    [
        ("{", "line 1, column 2"),
        ("[1,\n 2,, 3]", "line 2, column 4"),
        ('{"a": 1, "a": 2}', 'field "a" stands twice'),
        ("[NaN]", "NaN is not JSON"),
        ("[-Infinity]", "-Infinity is not JSON"),
        ("[" * 100_000, "not usable JSON"),
        ("1" * 5000, "not usable JSON"),
        ("", "not JSON"),
    ],
)
def test_what_is_no_json_is_refused(text: str, because: str):
    with pytest.raises(FileError) as refused:
        loads(text, "f.json")
    assert because in str(refused.value)


def test_files(tmp_path: Path):
    (tmp_path / "fine.json").write_text('{"ä": [1, null]}', encoding="utf-8")
    assert read(tmp_path / "fine.json").value == {"ä": [1, None]}
    (tmp_path / "latin.json").write_bytes(b'"\xe4"')
    with pytest.raises(FileError, match=r"latin\.json: byte 1: not UTF-8"):
        read(tmp_path / "latin.json")
    with pytest.raises(FileError, match="cannot be read: No such file"):
        read(tmp_path / "none.json")
    with pytest.raises(FileError, match="cannot be read: Is a directory"):
        read(tmp_path)


def test_writing_keeps_the_order_of_fields_and_has_no_nan():
    assert dumps({"b": 1, "a": [1.5, None]}) == '{"b":1,"a":[1.5,null]}'
    assert dumps({"b": [1]}, indent=1) == '{\n "b": [\n  1\n ]\n}'
    with pytest.raises(ValueError, match=r"."):
        dumps(float("nan"))

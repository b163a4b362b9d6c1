"""Options: what is wrong is refused and helped, every field counts in the key, and JSON comes back equal."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.core.codec import dumps, loads
from lowtide.core.errors import FileError, OptionError
from lowtide.core.json import options_to_json, read_options, read_reason, reason_to_json
from lowtide.core.options import Options
from lowtide.core.reason import Reason

GOOD: dict[str, tuple[object, ...]] = {
    "budget": (None, 1, "6GiB"),
    "reorder": (True, False),
    "inplace": (True, False),
    "slabs": ("auto", "none", "one"),
    "kernels": ("loops", "aten"),
    "fuse": (True, False),
    "retain": (0, "64MiB"),
    "recent_shapes": (1, 64),
    "verify": (True, False),
}
BAD: dict[str, tuple[object, ...]] = {
    "budget": (0, -1, "much", 1.5, True, [], "0"),
    "reorder": (1, "yes", None),
    "inplace": (0, "no"),
    "slabs": ("two", True, None),
    "kernels": ("none", True, None),
    "fuse": (1, "no"),
    "retain": (None, -1, "x"),
    "recent_shapes": (0, True, "1", 1.0),
    "verify": (2, None),
}
NAMES = [f.name for f in dataclasses.fields(Options)]


def test_loops_of_our_own_are_the_default():
    assert Options().kernels == "loops" and Options().fuse


def test_the_tables_above_have_every_option():
    assert set(NAMES) == set(GOOD) == set(BAD)


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in GOOD.items() for v in values])
def test_good_values(name: str, value: object):
    made = Options.of({name: value})
    assert made == dataclasses.replace(Options(), **{name: getattr(made, name)})


@pytest.mark.parametrize(("name", "value"), [(n, v) for n, values in BAD.items() for v in values])
def test_bad_values_are_refused_by_name(name: str, value: object):
    with pytest.raises(OptionError, match=name):
        Options.of({name: value})
    if value is None or isinstance(value, int | float | str | list):
        with pytest.raises(FileError) as refused:
            read_options(loads(dumps({"version": 1, name: value}), "o.json"))
        assert refused.value.place == name


@pytest.mark.parametrize(("wrong", "right"), [("budgets", "budget"), ("re_order", "reorder"), ("slap", "slabs")])
def test_unknown_names_get_the_nearest_right_one(wrong: str, right: str):
    with pytest.raises(OptionError, match=f"no option '{wrong}'; did you mean '{right}'"):
        Options.of({wrong: 1})


def test_names_near_nothing_get_the_list():
    with pytest.raises(OptionError, match="known: budget, reorder"):
        Options.of({"zzzz": 1})


@pytest.mark.parametrize("name", NAMES)
def test_every_option_counts_in_the_key(name: str):
    keys = {Options.of({name: value}).key() for value in GOOD[name]}
    assert len(keys) == len({getattr(Options.of({name: value}), name) for value in GOOD[name]})


@given(st.fixed_dictionaries({}, optional={n: st.sampled_from(v) for n, v in GOOD.items()}))
def test_options_as_json_come_back(given: dict[str, object]):
    options = Options.of(given)
    assert read_options(loads(dumps(options_to_json(options)))) == options


@given(st.builds(Reason, st.text(), st.text(), st.none() | st.text()))
def test_reasons_as_json_come_back(reason: Reason):
    assert read_reason(loads(dumps(reason_to_json(reason)))) == reason


@pytest.mark.parametrize(
    ("text", "place"), [('{"what": "a"}', "top level"), ('{"what": 1, "because": ""}', "what"), ("[]", "top level")]
)
def test_bad_reasons_are_refused(text: str, place: str):
    with pytest.raises(FileError) as refused:
        read_reason(loads(text))
    assert refused.value.place == place


def test_reasons_for_people():
    assert str(Reason("a", "b")) == "a: b"
    assert str(Reason("a", "b", "c")) == "a: b (c)"

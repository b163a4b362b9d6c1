"""minimalloc's CSV: what is read, what is refused and where, and that writing reads back equal."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lowtide.core.errors import FileError
from lowtide.plan.check import check
from lowtide.plan.greedy import pack_greedy
from lowtide.plan.problem import PackBuffer, PackProblem
from lowtide.plan.problem_csv import format_csv, parse_csv


def test_columns_in_any_order_and_under_their_other_names():
    one = parse_csv("id,lower,upper,size\na,0,3,8\n")
    two = parse_csv("size,begin,buffer_id,upper\n8,0,a,3\n")
    three = parse_csv("start,size,buffer,end\n0,8,a,2\n")
    assert one == two == three == PackProblem((PackBuffer("a", 8, ((0, 3),), 1),))


def test_every_optional_column():
    text = "id,lower,upper,size,alignment,hint,gaps,offset\na,0,20,8,4,16,2-4 6-9@0:4 9-10@4:8,12\n"
    assert parse_csv(text).buffers == (
        PackBuffer(
            "a", 8, ((0, 2), (4, 6), (6, 9), (9, 10), (10, 20)), 4, 12, (None, None, (0, 4), (4, 8), None), (), 16
        ),
    )


def test_end_is_inclusive_in_gaps_too():
    problem = parse_csv("id,lower,end,size,gaps\na,0,9,8,2-3 5-6@0:4\n")
    assert problem.buffers[0].intervals == ((0, 2), (4, 5), (5, 7), (7, 10))
    assert problem.buffers[0].windows == (None, None, (0, 4), None)


def test_the_first_blank_line_ends_the_file():
    problem = parse_csv("id,lower,upper,size\na,0,3,8\n\nthis is, no, buffer\n")
    assert len(problem.buffers) == 1


def test_carriage_returns_and_a_byte_order_mark_do_no_harm():
    assert parse_csv("\ufeffid,lower,upper,size\r\na,0,3,8\r\n") == parse_csv("id,lower,upper,size\na,0,3,8\n")


@pytest.mark.parametrize(
    ("text", "place", "because"),
    [
        ("", "line 1", "names of the columns"),
        ("id,lower,upper\n", "line 1", "'size' is missing"),
        ("id,lower,size\n", "line 1", "'upper' is missing"),
        ("id,lower,upper,size,color\n", "line 1", "unknown column 'color'"),
        ("id,lower,start,upper,size\n", "line 1", "twice"),
        ("id,lower,upper,end,size\n", "line 1", "twice"),
        ("id,lower,upper,size\na,0,3\n", "line 2", "3 fields"),
        ("id,lower,upper,size\na,0,3,8\nb,zero,3,8\n", "line 3", "'zero'"),
        ("id,lower,upper,size\na,0,3,8.5\n", "line 2", "'8.5'"),
        ("id,lower,upper,size\na,3,3,8\n", "line 2", "empty or runs backwards"),
        ("id,lower,upper,size\na,0,3,-8\n", "line 2", "below 0"),
        ("id,lower,upper,size\n,0,3,8\n", "line 2", "id is empty"),
        ("id,lower,upper,size\na,0,3,8\na,0,3,8\n", "line 3", "line 2 already"),
        ("id,lower,upper,size,alignment\na,0,3,8,0\n", "line 2", "alignment"),
        ("id,lower,upper,size,alignment,offset\na,0,3,8,4,6\n", "line 2", "no multiple"),
        ("id,lower,upper,size,gaps\na,0,9,8,2to3\n", "line 2", "gap '2to3'"),
        ("id,lower,upper,size,gaps\na,0,9,8,2-12\n", "line 2", "leaves the lifetime"),
        ("id,lower,upper,size,gaps\na,0,9,8,2-4 3-5\n", "line 2", "overlaps"),
        ("id,lower,upper,size,gaps\na,0,9,8,2-4@0:9\n", "line 2", "window"),
    ],
)
def test_what_is_malformed_is_refused_with_line_and_reason(text, place, because):
    with pytest.raises(FileError) as caught:
        parse_csv(text, "f.csv")
    assert caught.value.place == place
    assert because in str(caught.value)
    assert caught.value.file == "f.csv"


names = st.text(
    st.characters(blacklist_characters=",", blacklist_categories=("Cc", "Cs", "Zl", "Zp", "Zs")), min_size=1
)


@st.composite
def csv_problems(draw):
    buffers = []
    for name in draw(st.lists(names, unique=True, max_size=6)):
        times = sorted(draw(st.sets(st.integers(-20, 20), min_size=2, max_size=6).filter(lambda s: len(s) % 2 == 0)))
        life = tuple((times[k], times[k + 1]) for k in range(0, len(times), 2))
        size, align = draw(st.integers(0, 99)), draw(st.sampled_from([1, 4]))
        window = st.one_of(st.none(), st.just((0, size // 2)), st.just((size // 2, size)))
        shape = (None, *(draw(window) for _ in life[1:-1]), None) if len(life) > 2 and size > 1 else ()
        offset = draw(st.one_of(st.none(), st.integers(0, 9).map(lambda x, a=align: x * a)))
        if all(w is None for w in shape):
            shape = ()
        buffers.append(PackBuffer(name, size, life, align, offset, shape, (), draw(st.none() | st.integers(0, 9))))
    return PackProblem(tuple(buffers))


@settings(max_examples=200, deadline=None)
@given(csv_problems())
def test_what_is_written_reads_back_equal(problem):
    assert parse_csv(format_csv(problem)) == problem


def test_offsets_come_out_as_a_column_and_read_back_as_fixed_places():
    problem = parse_csv("id,lower,upper,size\na,0,3,8\nb,1,4,8\n")
    result = pack_greedy(problem)
    again = parse_csv(format_csv(problem, result.offsets))
    assert {b.id: b.offset for b in again.buffers} == result.offsets
    check(again, result.offsets)


def test_what_the_format_cannot_say_is_refused():
    with pytest.raises(FileError, match="commas"):
        format_csv(PackProblem((PackBuffer("a,b", 1, ((0, 1),)),)))
    with pytest.raises(FileError, match="JSON"):
        format_csv(PackProblem((PackBuffer("a", 1, ((0, 1),), arms=(("if", 0),)),)))


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("id,lower\nupsz0123456789-@: ag\r"), max_size=80), st.booleans())
def test_any_text_is_read_or_refused_kindly(text, with_header):
    header = "id,lower,upper,size,gaps\n" if with_header else ""
    try:
        parse_csv(header + text)
    except FileError as e:
        assert e.place.startswith(("line ", "buffers["))

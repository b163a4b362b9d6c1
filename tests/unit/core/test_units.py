"""Bytes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lowtide.core.errors import OptionError
from lowtide.core.units import align_up, format_bytes, parse_bytes


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        (0, 0), (4096, 4096), ("4096", 4096), ("6GiB", 6 << 30), ("1.5 KiB", 1536), (" 512 MB ", 512_000_000),
        ("2g", 2 << 30), ("1TiB", 1 << 40), ("9007199254740993", 9007199254740993), ("0.1KiB", 102),
    ],
)  # fmt: skip
def test_sizes(text: str | int, nbytes: int):
    assert parse_bytes(text) == nbytes


@pytest.mark.parametrize("text", ["", "GiB", "-1", -1, "1e3", "1,5GiB", "٣", "1 GiBs", True, 1.5, None, "9" * 400, []])
def test_nonsense_is_refused(text: object):
    with pytest.raises(OptionError, match="size"):
        parse_bytes(text)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1.00 KiB"), (1536, "1.50 KiB"), (10240, "10.0 KiB"), (1 << 20, "1.00 MiB"),
        ((1 << 20) - 1, "1.00 MiB"), (5 << 40, "5.00 TiB"), (-2048, "-2.00 KiB"),
    ],
)  # fmt: skip
def test_bytes_for_people(nbytes: int, text: str):
    assert format_bytes(nbytes) == text


@given(st.integers(0, 1 << 44))
def test_what_is_shown_is_near(nbytes: int):
    assert abs(parse_bytes(format_bytes(nbytes)) - nbytes) <= 0.005 * nbytes + 1


@given(st.integers(0, 10**12), st.integers(1, 4096))
def test_align_up_is_the_next_multiple(nbytes: int, alignment: int):
    up = align_up(nbytes, alignment)
    assert up % alignment == 0
    assert nbytes <= up < nbytes + alignment

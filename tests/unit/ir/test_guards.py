"""What a guard leaves of the values that indices take."""

from __future__ import annotations

from fractions import Fraction

import pytest

from lowtide.ir.guards import share
from lowtide.ir.loops import parse_loop

SHARES = {
    "r0 < 5": Fraction(1, 2),
    "r0 < 5, (r0*2) < 10": Fraction(1, 2),
    "(r0*2) < 9": Fraction(1, 2),
    "(r0*3)+1 < 13": Fraction(2, 5),
    "r0 >= 2, (r0*2) < 10": Fraction(3, 10),
    "r0 < 5, r1 < 2": Fraction(1, 4),
    "r0 < 5, ((r0*4)+r1) < 10": Fraction(1, 4),
    "r0 < 1, r1 < 2, ((r0*4)+r1) < 30": Fraction(1, 20),
    "r0 < 50": Fraction(1),
    "r0 >= 12": Fraction(0),
    "i0 < 1": Fraction(1),
}


@pytest.mark.parametrize("said", SHARES)
def test_a_guard_leaves_a_share_and_says_nothing_twice(said: str) -> None:
    """Over ten and four points; ``i0`` is not asked about."""
    lines: list[str] = []
    for limit in said.split(", "):
        index, word, number = limit.rsplit(" ", 2)
        at = len(lines)
        lines += [f"i64 = index [{index if index[0] != '(' or index.endswith(')') else f'({index})'}]",
                  f"i64 = const {number}",
                  f"bool = {'lt' if word == '<' else 'ge'} v{at} v{at + 1}"]  # fmt: skip
        if at:
            lines.append(f"bool = and v{at - 1} v{at + 2}")
    guard = len(lines) - 1
    lines += [f"f64 = load 0 [r0] v{guard}", f"f64 = store 1 [((r0*4)+r1)] v{guard + 1}"]
    body = "".join(f"    v{n}: {x}\n" for n, x in enumerate(lines))
    loop = parse_loop(f"loop [3] in(f64) out(f64)\n  stage [10, 4]\n{body}")
    assert share(loop.body, guard, loop.ranges(0), {"r0", "r1"}) == SHARES[said]

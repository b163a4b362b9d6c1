"""The independent checker: is a placement correct? Shares no code with any packer and is quadratic on purpose.

Comes in: a ``PackProblem`` and offsets (id -> bytes). Goes out: nothing, or ``VerifyError`` with a clause:
``missing``, ``unknown``, ``negative``, ``misaligned``, ``moved`` (a fixed buffer), ``capacity``, ``overlap``,
``height``. It reads only the plain fields of the problem; every rule is one that ``plan.problem`` states.
"""

from __future__ import annotations

from collections.abc import Mapping

from lowtide.core.errors import VerifyError
from lowtide.plan.problem import PackBuffer, PackProblem


def check(problem: PackProblem, offsets: Mapping[str, int], *, height: int | None = None) -> None:
    """Raise VerifyError unless ``offsets`` is a correct placement.

    ``height`` (bytes): the height that was promised; it must be exactly the highest byte used.
    The capacity is enforced where the problem has one.
    """
    by_id = {b.id: b for b in problem.buffers}
    for name in offsets:
        if name not in by_id:
            raise VerifyError("unknown", f"an offset is given for {name!r}, which is no buffer")
    top = 0
    for b in problem.buffers:
        top = max(top, _check_one(b, offsets, problem.capacity))
    if height is not None and height != top:
        raise VerifyError("height", f"promised {height} bytes, but the highest byte used is {top}")
    excluded = {frozenset(pair) for pair in problem.exclusions}
    merges = set(problem.merges)
    for i, a in enumerate(problem.buffers):
        for b in problem.buffers[:i]:
            if frozenset((a.id, b.id)) in excluded or _other_arm(a, b):
                continue
            at = _shared_moment(a, offsets[a.id], b, offsets[b.id])
            if at is None or _hands_over(a, b, offsets, merges) or _hands_over(b, a, offsets, merges):
                continue
            raise VerifyError(
                "overlap",
                f"{a.id!r} at [{offsets[a.id]}, {offsets[a.id] + a.size}) and {b.id!r} at "
                f"[{offsets[b.id]}, {offsets[b.id] + b.size}) share bytes in step {at}",
            )


def _check_one(b: PackBuffer, offsets: Mapping[str, int], capacity: int | None) -> int:
    """The rules that concern one buffer; returns its top (bytes), 0 if it never holds a byte."""
    if b.id not in offsets:
        raise VerifyError("missing", f"{b.id!r} has no offset")
    at = offsets[b.id]
    if at < 0:
        raise VerifyError("negative", f"{b.id!r} is at {at}")
    if at % b.alignment != 0:
        raise VerifyError("misaligned", f"{b.id!r} is at {at}, which is no multiple of {b.alignment}")
    if b.offset is not None and at != b.offset:
        raise VerifyError("moved", f"{b.id!r} is fixed at {b.offset} but was put at {at}")
    top = at + b.size if b.size > 0 and len(b.intervals) > 0 else 0
    if capacity is not None and top > capacity:
        raise VerifyError("capacity", f"{b.id!r} ends at {top}, above the capacity of {capacity} bytes")
    return top


def _other_arm(a: PackBuffer, b: PackBuffer) -> bool:
    """Whether the two stand in different arms of one conditional."""
    arm_of_a = dict(a.arms)
    return any(name in arm_of_a and arm_of_a[name] != arm for name, arm in b.arms)


def _shared_moment(a: PackBuffer, at_a: int, b: PackBuffer, at_b: int) -> int | None:
    """The first step in which the two hold a common byte, or None."""
    moments: list[int] = []
    for i, (first_a, end_a) in enumerate(a.intervals):
        window_a = a.windows[i] if a.windows else None
        low_a, high_a = (0, a.size) if window_a is None else window_a
        for j, (first_b, end_b) in enumerate(b.intervals):
            window_b = b.windows[j] if b.windows else None
            low_b, high_b = (0, b.size) if window_b is None else window_b
            in_time = first_a < end_b and first_b < end_a
            in_space = max(at_a + low_a, at_b + low_b) < min(at_a + high_a, at_b + high_b)
            if in_time and in_space:
                moments.append(max(first_a, first_b))
    return min(moments) if moments else None


def _hands_over(a: PackBuffer, b: PackBuffer, offsets: Mapping[str, int], merges: set[tuple[str, str]]) -> bool:
    """Whether ``b`` takes over the front of ``a`` by a permitted merge: same offset, and only one step in common."""
    if (a.id, b.id) not in merges or offsets[a.id] != offsets[b.id] or b.size > a.size:
        return False
    return a.intervals[-1][1] == b.intervals[0][0] + 1

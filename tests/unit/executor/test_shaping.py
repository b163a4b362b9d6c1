"""The compiled part that shapes headers does what its Python twin does."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from lowtide.executor.emit import Slot  # noqa: E402
from lowtide.executor.placing import Placement  # noqa: E402
from lowtide.executor.shaping import compiled, shaper  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(compiled() is None, reason="torch came without headers, or there is no compiler"),
]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(1, 5), st.integers(0, 2), st.sampled_from(["f32", "i64", "bool"])),
                min_size=1, max_size=6), st.integers(0, 3))  # fmt: skip
@pytest.mark.spec("RT-13", "RT-19")
def test_both_shape_alike(rows: list[tuple[int, int, int, str]], start: int):
    kinds = {"f32": torch.float32, "i64": torch.int64, "bool": torch.bool}
    layouts, slots = [], []
    for i, (n, m, offset, dtype) in enumerate(rows):
        slots.append(Slot(f"v{i}", f"v{i}", dtype, "cpu", 0, 2, len(layouts)))
        nbytes = n * m * kinds[dtype].itemsize
        layouts += [nbytes, offset, n, m, m, 1]
    offsets = tuple(128 * i for i in range(len(rows)))
    placement = Placement(offsets, tuple(64 + 64 * (i % 2) for i in range(len(rows))), 128 * len(rows), 0)
    slab = torch.zeros(128 * len(rows) + 64 * start + 64, dtype=torch.uint8)
    seen = []
    for native in (True, False):
        headers = [torch.empty(0, dtype=kinds[s.dtype]).set_(slab.untyped_storage(), 0, (0,), (1,)) for s in slots]
        shape = shaper(headers, slots, list(range(len(rows))), (tuple(range(len(rows))),), native=native)
        shape.place(placement)
        escaped = shape(0, layouts, 64 * start)
        seen.append(
            (escaped, [(h.shape, h.stride(), h.storage_offset(), h.is_contiguous()) for h in headers],
             list(shape.sizes), list(shape.high))
        )  # fmt: skip
    assert seen[0] == seen[1]
    for i, (n, m, _, dtype) in enumerate(rows):
        assert (i in seen[0][0]) == (n * m * kinds[dtype].itemsize > 64 + 64 * (i % 2))

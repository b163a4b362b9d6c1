"""The compiled part that shapes headers does what its Python twin does."""

from __future__ import annotations

from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from hypothesis import given  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from lowtide.executor.arithmetic import arithmetic  # noqa: E402
from lowtide.executor.emit import Slot, extent_text, size_text  # noqa: E402
from lowtide.executor.placing import Placement  # noqa: E402
from lowtide.executor.shaping import Shapes, compiled, shaper, where  # noqa: E402
from lowtide.ir.graph import Layout  # noqa: E402
from lowtide.ir.symbolic import Expr  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(compiled() is None, reason="torch came without headers, or there is no compiler"),
]


NAMES = ("a", "b", "flag")
DIMS = st.recursive(
    st.integers(0, 5) | st.sampled_from(NAMES[:2]).map(lambda n: Expr("sym", (n,))),
    lambda inner: st.builds(
        lambda op, xs: Expr(op, tuple(xs)), st.sampled_from(("+", "*", "max", "min")), st.lists(inner, min_size=2, max_size=3)
    )
    | st.builds(lambda op, x, n: Expr(op, (x, n)), st.sampled_from(("//", "%", "ceildiv", "pow")), inner, st.integers(1, 2)),
    max_leaves=4,
)  # fmt: skip
LAYOUTS = st.builds(
    lambda n, m, o, dtype: Layout(dtype, "cpu", (n, m), (m, 1), o),
    DIMS, DIMS, st.integers(0, 2), st.sampled_from(("f32", "i64", "bool")),
)  # fmt: skip


def shapes_of(layouts: list[Layout]) -> Shapes:
    """A block with one storage per layout, seen in whole and from its third element on."""
    base = [(x, replace(x, offset=0)) for x in layouts]
    rows = [pair for whole, start in base for pair in ((whole, whole), (whole, start))]
    numbers = arithmetic(rows, NAMES)
    lines = [", ".join([extent_text(w), *map(_text, (v.offset, *v.size, *v.stride))]) for w, v in rows]
    names: dict[str, object] = {}
    exec(f"def geometry(key):\n    k_a, k_b, k_flag = key\n    return [{', '.join(lines)}]", names)
    pairs = enumerate(zip(rows, numbers.wheres, strict=True))
    slots = [Slot(f"v{i}", f"v{i}", v.dtype, "cpu", 0, 2, at) for i, ((_, v), at) in pairs]
    buffer = [i // 2 for i in range(len(rows))]
    inside = (tuple(range(len(rows))),)
    return Shapes(slots, buffer, inside, (NAMES,), (names["geometry"],), (numbers,), ["cpu"] * len(layouts))  # type: ignore[arg-type]


def _text(d: object) -> str:
    return str(d) if isinstance(d, int) else size_text(d)  # type: ignore[arg-type]


KEYS = st.tuples(st.integers(0, 4), st.integers(0, 4))


@given(st.lists(LAYOUTS, min_size=1, max_size=4), st.lists(KEYS, min_size=1, max_size=3), st.integers(0, 3))
@pytest.mark.spec("RT-13", "RT-19", "RT-33")
def test_both_shape_alike(layouts: list[Layout], keys: list[tuple[int, int]], start: int):
    kinds = {"f32": torch.float32, "i64": torch.int64, "bool": torch.bool}
    shapes = shapes_of(layouts)
    count = len(layouts)
    placement = Placement(
        tuple(128 * i for i in range(count)), tuple(64 + 64 * (i % 2) for i in range(count)), 128 * count, 0
    )
    limit = [48] * count
    slab = torch.zeros(128 * count + 64 * start + 64, dtype=torch.uint8)
    seen = []
    for native in (True, False):
        headers = [
            torch.empty(0, dtype=kinds[s.dtype]).set_(slab.untyped_storage(), 0, (0,), (1,)) for s in shapes.slots
        ]
        shape = shaper(headers, shapes, native=native)
        shape.start_at({"cpu": 64 * start})
        told = []
        for n, (a, b) in enumerate(keys):
            if n == 0:
                told.append(shape.begin(where(placement, limit), (a, b, 0.5)))
            else:
                shape.place(where(placement, limit))
                told.append(shape(0, (a, b, 0.5)))
            told += [shape.count, shape.escaped(0), shape.over, list(shape.sizes), list(shape.high)]
            told += [(h.shape, h.stride(), h.storage_offset(), h.is_contiguous()) for h in headers]
            for h, s, at in zip(headers, shapes.slots, (s.where for s in shapes.slots), strict=True):
                nbytes = shapes.geometry[0]((a, b, 0.5))[at]
                i = int(s.name[1:])
                assert (i in shape.escaped(0)) == (nbytes > placement.capacity[i // 2])
                assert i in shape.escaped(0) or h.numel() == 0 or h.untyped_storage().data_ptr() == slab.data_ptr()
        assert shape.over == any(n > 48 for n in shape.high)
        shape.need(0, 1 << 20)
        assert shape.over
        told += [shape.learned(), shape.over]
        seen.append(told)
    assert seen[0] == seen[1] and not seen[0][-1]

"""Cases of what looks through windows: pooling, and resampling."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from samples import BF16, F32, F64, I64, Call, t


def pooling() -> Iterator[Call]:
    windows = (
        ([3, 3], [2, 2], [1, 1], False), ([3, 2], [1, 2], [1, 0], False), ([3, 3], [2, 2], [0, 0], True),
    )  # fmt: skip
    for dtype in (F32, BF16):
        x = t(2, 3, 9, 10, dtype=dtype)
        for kernel, stride, padding, ceil in windows if dtype == F32 else windows[:1]:
            args = (kernel, stride, padding, [1, 1], ceil)
            y, at = torch.ops.aten.max_pool2d_with_indices(x, *args)
            yield "aten.max_pool2d_with_indices.default", (x, *args), {}
            yield "aten.max_pool2d_with_indices_backward.default", (t(*y.shape, dtype=dtype), x, *args, at), {}
            for counted, divisor in ((True, None), (False, None), (True, 3)):
                args = (kernel, stride, padding, ceil, counted, divisor)
                y = torch.ops.aten.avg_pool2d(x, *args)
                yield "aten.avg_pool2d.default", (x, *args), {}
                yield "aten.avg_pool2d_backward.default", (t(*y.shape, dtype=dtype), x, *args), {}
        for size in ([3, 4], [1, 1], [12, 7]):
            y = torch.ops.aten._adaptive_avg_pool2d(x, size)
            yield "aten._adaptive_avg_pool2d.default", (x, size), {}
            yield "aten._adaptive_avg_pool2d_backward.default", (t(*y.shape, dtype=dtype), x), {}
        y, at = torch.ops.aten.adaptive_max_pool2d(x, [3, 4])
        yield "aten.adaptive_max_pool2d.default", (x, [3, 4]), {}
        yield "aten.adaptive_max_pool2d_backward.default", (t(*y.shape, dtype=dtype), x, at), {}
    x = t(2, 3, 5, 6, 7)
    yield "aten.avg_pool3d.default", (x, [2, 2, 2]), {}
    yield "aten.avg_pool3d.default", (x, [5, 4, 4]), {}
    yield "aten.avg_pool3d_backward.default", (t(2, 3, 2, 3, 3), x, [2] * 3, [2] * 3, [0] * 3, False, True, None), {}
    args = ([2, 2, 2], [2, 2, 2], [0, 0, 0], [1, 1, 1], False)
    y, at = torch.ops.aten.max_pool3d_with_indices(x, *args)
    yield "aten.max_pool3d_with_indices.default", (x, *args), {}
    yield "aten.max_pool3d_with_indices_backward.default", (t(*y.shape), x, *args, at), {}
    yield "aten._adaptive_avg_pool3d.default", (x, [2, 3, 3]), {}
    # dilated, not a number, no sample, channels innermost, no batch, whole numbers, every point in a window of its own
    yield "aten.max_pool2d_with_indices.default", (t(2, 9, 9), [3, 3], [1, 1], [1, 1], [2, 2]), {}
    yield "aten.max_pool2d_with_indices.default", (t(1, 1, 6, 6, edge=True), [3, 3], [1, 1], [1, 1]), {}
    yield "aten.max_pool2d_with_indices.default", (t(0, 2, 6, 6), [3, 3], [1, 1], [1, 1]), {}
    yield "aten.max_pool2d_with_indices.default", (t(2, 6, 6, 3).permute(0, 3, 1, 2), [3, 3], [1, 1], [1, 1]), {}
    yield "aten.max_pool2d_with_indices.default", (t(3, 6, 6, dtype=I64), [2, 2]), {}
    yield "aten.avg_pool2d.default", (t(3, 6, 6), [1, 1]), {}


def large_windows() -> Iterator[Call]:
    aten = torch.ops.aten
    for d in (F32, BF16):
        x = t(2, 2, 14, 15, dtype=d)
        for args in (([7, 6], [1, 1], [3, 3], [1, 1], False), ([6, 6], [2, 2], [0, 0], [2, 2], True)):
            y, at = aten.max_pool2d_with_indices(x, *args)
            yield "aten.max_pool2d_with_indices.default", (x, *args), {}
            yield "aten.max_pool2d_with_indices_backward.default", (t(*y.shape, dtype=d), x, *args, at), {}
        for args in (([7, 6], [1, 1], [3, 3], False, True, None), ([8, 8], [1, 1], [0, 0], False, False, None)):
            y = aten.avg_pool2d(x, *args)
            yield "aten.avg_pool2d.default", (x, *args), {}
            yield "aten.avg_pool2d_backward.default", (t(*y.shape, dtype=d), x, *args), {}
        yield "aten.adaptive_max_pool2d.default", (t(2, 3, 40, 41, dtype=d), [3, 4]), {}
        yield "aten._adaptive_avg_pool2d_backward.default", (t(2, 3, 40, 41, dtype=d), t(2, 3, 5, 4, dtype=d)), {}
    for size in ([3, 3], [0, 3]):
        yield "aten._adaptive_avg_pool2d.default", (t(0 if size[0] else 2, 3, 5, 4), size), {}
    # nothing but -inf, two that are not a number, padding on every side; whole numbers
    x = torch.full((1, 1, 9, 9), -float("inf"))
    x[0, 0, 2, 2] = x[0, 0, 3, 3] = float("nan")
    for width in (3, 7):
        args = ([width, width], [1, 1], [width // 2] * 2)
        yield "aten.max_pool2d_with_indices.default", (x, *args), {}
        yield "aten.max_pool2d_with_indices.default", (t(2, 9, 9, dtype=I64), *args), {}
        yield "aten.avg_pool2d.default", (t(2, 9, 9, dtype=I64), *args), {}


def resampling() -> Iterator[Call]:
    for d in (F32, F64):
        x = t(2, 2, 9, 11, dtype=d)
        for name in ("_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa"):
            for size in ([5, 4], [20, 13], [1, 3]):
                for align in (False, True):
                    yield f"aten.{name}.default", (x, size, align, None, None), {}
                    args = (t(2, 2, *size, dtype=d), size, [2, 2, 9, 11], align, None, None)
                    yield f"aten.{name}_backward.default", args, {}
            yield f"aten.{name}.default", (x, [4, 5], False, 0.5, 0.45), {}

"""The table of cases: overload, and calls of it that its lowering rule must get right.

A call is (arguments, keyword arguments). Tensors are made by ``t``: values between -3 and 3 that a seed decides, with
huge, tiny and special ones among them where ``edge`` says so.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import lists
import ranks
import searches
import torch
import windows
from samples import BF16, BOOL, F16, F32, F64, FLOATS, I32, I64, U8, Call, t


def _unary() -> Iterator[Call]:
    names = [
        "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "reciprocal", "sin", "cos", "tan",
        "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "lgamma",
        "sigmoid", "neg", "floor", "ceil", "round", "trunc", "abs", "sign", "square", "relu", "gelu", "silu",
        "hardswish", "hardsigmoid", "frac", "isnan", "isinf", "logical_not", "deg2rad", "rad2deg", "elu",
        "leaky_relu", "softplus", "mish", "hardtanh", "hardshrink", "softshrink",
    ]  # fmt: skip
    for name in names:
        for dtype in FLOATS:
            # eager's vectorised sin, cos and tan lose their digits beyond 1e4, and its gelu makes 0 of -inf
            big = name in ("sin", "cos", "tan", "gelu")
            yield f"aten.{name}.default", (t(5, 13, dtype=dtype, edge=not big),), {}
        yield f"aten.{name}.default", (t(4, 6)[:, ::2].t(),), {}
        yield f"aten.{name}.default", (t(0, 3),), {}
        yield f"aten.{name}.default", (t(),), {}
    whole = ["exp", "sqrt", "sigmoid", "neg", "abs", "sign", "floor", "square", "sin", "log", "logical_not", "relu"]
    for name in whole:
        for dtype in (I64, I32):
            yield f"aten.{name}.default", (t(3, 5, dtype=dtype),), {}
    for dtype in (BOOL, I64, U8):
        yield "aten.bitwise_not.default", (t(7, dtype=dtype),), {}
    yield "aten.gelu.default", (t(33),), {"approximate": "tanh"}


def _binary() -> Iterator[Call]:
    for name in ["add", "sub", "mul", "div"]:
        for dtype in (*FLOATS, I64, U8):
            yield f"aten.{name}.Tensor", (t(5, 1, 7, dtype=dtype), t(3, 7, dtype=dtype, low=1)), {}
        yield f"aten.{name}.Tensor", (t(4, dtype=I64), t(4)), {}
        yield f"aten.{name}.Tensor", (t(4, dtype=BF16), t()), {}
        yield f"aten.{name}.Tensor", (t(4, dtype=BF16), t(4)), {}
        yield f"aten.{name}.Scalar", (t(3, 4), 2.5), {}
    yield "aten.add.Tensor", (t(4, dtype=BOOL), t(4, dtype=BOOL)), {}
    yield "aten.add.Tensor", (t(4), t(4)), {"alpha": 3}
    yield "aten.sub.Tensor", (t(4, dtype=BF16), t(4, dtype=BF16)), {"alpha": 0.1}
    yield "aten.rsub.Scalar", (t(4), 1), {}
    for name in ["eq", "ne", "lt", "le", "gt", "ge"]:
        yield f"aten.{name}.Tensor", (t(9, edge=True), t(9, edge=True)), {}
        yield f"aten.{name}.Scalar", (t(9, dtype=I64), 0.5), {}
        yield f"aten.{name}.Scalar", (t(9, dtype=U8), 2), {}
    for name in ["maximum", "minimum", "fmax", "fmin", "atan2", "hypot", "logaddexp"]:
        yield f"aten.{name}.default", (t(24, edge=True), t(24)), {}
    for mode in (None, "floor", "trunc"):
        for dtype in (F32, F64, BF16, I64, I32):
            divisor = t(64, dtype=dtype, low=1)
            divisor[::2] *= -1
            yield "aten.div.Tensor_mode", (t(64, dtype=dtype), divisor), {"rounding_mode": mode}
    for dtype in (F32, F64, I64, I32):
        divisor = t(64, dtype=dtype, low=1)
        divisor[::2] *= -1
        for name in ("remainder", "fmod"):
            yield f"aten.{name}.Tensor", (t(64, dtype=dtype), divisor), {}
    for e in (0, 1, 2, 3, 0.5, -0.5, -1, -2, 1.7):
        yield "aten.pow.Tensor_Scalar", (t(20, low=0.1), e), {}
    yield "aten.pow.Tensor_Tensor", (t(20, dtype=I64), t(20, dtype=I64, low=1)), {}
    yield "aten.pow.Scalar", (2.0, t(9)), {}
    for name in ["and", "or", "xor"]:
        for dtype in (BOOL, I64, U8):
            yield f"aten.bitwise_{name}.Tensor", (t(16, dtype=dtype), t(16, dtype=dtype)), {}
        yield f"aten.logical_{name}.default", (t(16, dtype=I64), t(16, low=0)), {}
    yield "aten.bitwise_left_shift.Tensor", (t(16, dtype=I64, low=1), t(16, dtype=I64, low=1)), {}
    yield "aten.bitwise_right_shift.Tensor", (t(16, dtype=I64), t(16, dtype=I64, low=1)), {}


def _several() -> Iterator[Call]:
    yield "aten.where.self", (t(5, 1, dtype=BOOL), t(1, 6), t(5, 6, dtype=F64)), {}
    yield "aten.masked_fill.Scalar", (t(5, 6), t(6, dtype=BOOL), -1e9), {}
    yield "aten.clamp.default", (t(9, edge=True), -1, 1), {}
    yield "aten.clamp.default", (t(9, dtype=I64),), {"max": 1}
    yield "aten.clamp.Tensor", (t(9), t(9), t(9, low=1)), {}
    for w in (0.3, 0.7):
        yield "aten.lerp.Scalar", (t(9), t(9), w), {}
    yield "aten.lerp.Tensor", (t(9), t(9), t(9, low=0, high=1)), {}
    yield "aten.addcmul.default", (t(9), t(9), t(9)), {"value": 0.5}
    yield "aten.addcdiv.default", (t(9), t(9), t(9, low=1)), {"value": 0.5}
    yield "aten.nan_to_num.default", (t(24, edge=True),), {}
    g, x = t(64), t(64, low=-5, high=5)
    for name in [
        "gelu_backward",
        "silu_backward",
        "hardswish_backward",
        "hardsigmoid_backward",
        "sigmoid_backward",
        "tanh_backward",
    ]:
        yield f"aten.{name}.default", (g, x), {}
    yield "aten.gelu_backward.default", (g, x), {"approximate": "tanh"}
    yield "aten.threshold_backward.default", (g, x, 0), {}
    yield "aten.leaky_relu_backward.default", (g, x, 0.1, False), {}
    yield "aten.hardtanh_backward.default", (g, x, -1, 1), {}
    yield "aten.softplus_backward.default", (g, x, 1, 20), {}
    for is_result in (True, False):
        yield "aten.elu_backward.default", (g, 1.0, 1.5, 0.5, is_result, x.clamp(-0.9)), {}
    yield "aten.native_dropout_backward.default", (g, x > 0, 2.0), {}


def _reductions() -> Iterator[Call]:
    for dtype in (*FLOATS, I64, BOOL):
        yield "aten.sum.default", (t(7, 65, dtype=dtype),), {}
    for size in ((4, 5, 33), (3, 200, 40), (1, 1, 1), (2, 0, 3), (300, 3, 2)):
        for dims in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [-1], []):
            yield "aten.sum.dim_IntList", (t(*size), dims, len(dims) == 1), {}
            if 0 not in size:
                yield "aten.mean.dim", (t(*size), dims, True), {}
                yield "aten.amax.default", (t(*size, edge=True), dims), {}
                yield "aten.amin.default", (t(*size, dtype=I64), dims, True), {}
                yield "aten.var.correction", (t(*size), dims), {"correction": 0}
                yield "aten.var_mean.correction", (t(*size, dtype=F64), dims), {"correction": 1, "keepdim": True}
    yield "aten.sum.dim_IntList", (t(5, 6, dtype=BF16), [1]), {"dtype": F32}
    yield "aten.sum.dim_IntList", (t(300, 70).t(), [1]), {}
    yield "aten.mean.default", (t(70000),), {}
    yield "aten.sum.default", (t(3, 70000)[:, ::3],), {}
    for name in ("max", "min"):
        yield f"aten.{name}.default", (t(1000, edge=True),), {}
        for dim in (0, 1, -1):
            yield f"aten.{name}.dim", (t(40, 50, 3), dim), {}
            yield f"aten.{name}.dim", (t(40, 50, dtype=I64), dim, True), {}
        yield f"aten.{name}.dim", (t(8, 40, edge=True), 1), {}
        yield f"aten.arg{name}.default", (t(8, 40, dtype=I64),), {}
        yield f"aten.arg{name}.default", (t(200, 400), 0), {}
        yield f"aten.arg{name}.default", (t(200, 400),), {}
    for name in ("any", "all"):
        yield f"aten.{name}.default", (t(8, 9, low=0),), {}
        yield f"aten.{name}.dim", (t(8, 9, dtype=BOOL), 1), {}
    yield "aten.prod.default", (t(3, 5),), {}
    yield "aten.prod.dim_int", (t(3, 5, dtype=I64), 0), {}
    yield "aten.logsumexp.default", (t(9, 33, low=-100, high=100), [1]), {}
    for p in (2, 1, 0, 3, float("inf")):
        yield "aten.linalg_vector_norm.default", (t(9, 33), p, [1]), {}
    for name in ("cumsum", "cumprod"):
        for dim in (0, 1, 2):
            yield f"aten.{name}.default", (t(4, 17, 5), dim), {}
        yield f"aten.{name}.default", (t(4, 17, dtype=I64), 1), {}


def _rows() -> Iterator[Call]:
    for size, dim in (((5, 33), 1), ((4, 6, 130), -1), ((7, 20, 9), 1), ((40, 3), 0), ((2, 300), 1)):
        for dtype in (F32, BF16):
            x, g = t(*size, dtype=dtype), t(*size, dtype=dtype)
            yield "aten._softmax.default", (x, dim, False), {}
            yield "aten._log_softmax.default", (x, dim, False), {}
            yield "aten._softmax_backward_data.default", (g, x.softmax(dim), dim, dtype), {}
            yield "aten._log_softmax_backward_data.default", (g, x.log_softmax(dim), dim, dtype), {}
    x = t(6, 40, low=-1e4, high=1e4)
    x[2, :] = -float("inf")
    yield "aten._safe_softmax.default", (x, -1), {}
    for size in ((6, 40), (3, 5, 96), (2, 3, 8, 8)):
        n = size[-1]
        x, w, b = t(*size), t(n), t(n)
        for weight, bias in ((w, b), (w, None), (None, None)):
            made = torch.ops.aten.native_layer_norm(x, [n], weight, bias, 1e-5)
            yield "aten.native_layer_norm.default", (x, [n], weight, bias, 1e-5), {}
            mask = [True, weight is not None, bias is not None]
            yield (
                "aten.native_layer_norm_backward.default",
                (t(*size), x, [n], made[1], made[2], weight, bias, mask),
                {},
            )
    for size in ((4, 6, 5, 5), (3, 8), (2, 4, 9)):
        c = size[1]
        x, w, b, m, v = t(*size), t(c), t(c), t(c), t(c, low=0.5)
        yield "aten._native_batch_norm_legit_functional.default", (x, w, b, m, v, True, 0.1, 1e-5), {}
        yield "aten._native_batch_norm_legit.no_stats", (x, w, b, True, 0.1, 1e-5), {}
        s = torch.ops.aten._native_batch_norm_legit.no_stats(x, w, b, True, 0.1, 1e-5)
        for train in (True, False):
            args = (t(*size), x, w, m, v, s[1], s[2], train, 1e-5, [True, True, True])
            yield "aten.native_batch_norm_backward.default", args, {}
    x, w, b = t(3, 8, 5, 5), t(8), t(8)
    made = torch.ops.aten.native_group_norm(x, w, b, 3, 8, 25, 4, 1e-5)
    yield "aten.native_group_norm.default", (x, w, b, 3, 8, 25, 4, 1e-5), {}
    args = (t(3, 8, 5, 5), x, made[1], made[2], w, 3, 8, 25, 4, [True, True, True])
    yield "aten.native_group_norm_backward.default", args, {}


def _movement() -> Iterator[Call]:
    yield "aten.clone.default", (t(5, 6).t(),), {"memory_format": torch.contiguous_format}
    yield "aten.clone.default", (t(40, 60).expand(3, 40, 60),), {"memory_format": torch.contiguous_format}
    for a, b in itertools.product((F32, BF16, F16, F64, I64, U8, BOOL), repeat=2):
        yield "aten._to_copy.default", (t(40, dtype=a, low=0),), {"dtype": b}
    for dim in (0, 1, -1):
        parts = [t(*(k if d == dim % 3 else n for d, n in enumerate((4, 5, 6)))) for k in (1, 3, 2)]
        yield "aten.cat.default", (parts, dim), {}
        yield "aten.stack.default", ([t(4, 5), t(4, 5)], dim), {}
    yield "aten.cat.default", ([t(2), t(3, dtype=F64)],), {}
    yield "aten.constant_pad_nd.default", (t(3, 4, 5), [1, 2, 0, 3], 1.5), {}
    yield "aten.constant_pad_nd.default", (t(3, 4, 5), [-1, 2], 0), {}
    yield "aten.flip.default", (t(3, 4, 5), [0, 2]), {}
    for args in ((5,), (2, 9), (9, 0, -2)):
        name = ("arange.default", "arange.start", "arange.start_step")[len(args) - 1]
        yield f"aten.{name}", args, {}
    yield "aten.full.default", ([3, 4], 2.5), {}
    yield "aten.zeros.default", ([3, 4],), {}
    yield "aten.ones_like.default", (t(4, dtype=I64),), {}
    yield "aten.slice_scatter.default", (t(6, 7), t(6, 2), 1, 1, 5, 2), {}
    yield "aten.select_scatter.default", (t(6, 7), t(6), 1, -1), {}
    yield "aten.slice_backward.default", (t(6, 2), [6, 7], 1, 1, 5, 2), {}
    yield "aten.select_backward.default", (t(6), [6, 7], 1, -2), {}


def _indexing() -> Iterator[Call]:
    ids = torch.tensor([[1, 4, 0], [9, 1, 1]])
    yield "aten.embedding.default", (t(10, 20), ids), {}
    yield "aten.embedding_dense_backward.default", (t(2, 3, 20), ids, 10, 4, False), {}
    yield "aten.gather.default", (t(4, 5), 1, ids.clamp(max=3).repeat(2, 1)), {}
    yield "aten.index.Tensor", (t(10, 5), [ids]), {}
    yield "aten.index.Tensor", (t(4, 10, 5), [None, ids, torch.tensor([[0], [-1]])]), {}
    yield "aten.index.Tensor", (t(10, 4, 5), [torch.tensor([3, -2]), None, torch.tensor([0, 1])]), {}
    yield "aten.index_put.default", (t(10, 5), [torch.tensor([3, -2])], t(2, 5)), {}
    yield "aten.index_put.default", (t(10, 5), [torch.tensor([3, 3, 1])], t(5), True), {}
    yield (
        "aten.scatter_add.default",
        (t(4, 6), 1, torch.tensor([[0, 0, 5], [1, 1, 1], [2, 3, 4], [5, 5, 5]]), t(4, 3)),
        {},
    )
    yield "aten.scatter_add.default", (t(4, 6), 0, torch.tensor([[0, 0, 3], [1, 1, 1]]), t(2, 3)), {}
    target = torch.tensor([1, -100, 3, 0])
    logp = t(4, 6).log_softmax(1)
    for weight, reduction in itertools.product((None, t(6, low=0.5)), (1, 2)):
        made = torch.ops.aten.nll_loss_forward(logp, target, weight, reduction, -100)
        yield "aten.nll_loss_forward.default", (logp, target, weight, reduction, -100), {}
        yield "aten.nll_loss_backward.default", (t(), logp, target, weight, reduction, -100, made[1]), {}
    for reduction in (0, 1, 2):
        yield "aten.mse_loss.default", (t(5, 6), t(5, 6), reduction), {}
        yield "aten.smooth_l1_loss.default", (t(5, 6), t(5, 6), reduction, 0.7), {}


def _scatter() -> Iterator[Call]:
    ids = torch.tensor([[0, 3, 1], [2, 0, 3], [1, 1, 0], [3, 2, 2]])
    apart = torch.tensor([[0, 5, 2], [3, 1, 4], [2, 0, 1], [5, 4, 3]])
    rows = torch.tensor([[0], [1], [2], [3]])
    for dtype in (F32, BF16, I64):
        x, src = t(4, 6, dtype=dtype), t(4, 3, dtype=dtype)
        yield "aten.scatter.src", (x, 1, apart, src), {}
        yield "aten.scatter.src", (x, 0, ids.argsort(0), src), {}
        yield "aten.scatter.value", (x, -1, apart, 2), {}
        yield "aten.scatter_add.default", (x, 1, ids, src), {}
        yield "aten.scatter_add.default", (x, 0, ids, src), {}
        for kind in ("sum", "prod", "mean", "amax", "amin"):
            yield "aten.scatter_reduce.two", (x, 1, ids, src, kind), {"include_self": dtype == F32}
        yield "aten.index_add.default", (x, 0, torch.tensor([2, 0, 2]), t(3, 6, dtype=dtype)), {"alpha": 2}
        yield "aten.index_add.default", (x, -1, torch.tensor([2, 0, 2]), t(4, 3, dtype=dtype)), {}
        yield "aten.index_copy.default", (x, 0, torch.tensor([3, 0, 1]), t(3, 6, dtype=dtype)), {}
        yield "aten.index_fill.int_Scalar", (x, 1, torch.tensor([-1, 0]), 3), {}
        yield "aten.index_fill.int_Tensor", (x, 0, torch.tensor([-1, 0]), t(dtype=dtype)), {}
        yield "aten.index_select.default", (x, 1, torch.tensor([2, 0, 2])), {}
        yield "aten.take.default", (x, torch.tensor([[0, -1], [23, 5]])), {}
        yield "aten.put.default", (x, torch.tensor([[0, -1], [0, 5]]), t(2, 2, dtype=dtype), True), {}
        yield "aten.index_put.default", (x, [torch.tensor([3, -2, 3])], t(3, 6, dtype=dtype), True), {}
        yield "aten.masked_scatter.default", (x, t(4, 6, dtype=BOOL), t(30, dtype=dtype)), {}
        yield "aten.unfold_backward.default", (t(3, 8, 3, dtype=dtype), [3, 10], 1, 3, 1), {}
        mask = t(4, 3, dtype=BOOL)
        yield "aten._unsafe_masked_index.default", (x, mask, [rows, ids], 7), {}
        args = (x, mask, [rows, ids], t(4, 3, dtype=dtype))
        yield "aten._unsafe_masked_index_put_accumulate.default", args, {}
    for included in (True, False):
        x = t(4, 6, edge=True)
        yield "aten.scatter_reduce.two", (x, 1, ids, t(4, 3, edge=True), "amax"), {"include_self": included}
    yield "aten.scatter_add.default", (t(3, 4, 5), 1, torch.randint(0, 4, (3, 2, 5)), t(3, 2, 5)), {}
    yield "aten.index_add.default", (t(5, 2, 3), 1, torch.tensor([1]), t(5, 1, 3)), {}
    yield "aten.masked_scatter.default", (t(6, 4).t(), t(4, 6, dtype=BOOL), t(5, 6)), {}
    # so many elements that what they start from is a loop of its own
    x, ids = t(300, 128), torch.arange(310) * 7 % 43
    yield "aten.index_add.default", (x, 0, ids, t(310, 128)), {}
    yield "aten.index_add.default", (x, 0, ids[:300], x), {}
    yield "aten.index_copy.default", (x, 0, ids[:0], t(0, 128)), {}
    yield "aten.scatter_add.default", (x, 0, torch.zeros(0, 128, dtype=I64), t(0, 128)), {}
    yield "aten.index_put.default", (x, [ids], t(310, 128), True), {}
    apart3 = [torch.tensor([0, -2, 1]), None, torch.tensor([0, 1, 4])]
    yield "aten.index_put.default", (t(3, 4, 5), apart3, t(3, 4)), {}
    yield "aten.index_put.default", (t(3, 4, 5), [None, torch.tensor([0, -2, 1])], t(), True), {}


def _rearranging() -> Iterator[Call]:
    for d in (F32, BF16):
        for size, pad in (((2, 3, 7), [2, 3]), ((2, 3, 6, 7), [1, 2, 3, 0]), ((1, 2, 4, 5, 6), [1, 2, 0, 1, 2, 3])):
            r = len(pad) // 2
            x = t(*size, dtype=d)
            for kind in ("reflection", "replication"):
                y = getattr(torch.ops.aten, f"{kind}_pad{r}d")(x, pad)
                yield f"aten.{kind}_pad{r}d.default", (x, pad), {}
                yield f"aten.{kind}_pad{r}d_backward.default", (t(*y.shape, dtype=d), x, pad), {}
        x = t(4, 6, dtype=d)
        yield "aten.roll.default", (x, [2, -1], [0, 1]), {}
        yield "aten.roll.default", (x, [7]), {}
        yield "aten.tril.default", (x, 1), {}
        yield "aten.triu.default", (t(2, 4, 6, dtype=d), -1), {}
        yield "aten.repeat.default", (x, [2, 3, 1]), {}
        yield "aten.diagonal_copy.default", (t(3, 4, 5, dtype=d), 1, 0, 2), {}
        yield "aten.diagonal_scatter.default", (t(3, 4, 5, dtype=d), t(4, 3, dtype=d), 1, 0, 2), {}
        yield "aten.diagonal_backward.default", (t(4, 3, dtype=d), [3, 4, 5], 1, 0, 2), {}
        yield "aten.diag_embed.default", (t(4, 3, dtype=d), -1, 0, 2), {}
        yield "aten.block_diag.default", ([t(2, 3, dtype=d), t(4, dtype=d), t(dtype=d)],), {}
        yield "aten.as_strided_scatter.default", (x, t(2, 3, dtype=d), [2, 3], [7, 2]), {}
        yield "aten.expand_copy.default", (t(1, 3, dtype=d), [4, 2, 3]), {}
        yield "aten.view_copy.default", (x, [3, 8]), {}
        yield "aten.narrow_copy.default", (x, 1, 2, 3), {}
        yield "aten.permute_copy.default", (t(3, 4, 5, dtype=d), [2, -3, 1]), {}
        yield "aten.transpose_copy.int", (t(3, 4, 5, dtype=d), 0, -1), {}
        yield "aten.t_copy.default", (x,), {}
        yield "aten.squeeze_copy.default", (t(1, 3, 1, 5, dtype=d),), {}
        yield "aten.squeeze_copy.dim", (t(1, 3, 1, 5, dtype=d), 2), {}
        yield "aten.squeeze_copy.dims", (t(1, 3, 1, 5, dtype=d), [0, 1]), {}
        yield "aten.unsqueeze_copy.default", (x, -2), {}
        yield "aten.unfold_copy.default", (t(3, 9, 4, dtype=d), 1, 3, 2), {}
        yield "aten.unbind_copy.int", (x, -1), {}
        yield "aten.split_with_sizes_copy.default", (t(3, 9, dtype=d), [2, 3, 4], 1), {}
        for k in range(-1, 4):
            yield "aten.rot90.default", (t(3, 4, 5, dtype=d), k, [2, 0]), {}
        p = t(2, 3, 7, 8, dtype=d)
        c = torch.ops.aten.im2col(p, [3, 2], [1, 2], [1, 1], [2, 1])
        yield "aten.im2col.default", (p, [3, 2], [1, 2], [1, 1], [2, 1]), {}
        yield "aten.col2im.default", (t(*c.shape, dtype=d), [7, 8], [3, 2], [1, 2], [1, 1], [2, 1]), {}
    x = t(4, 6)
    idx = torch.stack([torch.randperm(36)[:6].view(2, 3) for _ in range(2)]).view(1, 2, 2, 3)
    yield "aten.max_unpool2d.default", (t(1, 2, 2, 3), idx, [6, 6]), {}
    yield "aten.isin.Tensor_Tensor", (t(4, 5, dtype=I64), t(2, 2, dtype=I64)), {"invert": True}
    yield "aten.count_nonzero.default", (t(4, 10, dtype=I64),), {}
    yield "aten.eye.m", (3, 5), {}
    yield "aten.zero.default", (x,), {}
    yield "aten.tril.default", (t(4, 4, dtype=I64),), {}
    yield "aten.nan_to_num.default", (t(24, dtype=F64, edge=True), 1.0), {}
    m = t(4, 6, dtype=BOOL)
    yield "aten.masked_scatter_backward.default", (x, m, [30]), {}
    yield "aten.scatter.src", (t(5, 0), 1, torch.zeros(5, 0, dtype=I64), t(5, 0)), {}
    yield (
        "aten._batch_norm_with_update_functional.default",
        (t(2, 3, 4), t(3), t(3), t(3), t(3, low=0.1), 0.1, 1e-5),
        {},
    )


def _curves() -> Iterator[Call]:
    for d in (F32, BF16):
        yield "aten.mish_backward.default", (t(30, dtype=d), t(30, dtype=d, low=-30, high=30)), {}
        yield "aten.log_sigmoid_forward.default", (t(30, dtype=d, low=-30, high=30),), {}
        b = t(30, dtype=d)
        yield "aten.log_sigmoid_backward.default", (t(30, dtype=d), b, torch.ops.aten.log_sigmoid_forward(b)[1]), {}
        yield "aten.celu.default", (t(30, dtype=d), 1.5), {}
        yield "aten._prelu_kernel.default", (t(3, 4, dtype=d), t(1, 4, dtype=d)), {}
        yield "aten._prelu_kernel_backward.default", (t(3, 4, dtype=d), t(3, 4, dtype=d), t(1, 4, dtype=d)), {}
        yield "aten.glu.default", (t(4, 6, dtype=d), 1), {}
        yield "aten.glu_backward.default", (t(2, 6, dtype=d), t(4, 6, dtype=d), 0), {}
        yield "aten.logaddexp2.default", (t(24, dtype=d, edge=True), t(24, dtype=d)), {}
        yield "aten.heaviside.default", (torch.tensor([0.0, 1, -1, float("nan"), 0], dtype=d), t(5, dtype=d)), {}
        yield "aten.ldexp.Tensor", (t(4, 6, dtype=d), t(6, dtype=d)), {}
        yield "aten.angle.default", (t(24, dtype=d, edge=True),), {}
        yield "aten.isposinf.default", (t(24, dtype=d, edge=True),), {}
        yield "aten.isneginf.default", (t(24, dtype=d, edge=True),), {}
        yield "aten.nan_to_num.default", (t(24, dtype=d, edge=True),), {}
        u = t(24, dtype=d, low=0.01, high=0.99)
        yield "aten.logit.default", (u,), {}
        yield "aten.mvlgamma.default", (t(24, dtype=d, low=2, high=9), 3), {}
        yield "aten._conj_physical.default", (t(24, dtype=d),), {}
        yield "aten.logit.default", (t(24, dtype=d), 0.1), {}
        yield "aten.logit_backward.default", (t(24, dtype=d), u, 0.1), {}
        yield "aten.logit_backward.default", (t(24, dtype=d), u), {}
        yield "aten.special_entr.default", (t(24, dtype=d, edge=True),), {}
        yield "aten.sinc.default", (t(24, dtype=d),), {}
        yield "aten.addr.default", (t(3, 4, dtype=d), t(3, dtype=d), t(4, dtype=d)), {"beta": 0.5, "alpha": 2}
        yield "aten.linalg_cross.default", (t(4, 3, dtype=d), t(4, 3, dtype=d)), {}


def _losses() -> Iterator[Call]:
    for d in (F32, BF16):
        y = t(5, 6, dtype=d, low=0, high=1)
        for red in (0, 1, 2):
            x = t(5, 6, dtype=d, low=0.05, high=0.95)
            g = t(5, 6, dtype=d) if red == 0 else t(dtype=d)
            yield "aten.huber_loss.default", (t(5, 6, dtype=d), y, red, 0.7), {}
            yield "aten.soft_margin_loss.default", (t(5, 6, dtype=d), y, red), {}
            yield "aten.binary_cross_entropy.default", (x, y, t(6, dtype=d), red), {}
            yield (
                "aten.binary_cross_entropy_with_logits.default",
                (t(5, 6, dtype=d), y, t(5, 6, dtype=d), t(6, dtype=d, low=0.1), red),
                {},
            )
            yield "aten.mse_loss_backward.default", (g, x, y, red), {}
            yield "aten.smooth_l1_loss_backward.default", (g, x, y, red, 0.3), {}
            yield "aten.huber_loss_backward.default", (g, x, y, red, 0.3), {}
            yield "aten.soft_margin_loss_backward.default", (g, x, y, red), {}
            yield "aten.binary_cross_entropy_backward.default", (g, x, y, t(6, dtype=d), red), {}
            sc = t(2, 5, 3, 4, dtype=d)
            tg = torch.randint(0, 5, (2, 3, 4))
            tg[0, 0, 0] = -100
            w = t(5, dtype=d, low=0.1)
            r = torch.ops.aten.nll_loss2d_forward(sc, tg, w, red, -100)
            yield "aten.nll_loss2d_forward.default", (sc, tg, w, red, -100), {}
            yield "aten.nll_loss2d_backward.default", (t(*r[0].shape, dtype=d), sc, tg, w, red, -100, r[1]), {}
            yield (
                "aten.nll_loss_forward.default",
                (t(4, 6, dtype=d), torch.tensor([0, 5, 2, -100]), None, red, -100),
                {},
            )
        yield "aten.nll_loss_forward.default", (t(6, dtype=d), torch.tensor(3), None, 1, -100), {}


def _more_rows() -> Iterator[Call]:
    for d in (F32,):
        yield "aten._softmax.default", (t(dtype=d), 0, False), {}
        yield "aten._softmax_backward_data.default", (t(dtype=d), t(dtype=d), 0, d), {}
        yield "aten._log_softmax.default", (t(dtype=d), 0, False), {}
        yield "aten.norm.ScalarOpt_dim", (t(4, 5, dtype=d), 3, [1], True), {}
        yield "aten.aminmax.default", (t(40, dtype=d, edge=True),), {}
        yield "aten.aminmax.default", (t(4, 10, dtype=d),), {"dim": 0, "keepdim": True}
        yield "aten.count_nonzero.dim_IntList", (t(4, 10, dtype=d), [1]), {}
        yield "aten.nansum.default", (t(4, 10, dtype=d, edge=True), [0]), {}
        for p in (1, 2, 3.0):
            yield "aten.dist.default", (t(4, 1, 10, dtype=d), t(3, 10, dtype=d), p), {}
        yield "aten.trace.default", (t(4, 10, dtype=d),), {}
        x, mean, variance = t(2, 3, 4, dtype=d), t(3, dtype=d), t(3, low=0.1, dtype=d)
        yield "aten._native_batch_norm_legit_no_training.default", (x, None, None, mean, variance, 0.1, 1e-5), {}
        yield "aten.linspace.default", (-1.5, 3, 7), {"dtype": d}
        yield "aten.arange.start_step", (0.5, 4, 0.3), {"dtype": d}


def _others_of_kinds() -> Iterator[Call]:
    """Overloads whose like stands above: the same rule, other arguments."""
    x, w = t(3, 4), t(3, 4, low=1)
    g = t(30)
    yield "aten.threshold.default", (t(9, edge=True), 0.5, -7), {}
    yield "aten.hardshrink_backward.default", (g, t(30), 0.5), {}
    yield "aten.softshrink_backward.default", (g, t(30), 0.5), {}
    yield "aten.rrelu_with_noise_backward.default", (g, t(30), t(30, low=0.1), 0.1, 0.3, True, False), {}
    for name in ("alias_copy", "contiguous", "lift_fresh", "lift_fresh_copy", "sgn", "positive"):
        yield f"aten.{name}.default", (t(3, 6)[:, ::2],), {}
    yield "aten.copy.default", (t(3, 4, dtype=F64), t(4)), {}
    for name in ("zeros", "ones"):
        yield f"aten.{name}.default", ([2, 0, 3],), {}
        yield f"aten.{name}_like.default", (t(3, 4, dtype=BF16).t(),), {}
        yield f"aten.new_{name}.default", (x, [5]), {"dtype": I64}
    yield "aten.full_like.default", (t(dtype=I32), 3), {}
    yield "aten.new_full.default", (x, [2, 3], -1.5), {}
    yield "aten.fill.Scalar", (x, float("inf")), {}
    yield "aten.fill.Tensor", (x, t()), {}
    yield "aten.scalar_tensor.default", (2.5,), {}
    yield "aten._unsafe_index.Tensor", (x, [None, torch.tensor([3, 0])]), {}
    yield "aten._unsafe_index_put.default", (x, [torch.tensor([2, 0])], t(2, 4)), {}
    for name in ("any", "all"):
        yield f"aten.{name}.dims", (t(3, 4, 5, dtype=BOOL), [0, -1], True), {}
    for name in ("std", "std_mean"):
        yield f"aten.{name}.correction", (t(3, 40), [1]), {"correction": 1}
    x4, c = t(4, 6, 5, 5), t(6)
    stats = torch.ops.aten._native_batch_norm_legit.no_stats(x4, c, c, True, 0.1, 1e-5)
    args = (t(4, 6, 5, 5), x4, c, None, None, stats[1], stats[2], True, 1e-5, [True] * 3, t(0, dtype=U8))
    yield "aten.batch_norm_backward.default", args, {}
    for weight in (None, t(40)):
        yield "aten._fused_rms_norm.default", (t(6, 40), [40], weight, 1e-5), {}
    yield "aten.rsub.Tensor", (x, t(4)), {"alpha": 2}
    yield "aten.div.Scalar_mode", (t(9, dtype=I64), 2), {"rounding_mode": "floor"}
    yield "aten.floor_divide.default", (x, w), {}
    yield "aten.remainder.Scalar", (x, -2), {}
    yield "aten.fmod.Scalar", (t(9, dtype=I64), 2), {}
    yield "aten.copysign.Tensor", (x, t(4)), {}
    yield "aten.copysign.Scalar", (x, -0.0), {}
    yield "aten.xlogy.Tensor", (t(24, edge=True), t(24)), {}
    yield "aten.xlogy.Scalar_Other", (x, 2.5), {}
    yield "aten.xlogy.Scalar_Self", (0, t(24, edge=True)), {}
    for name in ("and", "or", "xor"):
        yield f"aten.bitwise_{name}.Scalar", (t(9, dtype=I64), 6), {}
    yield "aten.bitwise_left_shift.Tensor_Scalar", (t(9, dtype=I32), 2), {}
    yield "aten.bitwise_right_shift.Tensor_Scalar", (t(9, dtype=I32), 1), {}
    for name in ("clamp_min", "clamp_max"):
        yield f"aten.{name}.default", (t(9, edge=True), 1), {}
        yield f"aten.{name}.Tensor", (t(9, edge=True), t(9)), {}
    yield "aten.masked_fill.Tensor", (x, t(4, dtype=BOOL), t()), {}
    yield "aten.eye.default", (4,), {}
    for name, size in (("_adaptive_avg_pool3d", [2, 3, 3]), ("adaptive_max_pool3d", [3, 2, 5])):
        y, at = t(2, 5, 6, 7), None
        out = getattr(torch.ops.aten, name)(y, size)
        out, at = out if isinstance(out, tuple) else (out, None)
        yield f"aten.{name}.default", (y, size), {}
        yield f"aten.{name}_backward.default", (t(*out.shape), y, *([at] if at is not None else [])), {}
    y, u = t(1, 2, 8, 8), t(1, 2, 2, low=0, high=1)
    at = torch.ops.aten.fractional_max_pool2d(y, [2, 2], [3, 3], u)[1]
    yield "aten.fractional_max_pool2d_backward.default", (t(1, 2, 3, 3), y, [2, 2], [3, 3], at), {}
    y, u = t(1, 2, 6, 6, 6), t(1, 2, 3, low=0, high=1)
    at = torch.ops.aten.fractional_max_pool3d(y, [2] * 3, [3] * 3, u)[1]
    yield "aten.fractional_max_pool3d_backward.default", (t(1, 2, 3, 3, 3), y, [2] * 3, [3] * 3, at), {}
    at = torch.randperm(64)[:8].view(1, 2, 2, 2)
    yield "aten.max_unpool3d.default", (t(1, 2, 2, 2), at, [4, 4, 4], [2, 2, 2], [0, 0, 0]), {}


def _running() -> Iterator[Call]:
    """Scans, sorts, positions: ties and what is not a number."""
    nan, inf = float("nan"), float("inf")
    rows = torch.tensor(
        [[1, nan, 2, nan, -inf], [2, 2, 1, 2, inf], [-inf, -inf, nan, 1, 1], [nan, nan, inf, 0.0, -0.0]]
    )
    for d in (F32, BF16, I64, BOOL):
        made = [rows.to(d)] if d in FLOATS else [t(4, 5, dtype=d)]
        for y in (*made, t(4, 17, 3, dtype=d), t(3, 1, dtype=d), t(3, 4, dtype=d).t()):
            for name in ("cummax", "cummin"):
                yield f"aten.{name}.default", (y, 1), {}
                yield f"aten.{name}.default", (y, -y.dim()), {}
            for descending in (False, True):
                yield "aten.sort.stable", (y,), {"stable": True, "dim": 1, "descending": descending}
            if d == BOOL:
                continue
            for name in ("max", "min"):
                yield f"aten.{name}.dim", (y, 1), {}
                yield f"aten.arg{name}.default", (y, -1, True), {}
                yield f"aten.arg{name}.default", (y,), {}
        yield "aten.sort.stable", (t(3, 0, dtype=d),), {"stable": True}
        for name in ("cumsum", "cumprod", "cummax", "cummin"):
            yield f"aten.{name}.default", (t(dtype=d), 0), {}
    for d in (F32, F64, BF16):
        yield "aten.cumsum.default", (t(4, 30, dtype=d, edge=True), 1), {}
        yield "aten.cumprod.default", (t(30, 4, dtype=d, edge=True), 0), {}
        yield "aten.logcumsumexp.default", (t(4, 300, dtype=d, low=-50, high=50), 1), {}
        yield "aten.logcumsumexp.default", (t(4, 30, dtype=d, edge=True), 0), {}
        yield "aten.logcumsumexp.default", (rows.to(d), 1), {}
        yield "aten.logcumsumexp.default", (t(dtype=d), -1), {}
    yield "aten.cumsum.default", (t(0, 3), 0), {}


def _meeting() -> Iterator[Call]:
    """What meets in one place, truth values too; masks; tensors without dimensions or elements."""
    ids = torch.tensor([[0, 3, 1], [2, 0, 3], [1, 1, 0], [3, 2, 2]])
    zero, one = torch.tensor(0), torch.zeros(1, dtype=I64)
    for d in (F32, BF16, I64, BOOL):
        x, src, row = t(4, 6, dtype=d), t(4, 3, dtype=d), torch.tensor([2, 0, 2])
        yield "aten.scatter_add.default", (x, 1, ids, src), {}
        yield "aten.index_add.default", (x, 0, row, t(3, 6, dtype=d)), {}
        yield "aten.put.default", (x, torch.tensor([[0, -1], [0, 5]]), t(4, dtype=d), True), {}
        yield "aten.index_put.default", (x, [row], t(3, 6, dtype=d), True), {}
        yield "aten.index_put.default", (x, [t(4, 6, dtype=BOOL)], t(dtype=d)), {}
        yield "aten.index_put.default", (x, [None, t(6, dtype=BOOL)], t(4, 1, dtype=d), True), {}
        yield "aten.index_put.default", (t(3, 4, 5, dtype=d), [None, t(4, dtype=BOOL)], t(1, 5, dtype=d)), {}
        yield "aten.masked_scatter.default", (t(4, 6, dtype=d), t(6, dtype=BOOL), t(30, dtype=d)), {}
        for kind in ("sum", "prod", "amax", "amin", *(() if d == BOOL else ("mean",))):
            for included in (True, False):
                yield "aten.scatter_reduce.two", (x, 1, ids, src, kind), {"include_self": included}
                if kind != "sum" and (included or d != BOOL):
                    args = (x, -1, row, src, kind)
                    yield "aten.index_reduce.default", args, {"include_self": included}
        for kind in ("add", "multiply"):
            yield "aten.scatter.reduce", (x, 1, ids, src), {"reduce": kind}
            yield "aten.scatter.value_reduce", (x, 1, ids, 1 if d == BOOL else 2), {"reduce": kind}
        yield "aten.scatter_add.default", (t(dtype=d), 0, zero, t(dtype=d)), {}
        yield "aten.scatter.src", (t(dtype=d), 0, one, t(1, dtype=d)), {}
        yield "aten.scatter.value", (t(dtype=d), 0, zero, 1), {}
        yield "aten.index_add.default", (t(dtype=d), 0, zero, t(dtype=d)), {}
        yield "aten.index_fill.int_Scalar", (t(dtype=d), -1, zero, 1), {}
        yield "aten.put.default", (t(dtype=d), torch.tensor([0, 0]), t(2, dtype=d)), {}
        yield "aten.gather.default", (t(dtype=d), 0, torch.zeros(3, dtype=I64)), {}
        yield "aten.gather.default", (t(5, dtype=d), 0, zero), {}
        yield "aten.gather.default", (t(0, 5, dtype=d), 0, torch.zeros(0, 5, dtype=I64)), {}
        yield "aten.index_select.default", (t(dtype=d), 0, zero), {}
        yield "aten.take.default", (t(0, dtype=d), torch.zeros(0, 2, dtype=I64)), {}
        if d == BOOL:
            continue
        ids2 = torch.tensor([[1, 4, 0], [9, 1, 1]])
        yield "aten.embedding_dense_backward.default", (t(2, 3, 20, dtype=d), ids2, 10, 4, False), {}
        edges = t(9, dtype=d).sort().values
        yield "aten.bucketize.Tensor", (t(4, 6, dtype=d, edge=True), edges), {}
        yield "aten.bucketize.Tensor", (t(4, 6, dtype=d), edges), {"right": True, "out_int32": True}
        yield "aten.searchsorted.Tensor", (t(4, 9, dtype=d).sort().values, t(4, 5, dtype=d)), {"side": "right"}
        yield "aten.searchsorted.Tensor", (edges, t(dtype=d)), {}
        yield "aten.pixel_shuffle.default", (t(2, 12, 3, 4, dtype=d), 2), {}
        yield "aten.pixel_unshuffle.default", (t(2, 3, 4, 6, dtype=d), 2), {}
        yield "aten.channel_shuffle.default", (t(2, 6, 3, dtype=d), 3), {}
        yield "aten.unsafe_split.Tensor", (t(7, 3, dtype=d), 3), {}
        yield "aten.unsafe_split_with_sizes.default", (t(7, 3, dtype=d), [2, 1], -1), {}
        yield "aten.signbit.default", (t(24, dtype=d, edge=True),), {}
    for d in FLOATS:
        for steps in (1, 20):
            yield "aten.logspace.default", (-1.5, 3, steps, 2.5), {"dtype": d}
        for decimals in (2, 0, -1):
            yield "aten.round.decimals", (t(24, dtype=d, low=-300, high=300),), {"decimals": decimals}
    yield "aten.special_xlog1py.default", (t(24, edge=True), t(24)), {}


SECTIONS = {
    "unary": _unary, "binary": _binary, "several": _several, "reductions": _reductions, "rows": _rows,
    "movement": _movement, "indexing": _indexing, "pooling": windows.pooling, "scatter": _scatter,
    "rearranging": _rearranging, "curves": _curves, "losses": _losses, "more rows": _more_rows,
    "others of kinds": _others_of_kinds, "large windows": windows.large_windows, "resampling": windows.resampling,
    "running": _running, "lists": lists.calls, "searches": searches.calls, "meeting": _meeting,
    "ranks": ranks.calls,
}  # fmt: skip

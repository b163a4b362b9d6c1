"""Single generated kernels beside ATen, interleaved: ``python -m benchmarks.kernels [NAMES] [OPTIONS]``.

Each case is a function of tensors. ATen runs it as it is. Ours is captured, lowered, inlined, fused and compiled; its
kernels are called on freshly allocated results, as ATen's are. Printed: the least of many times (ms) for both, their
ratio, and the geometric mean of the ratios. Sizes are chosen in and beyond the cache.
"""

from __future__ import annotations

import argparse
import functools
import math
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from lowtide.codegen.cpp import kernel
from lowtide.codegen.cpp_source import kernel_sources
from lowtide.frontend.fx_import import import_graph
from lowtide.ir.graph import Layout, refs_in
from lowtide.ir.lowered import LOOP
from lowtide.lowering.lower import lower
from lowtide.runtime import kernels
from lowtide.runtime.calls import DTYPES
from lowtide.schedule.fusion import fuse_loops
from lowtide.schedule.inline import inline
from lowtide.schedule.schedule import schedule

aten = torch.ops.aten
SIZES = {"in cache": (64, 768), "beyond": (4096, 1024)}
Case = tuple[Callable[..., Any], tuple[Any, ...]]


def cases(rows: int, width: int) -> dict[str, Case]:
    """Name -> function and arguments."""
    x, g, w, b = torch.randn(rows, width), torch.randn(rows, width), torch.randn(width), torch.randn(width)
    _, mean, rstd = aten.native_layer_norm(x, [width], w, b, 1e-5)
    image = torch.randn(8, 32, math.isqrt(rows * width // 256), math.isqrt(rows * width // 256))
    ids = torch.randint(0, 1000, (rows,))
    target = torch.randint(0, width, (rows,))
    p = torch.softmax(x, 1)
    mask = torch.rand(rows, width) < 0.9

    def cross_entropy(x: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(x, target)

    return {
        "gelu": (lambda x: aten.gelu(x), (x,)),
        "gelu backward": (lambda g, x: aten.gelu_backward(g, x), (g, x)),
        "layer norm": (lambda x, w, b: aten.native_layer_norm(x, [width], w, b, 1e-5), (x, w, b)),
        "layer norm backward": (
            lambda g, x, m, r, w, b: aten.native_layer_norm_backward(g, x, [width], m, r, w, b, [True, True, True]),
            (g, x, mean, rstd, w, b),
        ),
        "softmax": (lambda x: aten._softmax(x, 1, False), (x,)),
        "softmax backward": (lambda g, p: aten._softmax_backward_data(g, p, 1, torch.float32), (g, p)),
        "cross entropy": (cross_entropy, (x, target)),
        "batch norm": (
            lambda x, w, b: aten._native_batch_norm_legit.no_stats(x, w, b, True, 0.1, 1e-5),
            (image, torch.randn(32), torch.randn(32)),
        ),
        "dropout backward": (lambda g, m: aten.native_dropout_backward(g, m, 1.1), (g, mask)),
        "embedding": (lambda t, i: aten.embedding(t, i), (torch.randn(1000, width), ids)),
        "embedding backward": (lambda g, i: aten.embedding_dense_backward(g, i, 1000, -1, False), (g, ids)),
        "transposed copy": (lambda x: x.t().clone(memory_format=torch.contiguous_format), (x,)),
        "row sums": (lambda x: x.sum(1), (x,)),
        "column sums": (lambda x: x.sum(0), (x,)),
        "add, relu": (lambda x, g: (x + g).relu(), (x, g)),
    }


def ours(function: Callable[..., Any], args: tuple[Any, ...]) -> Callable[[], Any]:
    """The function as a call of generated kernels on these arguments."""
    gm = make_fx(function, tracing_mode="fake")(*args)
    output = next(iter(gm.graph.find_nodes(op="output")))
    returned = output.args[0]
    output.args = (tuple(returned) if isinstance(returned, list | tuple) else (returned,),)
    graph, _ = import_graph("one", [("inference", gm)])
    lowered = inline(lower(graph))
    lowered = fuse_loops(lowered, schedule(lowered.graph, {}, loops=lowered.loops)).lowered
    kernels.finish(kernels.start(kernel_sources([kernel(x) for x in lowered.loops.values()], 1)))
    addresses = {i.name: t.data_ptr() for i, t in zip(graph.sections[0].inputs, args, strict=True) if i is not None}  # type: ignore[union-attr]
    calls = []
    for op in lowered.graph.ops:
        if op.view:
            continue
        assert op.target == LOOP, f"{op.target} is not lowered"
        k = kernel(lowered.loops[op.name])
        numbers = kernels.numbers(",".join(map(str, k.params)))
        names = [n for a in op.args for n in refs_in(a)]
        made = [(str(o), allocation(lowered.graph.value[str(o)].layout)) for o in op.outputs]
        names += [o for o, _ in made]
        calls.append((kernels.function(k.name, k.buffers), numbers, names, made))

    def run() -> list[Tensor]:
        at, results = addresses.copy(), []
        for function, numbers, names, made in calls:
            for o, allocate in made:
                results.append(t := allocate())
                at[o] = t.data_ptr()
            function(numbers, *[at[n] for n in names])
        return results

    return run


def allocation(layout: Layout | None) -> Callable[[], Tensor]:
    """A call that makes an uninitialised tensor of a static layout."""
    assert layout is not None
    return functools.partial(torch.empty_strided, layout.size, layout.stride, dtype=DTYPES[layout.dtype])


def least(a: Callable[[], Any], b: Callable[[], Any], seconds: float = 0.4) -> tuple[float, float]:
    """The least time of each, in ms, of calls in turn."""
    best = [math.inf, math.inf]
    a(), b()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for k, f in enumerate((a, b)):
            begin = time.perf_counter()
            f()
            best[k] = min(best[k], time.perf_counter() - begin)
    return best[0] * 1e3, best[1] * 1e3


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kernels", description=__doc__.partition("\n\n")[0])
    parser.add_argument("kernels", nargs="*", help="of these names (default: all)")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="how many (default: 1 and 2)")
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=[*SIZES], help="where tensors lie (default: both)")
    given = parser.parse_args()
    known = {name for place in given.sizes for name in cases(*SIZES[place])}
    if unknown := [name for name in given.kernels if name not in known]:
        parser.error(f"no kernels {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    torch.manual_seed(0)
    for threads in given.threads:
        torch.set_num_threads(threads)
        ratios: list[float] = []
        print(f"| {threads} threads | ATen ms | ours ms | ATen / ours |\n|---|---|---|---|")
        for place in given.sizes:
            for name, (function, args) in cases(*SIZES[place]).items():
                if given.kernels and name not in given.kernels:
                    continue
                theirs, mine = least(lambda f=function, a=args: f(*a), ours(function, args))  # type: ignore[misc]
                ratios.append(theirs / mine)
                print(f"| {name}, {place} | {theirs:.4f} | {mine:.4f} | {ratios[-1]:.2f} |", flush=True)
        mean = math.exp(sum(map(math.log, ratios)) / len(ratios))
        print(f"geometric mean {mean:.2f}, least {min(ratios):.2f}\n")


if __name__ == "__main__":
    main()

"""What a line of a run-time program needs before it runs, and what is known only once it has run."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402

from lowtide.executor.block import needed  # noqa: E402
from lowtide.executor.capture import import_block  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.spec("IR-08")
def test_a_line_needs_the_sizes_in_its_own_arguments_and_defines_those_it_finds_out():
    def f(x: Tensor, n: Tensor) -> list[Tensor]:
        places = torch.ops.aten.nonzero.default(x)
        twice = places * 2
        return [twice, torch.ops.aten.expand.default(twice.sum(), [n.item()])]

    gm = make_fx(f, tracing_mode="symbolic")(torch.randn(5), torch.tensor(3))
    block, _ = import_block("b", gm)
    line = {x.op.target.split(".")[1]: x for x in block.lines}
    (found,), (number,) = line["nonzero"].binds, line["item"].binds
    assert (found.output, found.dim, number.dim) == (0, 0, None)
    assert not needed(line["nonzero"]) and not needed(line["item"])
    # it reads a tensor of a size that was found out, which is no matter of its own code
    assert block.graph.value["mul"].layout.size[0] == block.graph.value["nonzero"].layout.size[0] != 5
    assert not needed(line["mul"]) and not line["mul"].binds
    assert needed(line["expand"]) == {number.symbol} and not line["expand"].binds
    (given,) = block.given
    assert block.graph.symbols == tuple(sorted({given.symbol, found.symbol, number.symbol}))


@pytest.mark.spec("SC-16")
def test_what_finds_out_a_size_runs_before_whoever_uses_it():
    """Sizes that are returned, too: nonzero, its size, what is as large, and both together."""

    def f(x: Tensor) -> list[Tensor]:
        places = torch.ops.aten.nonzero.default(x)
        count = places.shape[0]
        unused = torch.ops.aten.nonzero.default(x + 1)
        return [torch.ops.aten.full.default([count, 2], 1.0), unused.shape[0], places.to(torch.float32) * 2]

    gm = make_fx(f, tracing_mode="symbolic")(torch.randn(5))
    block, _ = import_block("b", gm)
    known = {g.symbol for g in block.given}
    asked: set[str] = set()
    for line in block.lines:
        assert needed(line) <= known, line.op.name
        asked |= needed(line)
        known |= {b.symbol for b in line.binds}
    found = [b.symbol for line in block.lines for b in line.binds if line.op.target.startswith("aten.nonzero")]
    assert len(found) == 2 and found[0] in asked, (
        "the line that finds out a returned size stays, though nobody reads its tensor"
    )

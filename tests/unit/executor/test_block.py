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

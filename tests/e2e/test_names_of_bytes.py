"""Several names of the same bytes: what is written under one is read under the others, and no name outlives them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from values import Compile, check

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore")]


@pytest.mark.spec("IR-18", "IR-27")
def test_what_was_read_before_a_write_is_the_old_value(compiled: Compile):
    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        before = x * 3
        middle = x[1]
        x.add_(1)
        middle.mul_(2)
        return before.sin() + x, middle + x[1]

    check(compiled, f, torch.randn(4, 3), mutates=True)


@pytest.mark.spec("IR-17", "IR-27")
def test_a_piece_is_written_and_the_whole_is_read(compiled: Compile):
    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        whole = torch.zeros(6, 4)
        whole[1:3].copy_(x)
        whole[4].add_(x[0].exp())
        joined = torch.cat([whole[:2] * 2, x.tanh(), whole[4:]])
        return whole.sum(1), joined.t() @ joined

    check(compiled, f, torch.randn(2, 4))


@pytest.mark.spec("IR-26")
def test_pairs_outlive_the_name_of_the_complex_numbers_that_they_are(compiled: Compile):
    def f(x: Tensor) -> Tensor:
        pairs = torch.view_as_real(torch.complex(x, x.cos()) * 2)
        for _ in range(3):  # what takes the bytes of others, if any are free
            x = (x.exp() * 0.1 + x).tanh()
        return pairs[..., 1] * x + torch.view_as_complex(pairs + 1).abs()

    check(compiled, f, torch.randn(16, 8))

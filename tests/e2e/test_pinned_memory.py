"""Pinned memory where there is no device to pin it for: what eager does, error included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

pytestmark = [
    pytest.mark.torch,
    pytest.mark.spec("IR-11"),
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a device to pin memory for"),
]
WAYS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "empty": lambda x: torch.empty(4, 4, pin_memory=True).copy_(x),
    "zeros": lambda x: torch.zeros(4, 4, pin_memory=True) + x,
    "new_empty": lambda x: x.new_empty(4, 4, pin_memory=True).fill_(1.0) + x,
    "pin_memory": lambda x: (x * 2).pin_memory() + 1,
}


@pytest.mark.parametrize("way", sorted(WAYS))
@pytest.mark.parametrize("kernels", ["loops", "aten"])
def test_without_a_device_it_is_as_in_eager(way: str, kernels: str) -> None:
    f, x = WAYS[way], torch.ones(4, 4)
    call = torch.compile(f, backend="lowtide", options={"verify": True, "kernels": kernels})
    try:
        wanted = f(x)
    except RuntimeError as e:
        with pytest.raises(type(e)) as raised:
            call(x)
        assert str(e).splitlines()[0] in str(raised.value)
    else:
        got = call(x)
        assert got.is_pinned() == wanted.is_pinned()
        torch.testing.assert_close(got, wanted)

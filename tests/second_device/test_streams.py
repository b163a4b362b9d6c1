"""On devices that work in streams, bytes are used again only where the work that used them comes first."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from lowtide.program import Header, SlabUse  # noqa: E402
from lowtide.runtime.load import Slabs, release_retained, retained_nbytes  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.mark.spec("RT-32")
def test_a_slab_is_taken_again_only_on_the_stream_that_left_it(device: str) -> None:
    release_retained()
    use = SlabUse(0, 1024, f"{device}:0", (Header("t", "f32", (4,), (1,), 0),), kept=True)
    slabs = Slabs((use,), retain=1 << 20, poison=True)

    def call() -> int:
        held = slabs.take(0, None)
        at = held[0].data_ptr()
        slabs.give(0, held)
        return at

    first, other = torch.accelerator.current_stream(), torch.Stream(f"{device}:0")
    left = call()
    assert call() == left
    torch.accelerator.set_stream(other)
    try:
        elsewhere = call()
        assert elsewhere != left and call() == elsewhere
    finally:
        torch.accelerator.set_stream(first)
    assert call() == left
    assert retained_nbytes() == 2 * use.nbytes == release_retained()


def test_the_device_itself_is_late_and_poisoned(device: str) -> None:
    """What the other tests rest on."""
    source = torch.ones(4)
    there = torch.empty(4, device=device)
    assert there.isnan().all().item()
    there.copy_(source, non_blocking=True)
    source.zero_()
    assert there.cpu().tolist() == [0.0] * 4, "read when the stream got to it, not when it was asked for"
    back = torch.full((4,), 7.0)
    back.copy_(there, non_blocking=True)
    assert back.tolist() == [7.0] * 4
    torch.accelerator.synchronize()
    assert back.tolist() == [0.0] * 4
    before = torch.accelerator.memory_allocated()
    kept = torch.empty(1000, device=device)
    assert torch.accelerator.memory_allocated() == before + 4000
    del kept
    assert torch.accelerator.memory_allocated() == before

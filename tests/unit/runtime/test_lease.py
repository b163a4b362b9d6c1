"""Bytes lent to saved tensors: they come back when nobody holds a view, and serve the next iteration only then."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest
import torch

import lowtide
from lowtide.core.options import Options
from lowtide.runtime.lease import lend
from lowtide.runtime.load import release_retained, retained_nbytes
from lowtide.runtime.records import forget, records

pytestmark = pytest.mark.torch
ARENA = {"slabs": "one", "verify": True}  # verify also fills slabs with 0xFF before they are handed out


@pytest.fixture(autouse=True)
def nothing_retained():
    gc.collect()
    release_retained()
    yield
    torch._dynamo.reset()
    gc.collect()
    release_retained()


@pytest.mark.spec("PP-30")
def test_the_end_is_told_once_and_only_after_the_last_view():
    base, ended = torch.empty(64, dtype=torch.uint8).untyped_storage(), []
    base.fill_(7)
    storage = lend(base, ended.append)
    assert (storage.data_ptr(), storage.nbytes()) == (base.data_ptr(), 64)
    view = torch.empty(0, dtype=torch.uint8).set_(storage, 8, (4,), (1,))
    part = view[1:]
    del storage, view
    assert not ended and part.tolist() == [7, 7, 7]
    del part
    assert len(ended) == 1 and ended[0].data_ptr() == base.data_ptr()


@pytest.mark.spec("PP-30")
def test_a_lent_storage_keeps_the_bytes_alive():
    base = torch.full((16,), 3, dtype=torch.uint8).untyped_storage()
    gone = []
    storage = lend(base, gone.append)
    del base
    gc.collect()
    assert torch.empty(0, dtype=torch.uint8).set_(storage, 0, (16,), (1,)).eq(3).all()
    ref = weakref.ref(storage)
    del storage
    assert ref() is None and len(gone) == 1


def net(seed: int = 0) -> torch.nn.Module:
    torch.manual_seed(seed)
    parts: list[torch.nn.Module] = []
    for _ in range(4):
        parts += [torch.nn.Linear(64, 64), torch.nn.Tanh(), torch.nn.LayerNorm(64)]
    return torch.nn.Sequential(*parts)


def gradients(run, module: torch.nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    module.zero_grad(set_to_none=True)
    run(x).sum().backward()
    return [p.grad.clone() for p in module.parameters()]


def pair(options=ARENA):
    module = net()
    return module, torch.compile(module, backend="lowtide", options=options), torch.randn(128, 64)


@pytest.mark.spec("PP-30", "RT-16")
def test_the_next_iteration_gets_the_same_bytes():
    module, compiled, x = pair()
    wanted = gradients(module, module, x)
    held = []
    for _ in range(3):
        for got, want in zip(gradients(compiled, module, x), wanted, strict=True):
            torch.testing.assert_close(got, want)
        held.append(retained_nbytes())
    assert lowtide.memory_analysis().graphs
    assert held[0] > 0 and held[0] == held[1] == held[2]


@pytest.mark.spec("PP-30", "RT-30")
def test_two_forwards_before_their_backwards_get_bytes_of_their_own():
    module, compiled, x = pair()
    y = torch.randn(128, 64)
    wanted = gradients(module, module, x), gradients(module, module, y)
    gradients(compiled, module, x)
    one = retained_nbytes()
    module.zero_grad(set_to_none=True)
    first, second = compiled(x).sum(), compiled(y).sum()
    assert retained_nbytes() < one
    second.backward()
    for p, want in zip(module.parameters(), wanted[1], strict=True):
        torch.testing.assert_close(p.grad, want)
    module.zero_grad(set_to_none=True)
    first.backward()
    for p, want in zip(module.parameters(), wanted[0], strict=True):
        torch.testing.assert_close(p.grad, want)
    del first, second
    assert one < retained_nbytes() <= 2 * one
    for _ in range(40):  # one at a time again: the second slab was not needed for a while
        gradients(compiled, module, x)
    assert retained_nbytes() == one


@pytest.mark.spec("PP-31", "G4")
def test_bytes_that_somebody_holds_are_not_used_again():
    """A hook keeps saved tensors: their bytes stay as they are, whatever later iterations do."""
    module, compiled, x = pair()
    gradients(compiled, module, x)
    seen: list[torch.Tensor] = []

    def keep(t: torch.Tensor) -> torch.Tensor:
        seen.append(t)
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        loss = compiled(x).sum()
    loss.backward()
    del loss
    copies = [t.clone() for t in seen]
    wanted = gradients(module, module, 2 * x)
    for _ in range(3):
        for got, want in zip(gradients(compiled, module, 2 * x), wanted, strict=True):
            torch.testing.assert_close(got, want)
    assert seen and all(torch.equal(a, b) for a, b in zip(seen, copies, strict=True))


def as_is(t: torch.Tensor) -> torch.Tensor:
    return t


HOLDERS = {  # what a hook keeps of a saved tensor, and how it gives the tensor back
    "the tensor": (as_is, as_is),
    "a view": (lambda t: t.view(t.shape), as_is),
    "its detached twin": (torch.Tensor.detach, as_is),
    "an array": (torch.Tensor.numpy, torch.from_numpy),
    "its storage": (
        lambda t: (t.untyped_storage(), t.storage_offset(), t.shape, t.stride(), t.dtype),
        lambda kept: torch.empty(0, dtype=kept[4]).set_(*kept[:4]),
    ),
}


@pytest.mark.spec("PP-31", "G4", "RT-21", "IR-55")
@pytest.mark.parametrize("slabs", ["one", "none"])
def test_what_a_hook_keeps_outlives_the_backward_of_its_own_iteration(slabs):
    module, compiled, x = pair({**ARENA, "slabs": slabs})
    wanted = gradients(module, module, x)
    for what, (pack, unpack) in HOLDERS.items():
        kept = []

        def keep(t: torch.Tensor, pack=pack, kept=kept):
            held = pack(t)
            kept.append((held, t.clone()))
            return held

        with torch.autograd.graph.saved_tensors_hooks(keep, unpack):
            loss = compiled(x).sum()
        module.zero_grad(set_to_none=True)
        loss.backward()
        del loss
        for p, want in zip(module.parameters(), wanted, strict=True):
            torch.testing.assert_close(p.grad, want, rtol=1e-4, atol=1e-4)
        assert kept and all(torch.equal(unpack(held), before) for held, before in kept), what


@pytest.mark.spec("RT-21", "IR-55")
def test_the_ordinary_backward_overwrites_what_it_may():
    """Nobody else holds the saved tensors: the program that was planned together runs, also behind a hook that keeps
    nothing; where a hook gives other strides back, the section alone runs, on tensors laid out as its code expects."""
    module, compiled, x = pair({**ARENA, "kernels": "loops"})
    wanted = gradients(module, module, x)

    def planned(pack, unpack) -> int:
        module.zero_grad(set_to_none=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, unpack):
            loss = compiled(x).sum()
        loss.backward()
        for p, want in zip(module.parameters(), wanted, strict=True):
            torch.testing.assert_close(p.grad, want, rtol=1e-4, atol=1e-4)
        return sum(len(r.planned) for r in records())

    forget()
    gradients(compiled, module, x)
    assert planned(as_is, as_is) == 1
    assert planned(lambda t: t.mT.contiguous() if t.dim() == 2 else t, lambda t: t.mT if t.dim() == 2 else t) == 2


@pytest.mark.spec("PP-30")
def test_a_forward_without_a_backward_gives_its_bytes_back():
    module, compiled, x = pair()
    gradients(compiled, module, x)
    one = retained_nbytes()
    loss = compiled(x).sum()
    assert retained_nbytes() < one
    del loss
    gc.collect()
    assert retained_nbytes() == one


@pytest.mark.spec("PP-30", "RT-30")
def test_leases_end_in_any_thread():
    module, compiled, x = pair()
    gradients(compiled, module, x)
    one, losses = retained_nbytes(), [compiled(x).sum()]

    def finish() -> None:
        losses.pop().backward()

    thread = threading.Thread(target=finish)
    thread.start()
    thread.join()
    gc.collect()
    assert retained_nbytes() == one


@pytest.mark.spec("PP-30")
def test_what_may_not_be_retained_is_freed():
    module, compiled, x = pair(ARENA | {"retain": 0})
    wanted = gradients(module, module, x)
    for _ in range(2):
        for got, want in zip(gradients(compiled, module, x), wanted, strict=True):
            torch.testing.assert_close(got, want)
    assert retained_nbytes() == 0 and Options(slabs="one", retain=0).retain == 0


@pytest.mark.spec("PP-31", "G4")
def test_addresses_stay_from_call_to_call_and_results_outlive_them():
    """Three calls, everything that they returned is held: the slab is the same one, and no result changes."""
    module = net().requires_grad_(False)
    compiled = torch.compile(module, backend="lowtide", options=ARENA)
    inputs = [torch.randn(128, 64) for _ in range(3)]
    with torch.no_grad():
        results = [compiled(x) for x in inputs]
        held = retained_nbytes()
        copies, again = [r.clone() for r in results], [compiled(x) for x in inputs]
    assert held > 0 and retained_nbytes() == held
    for result, copy, other, x in zip(results, copies, again, inputs, strict=True):
        assert torch.equal(result, copy) and torch.equal(result, other)
        assert result.data_ptr() != other.data_ptr()
        torch.testing.assert_close(result, module(x))

"""Exported programs: sizes that vary, state that changes, arguments that do not fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.export import Dim, export

from lowtide import compile_exported
from lowtide.core.errors import OptionError, OverBudget, Unsupported, UserError

# torch.export itself warns of a name of torch.
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")]
OPTIONS = {"verify": True}


def compiled(module: torch.nn.Module, *args: Any, shapes: Any = None, **kwargs: Any) -> Callable[..., Any]:
    return compile_exported(export(module, args, kwargs, dynamic_shapes=shapes), options=OPTIONS)


def linear() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))


def test_sizes_that_vary():
    model = linear()
    call = compiled(model, torch.randn(3, 4), shapes=({0: Dim("b", min=2, max=64)},))
    for n in (3, 2, 64, 3):
        x = torch.randn(n, 4)
        torch.testing.assert_close(call(x), model(x))


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ((torch.randn(65, 4),), "argument input dimension 0: 65 is outside 2..64"),
        ((torch.randn(3, 5),), "argument input dimension 1: 4 is expected, not 5"),
        ((torch.randn(3, 4).double(),), "float64"),
        ((torch.randn(3),), "rank"),
        ((torch.randn(3, 4, device="meta"),), "meta"),
        ((3,), "is a tensor, not a int"),
        ((torch.randn(3, 4), 1), "arguments of the form"),
        ((), "arguments of the form"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(args: tuple[Any, ...], says: str):
    call = compiled(linear(), torch.randn(3, 4), shapes=({0: Dim("b", min=2, max=64)},))
    with pytest.raises(UserError, match=says):
        call(*args)


def test_sizes_that_belong_together():
    b = Dim("b", min=2, max=64)

    class Both(torch.nn.Module):
        def forward(self, x, y):
            return x * y

    call = compiled(Both(), torch.randn(3, 4), torch.randn(3, 4), shapes=({0: b}, {0: b}))
    with pytest.raises(UserError, match="argument y dimension 0: 5 is expected, not 6"):
        call(torch.randn(5, 4), torch.randn(6, 4))


@pytest.mark.spec("G5")
def test_buffers_and_arguments_that_the_program_changes():
    class Counts(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(4))

        def forward(self, x):
            self.seen.add_(x.sum(0))
            x.mul_(2)
            return x + self.seen

    program = export(Counts(), (torch.ones(3, 4),))
    call = compile_exported(program, options=OPTIONS)
    x = torch.ones(3, 4)
    assert torch.equal(call(x), torch.full((3, 4), 5.0))
    assert torch.equal(x, torch.full((3, 4), 2.0))
    assert torch.equal(program.state_dict["seen"], torch.full((4,), 3.0))
    assert torch.equal(call(x), torch.full((3, 4), 13.0))
    strided = torch.ones(4, 3).t()
    call(strided)
    assert torch.equal(strided, torch.full((3, 4), 2.0)), "also where it was copied for its strides"


def test_nested_arguments_and_results():
    class Nested(torch.nn.Module):
        def forward(self, pair, *, scale, flag=True):
            a, b = pair["a"], pair["b"][0]
            return {"sum": (a + b) * scale, "rest": [b, None, 7], "first": a}

    x, y, z = torch.randn(4), torch.randn(4), torch.randn(4)
    call = compiled(Nested(), {"a": x, "b": (y,)}, scale=z, flag=True)
    found = call({"a": x, "b": (y,)}, flag=True, scale=y)  # keywords in another order
    assert list(found) == ["sum", "rest", "first"]
    torch.testing.assert_close(found["sum"], (x + y) * y)
    assert torch.equal(found["rest"][0], y) and found["rest"][1:] == [None, 7] and torch.equal(found["first"], x)
    with pytest.raises(UserError, match="was True at export and is False now"):
        call({"a": x, "b": (y,)}, scale=y, flag=False)


def test_constants_in_the_program_and_names_that_generated_code_uses():
    class Odd(torch.nn.Module):
        def forward(self, h0, args, _):
            return ((h0 @ args).relu() @ args + torch.tensor([1.0, 2.0, 3.0, 4.0])).softmax(-1) * _

    x, y, z = (torch.randn(4, 4) for _ in range(3))
    torch.testing.assert_close(compiled(Odd(), x, y, z)(y, x, z), Odd()(y, x, z))


def test_arguments_with_other_strides():
    class Flat(torch.nn.Module):
        def forward(self, x):
            return x.view(-1) * 2

    call = compiled(Flat(), torch.randn(3, 4))
    x = torch.randn(4, 3).t()
    assert torch.equal(call(x), x.reshape(-1) * 2)


@pytest.mark.spec("RT-13")
def test_sizes_that_depend_on_data_are_planned_as_it_runs():
    class Picks(torch.nn.Module):
        def forward(self, x):
            return (x[x > 0] * 2 + 1).tanh()

    call = compiled(Picks(), torch.randn(4))
    for _ in range(4):
        x = torch.randn(4)
        assert torch.equal(call(x), Picks()(x))


@pytest.mark.spec("G12")
def test_what_no_planner_can_express_is_refused():
    class Sparse(torch.nn.Module):
        def forward(self, x):
            return torch.sparse.sum(x.to_sparse()) * 2

    with pytest.raises(Unsupported, match="not planned"):
        compiled(Sparse(), torch.randn(4, 4))


def test_what_is_no_program_and_wrong_options():
    with pytest.raises(UserError, match="ExportedProgram is expected"):
        compile_exported(linear())
    program = export(linear(), (torch.randn(3, 4),))
    with pytest.raises(OptionError, match="did you mean 'budget'"):
        compile_exported(program, options={"bugdet": 1})
    with pytest.raises(OverBudget, match="the smallest peak known is"):
        compile_exported(program, options={"budget": 8})

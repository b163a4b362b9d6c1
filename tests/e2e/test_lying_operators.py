"""Operators from outside torch whose schema is not true: nothing that is planned is lost to them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch._functorch.config as functorch_config
from torch import Tensor

# torch warns of operators that are written in Python; of those in C++ nobody does
pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("ignore:.*must not also be an input")]
OPERATORS = {
    "itself(Tensor x) -> Tensor": lambda x: x,
    "part(Tensor x) -> Tensor": lambda x: x[1:],
    "twice(Tensor x) -> (Tensor, Tensor)": lambda x: (y := x * 2, y),
    "parts(Tensor x) -> Tensor[]": lambda x: [x[0], x[1]],
    "doubles(Tensor x) -> Tensor": lambda x: x.mul_(2) + 1,
    "doubles_all(Tensor[] xs, *, Tensor y) -> Tensor": lambda xs, y: xs[0].mul_(2) + xs[1] + y.add_(1),
    "honest(Tensor x) -> Tensor": lambda x: x * 3,
    "honest_write(Tensor(a!) x) -> ()": lambda x: (x.add_(1), None)[1],
    "other_strides(Tensor x) -> Tensor": lambda x: (x * 3).t().contiguous().t(),
    "between_elements(Tensor x) -> Tensor": lambda x: torch.frombuffer(
        bytearray(b"-" + (x * 3).numpy().tobytes()), dtype=x.dtype, offset=1
    ).view(x.shape),
    "other_size(Tensor x) -> Tensor": lambda x: x[:, 1:] * 3,
    "other_dtype(Tensor x) -> Tensor": lambda x: (x * 3).half(),
    "other_device(Tensor x) -> Tensor": lambda x: (x * 3).to("meta"),
}
FAKES = {
    "part": lambda x: x.new_empty(x.shape[0] - 1, *x.shape[1:]),
    "twice": lambda x: (torch.empty_like(x), torch.empty_like(x)),
    "parts": lambda x: [x.new_empty(x.shape[1:]), x.new_empty(x.shape[1:])],
    "doubles_all": lambda xs, y: torch.empty_like(y),
    "honest_write": lambda x: None,
}


@pytest.fixture(scope="module", autouse=True)
def operators() -> Iterator[None]:
    library = torch.library.Library("lowtide_lies", "FRAGMENT")
    for schema, f in OPERATORS.items():
        name = schema.partition("(")[0]
        library.define(schema)
        library.impl(name, f, "CPU")
        library.impl(name, FAKES.get(name, torch.empty_like), "Meta")
    yield
    library._destroy()


@pytest.fixture(params=["loops", "aten"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[..., list[Any]]]:
    """Calls of a compiled function, three times over; with the plan's slabs poisoned before they are handed out."""

    def compiled(f: Callable[..., Any], *args: Tensor) -> list[Any]:
        torch.compiler.reset()
        g = torch.compile(f, backend="lowtide", options={"kernels": request.param, "verify": True, "slabs": "one"})
        with torch.no_grad():
            return [g(*(a.clone() for a in args)) for _ in range(3)]

    # where a variable CI is set, torch raises instead of warning
    with functorch_config.patch(error_on_custom_op_aliasing=False):
        yield compiled
    torch.compiler.reset()


lies = torch.ops.lowtide_lies


def itself(x: Tensor) -> Tensor:
    y = lies.itself(x.sin())
    z = (x + 1).exp()  # takes the place of the sine, if nobody seems to need it any more
    return y * 2 + z.tanh() * (x - 1).exp()


def part(x: Tensor) -> Tensor:
    y = lies.part(x.sin())
    z = (x + 1).exp()
    return y * 2 + z.tanh()[1:] * (x - 1).exp()[1:]


def twice(x: Tensor) -> Tensor:
    a, b = lies.twice(x.sin())
    return a.add_(1).exp() + b.tanh()


def parts(x: Tensor) -> Tensor:
    a, b = lies.parts(x.sin())
    z = (x + 1).exp()
    return a * 2 + b * z.tanh() * (x - 1).exp()


@pytest.mark.spec("IR-48", "IR-50", "G3")
@pytest.mark.parametrize("f", [itself, part, twice, parts])
def test_what_is_returned_as_new_and_is_not_is_copied(
    f: Callable[[Tensor], Tensor], run: Callable[..., list[Any]], caplog: pytest.LogCaptureFixture
):
    x = torch.randn(2, 300)
    truth = {
        "itself": lambda x: x.sin() * 2 + (x + 1).exp().tanh() * (x - 1).exp(),
        "part": lambda x: (x.sin() * 2 + (x + 1).exp().tanh() * (x - 1).exp())[1:],
        "twice": lambda x: (x.sin() * 2 + 1).exp() + (x.sin() * 2).tanh(),
        "parts": lambda x: x.sin()[0] * 2 + x.sin()[1] * (x + 1).exp().tanh() * (x - 1).exp(),
    }
    with caplog.at_level(logging.WARNING, "lowtide"):
        for found in run(f, x):
            torch.testing.assert_close(found, truth[f.__name__](x))
    assert sum("returns memory of others as new" in r.getMessage() for r in caplog.records) == 1


@pytest.mark.spec("IR-48", "IR-50", "G5")
def test_what_is_changed_without_saying_so_is_as_it_was(
    run: Callable[..., list[Any]], caplog: pytest.LogCaptureFixture
):
    def one(x: Tensor) -> Tensor:
        y = x.sin()
        return lies.doubles(y) + y

    def lists(x: Tensor) -> Tensor:
        y, z = x.sin(), x.cos()
        return lies.doubles_all([y, z], y=x) + y + x

    x = torch.randn(4, 300)
    with caplog.at_level(logging.WARNING, "lowtide"):
        for found in run(one, x):
            torch.testing.assert_close(found, x.sin() * 3 + 1)
        for found in run(lists, x):
            torch.testing.assert_close(found, x.sin() * 3 + x.cos() + 2 * x + 1)
    said = [r.getMessage() for r in caplog.records if "schema does not say" in r.getMessage()]
    assert len(said) == 2 and "changes x," in said[0] and "changes xs, y," in said[1]


@pytest.mark.spec("IR-48", "IR-47", "IR-53")
def test_what_keeps_its_word_is_not_copied(run: Callable[..., list[Any]], caplog: pytest.LogCaptureFixture):
    def f(x: Tensor) -> Tensor:
        y = lies.honest(x.sin())
        lies.honest_write(y)
        return y * 2

    x = torch.randn(4, 300)
    with caplog.at_level(logging.WARNING, "lowtide"):
        for found in run(f, x):
            torch.testing.assert_close(found, (x.sin() * 3 + 1) * 2)
    assert not [r for r in caplog.records if "lowtide_lies" in r.getMessage()]


@pytest.mark.spec("IR-47")
@pytest.mark.parametrize("name", ["other_strides", "between_elements"])
def test_results_that_lie_otherwise_than_was_said(
    name: str, run: Callable[..., list[Any]], caplog: pytest.LogCaptureFixture
):
    """Kernels read by address, so that they would take another element, or load across two."""

    def f(x: Tensor) -> Tensor:
        return getattr(lies, name)(x.sin()) + x

    x = torch.randn(4, 300)
    with caplog.at_level(logging.WARNING, "lowtide"):
        for found in run(f, x):
            torch.testing.assert_close(found, x.sin() * 3 + x)
    (said,) = (r.getMessage() for r in caplog.records if name in r.getMessage())
    assert "the result is copied" in said


@pytest.mark.spec("IR-47")
@pytest.mark.parametrize(
    ("name", "found", "said"),
    [
        ("other_size", r"size \(4, 299\)", r"\(4, 300\)"),
        ("other_dtype", r"dtype torch\.float16", r"torch\.float32"),
        ("other_device", "device meta", "cpu"),
    ],
)
def test_a_result_that_no_kernel_can_read_is_an_error_that_names_the_operator(
    name: str, found: str, said: str, run: Callable[..., list[Any]]
):
    """Kernels read by address: of another size, of narrower elements or elsewhere they would read what is not there."""
    with pytest.raises(
        RuntimeError, match=rf"lowtide_lies\.{name}.* gives a result of {found}; what it says .* {said}"
    ):
        run(lambda x: getattr(lies, name)(x.sin()) + x, torch.randn(4, 300))

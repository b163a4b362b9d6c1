"""Every model of the suite under Lowtide, compared with eager value by value: training, inference, optimizer steps.

``SUITE_BACKEND=inductor`` (or any other backend's name) runs the same against that one.
"""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import pytest
import torch
from benchmarks.suite.compare import MODES, Mode, compare, reproducible
from benchmarks.suite.entry import Entry, without_dropout
from benchmarks.suite.library import LIBRARY
from benchmarks.suite.models import MODELS, missing
from benchmarks.suite.plain import PLAIN

BACKEND = os.environ.get("SUITE_BACKEND", "lowtide")
OPTIONS: dict[str, Any] = {"verify": True} if BACKEND == "lowtide" else {}
QUICK: dict[Mode, tuple[str, ...]] = {  # beside train, which all models have in the default run, and infer
    "module": ("outputs", "in_place", "vae", "convnet"),
    "sgd": ("mlp_bn",),
    "adamw": ("gpt_tied", "convnet", "in_place"),
}

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore"),
    pytest.mark.skipif(
        BACKEND == "lowtide" and importlib.util.find_spec("lowtide.backend") is None,
        reason="lowtide.backend is not there yet",
    ),
]


def cases() -> list[Any]:
    """All entries in all modes; the slow mark where the default run does without."""
    found = []
    for entry in (*PLAIN, *LIBRARY):
        for mode in MODES:
            quick = mode == "train" or (mode == "infer" and not entry.needs) or entry.name in QUICK.get(mode, ())
            quick &= "slow" not in entry.tags
            marks = () if quick else (pytest.mark.slow,)
            found.append(pytest.param(entry, mode, id=f"{entry.name}-{mode}", marks=marks))
    return found


def built(entry: Entry, size: Any = "tiny") -> Any:
    why = missing(entry)
    if why:
        pytest.skip(why)
    case = entry.build(size)
    without_dropout(case.module)
    return case


def assert_planned(entry: Entry) -> None:
    """Every graph since the last reset was planned: none fell back whole."""
    if BACKEND != "lowtide":
        return
    import lowtide

    found = lowtide.memory_analysis().graphs
    assert len(found) >= (2 if "breaks" in entry.tags else 1), "too few graphs were compiled"
    fell_back = [f"{g.name}: {g.fallback}" for g in found if g.fallback is not None]
    assert not fell_back


@pytest.mark.spec("G1", "G4", "G5")
@pytest.mark.parametrize(("entry", "mode"), cases())
def test_as_eager(entry: Entry, mode: Mode):
    found = compare(built(entry), BACKEND, mode, half="half" in entry.tags, options=OPTIONS)
    assert not found.faults, found
    assert len(found.undecided) * 3 <= found.compared, found.undecided
    assert_planned(entry)


@pytest.mark.spec("G1")
@pytest.mark.parametrize("name", ["outputs", "convnet", "small_unet", "in_place", "norms"])
def test_gradients_of_inputs(name: str):
    found = compare(built(MODELS[name]), BACKEND, "module", input_gradients=True, options=OPTIONS)
    assert not found.faults, found


@pytest.mark.spec("G1")
def test_dropout_repeats_under_a_seed():
    assert not reproducible(MODELS["gpt_dropout"].build(), BACKEND)


@pytest.mark.spec("G1")
def test_dropout_drops_and_scales():
    torch.compiler.reset()
    model = torch.compile(torch.nn.Dropout(0.3).train(), backend=BACKEND)
    x = torch.ones(200_000, requires_grad=True)
    torch.manual_seed(5)
    y = model(x)
    kept = y != 0
    assert abs(kept.float().mean().item() - 0.7) < 0.01
    assert torch.allclose(y[kept], torch.tensor(1 / 0.7))
    y.sum().backward()
    assert torch.equal(x.grad, y.detach()), "backward uses the mask of its own forward"


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.spec("G1")
@pytest.mark.parametrize("entry", [pytest.param(e, id=e.name) for e in LIBRARY])
def test_as_eager_at_full_size(entry: Entry):
    found = compare(built(entry, "bench"), BACKEND, "train", options=OPTIONS)
    assert not found.faults, found
    assert_planned(entry)

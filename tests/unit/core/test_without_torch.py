"""The tests of the torch-free layers run where torch cannot be imported, whatever was imported for others."""

from __future__ import annotations

import importlib
import sys

import pytest

import lowtide
from torch_free import no_torch


@pytest.mark.parametrize("name", ["torch", "torch.nn", "torch._dynamo.utils"])
def test_torch_cannot_be_imported_here(name: str):
    with pytest.raises(ImportError):
        importlib.import_module(name)


@pytest.mark.torch
def test_what_is_marked_has_torch():
    assert importlib.import_module("torch").zeros(2).tolist() == [0, 0]


@pytest.mark.torch
def test_what_of_ours_needs_torch_goes_with_it_and_comes_back():
    """What others imported is no help to a layer that is to work without."""
    load, program = (importlib.import_module(f"lowtide.{name}") for name in ("runtime.load", "program"))
    public = lowtide.release_retained
    with no_torch():
        for name in ("lowtide.runtime.load", "lowtide.backend"):
            with pytest.raises(ImportError):
                importlib.import_module(name)
        with pytest.raises(ImportError):
            _ = lowtide.release_retained
        importlib.import_module("lowtide.program")  # needs none
    assert sys.modules["lowtide.runtime.load"] is load is lowtide.runtime.load
    assert sys.modules["lowtide.program"] is program is lowtide.program
    assert lowtide.release_retained is public

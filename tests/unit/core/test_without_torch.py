"""The tests of the torch-free layers run where torch cannot be imported, whatever was imported for others."""

from __future__ import annotations

import importlib

import pytest


@pytest.mark.parametrize("name", ["torch", "torch.nn", "torch._dynamo.utils"])
def test_torch_cannot_be_imported_here(name: str):
    with pytest.raises(ImportError):
        importlib.import_module(name)


@pytest.mark.torch
def test_what_is_marked_has_torch():
    assert importlib.import_module("torch").zeros(2).tolist() == [0, 0]

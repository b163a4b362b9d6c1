"""The layers that work without torch, and a way to take torch away where it has been imported already."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lowtide

LAYERS = ("core", "ir", "memory", "schedule", "order", "plan", "report", "cli")
FOLDERS = tuple(Path(__file__).parent / "unit" / name for name in LAYERS)


@contextmanager
def no_torch() -> Iterator[None]:
    """Every import of torch or of a part of it fails, as where it is not installed. Our other layers are as if nobody had
    imported them, so that those which need torch fail like it. Afterwards all is as before."""
    modules, names = sys.modules.copy(), vars(lowtide).copy()
    hidden = [name for name in modules if name.partition(".")[0] == "torch"]
    _forget_other_layers()
    sys.modules.update(dict.fromkeys((*hidden, "torch")))  # type: ignore[arg-type]  # None: an import looks no further
    try:
        yield
    finally:
        _forget_other_layers()  # or those imported meanwhile would be there a second time
        del sys.modules["torch"]
        sys.modules.update(modules)
        vars(lowtide).update(names)


def _forget_other_layers() -> None:
    """Takes them from the imported modules, and from the package what they are and define there."""
    for name in filter(_is_other_layer, list(sys.modules)):
        del sys.modules[name]
    for name, value in list(vars(lowtide).items()):
        if name in lowtide._HOME or _is_other_layer(getattr(value, "__name__", "")):
            delattr(lowtide, name)


def _is_other_layer(module: str) -> bool:
    return module.startswith("lowtide.") and module.split(".")[1] not in LAYERS

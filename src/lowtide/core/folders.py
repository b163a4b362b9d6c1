"""Where Lowtide keeps what it built, so that the next process finds it."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """The cache's folder, which may not exist yet: ``LOWTIDE_CACHE_DIR``, else ``lowtide`` in the user's cache folder
    (``XDG_CACHE_HOME``, else ``~/.cache``)."""
    own = os.environ.get("LOWTIDE_CACHE_DIR")
    if own:
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "lowtide"

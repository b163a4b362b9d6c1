"""``lowtide doctor``: what Lowtide finds on this machine, for people and for bug reports.

Comes in: the machine. Goes out: one line per fact, or JSON. Promised: it changes nothing but a file in a temporary
folder (and the measured rates in the cache, where asked), and a part that is missing is a fact to print, not an error.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

import lowtide
from lowtide.core.folders import cache_folder
from lowtide.core.native import FLAGS, compiler

_PROBE = """
#include <cmath>
extern "C" void probe(float* x, long n) {
#pragma omp parallel for
  for (long i = 0; i < n; ++i) x[i] = std::exp(x[i]);
}
"""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    rates: Annotated[bool, typer.Option(help="Measure what the machine does per second, and keep it.")] = False,
) -> None:
    """Say what Lowtide finds on this machine: Python, torch, compiler, GPU, cache folder, entry point."""
    facts = findings()
    if rates:
        facts |= measured_rates()
    if as_json:
        print(json.dumps(facts, indent=2))
        return
    wide = max(map(len, facts))
    for name, fact in facts.items():
        print(f"{name:{wide}}  {fact}")


def findings() -> dict[str, str]:
    """Every fact by name, in the order of printing."""
    torch, gpu = _torch()
    return {
        "lowtide": lowtide.__version__,
        "python": f"{platform.python_version()} at {sys.executable}",
        "machine": f"{platform.system()} {platform.machine()}, {_cores()} cores to use",
        "torch": torch,
        "gpu": gpu,
        "entry point": _entry_point(),
        "compiler": _compiler(),
        "cache": _cache(),
        "solvers": _version("ortools", "missing; optional: pip install 'lowtide[solvers]'"),
    }


def measured_rates() -> dict[str, str]:
    """What the machine does per second, measured now."""
    try:
        found = importlib.import_module("lowtide.runtime.rates").refresh()
    except ImportError as e:
        return {"rates": f"not measured: {e}"}
    facts = {"from memory": f"{found.bytes_per_second / 1e9:.3g} GB/s"}
    facts |= {f"{n >> 10} KiB in cache": f"{rate / 1e9:.3g} GB/s" for n, rate in found.in_cache}
    facts |= {f"matmul {t}": f"{rate / 1e9:.3g} GFLOP/s" for t, rate in found.matmul}
    return facts | {"call": f"{found.call_seconds * 1e6:.3g} µs"}


def _cores() -> int:
    """Cores this process may use, where the system can say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _version(package: str, missing: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return missing


def _torch() -> tuple[str, str]:
    try:
        torch = importlib.import_module("torch")
    except ImportError as e:
        return f"missing ({e}); to compile models: pip install 'lowtide[torch]'", "not looked for without torch"
    if not torch.cuda.is_available():
        return f"{torch.__version__}, {torch.get_num_threads()} threads", "none"
    return f"{torch.__version__}, {torch.get_num_threads()} threads", torch.cuda.get_device_name()


def _entry_point() -> str:
    found = importlib.metadata.entry_points(group="torch_dynamo_backends", name="lowtide")
    if not found:
        return "missing: torch.compile(backend='lowtide') will not work; install the package (pip install -e .)"
    (point,) = tuple(found)[:1]
    try:
        point.load()
    except (ImportError, AttributeError) as e:
        return f"{point.value} does not load: {e}"
    return f"{point.value} loads"


def _compiler() -> str:
    """Which C++ compiler there is, and whether it makes a shared library with OpenMP."""
    command = compiler()
    if command is None:
        chosen = os.environ.get("CXX")
        return (
            f"missing: CXX names {chosen!r}" if chosen else "missing: no g++, c++ or clang++ on PATH; apt install g++"
        )
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, "probe.cpp")
        source.write_text(_PROBE)
        try:
            name = subprocess.run([command, "--version"], capture_output=True, text=True, check=True).stdout
            words = [command, *FLAGS, "-fopenmp", str(source), "-o", str(Path(folder, "probe.so"))]
            subprocess.run(words, capture_output=True, text=True, check=True)
        except OSError as e:
            return f"{command} does not start: {e.strerror}"
        except subprocess.CalledProcessError as e:
            return f"{command} fails on a small OpenMP program: {e.stderr.strip().splitlines()[-1:]}"
    return f"{name.splitlines()[0]}; builds with OpenMP"


def _cache() -> str:
    folder = cache_folder()
    if not folder.exists():
        return f"{folder} (made when first needed)"
    sizes = list(_file_sizes(folder))
    state = "writable" if os.access(folder, os.W_OK) else "NOT writable"
    return f"{folder}, {len(sizes)} files, {sum(sizes)} bytes, {state}"


def _file_sizes(folder: Path) -> Iterator[int]:
    """Bytes of each file; a build that ends meanwhile takes its files along."""
    for at, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                yield Path(at, name).stat().st_size

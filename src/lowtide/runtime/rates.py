"""What this machine does per second: measured once per processor and number of threads, and kept in the cache folder.

Comes in: nothing. Goes out: a ``Machine``. Promised: nothing happens at import; the first compilation after the cache was lost
begins no new measurement after ``QUICK`` seconds, and takes the usual figure for what was not reached by then or is
impossible (other programs had the processor); it keeps what it has, so that later processes decide alike; a file that cannot be
read, or says something impossible, is no file. ``refresh`` measures everything in well under a second.

Figures are rounded to steps of a quarter octave: one measurement is hardly like another.
"""

from __future__ import annotations

import json
import math
import os
import platform
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from lowtide.core.folders import cache_folder
from lowtide.runtime.calls import DTYPES
from lowtide.schedule.cost import Machine

QUICK = 0.08  # seconds of a first call
_IN_CACHE = (1 << 17, 1 << 20, 1 << 22)  # bytes read and written in all
_IN_MEMORY = 1 << 25
_EDGE = 256  # of the matrices that are multiplied
_TYPES = ("f32", "f64", "bf16", "f16")
_RATES = ("bytes_per_second", "operations_per_second", "call_seconds")
_MOST = 32.0  # what differs from the usual by more than this factor is no measurement


def machine() -> Machine:
    """What decisions and estimates go by. Read, or measured within ``QUICK`` seconds, once per process and thread count."""
    return _machine(torch.get_num_threads())


@cache
def _machine(threads: int) -> Machine:
    path = _path(threads)
    found = _read(path)
    if found is None:
        found = measured(QUICK)
        _write(path, found)
    return found


def refresh() -> Machine:
    """Measure everything anew, and keep it."""
    found = measured()
    _write(_path(torch.get_num_threads()), found)
    _machine.cache_clear()
    return machine()


def measured(seconds: float = math.inf) -> Machine:
    """Measure, most telling figures first, and stop after ``seconds``: what is not known by then is as usual."""
    # On a thread of its own, where no fake tensors, autocast, profiler or other mode of the caller's is in force.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_measured, time.perf_counter() + seconds, torch.get_num_threads()).result()


def _measured(end: float, threads: int) -> Machine:
    torch.set_num_threads(threads)  # of this thread
    usual = Machine()
    values: dict[str, Any] = {}
    in_cache: list[tuple[int, float]] = []
    matmul = dict(usual.matmul)
    with torch.no_grad():
        for name, found in _figures(end):
            kind, _, which = name.partition(" ")
            found = _rounded(found)
            if kind == "cache" and _likely(found, usual.bytes_per_second):
                in_cache.append((int(which), found))
            elif kind == "matmul" and _likely(found, usual.operations_per_second):
                matmul[which] = found
            elif kind in _RATES and _likely(found, getattr(usual, kind)):
                values[kind] = found
            if time.perf_counter() >= end:
                break
    return Machine(**values, in_cache=tuple(sorted(in_cache)), matmul=tuple(sorted(matmul.items())))


def _figures(end: float) -> Iterator[tuple[str, float]]:
    """Names and figures, one after the other."""
    few = torch.zeros(16)
    yield "call_seconds", _best(lambda: torch.add(few, few, out=few), 100, end)
    for nbytes in (_IN_CACHE[1], _IN_MEMORY, _IN_CACHE[0], _IN_CACHE[2]):
        x, y = torch.zeros(nbytes // 8), torch.zeros(nbytes // 8)
        once = _best(partial(torch.neg, x, out=y), max(1, (1 << 20) // nbytes), end)
        yield ("bytes_per_second" if nbytes == _IN_MEMORY else f"cache {nbytes}"), nbytes / once
    for name in _TYPES:
        a = torch.ones(_EDGE, _EDGE, dtype=DTYPES[name])
        rate = 2.0 * _EDGE**3 / _best(partial(torch.mm, a, a, out=torch.empty_like(a)), 1, end)
        yield f"matmul {name}", rate
        if name == "f32":
            yield "operations_per_second", rate / 2  # a product multiplies and adds at once, most vector code does not


def _best(f: Callable[[], object], times: int, end: float) -> float:
    """Seconds of one call: of ``times`` in a row, the best of six rows, fewer where the time is up."""
    found = math.inf
    for _ in range(6):
        start = time.perf_counter()
        for _ in range(times):
            f()
        stop = time.perf_counter()
        found = min(found, stop - start)
        if stop >= end:
            break
    return max(found / times, 1e-9)


def _rounded(x: float) -> float:
    """To the next of four steps per factor of two, three digits of it."""
    return float(f"{2.0 ** (round(4 * math.log2(x)) / 4):.3g}")


# -- the file ------------------------------------------------------------------------------------------------------------


def _path(threads: int) -> Path:
    name = f"{_processor()}-{torch.__version__}-{threads}"
    return cache_folder() / f"rates-1-{re.sub(r'[^A-Za-z0-9.]+', '_', name)}.json"


@cache
def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    named = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine()


def _read(path: Path) -> Machine | None:
    """What a file says, if it is a Machine that could exist."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    usual = Machine()
    if not isinstance(found, dict) or set(found) != {"rates", "in_cache", "matmul"}:
        return None
    rates, in_cache, matmul = found["rates"], found["in_cache"], found["matmul"]
    if not isinstance(rates, dict) or set(rates) != set(_RATES):
        return None
    if not all(_likely(rates[n], getattr(usual, n)) for n in _RATES):
        return None
    if not _pairs(in_cache, int, usual.bytes_per_second) or not _pairs(matmul, str, usual.operations_per_second):
        return None
    return Machine(**rates, in_cache=tuple(map(tuple, in_cache)), matmul=tuple(map(tuple, matmul)))


def _likely(x: object, usual: float) -> bool:
    return type(x) is float and usual / _MOST <= x <= usual * _MOST


def _pairs(given: object, kind: type, usual: float) -> bool:
    if not isinstance(given, list):
        return False
    whole = all(isinstance(p, list) and len(p) == 2 and type(p[0]) is kind and _likely(p[1], usual) for p in given)
    return whole and given == sorted(given, key=lambda p: p[0])


def _write(path: Path, found: Machine) -> None:
    """Keep it, for this user alone; a cache that cannot be written is no cache."""
    text = json.dumps(
        {
            "rates": {n: getattr(found, n) for n in _RATES},
            "in_cache": found.in_cache,
            "matmul": found.matmul,
        }
    )
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd, name = tempfile.mkstemp(dir=path.parent)  # made for its owner alone
        try:
            with os.fdopen(fd, "w", encoding="utf-8") as f:
                f.write(text)
            Path(name).replace(path)
        finally:
            Path(name).unlink(missing_ok=True)
    except OSError:
        return

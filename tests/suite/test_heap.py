"""The heap counter counts what it should: every way of allocating and freeing, from several threads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.heap import counter, preloaded

ROOT = Path(__file__).parents[2]
MIB = 1 << 20

_INSIDE = """
import ctypes, json, sys, threading
from benchmarks.heap import counter
heap, c = counter(), ctypes.CDLL(None)
for f in ("malloc", "calloc", "realloc", "memalign", "aligned_alloc", "valloc", "pvalloc", "reallocarray"):
    getattr(c, f).restype = ctypes.c_void_p
MIB, out = 1 << 20, {}
def size(n): return ctypes.c_size_t(n)
def free(p): c.free(ctypes.c_void_p(p))
def probe(name, make):
    before = heap.live(); heap.mark(); p = make(); grown = heap.live() - before; free(p)
    out[name] = [grown, heap.live() - before, heap.peak() - before]
probe("malloc", lambda: c.malloc(size(5 * MIB)))
probe("calloc", lambda: c.calloc(size(5), size(MIB)))
probe("realloc", lambda: c.realloc(ctypes.c_void_p(c.malloc(size(MIB))), size(5 * MIB)))
probe("shrunk", lambda: c.realloc(ctypes.c_void_p(c.malloc(size(9 * MIB))), size(5 * MIB)))
probe("reallocarray", lambda: c.reallocarray(None, size(5), size(MIB)))
probe("memalign", lambda: c.memalign(size(64), size(5 * MIB)))
probe("aligned_alloc", lambda: c.aligned_alloc(size(64), size(5 * MIB)))
probe("valloc", lambda: c.valloc(size(5 * MIB)))
probe("pvalloc", lambda: c.pvalloc(size(5 * MIB)))
def posix():
    p = ctypes.c_void_p()
    assert c.posix_memalign(ctypes.byref(p), size(64), size(5 * MIB)) == 0
    assert p.value % 64 == 0
    return p.value
probe("posix_memalign", posix)
assert c.posix_memalign(ctypes.byref(ctypes.c_void_p()), size(3), size(8)) != 0
free(None)
def churn():
    for i in range(2000):
        free(c.malloc(size(100 + i)))
before = heap.live()
threads = [threading.Thread(target=churn) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]
out["threads"] = heap.live() - before
heap.mark(); out["mark"] = heap.peak() - heap.live()
print(json.dumps(out))
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[int]]:
    environment = preloaded({**os.environ, "LOWTIDE_CACHE_DIR": str(tmp_path_factory.mktemp("cache"))})
    done = subprocess.run(
        [sys.executable, "-c", _INSIDE], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    "way",
    [
        "malloc",
        "calloc",
        "realloc",
        "shrunk",
        "reallocarray",
        "memalign",
        "aligned_alloc",
        "valloc",
        "pvalloc",
        "posix_memalign",
    ],
)
def test_each_way_of_allocating_counts(seen: dict[str, list[int]], way: str):
    grown, left, peak = seen[way]
    assert 5 * MIB <= grown < 5 * MIB + 64 * 1024
    assert abs(left) < 64 * 1024
    assert peak >= (9 * MIB if way == "shrunk" else grown)


def test_threads_leave_nothing(seen: dict[str, int]):
    assert abs(seen["threads"]) < MIB  # the threads' own small leftovers


def test_there_is_no_counter_without_preloading():
    if "LD_PRELOAD" not in os.environ:
        assert counter() is None

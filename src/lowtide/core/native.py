"""Builds C++ sources into shared libraries, once per machine and user, and loads them through ctypes.

Comes in: the text of a C++ source whose functions are ``extern "C"``. Goes out: a ``ctypes.CDLL``. Promised: the file
in the cache is named by a hash of source, flags, compiler and processor, so a stale one is never loaded; it appears by
an atomic rename, so a half-written one is never loaded either; processes that want the same library wait for one build;
what a killed process leaves behind goes with the next build.
The cache is ``$LOWTIDE_CACHE_DIR``, else ``$XDG_CACHE_HOME/lowtide``, else ``~/.cache/lowtide``, private to the user.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

from lowtide.core.errors import BuildError
from lowtide.core.folders import cache_folder

_COMMON = ("-march=native", "-std=c++17", "-shared", "-fPIC")
FLAGS = ("-O3", *_COMMON)
QUICK_FLAGS = ("-Og", *_COMMON)  # built in two thirds of -O1's time, a tenth slower
_SECONDS = 600
_LATER = 10  # niceness of a compiler that nobody may wait for


def cache_dir() -> Path:
    """The cache folder, made if it is not there, and private to the user.

    Raises:
        BuildError: it cannot be made or made private, or it belongs to somebody else.
    """
    path = cache_folder()
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = path.stat()
        if info.st_uid != os.getuid():
            raise BuildError(f"the cache folder {path} belongs to another user; set LOWTIDE_CACHE_DIR to one of yours")
        if stat.S_IMODE(info.st_mode) & 0o077:
            path.chmod(0o700)
    except OSError as e:
        why = e.strerror or e
        raise BuildError(f"the cache folder {path} cannot be used: {why}; set LOWTIDE_CACHE_DIR") from None
    return path


def compiler() -> str | None:
    """Path of the C++ compiler (``$CXX``, else g++, c++, clang++), or None where there is none."""
    chosen = os.environ.get("CXX")
    for name in (chosen,) if chosen else ("g++", "c++", "clang++"):
        found = shutil.which(name)
        if found:
            return found
    return None


@cache
def _version(path: str) -> str:
    out = _run([path, "--version"])
    if out.returncode != 0:
        raise BuildError(f"{path} --version failed: {_tail(out.stdout)}")
    return out.stdout.partition("\n")[0]


@cache
def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    wanted = ("flags", "Features", "model name", "CPU part")
    return platform.machine() + "".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=_SECONDS, check=False
        )
    except OSError as e:
        raise BuildError(f"{command[0]} cannot be started: {e.strerror or e}") from None
    except subprocess.TimeoutExpired:
        raise BuildError(f"{command[0]} took more than {_SECONDS} s and was stopped") from None


def _tail(text: str, lines: int = 15) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])


def build(source: str, name: str, flags: tuple[str, ...] = FLAGS) -> Path:
    """Path of the shared library of ``source``, compiled only if the cache does not have it.

    ``name`` is a short word that the file name begins with; it is not part of what identifies the library.

    Raises:
        BuildError: no compiler, a compiler that refuses the source (with its last lines), no room on the disk.
    """
    tool = compiler()
    if tool is None:
        raise BuildError("no C++ compiler was found: install g++ (Debian: apt install g++), or name one in $CXX")
    parts = (source, *flags, tool, _version(tool), _processor())
    key = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]
    target = cache_dir() / f"{name}-{key}.so"
    if target.exists():
        return target
    from filelock import FileLock  # here, because a warm start does not need it

    try:
        with FileLock(str(target.with_suffix(".lock"))):
            if not target.exists():
                _compile(tool, source, flags, target)
    except OSError as e:
        raise BuildError(f"{target.parent} cannot be written: {e.strerror or e}") from None
    return target


def _compile(tool: str, source: str, flags: tuple[str, ...], target: Path) -> None:
    with _scratch(target.parent) as scratch:
        code, made = scratch / "source.cpp", scratch / "made.so"
        code.write_text(source, encoding="utf-8")
        out = _run([tool, *flags, "-o", str(made), str(code)])
        if out.returncode != 0 or not made.exists():
            raise BuildError(f"{tool} failed ({out.returncode}) on {target.name}:\n{_tail(out.stdout)}")
        made.chmod(0o700)
        made.replace(target)


@contextmanager
def _scratch(cache: Path) -> Generator[Path, None, None]:
    """A folder for one build. Those of builds that were killed are removed first: nobody holds their lock any more.

    Folders are made, locked and looked through under one lock, so that none is met between being made and being locked.
    """
    from filelock import FileLock, Timeout

    with FileLock(str(cache / "building.lock")):
        for left in cache.glob(".build-*"):
            try:
                with FileLock(str(left / "lock"), timeout=0):
                    pass
            except Timeout:
                continue
            shutil.rmtree(left, ignore_errors=True)
        folder = tempfile.TemporaryDirectory(dir=cache, prefix=".build-", ignore_cleanup_errors=True)
        held = FileLock(str(Path(folder.name) / "lock"))
        try:
            held.acquire()
        except OSError:
            folder.cleanup()
            raise
    try:
        yield Path(folder.name)
    finally:
        held.release()
        folder.cleanup()


def load(source: str, name: str, flags: tuple[str, ...] = FLAGS) -> ctypes.CDLL:
    """The shared library of ``source``, built if need be. A damaged file in the cache is built anew, once.

    Raises:
        BuildError: as :func:`build`, or the fresh library cannot be loaded.
    """
    path = build(source, name, flags)
    try:
        return ctypes.CDLL(str(path))
    except OSError:
        path.unlink(missing_ok=True)
    path = build(source, name, flags)
    try:
        return ctypes.CDLL(str(path))
    except OSError as e:
        raise BuildError(f"{path} was built but cannot be loaded: {e}") from None


class Library(NamedTuple):
    """C++ files of one package, in the order in which they are compiled in one piece."""

    name: str
    package: str
    sources: tuple[str, ...]
    flags: tuple[str, ...]


@cache
def opened(library: Library) -> tuple[ctypes.CDLL | None, str]:
    """The loaded library, or None and why there is none; waits where another thread or process is building it."""
    folder = files(library.package)
    source = "\n".join(folder.joinpath(name).read_text(encoding="utf-8") for name in library.sources)
    try:
        return load(source, library.name, library.flags), ""
    except BuildError as e:
        return None, str(e)


_beside: set[Library] = set()  # being built by build_beside; a library leaves it when ``opened`` knows it


def being_built(library: Library) -> bool:
    """Whether ``opened`` would wait for what ``build_beside`` began. Where there is a slower twin, it may serve meanwhile."""
    return library in _beside


def build_beside(*libraries: Library) -> None:
    """Begin to build them, one after the other, beside what this process does; ``opened`` waits for it.

    The compiler runs at a lower priority: kernels, without which nothing runs, go first.
    """

    def work() -> None:
        with contextlib.suppress(OSError):  # on Linux a thread has a priority of its own, which a compiler inherits
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _LATER)
        for library in libraries:
            try:
                opened(library)
            finally:
                _beside.discard(library)

    _beside.update(libraries)
    threading.Thread(target=work, name="lowtide-build", daemon=True).start()

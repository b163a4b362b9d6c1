"""The builder of C++ sources: one build per content, private, atomic, and clear when it cannot."""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lowtide.core import native
from lowtide.core.errors import BuildError

SOURCE = 'extern "C" int answer(int x) { return x + %d; }'
needs_compiler = pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LOWTIDE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@needs_compiler
def test_builds_once_and_loads(cache, monkeypatch):
    assert native.load(SOURCE % 1, "t").answer(41) == 42
    monkeypatch.setattr(native, "_compile", lambda *_: pytest.fail("built twice"))
    assert native.load(SOURCE % 1, "t").answer(1) == 2
    assert len(list(cache.glob("*.so"))) == 1
    assert not list(cache.glob(".build-*"))


@needs_compiler
def test_other_content_or_other_flags_is_another_library(cache):
    paths = {
        native.build(SOURCE % 1, "t"),
        native.build(SOURCE % 2, "t"),
        native.build(SOURCE % 2, "t", (*native.FLAGS, "-DX=1")),
    }
    assert len(paths) == 3


@needs_compiler
def test_the_folder_is_the_users_alone(cache):
    cache.mkdir(mode=0o777)
    cache.chmod(0o777)
    path = native.build(SOURCE % 1, "t")
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


@needs_compiler
def test_a_damaged_library_is_built_anew(cache):
    path = native.build(SOURCE % 3, "t")
    path.write_bytes(b"half a file")
    assert native.load(SOURCE % 3, "t").answer(1) == 4


@needs_compiler
def test_libraries_of_packages_are_built_beside_other_work(cache, tmp_path, monkeypatch):
    package = tmp_path / "of_numbers"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "one.cpp").write_text("static int one() { return 1; }")
    (package / "two.cpp").write_text('extern "C" int two() { return one() + 1; }')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "of_numbers", raising=False)
    both = native.Library("numbers", "of_numbers", ("one.cpp", "two.cpp"), native.QUICK_FLAGS)
    native.opened.cache_clear()
    native.build_beside(both)
    library, why = native.opened(both)  # while the thread builds, or before it has begun
    native.opened.cache_clear()  # nobody else is to find what lies in a folder of this test
    assert library is not None, why
    assert library.two() == 2
    assert len(list(cache.glob("numbers-*.so"))) == 1


@needs_compiler
def test_a_refused_source_tells_what_the_compiler_said(cache):
    with pytest.raises(BuildError, match="not_declared"):
        native.build("int f() { return not_declared; }", "t")
    assert not list(cache.glob("*.so"))


def test_no_compiler_says_what_to_install(cache, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(BuildError, match=r"install g\+\+"):
        native.build(SOURCE % 1, "t")


def test_a_compiler_that_is_not_there_is_not_replaced_silently(cache, monkeypatch):
    monkeypatch.setenv("CXX", "/no/such/compiler")
    with pytest.raises(BuildError, match="no C"):
        native.build(SOURCE % 1, "t")


@needs_compiler
def test_a_full_disk_is_a_build_error(cache, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(BuildError, match="No space left"):
        native.build(SOURCE % 9, "t")


def test_a_folder_that_cannot_be_made_is_a_build_error(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LOWTIDE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    with pytest.raises(BuildError, match="LOWTIDE_CACHE_DIR"):
        native.cache_dir()


@needs_compiler
def test_many_processes_at_once_build_one_library(cache):
    code = f"from lowtide.core import native; print(native.load({SOURCE % 7!r}, 't').answer(1))"
    env = {**os.environ, "LOWTIDE_CACHE_DIR": str(cache)}
    crowd = [subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE) for _ in range(4)]
    assert [p.communicate()[0].strip() for p in crowd] == [b"8"] * 4
    assert len(list(cache.glob("*.so"))) == 1


def _wrapper(folder: Path, version: str, body: str) -> str:
    """A compiler that calls the real one after some lines of shell."""
    real = native.compiler()
    path = folder / f"cxx-{len(list(folder.iterdir()))}"
    path.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{version}"; exit 0; fi\n{body}\nexec "{real}" "$@"\n'
    )
    path.chmod(0o755)
    return str(path)


@needs_compiler
def test_another_compiler_or_processor_builds_anew(cache, tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    made = [_wrapper(tools, "c++ 1.0", ":"), _wrapper(tools, "c++ 2.0", ":")]
    paths = {native.build(SOURCE % 4, "t")}
    for tool in made:
        monkeypatch.setenv("CXX", tool)
        paths.add(native.build(SOURCE % 4, "t"))
    Path(made[1]).write_text(Path(made[1]).read_text().replace("2.0", "3.0"))
    native._version.cache_clear()  # as a new process would
    paths.add(native.build(SOURCE % 4, "t"))
    monkeypatch.setattr(native, "_processor", lambda: "one of another kind")
    paths.add(native.build(SOURCE % 4, "t"))
    assert len(paths) == 5
    native._version.cache_clear()


def _begin_and_wait(cache: Path, tmp_path: Path, monkeypatch, number: int) -> tuple[subprocess.Popen[bytes], Path]:
    """A process whose compiler hangs until the file that is returned is there."""
    tools = tmp_path / "tools"
    tools.mkdir()
    begun, quick = tmp_path / "begun", tmp_path / "quick"
    wait = f'if [ ! -e "{quick}" ]; then touch "{begun}"; while [ ! -e "{quick}" ]; do sleep 0.05; done; fi'
    monkeypatch.setenv("CXX", _wrapper(tools, "c++ 1.0", wait))
    code = f"from lowtide.core import native; native.build({SOURCE % number!r}, 't')"
    environment = {**os.environ, "LOWTIDE_CACHE_DIR": str(cache)}
    builder = subprocess.Popen([sys.executable, "-c", code], env=environment, start_new_session=True)
    for _ in range(1200):
        if begun.exists():
            break
        time.sleep(0.05)
    assert begun.exists()
    return builder, quick


@needs_compiler
def test_a_killed_builder_leaves_nothing_behind(cache, tmp_path, monkeypatch):
    builder, quick = _begin_and_wait(cache, tmp_path, monkeypatch, 8)
    os.killpg(builder.pid, signal.SIGKILL)
    builder.wait()
    quick.touch()
    assert not list(cache.glob("*.so"))
    assert len(list(cache.glob(".build-*"))) == 1  # nobody was there to remove it
    assert native.load(SOURCE % 10, "t").answer(1) == 11  # any other build does
    assert not list(cache.glob(".build-*"))
    assert native.load(SOURCE % 8, "t").answer(1) == 9


@needs_compiler
def test_the_folder_of_a_build_that_goes_on_is_left_alone(cache, tmp_path, monkeypatch):
    builder, quick = _begin_and_wait(cache, tmp_path, monkeypatch, 11)
    (at_work,) = cache.glob(".build-*")
    monkeypatch.delenv("CXX")
    assert native.load(SOURCE % 12, "t").answer(1) == 13
    assert at_work.exists()
    quick.touch()
    assert builder.wait() == 0
    assert len(list(cache.glob("*.so"))) == 2 and not list(cache.glob(".build-*"))


@needs_compiler
@pytest.mark.parametrize("content", [b"", b"\x7fELF", b"half a file"])
def test_a_cut_off_library_is_built_anew(cache, content):
    path = native.build(SOURCE % 5, "t")
    path.write_bytes(content)
    assert native.load(SOURCE % 5, "t").answer(1) == 6


@needs_compiler
def test_a_disk_that_fills_while_the_compiler_writes_is_a_build_error(cache, tmp_path, monkeypatch):
    tools = tmp_path / "tools"
    tools.mkdir()
    said = "/usr/bin/ld: final link failed: No space left on device"
    monkeypatch.setenv("CXX", _wrapper(tools, "c++ 1.0", f'echo "{said}" >&2; exit 1'))
    with pytest.raises(BuildError, match="No space left on device"):
        native.build(SOURCE % 6, "t")
    assert not list(cache.glob("*.so")) and not list(cache.glob(".build-*"))


def test_what_is_built_beside_is_known_to_be_until_it_is_there(monkeypatch):
    go, seen = threading.Event(), []
    monkeypatch.setattr(native, "opened", lambda x: (go.wait(60), seen.append(x)))
    monkeypatch.setattr(native, "_LATER", 0)
    library = native.Library("none", "lowtide.order", (), ())
    native.build_beside(library)
    assert native.being_built(library)
    go.set()
    for _ in range(600):
        if not native.being_built(library):
            break
        time.sleep(0.1)
    assert seen == [library]
    assert not native.being_built(library)

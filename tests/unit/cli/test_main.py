"""Exit codes and messages of the command line's frame."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import types
from collections.abc import Callable, Iterator

import pytest

from lowtide.cli import main as frame
from lowtide.core.errors import BugError, FileError, OptionError, OverBudget

Verb = Callable[[Callable[..., None]], None]


@pytest.fixture
def verb(monkeypatch: pytest.MonkeyPatch) -> Iterator[Verb]:
    """Registers a function as the verb ``probe``."""

    def register(function: Callable[..., None]) -> None:
        module = types.ModuleType("lowtide.cli.probe")
        module.__dict__["probe"] = function
        monkeypatch.setitem(sys.modules, "lowtide.cli.probe", module)
        monkeypatch.setitem(frame.VERBS, "probe", "A verb of the tests.")

    yield register


def raising(error: BaseException) -> Callable[[], None]:
    def probe() -> None:
        raise error

    return probe


def test_version_and_help(capsys: pytest.CaptureFixture[str]):
    assert frame.main(["--version"]) == 0
    assert frame.main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith("lowtide 0.")
    assert all(f"  {name}" in out for name in frame.VERBS)


@pytest.mark.parametrize("name", frame.VERBS)
def test_every_verb_is_there_and_explains_itself(name: str, capsys: pytest.CaptureFixture[str]):
    assert callable(getattr(importlib.import_module(f"lowtide.cli.{name}"), name))
    assert frame.main([name, "--help"]) == 0
    assert f"Usage: lowtide {name}" in capsys.readouterr().out


def test_unknown_verb_names_the_nearest(capsys: pytest.CaptureFixture[str]):
    assert frame.main(["dokter"]) == 1
    err = capsys.readouterr().err
    assert err == "lowtide: there is no verb 'dokter'; did you mean 'doctor'?\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OptionError("no such thing"), 1),
        (FileError("a.csv", "3", "no such thing"), 1),
        (OverBudget("no such thing", budget_nbytes=1, promised_nbytes=2), 3),
        (FileNotFoundError(2, "no such thing", "a.csv"), 1),
    ],
)
def test_errors_are_one_line(error: Exception, code: int, verb: Verb, capsys: pytest.CaptureFixture[str]):
    verb(raising(error))
    assert frame.main(["probe"]) == code
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("lowtide: ") and err.count("\n") == 1 and "no such thing" in err


@pytest.mark.parametrize("error", [BugError("oh"), ZeroDivisionError("oh")])
def test_bugs_show_where(error: Exception, verb: Verb, capsys: pytest.CaptureFixture[str]):
    verb(raising(error))
    assert frame.main(["probe"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err and "please report it" in err


def test_interrupt_is_quiet(verb: Verb, capsys: pytest.CaptureFixture[str]):
    verb(raising(KeyboardInterrupt()))
    assert frame.main(["probe"]) == 130
    assert capsys.readouterr().err == ""


def test_wrong_options_point_to_help(capsys: pytest.CaptureFixture[str]):
    assert frame.main(["doctor", "--jso"]) == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "see lowtide doctor --help" in err


def test_closed_pipe_is_quiet():
    read, write = os.pipe()
    os.close(read)
    code = "import sys; from lowtide.cli.main import main; sys.exit(main(['--help']))"
    done = subprocess.run([sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")

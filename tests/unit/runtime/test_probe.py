"""Facts of known operators, and a cache file that can be lost, damaged or locked away without harm."""

from __future__ import annotations

import json
import stat
import threading
from pathlib import Path

import pytest
import torch

from lowtide.ir.graph import Arg, Atom, Graph, Layout, Op, Ref, Section, Value
from lowtide.runtime.probe import probe, signature
from lowtide.schedule.schedule import OpFacts

pytestmark = pytest.mark.torch


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv("LOWTIDE_CACHE_DIR", str(folder))
    return folder


def one(
    target: str,
    args: tuple[Arg, ...],
    out: tuple[int, ...] = (8, 8),
    stride: tuple[int, ...] | None = None,
    kwargs: tuple[tuple[str, Arg], ...] = (),
) -> Graph:
    square = Layout("f32", "cpu", (8, 8), (8, 1))
    result = Layout("f32", "cpu", out, stride or tuple(8 ** (len(out) - 1 - i) for i in range(len(out))))
    values = (Value("x", square, "x"), Value("z", square, "z"), Value("y", result, "y"))
    return Graph(
        "g",
        values,
        (Section("s", (Ref("x"), Ref("z")), (Op("y", target, args, kwargs, outputs=("y",)),), (Ref("y"),)),),
    )


def facts(*given: object, **more: object) -> OpFacts:
    return probe(one(*given, **more))["y"]


X, Z = Ref("x"), Ref("z")


@pytest.mark.spec("RT-01", "RT-02")
def test_facts_of_known_operators():
    add = facts("aten.add.Tensor", (X, Z))
    assert (add.out, add.out_name, add.pointwise, add.workspace, add.restride) == ("aten.add.out", "out", True, 0, ())
    relu = facts("aten.relu.default", (X,))
    assert relu.pointwise and relu.overwrite == "aten.relu_.default"
    mm = facts("aten.mm.default", (X, Z))
    assert mm.out == "aten.mm.out" and not mm.pointwise
    softmax = facts("aten._softmax.default", (X, -1, False))
    assert softmax.pointwise, "row by row, so that the result may overwrite its operand"
    assert not facts("aten._softmax.default", (X, 0, False)).pointwise


def test_an_out_form_that_allocates_and_copies_is_none():
    """Generated out= forms run the plain call and copy."""
    clone = facts("aten.clone.default", (X,))
    assert clone.out is None


@pytest.mark.spec("IR-51")
@pytest.mark.parametrize("target", ["aten.empty.memory_format", "aten.rand.default"])
def test_what_is_made_of_no_other_tensor_is_written_into_one_given(target: str):
    """That form is not told of dtype and device, which the tensor has."""
    told = (("dtype", Atom("dtype", "f32")), ("device", Atom("device", "cpu")), ("pin_memory", False))
    found = facts(target, ((8, 8),), kwargs=told)
    assert (found.out, found.workspace, found.note) == (f"{target.rsplit('.', 1)[0]}.out", 0, None)


@pytest.mark.spec("IR-52")
def test_strides_that_are_not_the_graphs_are_noticed():
    assert facts("aten.relu.default", (X,), stride=(1, 8)).restride == (0,)
    assert facts("aten.relu.default", (X,), stride=(1, 8)).out is None
    assert facts("aten.detach.default", (X,)).restride == (0,), "a result on its operand's memory"


@pytest.mark.spec("G12")
def test_what_cannot_be_tried_keeps_safe_facts_and_says_why():
    wrong = facts("aten.mm.default", (X, 3))
    assert (wrong.out, wrong.pointwise, wrong.restride) == (None, False, ())
    assert wrong.note is not None and "could not be tried" in wrong.note.because
    with torch.library._scoped_library("lowtide_probe", "DEF") as lib:
        lib.define("touchy(Tensor x) -> Tensor")
        called = []
        lib.impl("touchy", lambda x: called.append(1) or x.clone(), "CPU")
        other = facts("lowtide_probe.touchy.default", (X,))
        assert other.note is not None and "outside torch" in other.note.because
        assert not called, "operators from elsewhere are not run on made-up inputs"


def test_random_state_is_left_alone():
    before = torch.random.get_rng_state()
    facts("aten.bernoulli.p", (X, 0.5))
    facts("aten.rand_like.default", (X,))
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.filterwarnings("ignore:.*Profiler clears events")  # torch 2.11 says so whenever one begins
@pytest.mark.parametrize("mode", ["profiler", "autocast", "grad", "fake", "device"])
def test_the_callers_modes_change_nothing(mode: str, cache: Path):
    from torch._subclasses.fake_tensor import FakeTensorMode

    plain = facts("aten.mm.default", (X, Z))
    for file in cache.iterdir():
        file.unlink()
    modes = {
        "profiler": lambda: torch.profiler.profile(profile_memory=True),
        "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        "grad": torch.inference_mode,
        "fake": FakeTensorMode,
        "device": lambda: torch.device("meta"),
    }
    with modes[mode]():
        assert facts("aten.mm.default", (X, Z)) == plain


def test_facts_are_cached_privately(cache: Path, monkeypatch: pytest.MonkeyPatch):
    first = facts("aten.mm.default", (X, Z))
    (file,) = cache.iterdir()
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    monkeypatch.setattr("lowtide.runtime.probe.peak_of", lambda run, device: pytest.fail("measured again"))
    assert facts("aten.mm.default", (X, Z)) == first


def test_failures_are_not_cached(cache: Path):
    facts("aten.mm.default", (X, 3))
    assert not cache.exists() or not list(cache.iterdir())


def record(**changes: object) -> str:
    whole = {"out": None, "out_name": "out", "workspace": 0, "out_workspace": 0, "overwrite": None, "pointwise": False}
    return json.dumps({"KEY": whole | {"restride": [], "note": None} | changes})


DAMAGE = ["", "{", "[]", "null", '{"a": 1}', "\x00\xff", "[" * 100_000, '{"KEY": {"out": 5}}', record(out=5)]
DAMAGE += [record(workspace=-1), record(pointwise=1), record(restride=0), record(restride=["a"]), record(more=1)]


@pytest.mark.parametrize("text", DAMAGE, ids=range(len(DAMAGE)))
def test_a_damaged_cache_is_ignored_and_mended(text: str, cache: Path):
    graph = one("aten.mm.default", (X, Z))
    right = probe(graph)
    (file,) = cache.iterdir()
    file.write_bytes(text.replace("KEY", signature(graph, graph.ops[0])).encode("latin-1"))
    assert probe(graph) == right
    last = file.read_text(encoding="latin-1").splitlines()[-1]
    assert signature(graph, graph.ops[0]) in json.loads(last)
    assert probe(graph) == right


def test_a_cache_that_cannot_be_written_is_no_cache(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache.write_text("a file where the folder should be")
    assert facts("aten.mm.default", (X, Z)).out == "aten.mm.out"
    monkeypatch.setenv("LOWTIDE_CACHE_DIR", "/proc/nothing/here")
    assert facts("aten.mm.default", (X, Z)).out == "aten.mm.out"


def test_several_writers_leave_a_whole_file(cache: Path):
    def work(n: int) -> None:
        for k in range(5):
            facts("aten.add.Scalar", (X, n * 10 + k))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    (file,) = cache.iterdir()
    found = [json.loads(line) for line in file.read_text().splitlines() if line]
    assert len({key for line in found for key in line}) == 15


def test_a_file_of_facts_that_grew_too_long_keeps_the_newest(cache: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("lowtide.runtime.probe._STORED", 4)
    for k in range(6):
        facts("aten.add.Scalar", (X, k))
    (file,) = cache.iterdir()
    kept = [next(iter(json.loads(line))) for line in file.read_text().splitlines() if line]
    assert 2 <= len(kept) <= 4
    last = one("aten.add.Scalar", (X, 5))
    assert kept[-1] == signature(last, last.ops[0])


def test_signatures_tell_apart_what_behaves_differently():
    def text(*args: Arg) -> str:
        graph = one("aten.add.Tensor", args)
        return signature(graph, graph.ops[0])

    assert len({text(X, Z), text(X, X), text(X, 1), text(X, 1.0), text(X, Atom("dtype", "f32")), text(X, (Z,))}) == 6
    assert text(X, Z) == text(Z, X)


@pytest.mark.spec("IR-58")
def test_a_copy_that_is_only_begun_is_not_tried(monkeypatch: pytest.MonkeyPatch):
    """It may go on when the trial is over and its operands are gone."""
    into = Op("y", "aten.copy_.default", (X, Z, True), outputs=(), returns="none", mutates=("x",))
    square = Layout("f32", "cpu", (8, 8), (8, 1))
    graph = Graph(
        "g",
        (Value("x", square, "x"), Value("z", square, "z")),
        (Section("s", (Ref("x"), Ref("z")), (into,), ()),),
    )
    monkeypatch.setattr("lowtide.runtime.probe.trial", lambda *_: pytest.fail("tried"))
    assert probe(graph) == {}

"""Captured training graphs: read, cut into parts, never worse than the classic orders, and proved where they were."""

from __future__ import annotations

from pathlib import Path

import pytest
from order_corpus import FOLDER, parts, read

from lowtide.memory.json import dumps, loads
from lowtide.memory.lifetime import timeline
from lowtide.order.check import check_order
from lowtide.order.compiled import library
from lowtide.order.engine import OrderResult, reorder

FILES = sorted(FOLDER.glob("*.json.gz"))
CLASSIC = ("program", "lpmf", "bfs", "dfs")
needs_compiler = pytest.mark.skipif(library() is None, reason="no C++ compiler: the default search is shorter")


def ordered(file: Path, part: str) -> OrderResult:
    graph = parts(read(file))[part]
    found = reorder(graph)
    check_order(graph, found.order)
    assert timeline(graph, found.order).peak == found.peak >= found.lower_bound
    assert found.peak <= min(found.candidates[x] for x in CLASSIC)
    return found


@needs_compiler
@pytest.mark.spec("PK-12", "PK-18")
@pytest.mark.parametrize("name", ["resnet50-plain", "bert-plain", "bert-checkpointed", "vit-plain", "distilbert-plain"])
def test_these_are_proved(name: str):
    found = ordered(FOLDER / f"{name}.json.gz", "joint")
    assert found.status == "OPTIMAL"
    assert found.peak < min(found.candidates[x] for x in CLASSIC)


@pytest.mark.spec("PK-20")
def test_parts_live_as_in_the_whole():
    """In program order the backward alone holds what it holds in the joint graph, without what the caller got."""
    graph = read(FOLDER / "distilbert-plain.json.gz")
    cut = parts(graph)
    assert loads(dumps(cut["backward"])) == cut["backward"]
    whole, early, late = (timeline(g).live for g in (graph, cut["forward"], cut["backward"]))
    assert whole[: len(early)] == early
    kept = [b.nbytes for b in cut["forward"].buffers if graph.buffer[b.name].output]
    assert whole[len(early) + 1 :] == tuple(n + sum(kept) for n in late)


@needs_compiler
@pytest.mark.slow
@pytest.mark.spec("PK-12", "PK-18")
def test_all_are_as_good_as_the_classic_orders_and_half_are_proved():
    found = [ordered(file, part) for file in FILES for part in parts(read(file))]
    assert len(found) > 90
    assert sum(f.status == "OPTIMAL" for f in found) >= len(found) / 2

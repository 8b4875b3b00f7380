from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from polycontrast.data import Batch, Dataset
from polycontrast.engine import Engine
from polycontrast.engine.watch import SAMPLE, CollapseWatch
from polycontrast.method import Method, Term
from support.toys import Toy, ToyConfig, engine_for, vectors


class Contrasting(Toy):
    """A toy whose terms count as contrastive, which is what the watch asks for."""

    TERMS: ClassVar[Mapping[str, Term]] = {
        "reconstruction": Term("contrastive"),
        "penalty": Term("regularisation", "penalty"),
    }


class Pulled(Contrasting):
    """Nothing but pulls everything together: what is left is one point."""

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        return {"reconstruction": self.encoder(batch["x"]).sub(1.0).square().mean()}

    def embed(self, batch: Batch) -> Tensor:
        return self.encoder(batch["x"])


class Silent(Contrasting):
    """Has no representation."""

    embed = Method.embed


class Broken(Contrasting):
    def embed(self, batch: Batch) -> Tensor:
        raise RuntimeError("no such\nthing")


class Sequences(Contrasting):
    def embed(self, batch: Batch) -> Tensor:
        return torch.zeros(len(batch["x"]), 3, 4)


class Wasteful(Contrasting):
    def embed(self, batch: Batch) -> Tensor:
        torch.rand(7)
        return super().embed(batch)


Rows = list[dict[str, Any]]


def run(path: Path, method: type[Method], *, epochs: int, **engine: Any) -> tuple[Engine, list[str], Rows]:
    """The engine after its run of 5 steps per epoch, what it said, and its lines with geometry."""
    settings = {"batch_size": 80, "log_steps": 50, "epochs": epochs, **engine}
    config = replace(ToyConfig(), dropout=0.0, engine=replace(ToyConfig().engine, **settings))
    config = replace(config, optimiser=replace(config.optimiser, lr=0.05, schedule="constant"))
    built = engine_for(path, method, config, data=vectors(n=400))
    said: list[str] = []
    built.say = said.append  # type: ignore[method-assign]
    built.run()
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return built, said, [row for row in rows if "geometry/std" in row]


def test_a_collapsed_run_is_told_once_in_plain_words(tmp_path: Path) -> None:
    engine, said, rows = run(tmp_path / "run", Pulled, epochs=60)
    assert rows[-1]["geometry/std"] < 0.1
    assert rows[-1]["geometry/similarity"] > 0.99
    warnings = [text for text in said if text.startswith("WARNING from the collapse watch at step")]
    collapsed = [text for text in warnings if "the representation has collapsed" in text]
    assert len(collapsed) == 1
    assert len(warnings) <= 2
    assert "nearly every example gets the same embedding" in collapsed[0]
    assert "What to try" in collapsed[0]
    assert "\n" not in collapsed[0]
    assert [f"WARNING from the {text}" for text in engine.warnings] == warnings


def test_a_healthy_run_is_watched_in_silence(tmp_path: Path) -> None:
    engine, said, rows = run(tmp_path / "run", Contrasting, epochs=40)
    assert said == engine.warnings == []
    assert rows[-1]["step"] == 200
    assert {"geometry/std", "geometry/effective_rank", "geometry/similarity"} <= rows[-1].keys()


def test_it_looks_with_validation_as_far_as_its_share_allows(tmp_path: Path) -> None:
    _, _, rows = run(tmp_path / "run", Contrasting, epochs=100)
    assert [row["epoch"] for row in rows] == [22, 43, 64, 86, 100]  # 256 of 400 examples cost 21.3 epochs' share
    assert (
        run(tmp_path / "none", Contrasting, epochs=2, validate_epochs=None)[2][-1]["step"] == 10
    )  # at the end all the same


def test_a_run_that_is_watched_learns_the_same(tmp_path: Path) -> None:
    with_it, _, rows = run(tmp_path / "on", Wasteful, epochs=40)
    without, _, none = run(tmp_path / "off", Wasteful, epochs=40, watch=False)
    assert rows
    assert not none
    for name, value in with_it.method.state_dict().items():
        assert torch.equal(value, without.method.state_dict()[name]), name


@pytest.mark.parametrize("method", [Silent, Sequences])
def test_what_cannot_be_watched_is_left_in_peace(tmp_path: Path, method: type[Method]) -> None:
    engine, said, rows = run(tmp_path / "run", method, epochs=2)
    assert engine.step == 10
    assert said == []
    assert rows == []


def test_a_broken_embed_does_not_end_a_run(tmp_path: Path) -> None:
    engine, said, rows = run(tmp_path / "run", Broken, epochs=30)
    assert engine.step == 150
    assert rows == []
    assert said == ["the collapse watch is off: embed failed with RuntimeError: no such thing"]


class Spoken:
    """As much of an engine as the watch needs."""

    def __init__(self, stage: Any) -> None:
        self.step, self.stage, self.said = 10**6, stage, list[str]()

    def say(self, text: str) -> None:
        self.said.append(text)


class Drawn(Contrasting):
    """Embeddings of a given spread around one direction."""

    size = 1.0

    def embed(self, batch: Batch) -> Tensor:
        noise = torch.randn(len(batch["x"]), 32, generator=torch.Generator().manual_seed(0))
        return torch.eye(32)[:1] + self.size * noise / 32**0.5


def watched(data: Dataset | None = None) -> tuple[CollapseWatch, Drawn, Spoken]:
    method = Drawn(ToyConfig())
    data = data or vectors(n=3000)
    return CollapseWatch(method, data), method, Spoken(method.stages(data)[0])


def test_a_fall_is_told_before_it_is_complete_and_again_after_a_recovery() -> None:
    data = vectors(n=3000)
    data.splits = {"train": data.splits["train"]}
    watch, method, engine = watched(data)
    told = []
    for size in (2.0, 1.0, 0.2, 0.15, 0.02, 0.01, 2.0, 0.01):
        method.size = size
        engine.step += 10**5
        watch.look(engine)  # type: ignore[arg-type]
        told.append(len(engine.said))
    assert told == [0, 0, 1, 1, 2, 2, 2, 3]
    assert "is collapsing: embeddings of different examples grow alike" in engine.said[0]
    assert "the representation has collapsed" in engine.said[1]


def test_the_sample_is_bounded_spread_out_and_always_the_same() -> None:
    data = vectors(n=3000)
    data.splits = {"train": data.splits["train"]}
    watch, _, engine = watched(data)
    seen: list[Tensor] = []
    method = watch._method
    method.embed = lambda batch: (seen.append(batch["id"]), batch["x"])[1]  # type: ignore[func-returns-value, method-assign]
    watch.look(engine)  # type: ignore[arg-type]
    ids = torch.cat(seen)
    assert len(ids) == len(ids.unique()) == SAMPLE
    assert int(ids.max()) > 2900


@pytest.mark.parametrize("last", [False, True])
def test_looking_draws_no_random_number_and_keeps_the_mode(last: bool) -> None:
    data = vectors(n=3000)
    method = Wasteful(ToyConfig()).train()
    engine = Spoken(method.stages(data)[0])
    before = torch.get_rng_state()
    assert CollapseWatch(method, data).look(engine, last=last)  # type: ignore[arg-type]
    assert torch.equal(torch.get_rng_state(), before)
    assert method.training


class Elsewhere(Drawn):
    """Contrasts something else than what it embeds."""

    @property
    def contrasts_embeddings(self) -> bool:
        return False


def test_embeddings_that_are_not_contrasted_are_not_watched() -> None:
    watch, _, engine = watched()
    assert watch.look(engine)  # type: ignore[arg-type]
    data = vectors(n=3000)
    assert not CollapseWatch(Elsewhere(ToyConfig()), data).look(engine)  # type: ignore[arg-type]


def test_its_state_survives_a_resume() -> None:
    watch, method, engine = watched()
    method.size = 0.01
    watch.look(engine)  # type: ignore[arg-type]
    other, quiet, again = watched()
    quiet.size = 0.01
    other.load_state_dict(watch.state_dict())
    again.step += 10**5
    other.look(again)  # type: ignore[arg-type]
    assert engine.said
    assert again.said == []
    assert other.warnings == watch.warnings
    assert len(other.warnings) == 1


def test_a_method_without_a_contrastive_term_is_not_watched(tmp_path: Path) -> None:
    engine = engine_for(tmp_path / "run", Toy)
    engine.run()
    assert "geometry" not in (tmp_path / "run" / "metrics.jsonl").read_text()

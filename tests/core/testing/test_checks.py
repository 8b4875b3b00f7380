"""Every conformance check fails on a method that breaks its rule, and says what to mend."""

from __future__ import annotations

import shutil
from importlib import import_module
from pathlib import Path

import pytest
import torch

from polycontrast import plugins
from polycontrast.method import Term
from polycontrast.testing import CHECKS, Case, conformance, run_checks

TOY = Path(__file__).parents[2] / "third_party" / "polycontrast-toy" / "toy_plugin"
CHECK = {check.__name__: check for check in CHECKS}
CASE = Case("toy/pair", set={"engine.batch_size": 16})


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The toy plugin as an installed distribution, freshly imported; its folder and its method."""
    site = tmp_path / "site"
    shutil.copytree(TOY, site / "toy_plugin", ignore=shutil.ignore_patterns("__pycache__"))
    info = site / "polycontrast_toy-0.3.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: polycontrast-toy\nVersion: 0.3.0\n")
    (info / "entry_points.txt").write_text("[polycontrast.plugins]\ntoy = toy_plugin:PLUGIN\n")
    monkeypatch.syspath_prepend(site)
    for name in ("toy_plugin", "toy_plugin.config", "toy_plugin.data", "toy_plugin.method"):
        monkeypatch.delitem(__import__("sys").modules, name, raising=False)
    plugins.refresh()
    yield site / "toy_plugin", import_module("toy_plugin.method").Pair
    monkeypatch.undo()
    plugins.refresh()


def complaint(name: str, folder: Path) -> str:
    with pytest.raises(AssertionError) as raised:
        CHECK[name](Case("toy/pair", set=CASE.set), folder)
    return str(raised.value).splitlines()[0]


def test_the_toy_passes(toy, tmp_path):
    assert [outcome.state for outcome in run_checks(CASE, tmp_path / "work")] == ["ok"] * len(CHECKS)


def test_known_failures_are_strict(toy, tmp_path):
    (toy[0] / "presets" / "odd.yaml").write_text("engine: {epochs: 2}\n")
    plugins.refresh()
    reasons = {"presets_fit_the_config": "a toy", "the_source_is_named": "out of date"}
    states = {
        outcome.check: (outcome.state, outcome.message)
        for outcome in run_checks(Case("toy/pair", set=CASE.set, known_failures=reasons), tmp_path / "work")
        if outcome.check in reasons
    }
    assert states == {
        "presets_fit_the_config": ("known", "a toy"),
        "the_source_is_named": ("failed", "passes again: remove it from known_failures"),
    }


def test_a_config_that_imports_torch(toy, tmp_path):
    config = toy[0] / "config.py"
    config.write_text("import torch\n" + config.read_text())
    name = "manifest_and_config_import_no_torch"
    assert "toy_plugin.config or its package imports torch" in complaint(name, tmp_path)


def test_a_setting_without_a_word(toy, tmp_path):
    config = toy[0] / "config.py"
    config.write_text(config.read_text().replace('    """Width of the embedding."""\n', ""))
    assert "no text under dim" in complaint("every_setting_says_what_it_is", tmp_path)


def test_a_preset_without_a_purpose(toy, tmp_path):
    (toy[0] / "presets" / "odd.yaml").write_text("engine: {epochs: 2}\n")
    plugins.refresh()
    assert "preset odd does not begin with a comment" in complaint("presets_fit_the_config", tmp_path)


def test_a_term_that_never_comes(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(toy[1], "TERMS", {**toy[1].TERMS, "more": Term("regularisation")})
    assert "no value of more in any step" in complaint("terms_are_declared_and_finite", tmp_path)


def test_a_term_that_is_computed_although_it_is_off(toy, tmp_path, monkeypatch):
    plain = toy[1].terms
    monkeypatch.setattr(toy[1], "TERMS", {**toy[1].TERMS, "more": Term("regularisation")})
    monkeypatch.setattr(toy[1], "terms", lambda self, batch: plain(self, batch) | {"more": self.encoder.weight.sum()})
    assert "term more is computed although it is off" in complaint("a_term_that_is_off_is_not_computed", tmp_path)


def test_a_parameter_that_nothing_reaches(toy, tmp_path, monkeypatch):
    build = toy[1].__init__

    def with_idle(self, config, info=None):
        build(self, config, info)
        self.idle = torch.nn.Linear(2, 2)

    monkeypatch.setattr(toy[1], "__init__", with_idle)
    assert "idle.weight, idle.bias did not move" in complaint("every_parameter_learns", tmp_path)


def test_randomness_that_no_seed_governs(toy, tmp_path, monkeypatch):
    plain, free = toy[1].terms, torch.Generator()
    free.seed()

    def noisy(self, batch):
        noise = torch.randn(batch["look"].shape, generator=free)
        return plain(self, {**batch, "look": batch["look"] + noise})

    monkeypatch.setattr(toy[1], "terms", noisy)
    name = "the_same_seed_gives_the_same_weights"
    assert "encoder.weight differs between two runs with one seed" in complaint(name, tmp_path)


def test_state_that_is_lost_by_a_kill(toy, tmp_path, monkeypatch):
    plain = toy[1].terms

    def counting(self, batch):
        self.seen = getattr(self, "seen", 0) + 1
        return {name: value * self.seen for name, value in plain(self, batch).items()}

    monkeypatch.setattr(toy[1], "terms", counting)
    name = "a_killed_run_ends_with_the_same_weights"
    assert "encoder.weight differs after a resume" in complaint(name, tmp_path)


def test_a_model_that_is_not_saved_whole(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(toy[1], "evaluate", lambda self, data: {"accuracy": getattr(self, "learned", 0.0)})
    monkeypatch.setattr(toy[1], "on_stage_end", lambda self, stage, engine: setattr(self, "learned", 5.0))
    name = "the_result_is_complete_and_the_saved_model_repeats_it"
    assert "accuracy is 0.0 after loading, was 5.0" in complaint(name, tmp_path)


def test_an_embedding_that_sees_its_batch(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(toy[1], "embed", lambda self, batch: batch["look"] - batch["look"].mean(0))
    name = "embeddings_do_not_depend_on_their_neighbours"
    assert "a sample's embedding changes with its batch" in complaint(name, tmp_path)


def test_the_decorator_makes_one_test_per_method_and_check():
    @conformance([Case("toy/pair", known_failures={CHECKS[0].__name__: "why"})])
    def test(case, check): ...

    (mark,) = test.pytestmark
    parameters = mark.args[1]
    assert [p.id for p in parameters] == [f"toy/pair-{check.__name__}" for check in CHECKS]
    assert [bool(p.marks) for p in parameters] == [True] + [False] * (len(CHECKS) - 1)

"""``ablate`` and ``compare``: what a term is worth, and runs side by side."""

from __future__ import annotations

import json
from importlib import import_module

import pytest

from polycontrast import api
from polycontrast.method import Term

QUICK = ["--max-steps", "2", "--device", "cpu"]


@pytest.fixture
def with_auxiliary_terms(here, monkeypatch):
    """The toy with two terms beside its objective. ``length`` is active; ``idle`` has weight 0."""
    pair = import_module("toy_plugin.method").Pair
    plain = pair.terms

    def terms(self, batch):
        out = plain(self, batch)
        return out | {"length": self.encoder.weight.square().sum()} if self.active("length") else out

    declared = {**pair.TERMS, "length": Term("regularisation", 0.5), "idle": Term("regularisation", 0.0)}
    monkeypatch.setattr(pair, "TERMS", declared)
    monkeypatch.setattr(pair, "terms", terms)


def test_every_arm_has_the_same_seeds_and_differences_are_paired(cli, here, with_auxiliary_terms):
    words = ("ablate", "pair", *QUICK, "--seeds", "3", "--set", "dim=3", "--out", "ab")
    answer = json.loads(cli(*words, "--json")[0].splitlines()[-1])
    whole, without = answer["arms"]
    assert (whole["name"], whole["off"], without["name"], without["off"]) == ("full", None, "without-length", "length")
    assert [run["seed"] for run in whole["runs"]] == [run["seed"] for run in without["runs"]] == [0, 1, 2]
    assert {run["run"] for run in without["runs"]} == {f"ab/without-length/s{seed}" for seed in range(3)}
    gaps = [
        a["metrics"]["accuracy"] - b["metrics"]["accuracy"] for a, b in zip(whole["runs"], without["runs"], strict=True)
    ]
    assert without["difference"]["accuracy"]["mean"] == pytest.approx(sum(gaps) / 3)
    assert without["helped"] == sum(gap > 0 for gap in gaps)
    assert "difference" not in whole

    config = (here / "ab" / "without-length" / "s0" / "config.yaml").read_text()
    assert "dim: 3" in config
    assert "- length" in config

    out, _ = cli(*words, "--resume")  # finished runs give their results
    assert "without length" in out
    assert f"{without['helped']} of 3" in out
    _, err = cli(*words, code=2)
    assert "ab exists and is not empty" in err


def test_terms_that_the_caller_switched_off_stay_off(with_auxiliary_terms):
    answer = api.ablate(
        "pair", seeds=1, terms=["contrastive"], set={"off": ["idle"], "engine.max_steps": 1}, device="cpu"
    )
    assert [arm["name"] for arm in answer["arms"]] == ["full", "without-contrastive"]
    assert answer["arms"][0]["runs"][0]["run"].endswith("-ablation/full/s0")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--terms", "lenght"], "toy/pair has no term 'lenght'; it has contrastive, length, idle. Did you mean 'l"),
        (["--terms", "idle"], "term 'idle' of toy/pair is off already; leave it out of --terms"),
        (["--terms", "length", "--set", "off=[length]"], "term 'length' of toy/pair is off already"),
        (["--set", "off=[length]"], "toy/pair has no auxiliary term to leave out, only its objective"),
        (["--terms", "a,,b"], "--terms: 'a,,b' is no list of names; write a,b"),
    ],
)  # fmt: skip
def test_wrong_terms(cli, here, with_auxiliary_terms, words, message):
    _, err = cli("ablate", "pair", *words, code=2)
    assert message in err
    assert list(here.iterdir()) == []


def test_compare(cli, here):
    for name, dim in (("a", 2), ("b", 4)):
        cli("train", "pair", *QUICK, "--set", f"dim={dim}", "--out", name, "--json")
    answer = json.loads(cli("compare", "a", "b", "--json")[0])
    values = answer["metrics"]["accuracy"]
    assert values == [run["metrics"]["accuracy"] for run in answer["runs"]]
    assert answer["settings"] == {"dim": [2, 4]}
    assert answer["warnings"] == []
    assert answer["best"] == ({} if values[0] == values[1] else {"accuracy": values.index(max(values))})
    out, _ = cli("compare", "a", "b")
    assert "Settings that differ" in out
    assert [line.split() for line in out.splitlines() if line.startswith("dim")] == [["dim", "2", "4"]]


def test_compare_says_what_stands_against_it(cli, here):
    cli("train", "pair", *QUICK, "--out", "a", "--json")
    cli("train", "pair", *QUICK, "--data", "plain", "--set", "dim=3", "--seed", "1", "--out", "b", "--json")
    out, _ = cli("compare", "a", "b")
    assert "note: these runs used different data: their numbers are not comparable" in out
    assert "part of a difference is the seed" in out


def test_compare_refuses_what_has_no_numbers(cli, here):
    cli("train", "pair", *QUICK, "--out", "a", "--json")
    assert "compare needs two runs or more" in cli("compare", "a", code=2)[1]
    assert "no run directory 'c'" in cli("compare", "a", "c", code=2)[1]
    (here / "b").mkdir()
    (here / "b" / "config.yaml").write_text((here / "a" / "config.yaml").read_text())
    assert "b is not finished, so it has no numbers" in cli("compare", "a", "b", code=2)[1]

"""What a call asks for. Wrong calls are tested through the command line, in cli/test_calls.py."""

from __future__ import annotations

import subprocess
import sys

import pytest

from polycontrast import request
from polycontrast.errors import ConfigError, DataError, RunError
from polycontrast.plugins import DatasetSpec, MethodSpec, Plugin, Registry

PRESETS = {"demo": {"engine": {"epochs": 2, "batch_size": 8}}, "tiny": {"engine": {"epochs": 1}, "off": ["a"]}}


class Preset:
    def __init__(self, name):
        self.name, self.doc, self.values = name, "", PRESETS[name]


@pytest.fixture(autouse=True)
def toy(monkeypatch, tmp_path):
    """One method ``toy/pair`` with two presets, and an empty current directory."""
    config = "polycontrast.config:MethodConfig"
    plugin = Plugin(
        "toy",
        (1, 0),
        methods=(MethodSpec("pair", "nowhere:Pair", config, "A toy.", reader="nowhere:read"),),
        datasets=(
            DatasetSpec("demo", "nowhere:demo", "Generated.", ("pair",), preset="demo"),
            DatasetSpec("plain", "nowhere:demo", "Generated.", ("pair",)),
        ),
    )

    class Found:
        name, value, module, dist = "toy", "toy:PLUGIN", "toy", None

        def load(self):
            return plugin

    registry = Registry([Found()])
    monkeypatch.setattr(request, "default", lambda: registry)
    monkeypatch.setattr(type(registry.method("toy/pair")), "presets", lambda self: {n: Preset(n) for n in PRESETS})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_demo_data_brings_its_preset():
    got = request.resolve("pair")
    assert (got.entry.id, got.data, got.is_path, got.preset) == ("toy/pair", "demo", False, "demo")
    assert (got.config.engine.epochs, got.config.engine.batch_size) == (2, 8)
    assert got.sources == ("preset 'demo' of the dataset 'demo'",)


def test_order_of_precedence():
    got = request.resolve("pair", config="tiny", assignments=["engine.epochs=7"], max_steps=5, precision="bf16")
    engine = got.config.engine
    assert (engine.epochs, engine.batch_size, got.config.off) == (7, 8, ("a",))
    assert (engine.max_steps, engine.precision) == (5, "bf16")
    assert got.preset == "demo+tiny"
    assert got.sources == (
        "preset 'demo' of the dataset 'demo'",
        "preset 'tiny'",
        "--set",
        "--max-steps",
        "--precision",
    )
    assert request.resolve("pair", config="demo").preset == "demo"
    assert request.resolve("pair", data="plain").sources == ()


def test_a_flag_wins_over_set():
    assert request.resolve("pair", assignments=["engine.max_steps=3"], max_steps=5).config.engine.max_steps == 5


@pytest.mark.parametrize(
    "given",
    [
        "engine.epochs=4",
        ["engine.epochs=4"],
        {"engine.epochs": 4},
        {"engine": {"epochs": 4}},
        {"engine.batch_size": 8, "engine": {"epochs": 4}},
    ],
)
def test_settings_from_python(given):
    assert request.resolve("pair", data="plain", assignments=given).config.engine.epochs == 4


def test_settings_that_contradict():
    with pytest.raises(ConfigError, match="cannot both be given"):
        request.resolve("pair", assignments={"engine": 3, "engine.epochs": 4})


def test_a_file_beside_a_preset_of_the_same_name(toy):
    (toy / "tiny").mkdir()
    (toy / "tiny.yaml").write_text("engine: {epochs: 9}\n")
    assert request.resolve("pair", config="tiny").config.engine.epochs == 1
    got = request.resolve("pair", config=toy / "tiny.yaml")
    assert (got.config.engine.epochs, got.preset) == (9, "demo+tiny.yaml")


def test_data_of_a_path(toy):
    (toy / "mine.csv").write_text("x\n")
    got = request.resolve("pair", data=toy / "mine.csv")
    assert (got.data, got.is_path, got.preset) == (str(toy / "mine.csv"), True, "")
    # a registered name wins over a file of that name; ./demo is the file
    (toy / "demo").mkdir()
    assert request.resolve("pair", data="demo").is_path is False
    assert request.resolve("pair", data="./demo").is_path is True
    with pytest.raises(DataError, match=r"Did you mean 'mine\.csv'"):
        request.resolve("pair", data="mime.csv")


def test_out(toy):
    request.check_out(toy / "new" / "deeper")
    request.check_out(toy)
    request.check_out(toy / "new", resume=True)
    killed_early = toy / "early"
    (killed_early / "checkpoints").mkdir(parents=True)
    request.check_out(killed_early)
    request.check_out(killed_early, resume=True)
    several = toy / "several"
    (several / "s0").mkdir(parents=True)
    (several / "s0" / "config.yaml").write_text("")
    request.check_out(several, resume=True)
    with pytest.raises(RunError, match="not empty"):
        request.check_out(several)
    (toy / "dangling").symlink_to(toy / "gone")
    with pytest.raises(RunError, match="not a directory"):
        request.check_out(toy / "dangling")


@pytest.mark.parametrize("model", ["owner/name", "name", "owner/name-1.2_x"])
def test_what_may_be_on_the_hub_is_not_refused(model):
    request.check_model(model)


@pytest.mark.parametrize("model", ["./m", "/m", "a/b/c", "runs/x", "", "m y"])
def test_what_can_be_no_model(toy, model):
    (toy / "runs").mkdir()
    with pytest.raises(RunError):
        request.check_model(model)


def test_no_torch():
    code = "import sys, polycontrast.request; sys.exit('torch' in sys.modules or 'yaml' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

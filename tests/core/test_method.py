from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from polycontrast.data import Dataset
from polycontrast.errors import CheckpointError, DataError, InputError
from polycontrast.method import Method
from support.toys import Odd, Toy, ToyConfig, vectors


def test_saving_and_loading_gives_the_same_embeddings_from_plain_files(tmp_path: Path) -> None:
    model = Toy(ToyConfig(width=5), {"note": "größe"}).eval()
    model.save_pretrained(tmp_path / "model")
    assert sorted(p.name for p in (tmp_path / "model").iterdir()) == ["README.md", "config.json", "model.safetensors"]
    again = Toy.from_pretrained(tmp_path / "model")
    x = torch.randn(3, 4)
    assert torch.equal(model.embed({"x": x}), again.embed({"x": x}))
    assert again.config == ToyConfig(width=5)
    assert again.info == {"note": "größe"}
    assert not again.training


def test_a_grown_architecture_says_its_sizes_and_training_parts_stay_behind(tmp_path: Path) -> None:
    model = Odd(ToyConfig(), {"heads": 3})
    model.save_pretrained(tmp_path)
    keys = set(model.saved_state())
    assert "heads.2.weight" in keys
    assert not any(k.startswith(("losses", "teacher", "hard")) for k in keys)
    again = Odd.from_pretrained(tmp_path)
    assert len(again.heads) == 3
    assert torch.equal(again.heads[2].weight, model.heads[2].weight)


def test_tied_parameters_are_saved(tmp_path: Path) -> None:
    model = Toy(ToyConfig(width=4))
    model.decoder.weight = model.encoder[0].weight
    model.save_pretrained(tmp_path)
    assert torch.equal(Toy.from_pretrained(tmp_path).decoder.weight, model.decoder.weight)


def damage_config(folder: Path) -> None:
    (folder / "config.json").write_text('{"method": ')


def damage_weights(folder: Path) -> None:
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])


def remove_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def change_width(folder: Path) -> None:
    about = json.loads((folder / "config.json").read_text())
    about["config"]["width"] = 6
    (folder / "config.json").write_text(json.dumps(about))


def change_method(folder: Path) -> None:
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"method": "test/odd"}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (damage_config, r"config.json is damaged"),
        (damage_weights, r"model.safetensors is damaged"),
        (remove_weights, r"model.safetensors is missing; the model was not saved completely"),
        (change_width, r"does not fit the config beside it, e.g. at 'decoder.weight'"),
        (change_method, r"holds a model of test/odd, not of test/toy"),
    ],
)
def test_a_damaged_model_is_refused_in_one_line(tmp_path: Path, damage: object, message: str) -> None:
    Toy(ToyConfig()).save_pretrained(tmp_path)
    damage(tmp_path)  # type: ignore[operator]
    with pytest.raises(CheckpointError, match=message) as caught:
        Toy.from_pretrained(tmp_path)
    assert "\n" not in str(caught.value)


def test_defaults_measure_and_tabulate() -> None:
    data, model = vectors(), Toy(ToyConfig())
    numbers = model.validate(data, model.stages(data)[0])
    assert numbers["loss"] == pytest.approx(numbers["reconstruction"] + 1e-3 * numbers["penalty"])
    assert numbers == model.validate(data, model.stages(data)[0])
    table = model.embed_table(data)
    assert table.column_names == ["id", "embedding"]
    assert len(table) == 10
    assert len(table["embedding"][0]) == 8
    assert model.training  # as before


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(InputError, match="test/toy has no task output to predict; use embed"):
        Toy(ToyConfig()).predict_table(vectors())
    with pytest.raises(DataError, match="nowhere has no part 'train'; it has none"):
        Method.examples(Toy(ToyConfig()), Dataset(name="nowhere"), "train")

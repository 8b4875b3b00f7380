from __future__ import annotations

import dataclasses
import math
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from polycontrast.config import (
    DataConfig,
    MethodConfig,
    OptimiserConfig,
    changed,
    describe,
    dump_yaml,
    from_dict,
    load_yaml,
    parse_assignments,
    resolve,
    to_dict,
)
from polycontrast.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    width: int = 8
    """Channels."""
    scale: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class SeriesData(DataConfig):
    protocol: Literal["ett", "ratio"] = "ratio"
    """How rows are split."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToyConfig(MethodConfig):
    """A method's config with every kind of field."""

    mask_ratio: float = 0.15
    """Share of frames altered,
    in [0, 1]."""
    low: int = 1
    high: int = 5
    name: str = "toy"
    flag: bool = False
    folder: Path | None = None
    mode: Literal["auto", 1, 0.5] = "auto"
    size: int | Literal["all"] = "all"
    grid: tuple[tuple[int, float], ...] = ()
    shape: tuple[int, float] = (2, 0.5)
    weights: dict[str, float] = field(default_factory=lambda: {"task": 1.0})
    parts: tuple[Part, ...] = ()
    towers: dict[str, Part] = field(default_factory=dict)
    teacher: Part | None = None
    student: Part = Part(width=4)
    extra: Any = None
    data: SeriesData = field(default_factory=SeriesData)
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(lr=0.01, schedule="cosine"))
    """Adam as in the paper."""

    def __post_init__(self) -> None:
        if not 0 <= self.mask_ratio <= 1:
            raise ConfigError(f"mask_ratio must lie in [0, 1], got {self.mask_ratio}")
        if self.low > self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")


@dataclass(frozen=True)
class Tagged:
    tags: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Loose:
    data: DataConfig = SeriesData()
    tagged: Tagged = Tagged(tags={"a": 1})
    lags: tuple[int, ...] | None = (1,)
    table: dict[str, int] | None = None
    named: dict[str, tuple[int, ...]] = field(default_factory=dict)
    either: Part | str = "none"
    many: tuple[dict[str, int], ...] = ()
    never: None = None
    derived: int = field(init=False, default=3)


@dataclass(frozen=True)
class Needy:
    path: str
    part: Part


@dataclass(frozen=True)
class Impossible:
    things: set[int] = frozenset()  # type: ignore[assignment]


def put(*assignments: str, cls: type = ToyConfig) -> Any:
    return resolve(cls, [("--set", parse_assignments(assignments))])


ENGINE = (
    "engine.batch_size, engine.accumulate, engine.epochs, engine.max_steps, engine.clip_norm, engine.precision, "
    "engine.ema, engine.nonfinite, engine.validate_epochs, engine.validate_steps, engine.log_steps, "
    "engine.checkpoint_seconds and 5 more."
)


def message(call, *args, **kwargs) -> str:
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---- values ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("mask_ratio=1e-3", 0.001),
        ("mask_ratio=1", 1.0),
        ("mask_ratio=.5", 0.5),
        ("mask_ratio='1e-1'", 0.1),
        ("low=-3", -3),
        ("low=0x1", 1),
        ("low=01", 1),
        ("name=off", "off"),
        ("name=no", "no"),
        ("name=2024-01-31", "2024-01-31"),
        ("name=12:30", "12:30"),
        ("name='5'", "5"),
        ("name=''", ""),
        ("name=a=b", "a=b"),
        ("flag=true", True),
        ("folder=a/b", Path("a/b")),
        ("folder=null", None),
        ("mode=auto", "auto"),
        ("mode=1", 1),
        ("mode=0.5", 0.5),
        ("size=all", "all"),
        ("size=3", 3),
        ("grid=[[1, 2], [3, 4.5]]", ((1, 2.0), (3, 4.5))),
        ("shape=[3, 1]", (3, 1.0)),
        ("off=[]", ()),
        ("weights={aux: 2}", {"task": 1.0, "aux": 2.0}),
        ("parts=[{width: 2}, {}]", (Part(width=2), Part())),
        ("towers.left.width=3", {"left": Part(width=3)}),
        ("teacher={}", Part()),
        ("teacher.width=3", Part(width=3)),
        ("student.scale=3", Part(width=4, scale=3.0)),
        ("extra={a: [1, x]}", {"a": [1, "x"]}),
    ],
)
def test_value_is_read(text, value):
    got = getattr(put(text), text.split("=")[0].split(".")[0])
    assert got == value
    assert type(got) is type(value)


def test_infinity_and_nan_only_where_written():
    assert put("student.scale=.inf").student.scale == math.inf
    assert put("student.scale=-.INF").student.scale == -math.inf
    assert math.isnan(put("student.scale=.nan").student.scale)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        # keys
        ("optimiser.lrr=1", "--set: unknown key 'optimiser.lrr'. Did you mean 'optimiser.lr'?"),
        ("lr=1", "--set: unknown key 'lr'. Did you mean 'optimiser.lr'?"),
        ("width=1", "--set: unknown key 'width'. Did you mean 'teacher.width' or 'student.width'?"),
        ("batchsize=1", "--set: unknown key 'batchsize'. Did you mean 'engine.batch_size'?"),
        ("optimizer.lr=1", "--set: unknown key 'optimizer'. Did you mean 'optimiser'?"),
        ("epoch=1", "--set: unknown key 'epoch'. Did you mean 'engine.epochs'?"),
        ("engine.learning_rate=1", "--set: unknown key 'engine.learning_rate'. Known keys: " + ENGINE),
        ("student.xyz=1", "--set: unknown key 'student.xyz'. Known keys: student.width, student.scale."),
        ("parts=[{wdth: 1}]", "--set: unknown key 'parts[0].wdth'. Did you mean 'parts[0].width'?"),
        ("'low'=1", "--set: unknown key \"'low'\". Did you mean 'low'?"),
        ("student={1: 2}", "--set: key 1 in 'student' must be text; put it in quotes"),
        ("weights={true: 2}", "--set: key true in 'weights' must be text; put it in quotes"),
        # scalars
        ("flag=1", "--set: 'flag' must be bool, got 1"),
        ("flag=yes", "--set: 'flag' must be bool, got 'yes'"),
        ("low=true", "--set: 'low' must be int, got true"),
        ("low=1.0", "--set: 'low' must be int, got 1.0. Write 1"),
        ("low=1.5", "--set: 'low' must be int, got 1.5"),
        ("low=null", "--set: 'low' must be int, got null"),
        ("low=1_000", "--set: 'low' must be int, got '1_000'"),
        ("mask_ratio=true", "--set: 'mask_ratio' must be float, got true"),
        ("mask_ratio=high", "--set: 'mask_ratio' must be float, got 'high'"),
        ("mask_ratio='0.5'", "--set: 'mask_ratio' must be float, got '0.5'"),
        ("mask_ratio='1e999'", "--set: 'mask_ratio' is too large for a float; write .inf if infinity is meant"),
        ("mask_ratio=-inf", "--set: 'mask_ratio' must be float, got '-inf'. Write -.inf"),
        ("name=5", "--set: 'name' must be str, got 5. Put it in quotes"),
        ("name=[a]", "--set: 'name' must be str, got ['a']"),
        ("folder=1", "--set: 'folder' must be path or null, got 1"),
        # choices and unions
        ("mode=autto", "--set: 'mode' must be one of 'auto', 1, 0.5, got 'autto'. Did you mean 'auto'?"),
        ("mode=true", "--set: 'mode' must be one of 'auto', 1, 0.5, got true"),
        ("size=1.5", "--set: 'size' must be int or one of 'all', got 1.5"),
        ("engine.epochs=x", "--set: 'engine.epochs' must be int or null, got 'x'"),
        # containers
        ("off=contrast", "--set: 'off' must be list of str, got 'contrast'. Write [contrast]"),
        ("off=[1]", "--set: 'off[0]' must be str, got 1. Put it in quotes"),
        ("off={a: 1}", "--set: 'off' must be list of str, got {'a': 1}"),
        ("shape=[1]", "--set: 'shape' must be [int, float] (2 values), got [1]"),
        ("shape=[1, a]", "--set: 'shape[1]' must be float, got 'a'"),
        ("grid=[[1, 2], [3, a]]", "--set: 'grid[1][1]' must be float, got 'a'"),
        ("weights=[1]", "--set: 'weights' must be mapping of str to float, got [1]"),
        ("weights.aux=x", "--set: 'weights.aux' must be float, got 'x'"),
        ("towers.left.width=x", "--set: 'towers.left.width' must be int, got 'x'"),
        ("student=3", "--set: 'student' must be a group of keys, got 3"),
        ("student=null", "--set: 'student' must be a group of keys, got null"),
        ("teacher=3", "--set: 'teacher' must be a group of keys or null, got 3"),
        ("parts=[3]", "--set: 'parts[0]' must be a group of keys, got 3"),
        # checks across fields
        ("mask_ratio=2", "--set: mask_ratio must lie in [0, 1], got 2.0"),
        ("low=9", "--set: low 9 is above high 5"),
        ("engine.batch_size=0", "--set: engine: batch_size must be positive, got 0"),
        ("optimiser.lr=.nan", "--set: optimiser: lr must be positive, got nan"),
        # the text itself
        ("low", "--set: 'low' must look like key=value, e.g. optimiser.lr=1e-3"),
        ("=1", "--set: '=1' must look like key=value, e.g. optimiser.lr=1e-3"),
        ("a..b=1", "--set: 'a..b=1' must look like key=value, e.g. optimiser.lr=1e-3"),
        ("low=", "--set: 'low=' gives no value; write null, or '' for empty text"),
        ("name=#fff", "--set: 'name=#fff' gives no value; write null, or '' for empty text"),
        ("off=[a", "--set: 'off=[a': line 1, column 3: expected ',' or ']', but got '<stream end>'"),
        ("low=1e999", "--set: 'low=1e999': line 1, column 1: 1e999 is too large; write .inf if infinity is meant"),
        ("low={a: 1, a: 2}", "--set: 'low={a: 1, a: 2}': line 1, column 8: key 'a' is given twice, first on line 1"),
    ],
)  # fmt: skip
def test_what_is_refused(text, error):
    assert message(put, text) == error


def test_int_that_no_float_can_hold():
    error = message(from_dict, ToyConfig, {"mask_ratio": 10**400}, source="here")
    assert error == f"here: 'mask_ratio' is too large for a float, got 1{'0' * 56}..."


def test_field_without_default_is_required():
    assert message(from_dict, Needy, {}, source="f.yaml") == "f.yaml: 'path' is required, str"
    assert from_dict(Needy, {"path": "x"}, source="f.yaml") == Needy("x", Part())


def test_type_that_no_config_can_hold():
    error = message(from_dict, Impossible, {"things": [1]}, source="f.yaml")
    assert error == "'things' of Impossible has the type set[int], which a config cannot hold"


def test_root_must_be_a_mapping():
    error = message(from_dict, ToyConfig, [1], source="f")
    assert error == "f: 'ToyConfig' must be a mapping of keys to values, got [1]"


def test_dotted_key_in_a_mapping():
    error = message(from_dict, ToyConfig, {"optimiser.lr": 1}, source="f.yaml")
    assert error == "f.yaml: unknown key 'optimiser.lr'. Nest it: 'lr' belongs below 'optimiser'."


# ---- layers ------------------------------------------------------------------------------------------------------


def test_later_layers_win_and_groups_are_merged():
    config = resolve(
        ToyConfig,
        [
            ("preset", {"optimiser": {"weight_decay": 0.1, "eps": 1}, "weights": {"task": 3, "aux": 1}, "low": 2}),
            ("--set", {"optimiser": {"eps": 2}, "weights": {"aux": 5}, "low": 3}),
        ],
    )
    # lr and schedule are the method's own defaults, not those of OptimiserConfig
    assert config.optimiser == OptimiserConfig(lr=0.01, schedule="cosine", weight_decay=0.1, eps=2.0)
    assert config.weights == {"task": 3.0, "aux": 5.0}
    assert config.low == 3
    assert isinstance(config.data, SeriesData)


def test_defaults_are_not_shared():
    first = put("weights.aux=1")
    assert put().weights == {"task": 1.0}
    assert first.weights is not put().weights


def test_null_switches_a_group_off_and_on_again():
    layers = [("a", {"teacher": {"width": 2}}), ("b", {"teacher": None})]
    assert resolve(ToyConfig, layers).teacher is None
    assert resolve(ToyConfig, [*layers, ("c", {"teacher": {"scale": 2}})]).teacher == Part(scale=2.0)


def test_a_group_may_be_given_as_an_instance():
    assert resolve(ToyConfig, [("code", {"student": Part(width=9)})]).student == Part(width=9)


def test_cross_field_checks_see_only_the_merged_values():
    layers = [("demo.yaml", {"low": 7}), ("--set", {"high": 9})]
    assert resolve(ToyConfig, layers).low == 7
    assert message(resolve, ToyConfig, layers[:1]) == "demo.yaml: low 7 is above high 5"


def test_the_source_of_each_error_is_named():
    layers = [("demo.yaml", {"low": 7}), ("x.yaml", {"high": 1}), ("--set", {"high": 2})]
    assert message(resolve, ToyConfig, layers) == "demo.yaml and --set: low 7 is above high 2"
    wrong = [("demo.yaml", {"low": "x"}), ("--set", {"low": 2})]
    assert message(resolve, ToyConfig, wrong) == "demo.yaml: 'low' must be int, got 'x'"


def test_defaults_that_are_wrong_are_told_as_such():
    @dataclass(frozen=True)
    class Bad:
        rate: float = 2.0

        def __post_init__(self) -> None:
            raise ConfigError(f"rate must be below 1, got {self.rate}")

    assert message(resolve, Bad, []) == "defaults of Bad: rate must be below 1, got 2.0"


def test_default_of_a_derived_class_tells_what_is_meant():
    assert put("data.protocol=ett", cls=Loose).data == SeriesData(protocol="ett")
    assert "data.protocol" in {f.path for f in describe(Loose)}


def test_a_mapping_in_a_shared_default_stays_as_it_was():
    assert put("tagged.tags.b=2", cls=Loose).tagged.tags == {"a": 1, "b": 2}
    assert Loose().tagged.tags == {"a": 1}


def test_unions_of_containers():
    assert put("lags=null", cls=Loose).lags is None
    assert put("lags=[1, 2]", cls=Loose).lags == (1, 2)
    assert put("table.a=1", cls=Loose).table == {"a": 1}
    assert put("table={a: 1}", "table=null", cls=Loose).table is None
    assert put("named.a=[1]", cls=Loose).named == {"a": (1,)}
    assert put("either={width: 2}", cls=Loose).either == Part(width=2)
    assert put("either=x", cls=Loose).either == "x"
    assert put("many=[{a: 1}]", cls=Loose).many == ({"a": 1},)
    assert put("never=null", cls=Loose).never is None
    assert message(put, "lags=[1, x]", cls=Loose) == "--set: 'lags[1]' must be int, got 'x'"
    assert message(put, "lags=3", cls=Loose) == "--set: 'lags' must be list of int or null, got 3. Write [3]"
    assert message(put, "many=[{a: x}]", cls=Loose) == "--set: 'many[0].a' must be int, got 'x'"
    assert message(put, "either=3", cls=Loose) == "--set: 'either' must be a group of keys or str, got 3"
    assert message(put, "either.wdth=3", cls=Loose) == "--set: unknown key 'either.wdth'. Did you mean 'either.width'?"
    assert message(put, "derived=3", cls=Loose).startswith("--set: unknown key 'derived'.")
    assert "derived" not in {f.path for f in describe(Loose)}


def test_types_must_be_imported_at_run_time():
    cls = dataclasses.make_dataclass("Odd", [("x", "Nowhere", None)])
    assert message(from_dict, cls, {}, source="f").endswith(
        "Odd: name 'Nowhere' is not defined; import the types of config fields at run time"
    )


def test_a_default_factory_that_fails():
    cls = dataclasses.make_dataclass(
        "Odd", [("o", OptimiserConfig, field(default_factory=lambda: OptimiserConfig(lr=0)))]
    )
    assert message(from_dict, cls, {}, source="f") == "defaults of Odd: o: lr must be positive, got 0"


# ---- assignments -------------------------------------------------------------------------------------------------


def test_assignments_nest():
    texts = ["a.b=1", "a.c.d=x", "e=[1, 1e-3]", " f = y ", "a.b=2"]
    assert parse_assignments(texts) == {"a": {"b": 2, "c": {"d": "x"}}, "e": [1, 0.001], "f": "y"}
    assert parse_assignments(["a.b=1", "a={c: 2}"]) == {"a": {"b": 1, "c": 2}}
    assert parse_assignments([]) == {}


def test_an_assignment_below_a_value():
    error = message(parse_assignments, ["a=1", "a.b=2"])
    assert error == "--set: 'a.b=2' goes below 'a', which was given the value 1"


# ---- YAML --------------------------------------------------------------------------------------------------------


def written(folder: Path, text: str | bytes) -> Path:
    file = folder / "some.yaml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def test_yaml_is_read_by_the_rules_of_1_2(tmp_path):
    text = "off: [no, yes, on]\nrate: 1e-3\nbig: 1E5\ntime: 12:30\nday: 2024-01-31\noct: 010\nnone: ~\nb: True\n"
    assert load_yaml(written(tmp_path, text)) == {
        "off": ["no", "yes", "on"], "rate": 0.001, "big": 1e5, "time": "12:30", "day": "2024-01-31", "oct": 10,
        "none": None, "b": True,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "\ufeff", "{}"])
def test_empty_yaml_is_an_empty_mapping(tmp_path, text):
    assert load_yaml(written(tmp_path, text)) == {}


def test_merge_keys_work_and_are_no_duplicates(tmp_path):
    text = "a: &a {x: 1, y: 2}\nb:\n  <<: *a\n  x: 3\n"
    assert load_yaml(written(tmp_path, text))["b"] == {"x": 3, "y": 2}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3, column 1: key 'a' is given twice, first on line 1"),
        ("a:\n  b: 1\n  b: 1\n", "line 3, column 3: key 'b' is given twice, first on line 2"),
        ("a: 1\nb: [1\n", "line 3, column 1: expected ',' or ']', but got '<stream end>'"),
        ("a: b: c\n", "line 1, column 5: mapping values are not allowed here"),
        ("a:\n\t- 1\n", "line 2, column 1: found character '\\t' that cannot start any token"),
        ("a: *b\n", "line 1, column 4: found undefined alias 'b'"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1: but found another document"),
        ("a: 1e999\n", "line 1, column 4: 1e999 is too large; write .inf if infinity is meant"),
        ("a: !!int x\n", "line 1, column 4: 'x' is not an integer, or too long for one"),
        ("a: !!bool maybe\n", "a value does not suit its !!tag"),
        ("a: !!timestamp x\n", "a value does not suit its !!tag"),
        ("a: &x {b: 1}\nc: {<<: *x, <<: *x}\n", "line 2, column 13: key '<<' is given twice, first on line 2"),
        ("a: !!float x\n", "line 1, column 4: 'x' is not a number"),
        ("a: " + "1" * 5000, f"line 1, column 4: '{'1' * 56}... is not an integer, or too long for one"),
        (
            "a: !!python/object/apply:os.getcwd []\n",
            "line 1, column 4: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object/apply:os.getcwd'",
        ),
        ("a: 1\nb: \x07\n", "line 2: the character '\\x07' is not allowed"),
        ("? [a]\n: 1\n", "line 1, column 3: found unhashable key"),
        ("[" * 5000, "nested too deeply"),
        ("- a\n", "must hold 'key: value' lines, got ['a']"),
        ("just words", "must hold 'key: value' lines, got 'just words'"),
        (b"a: \xff\n", "not UTF-8 at byte 3; save it as UTF-8"),
    ],
)
def test_yaml_that_is_refused(tmp_path, text, error):
    file = written(tmp_path, text)
    assert message(load_yaml, file) == f"{file}: {error}"


def test_files_that_are_not_there(tmp_path):
    assert message(load_yaml, tmp_path / "none.yaml") == f"{tmp_path}/none.yaml: no such file"
    assert message(load_yaml, str(tmp_path)) == f"{tmp_path}: cannot be read (Is a directory)"


def test_resolved_config_reloads_exactly(tmp_path):
    config = put(
        "mask_ratio=1e-5", "name='1e-3'", "folder=x", "size=7", "grid=[[1, 2]]", "weights={a: 1e-300}", "low=-1",
        "parts=[{width: 2}]", "towers={no: {}}", "teacher={}", "student.scale=-.inf", "off=['null', '1_0', '0o7']",
        "extra=[{a: 1}, 'x: y', '']", "optimiser.lr=0.1",
    )  # fmt: skip
    text = dump_yaml(config)
    file = written(tmp_path, text)
    assert from_dict(ToyConfig, load_yaml(file), source="f") == config
    assert to_dict(config) == load_yaml(file)
    assert yaml.safe_load(text) == load_yaml(file)  # other readers agree
    assert "betas: [0.9, 0.999]" in text
    assert text.startswith("'off': ['null', '1_0', '0o7']\ndata:\n  protocol: ratio\n")


words = st.text(st.characters(exclude_categories=["Cs"]))
scalars = st.none() | st.booleans() | st.integers() | st.floats() | words
plain = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3), max_leaves=6
)


@settings(max_examples=150, deadline=None, database=None)
@given(value=plain)
def test_everything_plain_reloads_exactly(tmp_path_factory, value):
    file = written(tmp_path_factory.getbasetemp(), dump_yaml({"value": value}))
    again = load_yaml(file)["value"]
    assert repr(again) == repr(value)


# ---- looking -----------------------------------------------------------------------------------------------------


def test_to_dict_is_plain():
    values = to_dict(put("folder=a/b", "shape=[1, 2]", "teacher={}", "parts=[{}]"))
    assert values["folder"] == "a/b"
    assert values["shape"] == [1, 2.0]
    assert values["teacher"] == {"width": 8, "scale": 1.0}
    assert values["parts"] == [{"width": 8, "scale": 1.0}]
    assert list(values)[:4] == ["off", "data", "optimiser", "engine"]


def test_changed():
    assert changed(put(), put()) == []
    after = put("low=2", "optimiser.eps=1", "weights.aux=1", "teacher={}", "off=[a]")
    assert changed(put(), after) == [
        "off", "optimiser.eps", "low", "teacher", "weights.aux", "teacher.width", "teacher.scale",
    ]  # fmt: skip
    assert changed(put("student.scale=.nan"), put("student.scale=.nan")) == []
    assert changed({"a": {"b": 1}}, {"a": {"b": 1.0, "c": 2}}) == ["a.c"]


def test_describe():
    fields = {f.path: f for f in describe(ToyConfig)}
    assert list(fields)[:3] == ["off", "data.protocol", "optimiser.name"]
    assert fields["mask_ratio"].doc == "Share of frames altered, in [0, 1]."
    assert (fields["mask_ratio"].type, fields["mask_ratio"].default) == ("float", 0.15)
    # inherited from another module
    assert fields["off"].doc.startswith("Terms of the loss")
    # a group's own default, documented by the class of the default
    assert fields["optimiser.lr"].default == 0.01
    assert fields["optimiser.lr"].doc == "Peak learning rate."
    assert fields["data.protocol"].doc == "How rows are split."
    assert fields["student.width"].default == 4
    assert (fields["teacher"].type, fields["teacher"].default) == ("a group of keys or null", None)
    assert fields["teacher.width"].doc == "Channels."
    assert fields["low"].doc == ""
    assert "optimiser" not in fields
    types = {name: fields[name].type for name in ("off", "shape", "weights", "mode", "size", "folder", "engine.epochs")}
    assert types == {
        "off": "list of str", "shape": "[int, float]", "weights": "mapping of str to float",
        "mode": "one of 'auto', 1, 0.5", "size": "int or one of 'all'", "folder": "path or null",
        "engine.epochs": "int or null",
    }  # fmt: skip
    assert all(f.doc for f in describe(MethodConfig))
    assert describe(Needy)[0].required
    assert not fields["low"].required


def test_describe_without_source():
    (only,) = describe(dataclasses.make_dataclass("C", [("x", int, 1)]))
    assert (only.path, only.default, only.doc) == ("x", 1, "")


def test_every_described_field_can_be_set_to_its_default():
    for described in describe(ToyConfig):
        nested: Any = described.default
        for part in reversed(described.path.split(".")):
            nested = {part: nested}
        if not described.path.startswith("teacher."):
            assert resolve(ToyConfig, [("again", nested)]) == put(), described.path


def test_configs_are_light():
    code = (
        "import sys, polycontrast.config as c; c.describe(c.MethodConfig); "
        "assert 'yaml' not in sys.modules; c.parse_assignments(['a=1']); "
        "bad = {'torch', 'numpy', 'pandas'} & set(sys.modules); assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_configs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        put().low = 3

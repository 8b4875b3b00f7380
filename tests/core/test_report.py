from __future__ import annotations

import io
import json
import math
import random
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest
import yaml

from polycontrast import plugins, report
from polycontrast.method import Chart, Listing
from polycontrast.report import charts, facts, rows
from polycontrast.runs import Run

HORIZONS = (24, 48, 168, 336, 720)
VOID = {"meta", "wbr", "br", "hr", "img", "input", "link"}


# ---- fake runs -------------------------------------------------------------------------------------------------------


def metrics_of(mse: float, mae: float) -> dict[str, float]:
    return (
        {"mse": mse * 1.25}
        | {f"mse_{h}": mse * (1 + 0.1371 * i) for i, h in enumerate(HORIZONS)}
        | {f"mae_{h}": mae * (1 + 0.0713 * i) for i, h in enumerate(HORIZONS)}
    )


def make_result(**changes: Any) -> dict[str, Any]:
    result = {
        "run": "runs/x",
        "method": "timeseries/none-such",
        "dataset": "etth1",
        "preset": "quick",
        "seed": 0,
        "steps": 2000,
        "seconds": 92.4,
        "headline": "mse",
        "higher_is_better": False,
        "metrics": metrics_of(0.3474123, 0.3842)
        | {f"frozen_mse_{h}": 0.361 * (1 + 0.12 * i) for i, h in enumerate(HORIZONS)}
        | {"r2": 0.6123, "effective_rank": 23.4421},
        "baselines": {
            "persistence": metrics_of(1.2943, 0.7132),
            "seasonal-naive": metrics_of(0.512, 0.4331),
            "ridge": metrics_of(0.3391, 0.3701) | {"r2": 0.6012},
            "dlinear": metrics_of(0.352, 0.379),
        },
        "floors": ["persistence", "seasonal-naive"],
        "published": {
            "Ti-MAE, table 2": {
                f"mse_{h}": v for h, v in zip(HORIZONS, (0.364, 0.399, 0.439, 0.487, 0.519), strict=True)
            },
            "TS2Vec": {"mse_24": 0.299},
        },
        "protocol": {"scaling": "z-score on train", "rows": {"train": 8640, "val": 2880}},
        "notes": ["protocol ett was chosen because the columns are those of ETT"],
        "parameters": 412345,
        "licence": "CC BY-ND 4.0",
        "citation": "Zhou et al. 2021. https://arxiv.org/abs/2012.07436",
    }
    return result | changes


def make_lines(steps: int = 2000, every: int = 10) -> list[dict[str, Any]]:
    rng = random.Random(0)
    lines = []
    for step in range(every, steps + 1, every):
        stage, at = ("pretrain", step) if step <= steps * 0.7 else ("probe", step - steps * 0.7)
        loss = (1.1 * math.exp(-at / 250) + 0.3) * (1 + rng.gauss(0, 0.03))
        line = {"step": step, "stage": stage, "epoch": step // 100, "seconds": step * 0.04, "train/loss": loss}
        line |= {"train/reconstruction": loss * 0.8, "lr/main": 1e-3 * min(1, at / 100), "grad_norm/main": 1 + loss}
        lines.append(line)
        if step % (10 * every) == 0:
            lines.append({"step": step, "stage": stage, "epoch": step // 100, "seconds": 1.0, "val/loss": loss * 1.1})
    return lines


CONFIG = {
    "width": 16,
    "off": [],
    "engine": {"batch_size": 32, "epochs": 3},
    "optimiser": {"lr": 0.01, "betas": [0.9, 0.99]},
}


def make_run(
    path: Path,
    *,
    result: dict[str, Any] | None = None,
    lines: list[dict[str, Any]] | None = None,
    config: dict[str, Any] | None = None,
    environment: dict[str, Any] | None = None,
) -> Run:
    asked = {"method": "timeseries/none-such", "data": "etth1", "preset": "quick", "seed": 0, "config": CONFIG}
    about = {
        "command": ["/somewhere/bin/polycontrast", "train", "timeseries/none-such", "--set", "name=two words"],
        "started": "2025-11-24T18:25:31+00:00",
        "python": "3.11.2",
        "threads": 2,
        "device": "cpu",
        "versions": {"polycontrast": "0.1.0", "torch": "2.11.0+cpu"},
    }
    run = Run.create(path, config=asked | (config or {}), environment=about if environment is None else environment)
    text = "".join(json.dumps(line) + "\n" for line in (make_lines() if lines is None else lines))
    run.metrics_file.write_text(text, encoding="utf-8")
    if result is not None:
        text = json.dumps(result).replace("NaN", "null").replace("Infinity", "null")
        (path / "result.json").write_text(text, encoding="utf-8")
    return run


# ---- reading the page ------------------------------------------------------------------------------------------------


class Node:
    def __init__(self, tag: str, attributes: dict[str, str | None]) -> None:
        self.tag, self.attributes = tag, attributes
        self.children: list[Node | str] = []

    @property
    def text(self) -> str:
        return "".join(child if isinstance(child, str) else child.text for child in self.children)

    def all(self, tag: str, class_: str = "") -> Iterator[Node]:
        for child in self.children:
            if isinstance(child, Node):
                if child.tag == tag and (not class_ or class_ in (child.attributes.get("class") or "").split()):
                    yield child
                yield from child.all(tag, class_)


class Page(HTMLParser):
    """A tree of the page; fails on the first tag that is not closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.root = Node("", {})
        self.open = [self.root]
        self.feed(text)
        self.close()
        assert [node.tag for node in self.open] == [""], "tags left open"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"attribute given twice in <{tag}>"
        node = Node(tag, dict(attrs))
        self.open[-1].children.append(node)
        if tag not in VOID:
            self.open.append(node)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().tag == tag, f"</{tag}> closes another tag"

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read(run: Run) -> tuple[str, Node]:
    file = report.write(run)
    assert file == run.path / "report.html"
    text = file.read_text(encoding="utf-8")
    return text, Page(text).root


def cells(root: Node) -> dict[tuple[str, str], Node]:
    """The cells of all result tables by (row label, metric)."""
    found = {}
    for region in root.all("div", "scroll"):
        head = [th.attributes.get("abbr") for th in next(region.all("thead")).all("th")][1:]
        for tr in next(region.all("tbody")).all("tr"):
            label = next(tr.all("span", "name")).text
            for metric, td in zip(head, tr.all("td"), strict=True):
                assert metric is not None
                assert (label, metric) not in found
                found[label, metric] = td
    return found


@pytest.fixture
def finished(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", result=make_result())


# ---- the page --------------------------------------------------------------------------------------------------------


def test_page_is_balanced_semantic_html(finished: Run) -> None:
    text, root = read(finished)
    assert text.startswith("<!doctype html>\n<html lang=")
    assert [node.text for node in root.all("h1")] == ["timeseries/none-such"]
    assert [node.text for node in root.all("h2")] == [
        "Results", "Training", "Protocol", "Reproduce", "Settings", "Environment", "Sources",
    ]  # fmt: skip
    ids = re.findall(r'\bid="([^"]*)"', text)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'aria-labelledby="([^"]*)"', text)) <= set(ids)
    assert all(svg.attributes["role"] == "img" and svg.attributes["aria-label"] for svg in root.all("svg"))
    assert all(th.attributes["scope"] in ("row", "col") for th in root.all("th"))


def test_page_loads_nothing(finished: Run) -> None:
    text, root = read(finished)
    assert not re.search(r"<(script|link|img|iframe|object|embed|base|form|image|use)\b", text)
    assert not re.search(r"\bsrc=|url\(|@import|javascript:|\son\w+=", text)
    links = [a.attributes["href"] for a in root.all("a")]
    assert links == ["https://arxiv.org/abs/2012.07436"]
    assert len(re.findall("https?://", text)) == 2  # that link and its text
    policy = next(m for m in root.all("meta") if m.attributes.get("http-equiv") == "Content-Security-Policy")
    assert policy.attributes["content"] == "default-src 'none'; style-src 'unsafe-inline'"


def test_page_has_light_dark_and_print(finished: Run) -> None:
    text, _ = read(finished)
    assert "@media screen and (prefers-color-scheme: dark)" in text
    assert "@media print" in text
    assert "@media (max-width: 700px)" in text
    # Every colour that is used is defined, in both schemes.
    light, dark = (set(re.findall(r"(--[\w-]+):", block)) for block in re.findall(r":root \{(.*?)\}", text, re.S)[:2])
    assert light == dark == set(re.findall(r"var\((--[\w-]+)\)", text))


def test_hostile_names_are_escaped(tmp_path: Path) -> None:
    evil = "</style><script>alert(1)</script><img src=x onerror=alert(2)>\"' & \ud800\x00"
    plain = evil[:-2]
    result = make_result(
        dataset=evil,
        preset=evil,
        headline=evil,
        metrics={evil: 0.5, f"{evil}_1": 1.0, f"{evil}_2": 2.0},
        baselines={evil: {evil: 0.7}, "other": {evil: 0.6}},
        floors=[evil],
        published={evil: {evil: 0.1}},
        protocol={evil: evil},
        warnings=[evil],
        notes=[evil, 'see https://x.org/"onmouseover="alert(3)'],
        licence=evil,
        citation=evil,
    )
    lines = [
        {"step": i, "stage": f"{evil}{i // 5}", "train/loss": 1.0, f"train/{evil}": 2.0, f"lr/{evil}": 0.1, evil: 3.0}
        for i in range(10)
    ]
    run = make_run(
        tmp_path / "run",
        result=result,
        lines=lines,
        config={"method": plain, "data": plain, "config": {"evil": plain}},
        environment={"command": ["polycontrast", plain], "started": plain, "versions": {plain: plain}, plain: plain},
    )
    _, root = read(run)
    assert not list(root.all("script"))
    assert not list(root.all("img"))
    used = {name for node in _everything(root) for name in node.attributes}
    assert not {name for name in used if name.startswith("on")}
    assert len(list(root.all("style"))) == 1
    assert "<script>alert(1)</script>" in next(root.all("h1")).text
    report.model_card(run)
    printed(result)


def _everything(node: Node) -> Iterator[Node]:
    for child in node.children:
        if isinstance(child, Node):
            yield child
            yield from _everything(child)


def test_every_number_of_the_result_is_in_the_tables(finished: Run) -> None:
    _, root = read(finished)
    result = make_result()
    found = cells(root)
    given = {result["method"]: result["metrics"], **result["baselines"], **result["published"]}
    for label, metrics in given.items():
        for metric, value in metrics.items():
            data = next(found[label, metric].all("data"))
            assert float(data.attributes["value"] or "") == value
            assert float(data.text) == pytest.approx(value, rel=2e-3)
    for (label, metric), td in found.items():
        if metric not in given[label]:
            assert td.text == rows.MISSING
    assert found["TS2Vec", "mse_720"].text == rows.MISSING


def test_rows_are_labelled_and_families_are_tables(finished: Run) -> None:
    _, root = read(finished)
    regions = {div.attributes["aria-label"]: div for div in root.all("div", "scroll")}
    assert list(regions) == ["mse", "mae", "frozen_mse", "metrics"]
    assert [th.text for th in next(regions["mse"].all("thead")).all("th")] == ["row", "mse", *map(str, HORIZONS)]
    labels = {}
    for tr in next(regions["mse"].all("tbody")).all("tr"):
        labels[next(tr.all("span", "name")).text] = [chip.text for chip in tr.all("span", "chip")]
    assert labels == {
        "timeseries/none-such": [],
        "persistence": ["floor"],
        "seasonal-naive": ["floor"],
        "ridge": ["strong baseline"],
        "dlinear": ["strong baseline"],
        "Ti-MAE, table 2": ["published, not recomputed"],
        "TS2Vec": ["published, not recomputed"],
    }


def test_best_values_are_marked(finished: Run) -> None:
    _, root = read(finished)
    found = cells(root)
    best = {(label, metric) for (label, metric), td in found.items() if list(td.all("b"))}
    assert {metric for label, metric in best if label == "ridge"} == {
        "mse", *(f"mse_{h}" for h in HORIZONS), *(f"mae_{h}" for h in HORIZONS)
    }  # fmt: skip
    # r2: the higher the better; effective_rank and frozen_mse stand alone, so there is nothing to be best of.
    assert best - {key for key in best if key[0] == "ridge"} == {("timeseries/none-such", "r2")}
    better = {(label, metric) for (label, metric), td in found.items() if list(td.all("u"))}
    assert better == {("TS2Vec", "mse_24"), ("Ti-MAE, table 2", "mse_720")}


def test_headline_states_numbers_and_verdict(finished: Run) -> None:
    _, root = read(finished)
    block = next(root.all("section", "headline"))
    values = [float(data.attributes["value"] or "") for data in block.all("data")]
    result = make_result()
    baselines = result["baselines"]
    assert values[:3] == [result["metrics"]["mse"], baselines["seasonal-naive"]["mse"], baselines["ridge"]["mse"]]
    assert "lower is better" in block.text
    assert next(block.all("p", "badge")).text == "≈ Beats its floors only"
    assert [next(li.all("span", "name")).text for li in next(block.all("ol")).all("li")] == [
        "ridge", "timeseries/none-such", "dlinear", "seasonal-naive", "persistence",
    ]  # fmt: skip


def test_warnings_stand_beside_the_headline_and_only_where_there_are_some(tmp_path: Path) -> None:
    told = "collapse watch at step 40: the representation has collapsed"
    warned = make_run(tmp_path / "warned", result=make_result(warnings=[told]))
    _, root = read(warned)
    assert told in root.text
    assert next(h.text for h in root.all("h2")) == "Warnings"
    assert f"## Warnings\n\n- {told}" in report.model_card(warned)
    for n, result in enumerate((make_result(), make_result(warnings=[]))):
        quiet = make_run(tmp_path / str(n), result=result)
        assert "Warnings" not in read(quiet)[0] + report.model_card(quiet)


def test_facts_and_commands_are_there(finished: Run) -> None:
    _, root = read(finished)
    header = next(root.all("header"))
    assert [dd.text for dd in header.all("dd")] == [
        "etth1", "quick", "0", "24 November 2025, 18:25", "2,000", "1 min 32 s", "412,345", "cpu",
    ]  # fmt: skip
    commands = [pre.text for pre in root.all("pre")]
    assert commands[0] == "polycontrast train timeseries/none-such --set 'name=two words'"
    assert shlex.split(commands[1]) == [
        "polycontrast", "train", "timeseries/none-such", "--config", str(finished.path / "config.yaml"), "--seed", "0",
    ]  # fmt: skip
    assert commands[2] == "pip install polycontrast==0.1.0 torch==2.11.0"
    pairs = {dt.text: dd.text for dt, dd in zip(root.all("dt"), root.all("dd"), strict=True)}
    assert pairs["optimiser.betas"] == "0.9, 0.99"
    assert pairs["rows.train"] == "8640"
    assert pairs["Licence of the data"] == "CC BY-ND 4.0"
    assert pairs["torch"] == "2.11.0+cpu"


def test_settings_that_differ_from_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "report_toy.py").write_text(
        "from dataclasses import dataclass\n"
        "from polycontrast.config import MethodConfig\n"
        "from polycontrast.plugins import MethodSpec, Plugin\n"
        "@dataclass(frozen=True, slots=True, kw_only=True)\n"
        "class Config(MethodConfig):\n"
        "    width: int = 8\n"
        "PLUGIN = Plugin(domain='toy', api=(1, 0), methods=(MethodSpec(name='auto', target='report_toy:None_',\n"
        "    config='report_toy:Config', summary='A toy.', paper='arXiv:2301.08871'),))\n",
        encoding="utf-8",
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry = plugins.Registry([EntryPoint("toy", "report_toy:PLUGIN", plugins.GROUP)])
    monkeypatch.setattr(plugins, "default", lambda: registry)
    defaults = facts.default_settings("toy/auto")
    assert defaults is not None
    nested: dict[str, Any] = {"width": 16, "off": [], "engine": {"epochs": None}, "optimiser": {"betas": [0.9, 0.999]}}
    _, root = read(make_run(tmp_path / "run", config={"method": "toy/auto", "config": nested}, result=make_result()))
    table = next(root.all("table", "changed"))
    found = [[cell.text for cell in (*tr.all("th"), *tr.all("td"))] for tr in next(table.all("tbody")).all("tr")]
    assert found == [["width", "16", "8"], ["engine.epochs", "none", "10"]]
    assert "https://arxiv.org/abs/2301.08871" in [a.attributes["href"] for a in root.all("a")]
    sys.modules.pop("report_toy", None)


def test_unfinished_run_says_so_and_shows_its_curves(tmp_path: Path) -> None:
    text, root = read(make_run(tmp_path / "run"))
    assert "This run has no result yet" in text
    assert "step 2,000 of the stage “probe”" in text
    assert len(list(root.all("svg"))) >= 4
    assert not list(root.all("div", "scroll"))


def test_run_without_anything(tmp_path: Path) -> None:
    text, _ = read(make_run(tmp_path / "run", lines=[], environment={}))
    assert "No metrics were logged." in text
    assert "Nothing has been logged." in text


def test_last_line_cut_off(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    whole = run.metrics_file.read_bytes()
    run.metrics_file.write_bytes(whole[:9000] + b'"\xc3')
    text, root = read(run)
    assert list(root.all("svg"))
    assert "This run has no result yet" in text


def test_result_with_missing_parts(tmp_path: Path) -> None:
    result = make_result(
        metrics={"mse": math.nan, "mae": 0.3}, baselines={}, floors=[], published={}, protocol={}, notes=[]
    )
    for name in ("steps", "seconds", "preset", "parameters", "licence", "citation"):
        result.pop(name)
    run = make_run(tmp_path / "run", result=result)
    text, root = read(run)
    assert "No headline number" in text
    assert cells(root)["timeseries/none-such", "mse"].text == rows.MISSING
    report.model_card(run)
    printed(result)


# ---- rows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("higher", "winner"), [(False, "b"), (True, "c")])
def test_best_follows_the_sense_of_the_headline(higher: bool, winner: str) -> None:
    result = {
        "method": "a", "headline": "score_1", "higher_is_better": higher, "floors": ["b"],
        "metrics": {"score_1": 2.0, "score_2": 2.0, "other": 1.0, "accuracy": 0.5},
        "baselines": {
            "b": {"score_1": 1.0, "score_2": 1.0, "other": 2.0, "accuracy": 0.5}, "c": {"score_1": 3.0, "score_2": 3.0},
        },
    }  # fmt: skip
    best = {row.label: row.best for row in report.table(result)}
    assert best[winner] >= {"score_1", "score_2"}  # of one family with the headline
    assert sum("score_1" in marked for marked in best.values()) == 1
    assert best["a"] == best["b"] - {"score_1", "score_2"} == {"accuracy"}  # equal: both; of "other" nobody knows


def test_table_orders_rows_and_fills_gaps() -> None:
    table = report.table(make_result(metrics={"mse": 0.4, "x": None, "y": math.inf, "z": True}))
    assert [(row.label, row.role) for row in table] == [
        ("timeseries/none-such", "method"),
        ("persistence", "floor"), ("seasonal-naive", "floor"), ("ridge", "strong"), ("dlinear", "strong"),
        ("Ti-MAE, table 2", "published"), ("TS2Vec", "published"),
    ]  # fmt: skip
    assert len({tuple(row.values) for row in table}) == 1
    assert [table[0].values[name] for name in ("mse", "x", "y", "z")] == [0.4, None, None, None]


def seeds() -> dict[str, Any]:
    runs = [
        make_result(
            seed=seed,
            metrics={"mse": value, "mae_1": 1.0 + seed},
            baselines={
                "persistence": {"mse": 1.0 + seed / 10},
                "ridge": {"mse": 0.4} | ({"mae_1": 2.0} if seed else {}),
            },
            floors=["persistence"],
            published={"P": {"mse": 0.45}},
        )
        for seed, value in enumerate((0.5, 0.41, 0.39))
    ]
    values = [run["metrics"]["mse"] for run in runs]
    summary = {
        "mse": {"mean": statistics.fmean(values), "std": statistics.stdev(values)},
        "mae_1": {"mean": 2.0, "std": 1.0},
    }
    return {"runs": runs, "summary": summary}


def test_several_seeds() -> None:
    table = {row.label: row for row in report.table(seeds())}
    method = table["timeseries/none-such"]
    assert method.values["mse"] == pytest.approx(1.3 / 3)
    assert method.spread == {"mse": pytest.approx(statistics.stdev([0.5, 0.41, 0.39])), "mae_1": 1.0}
    assert table["persistence"].values["mse"] == pytest.approx(1.1)
    assert table["persistence"].spread["mse"] == pytest.approx(0.1)
    assert table["ridge"].values["mae_1"] is None  # one seed lacks it: a mean of the others would mislead
    assert table["P"].values["mse"] == 0.45
    assert table["P"].spread == {}
    assert report.table({"runs": [], "summary": {}}) == []


@pytest.mark.parametrize(
    ("metric", "higher"),
    [
        ("mse_96", False), ("frozen_mae_24", False), ("smape", False), ("linear/accuracy", True), ("knn/top1", True),
        ("i2t_r@1", True), ("recall@10", True), ("ndcg_100", True), ("f1", True), ("r2", True), ("wer", False),
        ("effective_rank", None), ("items_per_second", None), ("error_recall", None), ("score", None),
    ],
)  # fmt: skip
def test_sense_of_metrics(metric: str, higher: bool | None) -> None:
    assert rows.higher_is_better(metric, {"headline": "else", "higher_is_better": True}) is higher


def test_groups() -> None:
    names = ["acc", "linear/acc", "linear/f1", "r@1", "r@5", "r@10", "mse", "mse_1", "mse_2", "one_7"]
    found = {group.title: group.columns for group in rows.groups(names, "r@5")}
    assert list(found) == ["r", "", "linear", "mse"]
    assert found["r"] == (("r@1", "1"), ("r@5", "5"), ("r@10", "10"))
    assert found[""] == (("acc", "acc"), ("one_7", "one_7"))
    assert found["linear"] == (("linear/acc", "acc"), ("linear/f1", "f1"))
    assert found["mse"] == (("mse", "mse"), ("mse_1", "1"), ("mse_2", "2"))
    many = rows.groups([f"m_{i}" for i in range(20)])
    assert [len(group.columns) for group in many] == [7, 7, 6]
    assert sorted(m for group in many for m, _ in group.columns) == sorted(f"m_{i}" for i in range(20))


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([0.4041, 1.61794], ["0.4041", "1.6179"]),
        ([12.3, 99.123], ["12.30", "99.12"]),
        ([3.0, 12.0, None], ["3", "12", rows.MISSING]),
        ([0.0, 1.0], ["0.0000", "1.0000"]),
        ([1e-9, 0.5], ["1e-9", "0.5000"]),
        ([2.5e9], ["2.5e+9"]),
        ([-0.25, 0.125], ["-0.2500", "0.1250"]),
        ([], []),
    ],
)
def test_number_texts(values: list[float | None], texts: list[str]) -> None:
    places = rows.decimals(values)
    assert [rows.shown(value, places) for value in values] == texts


# ---- verdict ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("higher", "own", "floors", "strong", "level", "says"),
    [
        (False, 0.3, {"f": 0.5}, {"s": 0.4}, "good", "also beats the strong baseline s (0.4000): the method is 25 % l"),
        (True, 0.3, {"f": 0.5}, {"s": 0.4}, "bad", "The method does not beat the floor f (0.5000)"),
        (True, 0.6, {"f": 0.5}, {"s": 0.8, "t": 0.58}, "mixed", "does not beat the best strong baseline s (0.8000)"),
        (True, 0.6, {"f": 0.5, "g": 0.55}, {"s": 0.8}, "mixed", "beats both floors, the best of them g (0.5500)"),
        (True, 0.6, {"f": 0.5, "g": 0.55}, {"s": 0.8, "t": 0.58}, "mixed", "It is ahead of t (0.5800)."),
        (False, 0.5, {"f": 0.5}, {}, "bad", "the two are equal"),
        (False, 0.4, {"f": 0.5}, {"s": 0.4}, "mixed", "the two are equal"),
        (False, 0.4, {"f": 0.5, "g": 0.3}, {"s": 0.2}, "bad", "does not beat the floor g (0.3000), which"),
        (False, 0.4, {"f": 0.5}, {}, "mixed", "No strong baseline was measured."),
        (False, 0.4, {}, {"s": 0.5}, "unknown", "No floor was measured"),
        (True, 5.0, {"f": -2.0}, {}, "mixed", "the method is 7.0000 higher"),
        (False, None, {"f": 0.5}, {}, "unknown", "Without a headline number"),
    ],
)  # fmt: skip
def test_verdict(
    higher: bool, own: float | None, floors: dict[str, float], strong: dict[str, float], level: str, says: str
) -> None:
    result = make_result(
        higher_is_better=higher,
        metrics={"mse": own},
        baselines={name: {"mse": value} for name, value in (strong | floors).items()},
        floors=list(floors),
        published={"P": {"mse": 0.2222}},
    )
    said = rows.verdict(result)
    assert said.level == level
    assert says in said.text
    assert "0.2222" not in said.text


# ---- curves ----------------------------------------------------------------------------------------------------------


def test_thinning_keeps_the_extremes() -> None:
    rng = random.Random(1)
    points = [(float(i), rng.gauss(0, 1)) for i in range(20_000)]
    spikes = [(123, 50.0), (9_999, -70.0), (19_998, 60.0)]
    for at, value in spikes:
        points[at] = (float(at), value)
    kept = charts.thin(points)
    assert len(kept) <= 4 * charts.BINS
    assert {(float(at), value) for at, value in spikes} <= set(kept)
    assert kept == sorted(kept)
    assert set(kept) <= set(points)
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert charts.thin(points[:900]) == points[:900]


def test_long_runs_give_small_pages(tmp_path: Path) -> None:
    lines = make_lines(steps=20_000, every=1)
    lines[10_000]["train/loss"] = 77.7
    text, _ = read(make_run(tmp_path / "run", lines=lines))
    assert len(text) < 1_000_000
    assert "77.70" in text  # the readout under the pointer


def test_listings_of_the_method(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", result=make_result())
    rows = [["A <b>", "0.5", "with term x; song of y"], ["B", "0.4", "-"]]
    run.write_charts([Listing(title="First nodes", columns=("node", "score", "reasons"), rows=rows).as_dict()])
    _, root = read(run)
    assert [node.text for node in root.all("h2")][:3] == ["Results", "Examples", "Training"]
    assert [[cell.text for cell in row.all("td")] for row in root.all("tr") if "A <b>" in row.text] == [rows[0][1:]]
    with pytest.raises(ValueError, match="a row of 2 under 3 columns"):
        Listing(title="x", columns=("a", "b", "c"), rows=[["1", "2"]])


def test_charts_of_the_method(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", result=make_result())
    x, nan = [-1.0, -0.5, 0.0, 0.5], math.nan
    band = ([1.0, 1.0, 1.0, nan], [3.0, 3.0, 9.0, 3.0])
    lines = {"truth": [2.0, 3.0, nan, 4.0], "forecast <b>": [nan, nan, 5.0, 4.5]}
    plain = Chart(title="Only one", x=[10.0], lines={"score": [0.5]})
    sensor = Chart(title="Sensor 1", x=x, lines=lines, band=band, x_unit="hours ahead")
    run.write_charts([sensor.as_dict(), plain.as_dict()])
    text, root = read(run)
    assert [node.text for node in root.all("h2")][:3] == ["Results", "Examples", "Training"]
    figure = next(node for node in root.all("figure") if "Sensor 1" in node.text)
    svg = next(figure.all("svg"))
    truth, forecast = svg.all("path", "curve")
    assert (truth.attributes["d"] or "").count("M") == 2  # broken at the gap
    assert (truth.attributes["d"] or "").count("L") == 1
    assert "c1" in (forecast.attributes["class"] or "")
    (shade,) = svg.all("path", "band")
    assert (shade.attributes["d"] or "").count("L") == 5  # the place with an unknown edge is left out
    words = [node.text for node in svg.all("text")]
    assert "hours ahead" in words
    assert "-0.5" in words
    assert "hours ahead 0.5 · truth 4 · forecast <b> 4.5000" in words
    assert "not finite" not in figure.text
    assert text.count("forecast <b>") == 0  # escaped


@pytest.mark.parametrize(
    ("lines", "band"),
    [({}, None), ({f"{i}": [1.0] for i in range(5)}, None), ({"a": [1.0, 2.0]}, None), ({"a": [1.0]}, ([1.0], []))],
)
def test_charts_that_cannot_be_drawn(lines: dict[str, list[float]], band: Any) -> None:
    with pytest.raises(ValueError, match="chart 'x'"):
        Chart(title="x", x=[0.0], lines=lines, band=band)


def test_gaps_where_values_are_not_finite(tmp_path: Path) -> None:
    lines = [{"step": i, "stage": "s", "train/loss": 1.0 + i} for i in range(10)]
    lines[4]["train/loss"] = lines[5]["train/loss"] = None
    lines[8]["train/loss"] = math.nan  # Python's json writes and reads it
    series = charts.collect(lines, "train/loss", "training", "train")
    assert [[x for x, _ in part] for part in series.parts] == [[0, 1, 2, 3], [6, 7], [9]]
    assert series.lost == [4, 5, 8]
    text, root = read(make_run(tmp_path / "run", lines=lines))
    assert "training: 3 of 10 values not finite, first at step 4; shown as a gap." in text
    curve = next(next(root.all("svg")).all("path", "curve"))
    assert (curve.attributes["d"] or "").count("M") == 3
    assert next(root.all("path", "lost"))
    only = [{"step": i, "stage": "s", "train/loss": None} for i in range(3)]
    assert "No finite value." in read(make_run(tmp_path / "none", lines=only))[0]


def test_stages_break_curves_and_are_named(finished: Run) -> None:
    lines = finished.metrics()
    assert charts.stages(lines) == [("pretrain", 10, 1400), ("probe", 1410, 2000)]
    assert [len(part) for part in charts.collect(lines, "train/loss", "", "").parts] == [140, 60]
    _, root = read(finished)
    drawing = next(root.all("svg"))
    assert [text.text for text in drawing.all("text", "stage-name")] == ["pretrain", "probe"]
    assert len(list(drawing.all("path", "border"))) == 1


def test_one_chart_per_quantity(finished: Run) -> None:
    found = charts.charts(finished.metrics())
    assert [chart.title for chart in found] == ["Loss", "reconstruction", "Learning rate", "Gradient norm"]
    assert [series.label for series in found[0].series] == ["training", "validation"]
    many = charts.charts(
        [{"step": 1, "train/a": 1.0, "text": "x", "flag": True, "rank": 3, **{f"lr/{i}": 0.1 for i in range(6)}}]
    )
    assert [(chart.title, len(chart.series)) for chart in many] == [
        ("a", 1), ("Learning rate", 4), ("Learning rate", 2), ("rank", 1),
    ]  # fmt: skip


def test_curves_stay_inside_their_axes(tmp_path: Path) -> None:
    cases = {
        "equal": [2.0] * 5,
        "zero": [0.0] * 5,
        "wide": [1e-7, 1.0, 1e6, 3.0, 1e-3],
        "signs": [-5.0, 1e6, 0.0, 2.0, -1e6],
        "huge": [1e290, -1e290, 0.0, 1.0, 1e299],
        "tiny": [1e-12, 2e-12, 1.5e-12, 1e-12, 1.9e-12],
    }
    lines = [{"step": 7 * i, "stage": "s", **{name: values[i] for name, values in cases.items()}} for i in range(5)]
    _, root = read(make_run(tmp_path / "run", lines=lines))
    drawings = list(root.all("svg"))
    assert len(drawings) == len(cases)
    for drawing in drawings:
        _, _, width, height = map(float, (drawing.attributes["viewbox"] or "").split())
        for path in drawing.all("path", "curve"):
            numbers = [float(n) for n in re.findall(r"-?[\d.]+(?:e[-+]?\d+)?", path.attributes["d"] or "")]
            assert len(numbers) == 10
            assert all(0 < x <= width for x in numbers[::2])
            assert all(0 < y < height for y in numbers[1::2])
        ticks = [t.text for t in drawing.all("text") if t.attributes.get("text-anchor") == "end"]
        assert len(set(ticks)) >= 3
    lone = [{"step": 0, "stage": "s", "train/loss": 1.0}]
    assert list(read(make_run(tmp_path / "lone", lines=lone))[1].all("path", "dots"))


def test_ticks_are_round() -> None:
    assert charts.linear_ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert charts.linear_ticks(-3.0, 12.0) == pytest.approx([0, 5, 10])
    assert charts.linear_ticks(0.0, 2000.0) == pytest.approx([0, 500, 1000, 1500, 2000])
    assert charts.log_ticks(0.001, 1000.0) == pytest.approx([1e-3, 1e-2, 1e-1, 1, 10, 100, 1000])
    assert charts.log_ticks(0.9, 21.0) == pytest.approx([1, 2, 5, 10, 20])
    assert charts.wants_log([0.01, 1.0])
    assert not charts.wants_log([0.1, 1.0])
    assert not charts.wants_log([0.0, 1.0, 1e9])
    labels = [charts.tick_label(v) for v in (0, 0.0002, 1500, 250_000, 2e-6, 1e-5, 3e7, -0.5)]
    assert labels == ["0", "0.0002", "1,500", "250,000", "2·10⁻⁶", "10⁻⁵", "3·10⁷", "-0.5"]


# ---- console and card ------------------------------------------------------------------------------------------------


def printed(result: dict[str, Any], encoding: str = "utf-8") -> str:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    report.print_table(result, file)
    file.flush()
    return raw.getvalue().decode(encoding)


def test_console_table_is_plain_and_whole() -> None:
    result = make_result()
    text = printed(result)
    assert "\x1b" not in text
    assert "…" not in text
    numbers = re.findall(r"\d+\.\d+", text)
    for metrics in (result["metrics"], *result["baselines"].values(), *result["published"].values()):
        for value in metrics.values():
            assert any(float(number) == pytest.approx(value, abs=0.006 if value > 10 else 6e-5) for number in numbers)
    assert re.search(r"ridge +strong +0\.4239 \*", text)
    assert re.search(r"TS2Vec +published +" + rows.MISSING + r" +0\.2990", text)
    assert "The method beats both floors" in text


def test_console_table_on_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    file = Terminal()
    report.print_table(make_result(), file)
    assert "\x1b[1m" in file.getvalue()
    lines = re.sub(r"\x1b\[[\d;]*m", "", file.getvalue()).splitlines()
    assert max(map(len, lines)) <= 60
    assert "…" not in "".join(lines)
    assert sum("persistence" in line for line in lines) > 3  # the table was cut into several
    for value in make_result()["baselines"]["persistence"].values():
        assert any(f"{value:.4f}" in line for line in lines)


def test_console_table_of_seeds_and_in_ascii() -> None:
    text = printed(seeds())
    assert re.search(r"timeseries/none-such +0\.4333 ± 0\.0586", text)
    assert re.search(r"ridge +strong +0\.4000 ± 0\.0000 \*", text)
    assert "seeds 0, 1, 2" in text
    assert "The method beats its floors in 3 of 3 runs, its strong baselines too in 1." in text
    plain = printed(seeds(), "ascii")
    assert "0.4333 +/- 0.0586" in plain
    assert "no results" in printed({"runs": [], "summary": {}})


def test_console_ignores_markup_and_control_characters() -> None:
    text = printed(make_result(dataset="[red]x[/red]", baselines={"[bold]b\x1b[31m": {"mse": 1.0}}, floors=[]))
    assert "[red]x[/red]" in text
    assert "[bold]b?[31m" in text


def test_model_card(finished: Run) -> None:
    card = report.model_card(finished)
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header) == {
        "library_name": "polycontrast",
        "tags": ["polycontrast", "timeseries", "none-such"],
        "data_licence": "CC BY-ND 4.0",
    }
    snippet = re.search(r"```python\n(.*?)```", body, re.S)
    assert snippet is not None
    compile(snippet[1], "card", "exec")
    assert 'polycontrast.load("FOLDER_OR_HUB_ID")' in snippet[1]
    assert "| ridge (strong baseline) | **0.4239** | **0.3391** |" in body
    assert f"| Ti-MAE, table 2 (published, not recomputed) | {rows.MISSING} | 0.3640 |" in body
    for words in (
        "1 min 32 s",
        "seed 0",
        "| torch | 2.11.0+cpu |",
        "The method beats both floors",
        "Zhou et al. 2021",
        "412,345",
    ):
        assert words in body
    assert str(finished.path) not in card


def test_model_card_of_an_unfinished_run(tmp_path: Path) -> None:
    card = report.model_card(make_run(tmp_path / "run"))
    assert "The run has no result yet." in card
    assert "licence" not in card


@pytest.mark.parametrize(
    ("identifier", "address"),
    [
        ("arXiv:2301.08871", "https://arxiv.org/abs/2301.08871"), ("2301.08871v2", "https://arxiv.org/abs/2301.08871v2"),
        ("10.1145/3292500.3330855", "https://doi.org/10.1145/3292500.3330855"), ("doi:10.1/x", "https://doi.org/10.1/x"),
        ("https://openreview.net/forum?id=x", "https://openreview.net/forum?id=x"), ("javascript:alert(1)", ""),
        ("ICLR 2023", ""),
    ],
)  # fmt: skip
def test_paper_addresses(identifier: str, address: str) -> None:
    assert facts.paper_address(identifier) == address


@pytest.mark.parametrize(
    ("command", "text"),
    [
        (["/x/bin/polycontrast", "train", "a b"], "polycontrast train 'a b'"),
        (["/x/polycontrast/__main__.py", "train", "m"], "python -m polycontrast train m"),
        (["scripts/timeseries.py", "--seed", "1"], "python scripts/timeseries.py --seed 1"),
        (None, ""),
    ],
)
def test_command_that_started_the_run(command: list[str] | None, text: str) -> None:
    assert facts.started_with({"command": command}) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(8.24, "8.2 s"), (59.99, "1 min 00 s"), (92.4, "1 min 32 s"), (7500, "2 h 05 min"), (None, ""), (math.nan, "")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert facts.duration(seconds) == text


def test_report_needs_no_torch() -> None:
    code = "import sys, polycontrast.report; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)

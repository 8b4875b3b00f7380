from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

pytest.importorskip("pandas")

import pandas as pd

import polycontrast
from polycontrast.config import EngineConfig, OptimiserConfig
from polycontrast.data import draws
from polycontrast.errors import ConfigError, DataError, Interrupted
from polycontrast_timeseries.forecasting import fit_ridge
from polycontrast_timeseries.series import from_frame
from polycontrast_timeseries.st_ssdl.baselines import future_anchors
from polycontrast_timeseries.st_ssdl.config import PanelConfig, STSSDLConfig
from polycontrast_timeseries.st_ssdl.generators import incident_panel
from polycontrast_timeseries.st_ssdl.graph import Graph
from polycontrast_timeseries.st_ssdl.method import STSSDL
from polycontrast_timeseries.st_ssdl.metrics import masked_errors
from polycontrast_timeseries.st_ssdl.panel import Clock, from_table, panel

SMALL = STSSDLConfig(
    t_in=4, t_out=3, report_steps=(1, 3, 12), hidden=6, prototypes=5, prototype_dim=4, value_dim=2, node_dim=3,
    tod_dim=2,
    anchor_period="day", teacher_decay=50.0, optimiser=OptimiserConfig(name="adam", lr=0.01, eps=1e-3),
    engine=EngineConfig(batch_size=16, epochs=2, clip_norm=5.0),
)  # fmt: skip
N, HOUR = 5, pd.Timedelta(hours=1)


def made(rows: int = 24 * 8, n: int = N, config: PanelConfig = SMALL.data, **how):
    rng = np.random.default_rng(0)
    day = 10 + 3 * np.sin(2 * np.pi * (np.arange(rows)[:, None] / 24 + rng.random(n)))
    values = day + 0.2 * rng.standard_normal((rows, n))
    values[rng.random(values.shape) < 0.05] = 0.0
    weights = np.eye(n) + np.diag(np.full(n - 1, 0.5), 1) + np.diag(np.full(n - 1, 0.5), -1)
    graph = Graph.of(weights)
    settings = {"sensors": [f"s{i}" for i in range(n)], "clock": Clock(HOUR, pd.Timestamp("2024-01-01"))}
    return panel(values, graph, config, name="made", **(settings | how))


def built(data=None, config: STSSDLConfig = SMALL, **how) -> STSSDL:
    data = made() if data is None else data
    torch.manual_seed(0)
    config = replace(config, **how)
    method = STSSDL(config, STSSDL.inspect(config, data))
    method.examples(data, "train")
    return method.eval()


def batch_of(method: STSSDL, data, n: int = 4, split: str = "train") -> dict:
    batch = method.examples(data, split)[list(range(n))]
    return {**batch, "draw": draws(7, batch["id"])}


def frame_of(data, rows: int | None = None) -> pd.DataFrame:
    times = data.clock.times(np.arange(len(data.values)))
    return pd.DataFrame(data.values, index=times, columns=list(data.sensors)).iloc[-(rows or 0) :]


# ---- parts, windows, anchors ---------------------------------------------------------------------------------------


def test_parts_are_shares_of_the_windows():
    data = made(2016 // 4)
    windows = 2016 // 4 - 23
    starts = {part: data.starts(part, 12, 12) for part in ("train", "val", "test")}
    assert len(starts["train"]) == round(0.7 * windows)
    assert len(starts["test"]) == round(0.2 * windows)
    assert np.array_equal(np.concatenate(list(starts.values())), np.arange(windows))
    los = made(2016)
    assert [len(los.starts(part, 12, 12)) for part in ("train", "val", "test")] == [1395, 199, 399]


def test_a_window_is_the_rows():
    data, method = made(), built()
    batch = batch_of(method, data, 2, "test")
    first = batch["id"][1]
    rows = torch.tensor(data.values[first : first + 7]).float()
    rows[rows == 0] = torch.nan
    torch.testing.assert_close(batch["x"][1], rows[:4], equal_nan=True)
    torch.testing.assert_close(batch["y"][1], rows[4:], equal_nan=True)
    torch.testing.assert_close(batch["tod"][1] * 24, (first + torch.arange(4)).float() % 24)
    torch.testing.assert_close(batch["tod_out"][1] * 24, (first + 4 + torch.arange(3)).float() % 24)


def test_anchors_and_scaler_see_training_inputs_alone():
    data = made()
    rows = data.input_rows(4, 3)
    assert rows == data.starts("train", 4, 3)[-1] + 4
    other = made()
    other.values[rows:] = 99.0
    one, two = built(data), built(other)
    assert (one.info["mean"], one.info["std"]) == (two.info["mean"], two.info["std"])
    torch.testing.assert_close(one.anchor_table, two.anchor_table, rtol=0, atol=0)
    seen = data.values[:rows][np.arange(rows) % 24 == 5, 2]
    assert one.anchor_table[5, 2] == pytest.approx(seen[seen != 0].mean(), rel=1e-6)
    wider = built(other, anchor_fit="train+val")
    assert not torch.equal(wider.anchor_table, one.anchor_table)


def test_the_scaler_is_one_mean_over_what_is_observed():
    data = made()
    part = data.values[: data.input_rows(4, 3)]
    method = built(data)
    assert method.info["mean"] == pytest.approx(part[part != 0].mean())
    assert method.info["std"] == pytest.approx(part[part != 0].std())


@pytest.mark.parametrize(("fill", "value"), [("null", 0.0), ("mean", None), ("anchor", "anchor")])
def test_missing_inputs(fill, value):
    data = made()
    method = built(data, fill=fill)
    batch = batch_of(method, data, 40)
    gaps = batch["x"].isnan()
    assert gaps.any()
    x, _anchor = method._inputs(batch)
    back = x * method.info["std"] + method.info["mean"]
    expected = {"null": torch.zeros(()), "mean": torch.tensor(method.info["mean"]), "anchor": batch["anchor"]}[fill]
    torch.testing.assert_close(back[gaps], expected.expand_as(back)[gaps].float(), atol=1e-5, rtol=1e-5)


def test_memory_mapped_panels_are_read_window_by_window(tmp_path):
    data = made()
    np.save(tmp_path / "v.npy", data.values)
    disk = made(config=SMALL.data)
    disk.values = np.load(tmp_path / "v.npy", mmap_mode="r")
    one, two = batch_of(built(data), data), batch_of(built(disk), disk)
    for name in one:
        torch.testing.assert_close(one[name], two[name], equal_nan=True)


def test_few_periods_are_warned_of():
    data = made(24 * 8)
    with pytest.warns(UserWarning, match=r"averages over only 0.8 periods of 168 rows.*anchor_mode=expanding.*\(day\)"):
        STSSDL.inspect(replace(SMALL, anchor_period="week"), data)
    assert any(note.startswith("WARNING: made: the anchors") for note in data.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.values.__setitem__((slice(0, 150), 1), 0.0), "sensor 's1' has no value in the training .*0 cou"),
        (lambda d: setattr(d, "values", d.values[:7]), "has 7 rows, which are too few for windows of 4 . 3 rows"),
        (lambda d: setattr(d, "clock", Clock(pd.Timedelta(minutes=7))), "needs at least two of the rows"),
        (lambda d: setattr(d, "clock", Clock(pd.Timedelta(days=1))), "needs at least two of the rows"),
    ],
)
def test_bad_panels(change, message):
    data = made()
    change(data)
    with pytest.raises(DataError, match=message) as caught:
        built(data)
    assert "\n" not in str(caught.value)


def test_bad_values_and_graphs():
    with pytest.raises(DataError, match="the graph has 4 nodes, the panel 5 sensors"):
        panel(made().values, Graph.none(4), SMALL.data, name="made")
    values = made().values
    values[3, 2] = np.inf
    with pytest.raises(DataError, match="made, row 3: sensor '2' holds an infinite value"):
        panel(values, None, SMALL.data, name="made")
    with pytest.raises(DataError, match="takes a panel of sensors"):
        STSSDL.inspect(SMALL, from_frame(np.random.default_rng(0).random((50, 2))))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"prototypes": 1}, "prototypes must be at least 2"),
        ({"hidden": 0}, "hidden must be at least 1"),
        ({"anchor_period": 0}, "anchor_period must be week, day or"),
        ({"anchor_decay": 0.0}, "anchor_decay must lie in"),
        ({"teacher_decay": 0.0}, "teacher_decay must be positive"),
        ({"lambda_contrast": -1.0}, "lambda_contrast must not be negative"),
        ({"report_steps": (0,)}, "report_steps must be positive"),
    ],
)
def test_bad_settings(how, message):
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **how)


# ---- terms ---------------------------------------------------------------------------------------------------------


def test_terms_and_what_they_move():
    data, method = made(), built()
    found = method.terms(batch_of(method, data))
    assert set(found) == {"forecast", "contrast", "deviation"}
    (found["contrast"] + found["deviation"]).backward()
    moved = {name for name, p in method.named_parameters() if p.grad is not None and p.grad.any()}
    assert moved == {"network.prototypes.prototypes"}


def test_queries_may_move_too():
    data, method = made(), built(stop_grad_query=False)
    found = method.terms(batch_of(method, data))
    (found["contrast"] + found["deviation"]).backward()
    assert method.network.encoder[0].gate.weight.grad.any()


def test_embeddings_are_watched_where_a_loss_moves_them():
    assert built(stop_grad_query=False).contrasts_embeddings
    assert not built().contrasts_embeddings
    assert not built(stop_grad_query=False, off=("contrast",)).contrasts_embeddings


def test_terms_that_are_off_are_not_computed():
    data = made()
    method = built(config=replace(SMALL, off=("contrast",), lambda_deviation=0.0))
    assert set(method.terms(batch_of(method, data))) == {"forecast"}
    assert set(built(plain=True).terms(batch_of(method, data))) == {"forecast"}


@pytest.mark.parametrize("kind", ["triplet", "triplet_squared", "infonce"])
@pytest.mark.parametrize("branches", ["current", "both"])
def test_every_contrast_is_finite(kind, branches):
    data, method = made(), built(contrast=kind, contrast_branches=branches)
    assert torch.isfinite(method.terms(batch_of(method, data))["contrast"])


def test_the_error_is_in_original_units_where_the_target_is_known():
    data, method = made(), built()
    batch = batch_of(method, data, 30)
    forecast = method.predict(batch)
    expected = masked_errors(forecast, batch["y"])["mae"]
    assert method.terms(batch)["forecast"].item() == pytest.approx(expected, rel=1e-5)
    nothing = {**batch, "y": torch.full_like(batch["y"], torch.nan)}
    assert float(method.terms(nothing)["forecast"]) == 0.0


def test_anchors_of_the_steps_to_forecast():
    data, method = made(), built()
    windows = method.examples(data, "test")
    batch = windows[[0, 1]]
    hours = ((batch["id"][1] + 4 + torch.arange(3)) % 24).long()
    torch.testing.assert_close(future_anchors(windows, batch)[1], method.anchor_table[hours])
    causal = built(anchor_mode="expanding", anchor_period=2)  # the season is shorter than the forecast
    windows = causal.examples(data, "test")
    one = windows[[3]]
    before = future_anchors(windows, one)
    data.values[int(one["id"]) + 4 :] = 99.0
    torch.testing.assert_close(future_anchors(windows, one), before)


def test_coins_depend_on_seed_and_step_alone():
    method = built()
    assert method.coins(1, 5) == built().coins(1, 5)
    assert len({tuple(method.coins(s, 40)) for s in range(20)}) > 1
    shares = [np.mean([method.coins(0, i) for i in range(at, at + 50)]) for at in (0, 300)]
    assert shares[0] > 0.8
    assert shares[1] < 0.3
    assert not any(built(teacher_decay=None).coins(0, 0))


@pytest.mark.parametrize("adjacency", ["sym", "transition", "double_transition", "scaled_laplacian", "identity"])
@pytest.mark.parametrize("mode", ["fixed", "expanding", "ewm"])
def test_every_graph_and_anchor(adjacency, mode):
    data, method = made(), built(adjacency=adjacency, anchor_mode=mode, top_k=2)
    assert torch.isfinite(method.predict(batch_of(method, data))).all()


def test_one_sensor_without_a_graph():
    data = panel(made().values[:, :1], None, SMALL.data, name="one", clock=Clock(HOUR))
    assert any("no graph was found" in note for note in data.notes)
    method = built(data)
    assert method.predict(batch_of(method, data, 1)).shape == (1, 3, 1)


# ---- runs ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    data, path = made(), tmp_path_factory.mktemp("panel")
    frame_of(data).rename_axis("time").to_csv(path / "values.csv")
    np.save(path / "adj.npy", data.graph.matrix.toarray())
    return path


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
    """A finished run and its result."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return out, train(folder, out)


SETTINGS = {
    "t_in": 4, "t_out": 3, "report_steps": [1, 3], "hidden": 6, "prototypes": 5, "prototype_dim": 4, "value_dim": 2,
    "node_dim": 3, "tod_dim": 2, "anchor_period": "day", "teacher_decay": 5, "compare": ["plain"],
    "engine.batch_size": 16, "engine.epochs": 3, "engine.log_steps": 1,
}  # fmt: skip


def train(folder: Path, out: Path, **how):
    settings = SETTINGS | how.pop("set", {})
    return polycontrast.train(
        "timeseries/st-ssdl", data=folder, out=out, set=settings, device="cpu", progress=False, **how
    )


def test_a_run_and_what_can_be_done_with_it(whole, tmp_path):
    run, result = whole
    by_step = {f"{name}_{step}" for name in ("mae", "rmse", "mape") for step in (1, 3)}
    assert result.metrics.keys() == {"mae", "rmse", "mape", "prototypes_used"} | by_step
    assert set(result.floors) == {"last_value", "historical_average", "repeat_window"}
    assert {"ridge", "dlinear", "anchor_residual", "plain_gcru"} <= result.baselines.keys()
    assert result.protocol["missing"] == "NaN and 0 (within 5e-5)"
    titles = [chart["title"] for chart in json.loads((run / "charts.json").read_text())["charts"]]
    assert len(titles) == 5
    again = polycontrast.evaluate(run)
    assert again.metrics == pytest.approx(result.metrics, rel=1e-5)
    assert "plain_gcru" not in again.baselines  # a saved model does not carry it

    table = polycontrast.predict(run, out=tmp_path / "f.parquet").to_pandas()
    assert list(table.columns) == ["unique_id", "ds", "yhat"]
    assert len(table) == 3 * N
    assert table["ds"].iloc[0] == pd.Timestamp("2024-01-09")
    assert table["yhat"].between(3, 17).all()
    method = polycontrast.load(run)
    data = made()
    pd.testing.assert_frame_equal(method.predict(frame_of(data)), table)
    pd.testing.assert_frame_equal(method.predict(frame_of(data, 4)), table)
    # columns in another order, and one more
    other = frame_of(data)[["s4", "s0", "s1", "s3", "s2"]].assign(extra=1.0)
    pd.testing.assert_frame_equal(method.predict(other), table)
    long = frame_of(data, 30).melt(ignore_index=False, var_name="unique_id", value_name="y")
    long = long.rename_axis("ds").reset_index()
    pd.testing.assert_frame_equal(method.predict(long), table)
    pd.testing.assert_frame_equal(method.predict(frame_of(data), data.graph.matrix.toarray()), table)
    assert not np.allclose(method.predict(frame_of(data), np.eye(N))["yhat"], table["yhat"])
    pd.testing.assert_frame_equal(method.predict(frame_of(data)), table)

    scores = method.deviation(frame_of(data, 10))
    assert len(scores) == 7 * N
    assert (scores["deviation"] >= 0).all()
    assert scores["ds"].iloc[0] == frame_of(data, 10).index[3]
    profile = method.prototype_profile(frame_of(data))
    assert len(profile) == 5 * 4
    assert profile.drop_duplicates("prototype")["windows"].sum() == (len(data.values) - 3) * N
    assert polycontrast.embed(run, out=tmp_path / "e.parquet").num_rows == 37  # test windows

    for frame, message in [
        (frame_of(data).drop(columns="s3"), "the frame has no sensor 's3', which the model was trained on; it has s0"),
        (frame_of(data, 3), "has 3 rows, a window needs 4; give it more"),
        (frame_of(data).iloc[::2], "has rows 0 days 02:00:00 apart, the model was trained on 0 days 01:00:00"),
        (frame_of(data).reset_index(drop=True), "has no timestamps, which the model was trained with"),
    ]:
        with pytest.raises(DataError, match=message):
            method.predict(frame)
    with pytest.raises(DataError, match="the graph has 3 nodes, the panel 5 sensors"):
        method.predict(frame_of(data), np.eye(3))


def finished(out: Path):
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    curves = [{k: v for k, v in row.items() if k != "seconds"} for row in rows]
    result = json.loads((out / "result.json").read_text())
    numbers = {k: result[k] for k in ("metrics", "baselines", "steps")}
    return numbers, curves, (out / "model" / "model.safetensors").read_bytes()


@pytest.mark.parametrize("at", [12, 30])
def test_a_stopped_run_ends_the_same(whole, folder, tmp_path, at, monkeypatch):
    original = STSSDL.on_step_end

    def stop(self, stage, engine):
        original(self, stage, engine)
        if engine.step + 1 == at:
            engine._stop.received = 15

    with monkeypatch.context() as patch:
        patch.setattr(STSSDL, "on_step_end", stop)
        with pytest.raises(Interrupted):
            train(folder, tmp_path / "stopped")
    train(folder, tmp_path / "stopped", resume=True)
    assert finished(tmp_path / "stopped") == finished(whole[0])


def test_test_data_choose_nothing(whole, folder, tmp_path):
    """Other values in the test part, beyond the windows that validation needs: the same model."""
    frame = pd.read_csv(folder / "values.csv", index_col=0)
    first = made().starts("test", 4, 3)[0] + 6
    frame.iloc[first:] = np.random.default_rng(1).permuted(frame.iloc[first:].to_numpy(), axis=0)
    (tmp_path / "other").mkdir()
    frame.to_csv(tmp_path / "other" / "values.csv")
    np.save(tmp_path / "other" / "adj.npy", np.load(folder / "adj.npy"))
    train(tmp_path / "other", tmp_path / "run")
    one, two = (safetensors.torch.load_file(p / "model" / "model.safetensors") for p in (whole[0], tmp_path / "run"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_paired_networks_begin_alike():
    method = built(compare=("off", "plain"))
    main, off = method.network.state_dict(), method.beside["off"].network.state_dict()
    torch.testing.assert_close(main, off)
    assert not any(k.startswith("beside.") for k in method.saved_state())


# ---- baselines -----------------------------------------------------------------------------------------------------


def test_naive_baselines_by_hand():
    data = made()
    method = built(data)
    found = method.baselines(data)
    windows = method.examples(data, "test")
    batch = windows[list(range(len(windows)))]
    x, y = batch["x"].clone(), batch["y"]
    for t in range(1, 4):
        gaps = x[:, t].isnan()
        x[:, t][gaps] = x[:, t - 1][gaps]
    last = torch.where(x[:, -1:].isnan(), batch["anchor"][:, :1], x[:, -1:])
    assert found["last_value"].metrics["mae"] == pytest.approx(masked_errors(last.expand_as(y), y)["mae"], rel=1e-5)
    slots = (batch["id"][:, None] + 4 + torch.arange(3)) % 24
    average = method.anchor_table[slots]
    assert found["historical_average"].metrics["mae"] == pytest.approx(masked_errors(average, y)["mae"], rel=1e-5)
    residual = average + last - batch["anchor"][:, -1:]
    assert found["anchor_residual"].metrics["mae_3"] == pytest.approx(
        masked_errors(residual, y, steps=(3,))["mae_3"], rel=1e-5
    )


def test_linear_baselines_see_the_same_windows():
    data = made()
    series = data.as_series(4, 3)
    for part in ("train", "val", "test"):
        assert np.array_equal(series.windows(part, context=4, horizon=3).starts, data.starts(part, 4, 3))
    assert fit_ridge(series, 4, (3,))(torch.zeros(2, 4, N), 3).shape == (2, 3, N)


def test_incidents_of_the_generator():
    values, graph, events = incident_panel(sensors=12, weeks=2, seed=3)
    assert values.shape == events.shape == (2 * 7 * 48, 12)
    assert 0.05 < (values == 0).mean() < 0.09
    assert 0.02 < events.mean() < 0.3
    assert graph.size == 12
    assert not graph.is_identity
    other = incident_panel(sensors=12, weeks=2, seed=4)[0]
    assert not np.array_equal(values, other)
    np.testing.assert_array_equal(values, incident_panel(sensors=12, weeks=2, seed=3)[0])


def test_frames_without_timestamps_count_rows():
    data = from_table(pd.DataFrame(np.random.default_rng(0).random((40, 2))), None, PanelConfig(step="30min"))
    assert data.clock.per_day == 48
    assert data.clock.times(np.arange(2)).tolist() == [0, 1]
    assert any("Monday 00:00" in note for note in data.notes)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_the_demo_beats_its_floors_on_every_seed(seed, tmp_path):
    how = {"seed": seed, "out": tmp_path / "run", "set": {"compare": []}, "progress": False}
    result = polycontrast.train("timeseries/st-ssdl", **how)
    best = min(result.baselines[name]["mae"] for name in result.floors)
    assert result.metrics["mae"] < 0.95 * best
    assert result.metrics["deviation_auc"] > 0.8
    assert result.metrics["prototypes_used"] >= 2

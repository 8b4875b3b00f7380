from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("pandas")

import pandas as pd

from polycontrast.config import EngineConfig, from_dict
from polycontrast.data import draws
from polycontrast.errors import CheckpointError, ConfigError, DataError
from polycontrast_timeseries.cases import from_arrays
from polycontrast_timeseries.config import SeriesConfig
from polycontrast_timeseries.generators import seasonal_frame, wave_cases
from polycontrast_timeseries.series import from_frame
from polycontrast_timeseries.ti_mae.config import TiMAEConfig
from polycontrast_timeseries.ti_mae.method import ForecastHead, TiMAE

SMALL = TiMAEConfig(
    width=8, heads=2, layers=1, decoder_width=8, decoder_heads=2, decoder_layers=1, context=24, horizons=(6, 12),
    head_context=16, head_epochs=1, n_masks=3, dropout=0.0, engine=EngineConfig(batch_size=16, epochs=1),
)  # fmt: skip
NAMES = ["sensor_1", "sensor_2"]


@pytest.fixture
def frame():
    return seasonal_frame(steps=400, channels=2, seed=1)


@pytest.fixture
def series(frame):
    return from_frame(frame, SMALL)


@pytest.fixture
def cases():
    (x, y), (x_test, y_test) = wave_cases(30, length=24, seed=1), wave_cases(12, length=24, seed=2)
    return from_arrays({"train": x, "test": x_test}, {"train": y, "test": y_test}, SMALL)


def built(data, config: TiMAEConfig = SMALL, **how) -> TiMAE:
    torch.manual_seed(0)
    config = replace(config, **how)
    method = TiMAE(config, TiMAE.inspect(config, data))
    torch.nn.init.normal_(method.network.mask_token)
    return method.eval()


def batch_of(method: TiMAE, data, n: int = 4, split: str = "train") -> dict:
    batch = method.examples(data, split)[list(range(n))]
    return {**batch, "draw": draws(7, batch["id"])}


def gradients(method: TiMAE) -> dict[str, torch.Tensor]:
    found = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    method.zero_grad(set_to_none=True)
    return found


class TestConfig:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"mask_ratio": 1.0}, r"mask_ratio must lie in \[0, 1\), got 1.0"),
            ({"n_masks": 0}, "n_masks must be at least 1, got 0"),
            ({"masks_per_chunk": 0}, "masks_per_chunk must be at least 1, got 0"),
            ({"heads": 5}, "width 64 must be divisible by heads 5"),
            ({"embed_kernel": 4}, "embed_kernel must be odd, got 4"),
            ({"horizons": []}, "horizons must be one or more positive numbers"),
            ({"horizons": [24, 24]}, "horizons must differ"),
            ({"fine_tune": True, "head_epochs": 0}, "fine_tune needs a head"),
            ({"forecast_ratio": 1.5}, r"forecast_ratio must lie in \[0, 1\]"),
            ({"mask_tpe": "random"}, "mask_type"),
        ],
    )
    def test_refuses(self, values, message):
        with pytest.raises(ConfigError, match=message):
            from_dict(TiMAEConfig, values, source="test")

    def test_off_names_a_term(self, series):
        with pytest.raises(ConfigError, match="has no term 'recon'"):
            built(series, off=("recon",))


class TestLoss:
    def test_is_the_mean_over_hidden_steps(self, series):
        """Against the plain reading of the paper, one mask at a time."""
        from polycontrast_timeseries.ti_mae.masking import draw_masks, hidden_steps

        method = built(series)
        batch = batch_of(method, series)
        errors = []
        for mask in range(3):
            ((_, keep),) = draw_masks(batch["draw"], 36, masks=range(mask, mask + 1))
            error = (method.network(batch["x"], keep) - batch["x"])[hidden_steps(keep, 36)]
            errors.append(error.square().mean())
        torch.testing.assert_close(method.terms(batch)["reconstruction"], torch.stack(errors).mean())

    @pytest.mark.parametrize(
        "how", [{}, {"leak_free": True}, {"revin": True}, {"mask_type": "mixed", "forecast_ratio": 0.3}]
    )
    def test_chunks_change_nothing(self, series, how):
        results = []
        for size in (1, 2, 3):
            method = built(series, masks_per_chunk=size, **how).double()
            batch = batch_of(method, series)
            batch["x"] = batch["x"].double()
            loss = method.terms(batch)["reconstruction"]
            loss.backward()
            results.append((loss.detach(), gradients(method)))
        assert all(name.startswith("head.") or name in results[0][1] for name, _ in method.named_parameters())
        for loss, grads in results[1:]:
            torch.testing.assert_close(loss, results[0][0], rtol=1e-12, atol=1e-12)
            torch.testing.assert_close(grads, results[0][1], rtol=1e-10, atol=1e-12)

    def test_targets_at_visible_steps_do_not_count(self, series):
        """Only what is hidden is compared: the last ``horizon`` steps of future masks."""
        method = built(series, mask_type="future", embed_kernel=1)
        batch = batch_of(method, series)
        loss, other = method.terms(batch)["reconstruction"], dict(batch)
        keep = torch.arange(36) < 24
        prediction = method.network(batch["x"], torch.arange(24).expand(4, -1))
        error = (prediction - batch["x"]).square()
        torch.testing.assert_close(loss, error[:, ~keep].mean())
        other["x"] = batch["x"].clone()
        other["x"][:, 24:] += 1.0
        assert method.terms(other)["reconstruction"] != loss

    def test_does_not_depend_on_the_rest_of_the_batch(self, series):
        method = built(series)
        batch = batch_of(method, series, 8)
        parts = [{k: v[at] for k, v in batch.items()} for at in (slice(0, 2), slice(2, 8))]
        whole = method.terms(batch)["reconstruction"]
        first, second = (method.terms(part)["reconstruction"] for part in parts)
        torch.testing.assert_close(whole, 0.25 * first + 0.75 * second)

    def test_keys_decide_the_masks(self, series):
        method = built(series)
        batch = batch_of(method, series)
        again, other = dict(batch), {**batch, "draw": batch["draw"] + 1}
        state = torch.get_rng_state()
        assert method.terms(batch)["reconstruction"] == method.terms(again)["reconstruction"]
        assert method.terms(batch)["reconstruction"] != method.terms(other)["reconstruction"]
        assert torch.equal(state, torch.get_rng_state())

    def test_without_keys_the_global_generator_draws(self, series):
        method = built(series)
        batch = batch_of(method, series)
        del batch["draw"]
        torch.manual_seed(3)
        first, second = (method.terms(batch)["reconstruction"] for _ in range(2))
        torch.manual_seed(3)
        assert method.terms(batch)["reconstruction"] == first != second
        assert "draw" not in batch

    def test_switched_off(self, series):
        method = built(series, off=("reconstruction",))
        assert method.terms(batch_of(method, series)) == {}
        assert [stage.name for stage in method.stages(series)] == ["head"]

    @pytest.mark.parametrize("how", [{}, {"leak_free": True}, {"revin": True}])
    def test_missing_values_do_not_count(self, series, how):
        """What stands in the place of a missing value has no influence, on the loss or on the gradients."""
        method = built(series, **how)
        batch = batch_of(method, series)
        batch["x"] = batch["x"].clone()
        batch["x"][0, 5:9] = torch.nan
        batch["x"][1, 20, 0] = torch.nan
        batch["x"][2] = torch.nan
        loss = method.terms(batch)["reconstruction"]
        loss.backward()
        assert loss.isfinite()
        assert all(g.isfinite().all() for g in gradients(method).values())
        batch["x"][3] = torch.nan
        batch["x"][:2] = torch.nan
        assert method.terms(batch)["reconstruction"] == 0.0

    def test_future_masks_of_cases_hide_the_mask_ratio(self, cases):
        method = built(cases, mask_type="future")
        assert method.terms(batch_of(method, cases))["reconstruction"].isfinite()


class TestHead:
    @pytest.mark.parametrize("layout", ["flatten", "factored"])
    def test_is_linear(self, layout):
        head = ForecastHead(layout, 5, 4, 3, 2)
        a, b = torch.randn(2, 1, 5, 4)
        assert head(a).shape == (1, 3, 2)
        torch.testing.assert_close(head(2 * a + b) - head(b), 2 * (head(a) - head(0 * a)))

    def test_trains_on_frozen_encoder(self, series):
        method = built(series, dropout=0.3).train()
        stage = method.stages(series)[1]
        assert (stage.name, stage.trains, stage.select, stage.patience) == ("head", ("head.",), "forecast", 3)
        batch = stage.data[[0, 1]]
        assert batch["x"].shape == (2, 16, 2)
        assert batch["future"].shape == (2, 12, 2)
        loss = method.terms(batch)["forecast"]
        assert loss == method.terms(batch)["forecast"]  # no dropout
        assert method.network.training
        loss.backward()
        assert set(gradients(method)) == {"head.linear.weight", "head.linear.bias"}

    def test_fine_tuning_trains_the_encoder_too(self, series):
        method = built(series, fine_tune=True).train()
        stage = method.stages(series)[1]
        method.terms(stage.data[[0, 1]])["forecast"].backward()
        learned = set(gradients(method))
        assert {name.split(".")[1] for name in learned if name.startswith("network")} == {
            "embedding", "encoder", "encoder_norm"
        }  # fmt: skip
        assert all(name.startswith(stage.trains) for name in learned)
        assert set(method.evaluate(series)) == {f"{m}{h}" for m in ("mse", "mae") for h in ("", "_6", "_12")}

    def test_short_context(self, series):
        with pytest.raises(DataError, match="16 steps of context"):
            built(series).head_forecast(torch.zeros(1, 10, 2))
        with pytest.raises(DataError, match="head_epochs of at least 1"):
            built(series, head_epochs=0).head_forecast(torch.zeros(1, 16, 2))


class TestForecasting:
    def test_causality(self, series):
        """Values after the context change nothing."""
        method = built(series)
        batch = batch_of(method, series)
        changed = {**batch, "x": batch["x"].clone()}
        changed["x"][:, 24:] = 1e3
        assert torch.equal(method.predict(batch), method.predict(changed))
        assert method.predict(batch).shape == (4, 12, 2)

    def test_metrics(self, series):
        metrics = built(series).evaluate(series)
        parts = [f"{m}{h}" for m in ("mse", "mae") for h in ("", "_6", "_12")]
        assert set(metrics) == {*parts, *(f"frozen_{p}" for p in parts)}
        assert metrics["mse"] == pytest.approx((metrics["mse_6"] + metrics["mse_12"]) / 2)

    def test_figures_are_those_of_the_test_windows(self, series):
        method = built(series, head_epochs=0, horizons=(6,))
        windows = series.windows("test", context=24, horizon=6)
        x = windows[list(range(len(windows)))]["x"]
        with torch.no_grad():
            expected = (method.direct_forecast(x[:, :24], 6) - x[:, 24:]).square().mean()
        assert method.evaluate(series)["mse_6"] == pytest.approx(expected.item(), rel=1e-5)

    def test_baselines(self, series):
        found = built(series).baselines(series)
        assert {name for name, b in found.items() if b.floor} == {"persistence", "seasonal_naive"}
        assert {"ridge", "dlinear"} <= set(found)
        assert all("mse" in b.metrics and "mse_12" in b.metrics for b in found.values())

    def test_too_few_rows_are_refused_before_training(self, frame):
        data = from_frame(frame[:200], SMALL)
        method = TiMAE(replace(SMALL, horizons=(6, 30)), TiMAE.inspect(SMALL, data))
        with pytest.raises(DataError, match="'val' has 20 rows"):
            method.stages(data)

    def test_validation_is_repeatable_and_leaves_the_test_part_alone(self, frame, series):
        spoilt = frame.copy()
        spoilt.iloc[series.borders["test"][0] :] = 1e6
        other = from_frame(spoilt, SMALL)
        for stage in built(series).stages(series):
            first, second = (built(data).validate(data, stage) for data in (series, other))
            assert first == second
            assert set(first) == ({"forecast"} if stage.name == "head" else {"reconstruction", "mse"})

    def test_multivariate_in_target_out(self, frame):
        data = from_frame(frame, SeriesConfig(features="MS"))
        method = built(data)
        assert method.predict(batch_of(method, data)).shape == (4, 12, 1)
        assert set(method.evaluate(data)) >= {"mse", "frozen_mse"}
        assert list(method.forecast(frame).columns) == ["sensor_2"]
        with pytest.raises(DataError, match="beyond its longest horizon, 12 steps"):
            method.forecast(frame, 13)

    def test_predict_table_is_the_forecast_in_original_units(self, frame, series):
        method = built(series)
        table = method.predict_table(from_frame(frame, SMALL, purpose="predict")).to_pandas()
        assert list(table.columns) == ["unique_id", "ds", "prediction"]
        wide = table.pivot(index="ds", columns="unique_id", values="prediction")
        assert wide.index[0] == frame.index[-1] + pd.Timedelta("1h")
        expected = method.forecast(frame)
        np.testing.assert_allclose(wide[NAMES], expected[NAMES], rtol=1e-5)
        mean = frame.iloc[: series.borders["train"][1]].mean()
        assert (abs(expected - mean) < 10 * frame.std()).all().all()

    def test_published(self, series):
        assert built(series).published(series) == {}
        rng = np.random.default_rng(0)
        columns = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
        index = pd.date_range("2016-07-01", periods=14400, freq="h", name="date")
        ett = pd.DataFrame(rng.normal(size=(14400, 7)), index=index, columns=columns)
        data = from_frame(ett, name="data/ETTh1.csv")
        figures = built(data, horizons=(24, 96, 192)).published(data)
        assert figures["Ti-MAE, paper"] == {
            "mse_24": 0.352, "mae_24": 0.392, "frozen_mse_24": 0.343, "frozen_mae_24": 0.382,
            "mse_96": 0.427, "mae_96": 0.430, "frozen_mse_96": 0.404, "frozen_mae_96": 0.407,
        }  # fmt: skip
        assert figures["CoST, paper"] == {"mse_24": 0.383, "mse_96": 0.523}
        data.name = "data/ETTh2.csv"
        assert built(data, horizons=(24,)).published(data) == {}


class TestClassification:
    def test_evaluate_and_predict(self, cases):
        method = built(cases)
        assert (method.HEADLINE, method.HIGHER_IS_BETTER) == ("accuracy", True)
        assert (TiMAE.HEADLINE, TiMAE.HIGHER_IS_BETTER) == ("mse", False)
        assert [stage.name for stage in method.stages(cases)] == ["pretrain"]
        with pytest.raises(DataError, match="no labelled cases yet"):
            method.predict(batch_of(method, cases))
        accuracy = method.evaluate(cases)["accuracy"]
        answers = method.predict(cases.splits["test"][list(range(12))])
        assert (answers == cases.y["test"]).float().mean().item() == pytest.approx(accuracy)
        table = method.predict_table(cases)
        assert table["prediction"].to_pylist() == [cases.classes[i] for i in answers]

    def test_test_labels_choose_nothing(self, cases):
        method = built(cases)
        method.evaluate(cases)
        chosen, answers = dict(method.info["probe"]), method.predict_table(cases)
        cases.y["test"][:] = cases.y["test"].flip(0)
        method.evaluate(cases)
        assert method.info["probe"] == chosen
        assert method.predict_table(cases) == answers

    @pytest.mark.parametrize(("how", "expected"), [("with", True), ("without", False)])
    def test_settings(self, cases, how, expected):
        method = built(cases, pooling="max", feature_positions=how)
        method.evaluate(cases)
        assert method.info["probe"] == {"cases": 30, "pooling": "max", "positions": expected}

    def test_baselines(self, cases):
        found = built(cases).baselines(cases)
        assert {name for name, b in found.items() if b.floor} == {"untrained", "majority"}
        assert {"one_nn_euclidean", "one_nn_dtw", "logistic"} <= set(found)

    def test_padding_has_no_influence(self, cases):
        """A shorter case, padded with NaN, is represented by its own steps."""
        method = built(cases)
        x = cases.x["train"][:3]
        padded = torch.cat([x, torch.full((3, 5, 2), torch.nan)], 1)
        for pooling in ("mean", "max"):
            short = method._represent(x, pooling, False)
            torch.testing.assert_close(method._represent(padded, pooling, False), short, rtol=1e-4, atol=1e-5)

    def test_saved_with_its_probe(self, cases, tmp_path):
        method = built(cases)
        method.evaluate(cases)
        method.save_pretrained(tmp_path)
        loaded = TiMAE.from_pretrained(tmp_path)
        assert loaded.predict_table(cases) == method.predict_table(cases)


class TestSaving:
    def test_round_trip(self, frame, series, tmp_path):
        method = built(series)
        method.save_pretrained(tmp_path)
        loaded = TiMAE.from_pretrained(tmp_path)
        assert loaded.config == method.config
        assert loaded.info == method.info
        pd.testing.assert_frame_equal(loaded.forecast(frame), method.forecast(frame))
        batch = batch_of(method, series)
        assert torch.equal(loaded.embed(batch), method.embed(batch))

    def test_damaged(self, series, tmp_path):
        built(series).save_pretrained(tmp_path)
        file = tmp_path / "model.safetensors"
        file.write_bytes(file.read_bytes()[:-10])
        with pytest.raises(CheckpointError, match="damaged"):
            TiMAE.from_pretrained(tmp_path)


class TestUsing:
    """Frames and arrays in original units."""

    @pytest.fixture
    def method(self, series):
        return built(series)

    def long(self, frame: pd.DataFrame) -> pd.DataFrame:
        return frame.rename_axis("ds").reset_index().melt("ds", var_name="unique_id", value_name="y")

    def test_wide_long_and_array_agree(self, method, frame):
        wide = method.forecast(frame)
        assert isinstance(wide.index, pd.DatetimeIndex)
        long = method.forecast(self.long(frame))
        assert list(long.columns) == ["unique_id", "ds", "prediction"]
        back = long.pivot(index="ds", columns="unique_id", values="prediction")
        np.testing.assert_allclose(back[NAMES], wide[NAMES])
        assert list(back.index) == list(wide.index)
        array = method.forecast(frame.to_numpy())
        np.testing.assert_allclose(array, wide)
        assert array.index[0] == 400
        several = method.forecast(np.stack([frame.to_numpy()] * 2))
        np.testing.assert_allclose(several.loc[1], wide)

    def test_columns_are_found_by_name(self, method, frame):
        mixed = frame[NAMES[::-1]].assign(other=1.0)
        pd.testing.assert_frame_equal(method.forecast(mixed), method.forecast(frame))
        with pytest.raises(DataError, match="lacks the column 'sensor_2'"):
            method.forecast(frame[["sensor_1"]].assign(other=1.0))
        with pytest.raises(DataError, match=r"shape \(400, 3\); the model takes \(steps, 2\)"):
            method.forecast(np.zeros((400, 3)))

    def test_units(self, method, frame, series):
        """A model whose channel has another scale answers on that scale."""
        method.info["mean"], method.info["std"] = [5.0, 0.0], [10.0, 1.0]
        a = method.forecast(np.tile([5.0, 0.0], (30, 1)))
        method.info["mean"], method.info["std"] = [0.0, 0.0], [1.0, 1.0]
        b = method.forecast(np.zeros((30, 2)))
        np.testing.assert_allclose(a, b * [10.0, 1.0] + [5.0, 0.0], rtol=1e-6)

    def test_horizons(self, method, frame):
        assert len(method.forecast(frame)) == 12
        assert len(method.forecast(frame, 5)) == 5
        with pytest.warns(UserWarning, match="30 steps are rolled from forecasts of 12"):
            rolled = method.forecast(frame, 30)
        assert len(rolled) == 30
        pd.testing.assert_frame_equal(rolled[:12], method.forecast(frame), check_freq=False)
        second = method.forecast(pd.concat([frame, rolled[:12]]))
        np.testing.assert_allclose(rolled[12:24], second, rtol=1e-4)

    def test_impute(self, method, frame):
        gaps = frame.copy()
        gaps.iloc[10:15, 0] = np.nan
        gaps.iloc[390:, 1] = np.nan
        filled = method.impute(gaps)
        assert not filled.isna().any().any()
        observed = gaps.notna()
        np.testing.assert_array_equal(filled.to_numpy()[observed], frame.to_numpy()[observed])
        assert (filled.to_numpy()[~observed] != frame.to_numpy()[~observed]).all()
        long = method.impute(self.long(gaps).dropna())
        assert list(long.columns) == ["unique_id", "ds", "y"]
        np.testing.assert_allclose(long.pivot(index="ds", columns="unique_id", values="y")[NAMES], filled)
        assert method.impute(gaps.to_numpy()).shape == (400, 2)

    def test_reconstruct_does_not_see_what_is_hidden(self, method, frame):
        x = frame.to_numpy()[:36]
        mask = np.arange(36) % 4 != 0
        answer = method.reconstruct(x, mask)
        assert answer.shape == (36, 2)
        np.testing.assert_array_equal(answer, method.reconstruct(np.where(mask[:, None], 1e4, x), mask))
        assert not np.allclose(answer, method.reconstruct(x + 1.0, mask))

    def test_transform(self, method, frame):
        x = np.stack([frame.to_numpy()[:24], frame.to_numpy()[24:48]])
        mean, largest = method.transform(x), method.transform(x, "max")
        assert mean.shape == (2, 8)
        assert (largest >= mean).all()
        assert not np.allclose(mean, method.transform(x, positions=False))
        np.testing.assert_allclose(method.transform(x[1])[0], mean[1], rtol=1e-5, atol=1e-6)

    def test_anomaly_score(self, method, frame):
        score = method.anomaly_score(frame)
        assert score.shape == (400,)
        assert np.isfinite(score).all()
        odd = frame.copy()
        odd.iloc[100] += 20 * frame.std()
        assert method.anomaly_score(odd).argmax() == 100
        odd.iloc[100] = np.nan
        assert np.isnan(method.anomaly_score(odd)[100])
        np.testing.assert_array_equal(method.anomaly_score(odd), method.anomaly_score(odd))
        assert method.anomaly_score(np.stack([frame.to_numpy()] * 2)).shape == (2, 400)

    def test_anomaly_score_counts_hidden_steps_only(self, method, frame, monkeypatch):
        """Of a reconstruction that is off by 2 where it was hidden and right elsewhere, 4."""
        seen = []

        def off_by_two(z, hidden):
            seen.append(hidden)
            return z + 2.0 * hidden.unsqueeze(2)

        monkeypatch.setattr(method, "_reconstruct", off_by_two)
        np.testing.assert_allclose(method.anomaly_score(frame, n_masks=6), 4.0, rtol=1e-5)
        assert len(seen) == 8  # two sets of four masks that hide each step three times
        assert (torch.stack(seen).sum(0) == 6).all()

    def test_leaves_mode_and_input_alone(self, method, frame):
        before = frame.copy()
        method.train()
        method.forecast(frame)
        method.impute(frame)
        assert method.training
        pd.testing.assert_frame_equal(frame, before)

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("pandas")

import pandas as pd
import yaml

from polycontrast.config import EngineConfig, from_dict
from polycontrast.data import draws
from polycontrast.engine import Engine, accelerator_for, checkpoint
from polycontrast.errors import ConfigError, DataError
from polycontrast.runs import Run
from polycontrast_timeseries.autotcl.config import AutoTCLConfig, ContrastiveConfig
from polycontrast_timeseries.autotcl.inputs import Sections, crop
from polycontrast_timeseries.autotcl.method import AutoTCL
from polycontrast_timeseries.autotcl.probe import features
from polycontrast_timeseries.calendar import calendar
from polycontrast_timeseries.cases import from_arrays
from polycontrast_timeseries.generators import motif_cases, seasonal_frame
from polycontrast_timeseries.series import from_frame

SMALL = AutoTCLConfig(
    hidden=8, out_dim=12, depth=3, kernels=(1, 2, 4), aug_hidden=4, aug_depth=1, aug_dim=4, max_len=40, segments=8,
    context=24, horizons=(6, 12), beta_mask=0.1, lambda_time=0.1,
    engine=EngineConfig(batch_size=4, epochs=3, validate_epochs=None),
)  # fmt: skip


@pytest.fixture
def frame():
    return seasonal_frame(steps=400, channels=2, seed=1)


@pytest.fixture
def series(frame):
    return from_frame(frame, SMALL.data)


@pytest.fixture
def cases():
    (x, y, truth), (x_test, y_test, truth_test) = motif_cases(40, length=64, seed=1), motif_cases(20, length=64, seed=2)
    data = from_arrays({"train": x, "test": x_test}, {"train": y, "test": y_test}, SMALL)
    data.informative = {"train": truth, "test": truth_test}
    return data


def built(data, config: AutoTCLConfig = SMALL, **how) -> AutoTCL:
    torch.manual_seed(0)
    config = replace(config, **how)
    return AutoTCL(config, AutoTCL.inspect(config, data)).eval()


def batch_of(method: AutoTCL, data, n: int = 4) -> dict:
    batch = method.examples(data, "train")[list(range(n))]
    return {**batch, "draw": draws(7, batch["id"])}


def engine_on(path, data, config: AutoTCLConfig = SMALL, seed: int = 0) -> Engine:
    if not Run.exists(path):
        Run.create(path, config={"method": AutoTCL.id, "data": "x", "seed": seed, "config": {}}, environment={})
    saved = checkpoint.newest(path / "checkpoints")
    torch.manual_seed(seed)
    info = saved.info if saved is not None else AutoTCL.inspect(config, data)
    return Engine(
        AutoTCL(config, info), data, Run.open(path), accelerator_for("cpu", "no"), seed=seed, saved=saved,
        progress=False,
    )  # fmt: skip


class Recorder:
    """The engine's part in a step."""

    stage_step = 0

    def __init__(self) -> None:
        self.calls: list[tuple[str, set[str]]] = []

    def minimise(self, terms, optimiser="main"):
        self.calls.append((optimiser, set(terms)))

    def log(self, values):
        assert all(torch.isfinite(v).all() for v in values.values())


class TestConfig:
    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"backbone": "cots"}, "backbone 'cots' is unknown.*Did you mean 'cost'"),
            ({"segments": 3}, "segments must be at least 4"),
            ({"gumbel_bias": 0.5}, "gumbel_bias must lie in"),
            ({"horizons": [24, 24]}, "horizons must be one or more positive numbers"),
            ({"beta_mask": -1.0}, "beta_mask must not be negative"),
            ({"causal": True, "backbone": "transformer"}, "causal is for the backbones"),
            ({"engine": {"ema": 0.9}}, "two averages"),
            ({"select": True, "engine": {"validate_epochs": None}}, "select needs looks"),
            ({"contrastive": {"temperature": 0.0}}, "contrastive.temperature must be positive"),
            ({"contrastive": {"objective": "infonc"}}, "objective"),
        ],
    )
    def test_refuses(self, values, message):
        with pytest.raises(ConfigError, match=message):
            from_dict(AutoTCLConfig, values, source="test")

    def test_every_preset_is_valid(self):
        from importlib.resources import files

        folder = files("polycontrast_timeseries.autotcl").joinpath("presets")
        names = [file.name for file in folder.iterdir()]
        assert {"demo.yaml", "motifs.yaml", "etth1-uni.yaml", "etth1-multi.yaml", "ucr.yaml"} <= set(names)
        assert sum(name.startswith("paper-") for name in names) == 10
        for name in names:
            values = yaml.safe_load(folder.joinpath(name).read_text())
            from_dict(AutoTCLConfig, values, source=name)


class TestStep:
    def test_first_the_views_then_the_contrast(self, series):
        method, engine = built(series), Recorder()
        method.step(batch_of(method, series), engine)
        assert engine.calls == [("augmenter", {"relevance", "budget", "consistency"}), ("main", {"global", "local"})]

    def test_every_parameter_learns(self, series):
        method = built(series)
        terms = method.terms(batch_of(method, series))
        sum(method.weight(name) * value for name, value in terms.items()).backward()
        dead = [n for n, p in method.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.any())]
        assert dead == []

    def test_every_other_step_with_ratio_2(self, series):
        method, engine = built(series, ratio_step=2), Recorder()
        engine.stage_step = 1
        method.step(batch_of(method, series), engine)
        assert [name for name, _ in engine.calls] == ["main"]

    @pytest.mark.parametrize(
        ("how", "terms"),
        [
            ({"aug_mode": "adversarial"}, {"adversary", "global", "local"}),
            ({"aug_mode": "jitter"}, {"global", "local"}),
            ({"aug_mode": "none", "alpha_local": 0.0}, {"global"}),
            ({"off": ("global", "relevance")}, {"local", "budget", "consistency"}),
            ({"contrastive": ContrastiveConfig(objective="siglip")},
             {"relevance", "budget", "consistency", "global", "local"}),
        ],
    )  # fmt: skip
    def test_terms_that_are_active(self, series, how, terms):
        method = built(series, **how)
        found = method.terms(batch_of(method, series))
        assert set(found) == terms
        assert all(torch.isfinite(v) and v.ndim == 0 for v in found.values())

    def test_adversary_is_the_contrast_with_the_opposite_sign(self, series):
        method = built(series, aug_mode="adversarial")
        terms = method.terms(batch_of(method, series))
        adversary, contrast = (float(terms[name].detach()) for name in ("adversary", "global"))
        assert adversary == pytest.approx(-contrast, abs=0.05)  # other noise

    @pytest.mark.parametrize("how", [{}, {"gate_input": "code"}, {"prior_features": "trend"}, {"hard_mask": False}])
    def test_each_optimiser_moves_its_own_network(self, series, tmp_path, how):
        engine = engine_on(tmp_path / "run", series, replace(SMALL, **how))
        before = {k: v.clone() for k, v in engine.method.state_dict().items()}
        kept = []

        def spy(terms, optimiser="main", original=engine.minimise):
            original(terms, optimiser)
            now = engine.method.state_dict()
            kept.append((optimiser, {k.split(".")[0] for k, v in now.items() if not torch.equal(v, before[k])}))
            before.update({k: v.clone() for k, v in now.items()})

        engine.minimise = spy  # type: ignore[method-assign]
        engine.run()
        assert {(name, tuple(sorted(moved - {"average"}))) for name, moved in kept} == {
            ("augmenter", ("augmenter",)), ("main", ("encoder",)),
        }  # fmt: skip

    def test_first_of_the_batch_alone_as_in_the_code(self, series):
        method = built(series, off=("global", "relevance", "budget", "consistency"))
        batch = batch_of(method, series)
        one = built(series, local_batch="first", off=method.config.off).terms(batch)["local"]
        alone = {k: v[:1] for k, v in batch.items()}
        torch.testing.assert_close(one, method.terms(alone)["local"])
        assert not torch.allclose(one, method.terms(batch)["local"])

    def test_randomness_belongs_to_the_series(self, series):
        """A term that is a mean over series does not depend on how they are put together."""
        method = built(series, off=("global", "relevance"))
        batch = batch_of(method, series)
        whole = method.terms(batch)
        parts = [method.terms({k: v[at] for k, v in batch.items()}) for at in (slice(0, 2), slice(2, 4))]
        for name in ("local", "consistency"):
            torch.testing.assert_close(whole[name], (parts[0][name] + parts[1][name]) / 2)

    def test_calendar_channels_can_be_left_alone(self, series):
        spared, all_of_it = built(series, augment_covariates=False), built(series)
        x = torch.randn(2, 20, 9)
        keys = draws(0, torch.arange(2))
        assert torch.equal(spared._view(x, keys)[..., :7], x[..., :7])
        assert not torch.equal(all_of_it._view(x, keys)[..., :7], x[..., :7])

    def test_an_encoder_of_ones_own(self, series):
        class Mine(AutoTCL):
            def new_encoder(self):
                return torch.nn.Linear(self.channels_in, self.config.out_dim)

        torch.manual_seed(0)
        method = Mine(SMALL, AutoTCL.inspect(SMALL, series))
        assert "global" in method.terms(batch_of(method, series))
        assert set(method.evaluate(series)) >= {"mse", "mae_12"}


class TestRuns:
    def test_average_is_the_mean_of_all_iterates(self, series, tmp_path):
        engine = engine_on(tmp_path / "run", series)
        iterates = [{k: v.clone() for k, v in engine.method.encoder.state_dict().items()}]
        original = engine.method.on_step_end

        def spy(stage, engine):
            iterates.append({k: v.clone() for k, v in engine.method.encoder.state_dict().items()})
            original(stage, engine)

        engine.method.on_step_end = spy
        engine.run()
        assert len(iterates) == 1 + 3 * (len(engine.method.examples(series, "train")) // 4)
        for name, value in engine.method.represents.state_dict().items():
            mean = torch.stack([i[name].double() for i in iterates]).mean(0)
            torch.testing.assert_close(value.double(), mean, rtol=1e-5, atol=1e-6)

    def test_stopped_at_every_other_step_it_ends_the_same(self, series, tmp_path):
        config = replace(SMALL, stride=20, engine=replace(SMALL.engine, checkpoint_steps=1))
        whole = engine_on(tmp_path / "whole", series, config)
        whole.run()
        stops = 0
        while True:
            engine = engine_on(tmp_path / "cut", series, config)
            tick, left = engine.tick, [2]

            def stop(tick=tick, left=left):
                tick()
                left[0] -= 1
                if left[0] == 0:
                    raise KeyboardInterrupt

            engine.tick = stop  # type: ignore[method-assign]
            try:
                engine.run()
            except KeyboardInterrupt:
                stops += 1
                continue
            break
        assert stops >= 3
        for name, value in whole.method.state_dict().items():
            assert torch.equal(value, engine.method.state_dict()[name]), name

    def test_best_weights_of_the_validation_part(self, series, tmp_path):
        config = replace(SMALL, select=True, engine=replace(SMALL.engine, validate_epochs=1))
        engine = engine_on(tmp_path / "run", series, config)
        engine.run()
        looks = [row["val/mse"] for row in engine.run_dir.metrics() if "val/mse" in row]
        assert len(looks) == 3
        chosen = engine.method.validate(series, engine.stage)["mse"]
        assert chosen == pytest.approx(min(looks), rel=1e-6)


class TestInputs:
    def test_calendar(self):
        times = pd.DatetimeIndex(["2024-01-01 00:30", "2024-12-31 23:15"])
        assert calendar(times).tolist() == [[30, 0, 0, 1, 1, 1, 1], [15, 23, 1, 31, 366, 12, 1]]

    def test_calendar_first_and_scaled_by_the_training_part(self, series):
        method = built(series)
        x = method.examples(series, "val").series
        assert x.shape == (400, 9)
        torch.testing.assert_close(x[:, 7:], series.scaled)
        low, high = series.borders["train"]
        torch.testing.assert_close(x[low:high, 1].mean(), torch.tensor(0.0), atol=1e-5, rtol=0)
        torch.testing.assert_close(x[low:high, 1].std(unbiased=False), torch.tensor(1.0), atol=1e-4, rtol=0)
        assert (x[:, 0] == 0).all()  # minutes of whole hours

    def test_sections_of_the_authors(self):
        sections = Sections.cut(torch.arange(8640.0).view(-1, 1), 0, 8640, length=257, stride=None, name="ETTh1")
        assert len(sections) == 33
        assert sorted(set(sections.lengths.tolist())) == [261, 262]
        x = sections[list(range(33))]["x"]
        assert x.shape == (33, 262, 1)
        assert int(x.isnan().sum()) == 33 * 262 - 8640
        assert x[~x.isnan()].tolist() == list(range(8640))

    def test_overlapping_sections(self):
        sections = Sections.cut(torch.arange(100.0).view(-1, 1), 10, 90, length=20, stride=6, name="x")
        assert sections.starts.tolist() == list(range(10, 71, 6))
        assert sections[[0]]["x"][0, :, 0].tolist() == list(range(10, 30))

    def test_crops(self):
        x = torch.arange(50.0).view(1, 50, 1).repeat(3000, 1, 1)
        found = crop(x, draws(0, torch.arange(3000)), 45, stream=1)[..., 0]
        assert (found.diff(dim=1) == 1).all()
        assert set(found[:, 0].tolist()) == {0, 1, 2, 3, 4, 5}
        assert crop(x, draws(0, torch.arange(3000)), 50, stream=1) is x


class TestForecasts:
    def test_what_comes_later_is_not_seen(self, frame):
        """Change everything after a step: representations up to it stay the same, bit for bit, also in training."""
        low = 300
        other = frame.copy()
        other.iloc[low + 1 :] = 1e6
        one, two = from_frame(frame, SMALL.data), from_frame(other, SMALL.data)
        for causal in (False, True):
            method = built(one, causal=causal)
            series = method.examples(one, "train").series
            changed = series.clone()
            changed[low + 1 :] = 1e3
            windows = [replace(method.examples(one, "val"), series=s) for s in (series, changed)]
            before, after = (method._last_steps(method.represents, w) for w in windows)
            rows = windows[0].starts + SMALL.context - 1
            assert bool((rows <= low).any() and (rows > low).any())
            if causal:  # one pass over another length of series need not be equal to the last bit
                torch.testing.assert_close(before[rows <= low], after[rows <= low], rtol=0, atol=1e-6)
            else:
                assert torch.equal(before[rows <= low], after[rows <= low])
            assert not torch.allclose(before[rows > low], after[rows > low])
        # The scaler too knows the training part alone.
        np.testing.assert_array_equal(one.mean, two.mean)

    def test_features_are_last_steps_of_whole_windows(self, series):
        method = built(series)
        parts = features(series, method.info, 24, lambda w: method._last_steps(method.represents, w))
        low, high = series.borders["val"]
        assert len(parts["val"]) == high - low + 1
        assert len(parts["train"]) == series.borders["train"][1] - 23
        rows = slice(low + 3 - 24, low + 3)  # the window that ends at row low + 2
        whole = method.represents(method.examples(series, "val").series[rows].unsqueeze(0))[0, -1]
        torch.testing.assert_close(parts["val"][3], whole, rtol=0, atol=1e-6)

    def test_errors_with_baselines_and_charts(self, series):
        method = built(series, horizons=(6,))
        metrics = method.evaluate(series)
        assert set(metrics) == {"mse", "mae", "mse_6", "mae_6"}
        baselines = method.baselines(series)
        assert set(baselines) == {
            "untrained", "persistence", "seasonal_naive", "ridge_window", "ridge", "dlinear",
        }  # fmt: skip
        assert {name for name, b in baselines.items() if b.floor} == {"untrained", "persistence", "seasonal_naive"}
        # Nothing was trained: the untrained encoder has the very same weights.
        assert baselines["untrained"].metrics == metrics
        charts = method.charts(series)
        assert [chart.title.split(",")[0] for chart in charts[:2]] == ["sensor_1", "sensor_2"]
        assert "keeps" in charts[2].title

    def test_test_rows_choose_nothing(self, series):
        """Penalties and weights of the heads stay the same whatever the test part holds."""
        method = built(series)
        method.evaluate(series)
        heads = [method.forecaster(h) for h in (6, 12)]
        low, _ = series.borders["test"]
        values = series.values.copy()
        values[low:] = np.random.default_rng(0).permutation(values[low:])
        method.evaluate(replace(series, values=values))
        for head in heads:
            again = method.forecaster(head.horizon)
            assert again.alpha == head.alpha
            assert torch.equal(again.weight, head.weight)

    def test_frames_in_and_out(self, series, frame, tmp_path):
        method = built(series)
        method.evaluate(series)
        forecast = method.forecast(frame)
        assert list(forecast.columns) == ["sensor_1", "sensor_2"]
        assert forecast.index[0] == frame.index[-1] + pd.Timedelta(hours=1)
        assert len(forecast) == 12
        method.save_pretrained(tmp_path / "model")
        again = AutoTCL.from_pretrained(tmp_path / "model")
        assert not any(k.startswith("encoder.") for k in method.saved_state())
        pd.testing.assert_frame_equal(again.forecast(frame), forecast)
        np.testing.assert_array_equal(again.transform(frame, "max"), method.transform(frame, "max"))
        table = method.predict_table(from_frame(frame, SMALL.data, purpose="predict")).to_pandas()
        np.testing.assert_allclose(
            table[table.unique_id == "sensor_1"].prediction, forecast["sensor_1"], rtol=1e-4
        )  # fmt: skip
        with pytest.raises(DataError, match="no forecaster for 7 steps; horizons that it has: 6, 12"):
            method.forecast(frame, 7)

    def test_fit_on_a_frame(self, frame, tmp_path):
        small = {
            "hidden": 4, "out_dim": 8, "depth": 2, "kernels": [1, 2], "aug_hidden": 4, "max_len": 40, "context": 24,
            "horizons": [6], "engine.epochs": 1,
        }  # fmt: skip
        method = AutoTCL.fit(frame, out=tmp_path / "run", **small)
        assert (tmp_path / "run" / "result.json").exists()
        assert method.forecast(frame).shape == (6, 2)

    def test_representations(self, series, frame):
        method = built(series)
        steps = method.transform(frame)
        assert steps.shape == (1, 400, 12)
        np.testing.assert_array_equal(method.transform(frame, "max"), steps.max(1))
        np.testing.assert_allclose(method.transform(frame, "last"), steps[:, -1], atol=1e-5)
        sliding = method.transform(frame, 24)
        short = method.transform(frame.iloc[100:124], "last")
        np.testing.assert_allclose(sliding[:, 123], short, atol=1e-5)
        keep, mask = method.mask(frame)
        assert keep.shape == mask.shape == (1, 400, 2)
        assert ((keep >= 0) & (keep <= 1)).all()
        with pytest.raises(DataError, match="pooling must be"):
            method.transform(frame, "mean")

    @pytest.mark.parametrize(
        ("how", "act", "message"),
        [
            ({}, lambda m, f: m.forecast(f), "no forecaster for 0 steps; horizons that it has: none"),
            ({}, lambda m, f: m.transform(f.to_numpy()), "give a frame with timestamps, not an array"),
            ({}, lambda m, f: m.transform(f.rename(columns={"sensor_1": "x"})), "lacks the column 'sensor_1'"),
            ({"aug_mode": "none"}, lambda m, f: m.mask(f), "aug_mode none learns no mask"),
        ],
    )
    def test_refuses(self, series, frame, how, act, message):
        with pytest.raises(DataError, match=message):
            act(built(series, **how), frame)

    def test_data_that_do_not_suit(self, frame):
        config = replace(SMALL, covariates="on")
        with pytest.raises(DataError, match="has no timestamps for calendar channels"):
            AutoTCL.inspect(config, from_frame(frame.to_numpy(), SMALL.data))
        without = from_frame(frame.to_numpy(), SMALL.data)
        assert built(without).channels_in == 2
        method = built(without, max_len=200)
        with pytest.raises(DataError, match="make 1 sections of 200; two are the least; lower max_len or set stride"):
            method.stages(without)
        with pytest.raises(DataError, match="one window needs"):
            built(without, horizons=(200,)).stages(without)

    def test_gaps(self, frame):
        frame = frame.copy()
        frame.iloc[50:80, 0] = np.nan
        frame.iloc[300:310] = np.nan
        data = from_frame(frame, replace(SMALL.data, missing="hidden"))
        method = built(data)
        terms = method.terms(batch_of(method, data))
        assert all(torch.isfinite(v) for v in terms.values())
        assert np.isfinite(list(method.evaluate(data).values())).all()

    def test_published_figures_are_for_etth1_alone(self, series):
        assert built(series).published(series) == {}
        times = pd.date_range("2016-07-01", periods=14400, freq="h")
        columns = ["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"]
        values = np.random.default_rng(0).normal(size=(14400, 7))
        table = pd.DataFrame({"date": times, **dict(zip(columns, values.T, strict=True))})
        config = replace(SMALL, horizons=(24, 48, 168, 336, 720))
        univariate = from_frame(table, replace(SMALL.data, features="S"))
        found = built(univariate, config).published(univariate)
        assert found["AutoTCL, paper"]["mse_24"] == 0.037
        assert found["AutoTCL, paper"]["mse"] == 0.076
        multivariate = from_frame(table, SMALL.data)
        assert built(multivariate, config).published(multivariate)["CoST"] == {"mse": 0.65, "mae": 0.585}
        assert built(multivariate).published(multivariate) == {}


class TestCases:
    def test_accuracy_and_quality_of_the_mask(self, cases):
        method = built(cases)
        metrics = method.evaluate(cases)
        assert set(metrics) == {"accuracy", "mask_auc"}
        assert 0 <= metrics["mask_auc"] <= 1
        baselines = method.baselines(cases)
        assert {name for name, b in baselines.items() if b.floor} == {"untrained", "majority"}
        assert baselines["untrained"].metrics["accuracy"] == metrics["accuracy"]
        assert len(method.charts(cases)) == 1

    def test_classes_by_name(self, cases, tmp_path):
        method = built(cases)
        with pytest.raises(DataError, match="has seen no labelled cases"):
            method.classify(cases.raw["test"])
        method.evaluate(cases)
        method.save_pretrained(tmp_path)
        assert AutoTCL.from_pretrained(tmp_path).classify(cases.raw["test"]) == method.classify(cases.raw["test"])

    def test_padding_of_short_cases_is_not_pooled(self):
        rng = np.random.default_rng(0)
        x = rng.normal(size=(8, 30, 1))
        padded = x.copy()
        padded[:4, 20:] = np.nan
        data = from_arrays({"train": padded, "test": x}, {"train": [0, 1] * 4, "test": [0, 1] * 4}, SMALL)
        method = built(data)
        vectors = method._vectors(method.represents, data.x["train"])
        z = method.represents(torch.nan_to_num(data.x["train"]))
        torch.testing.assert_close(vectors[:4], z[:4, :20].amax(1))

    def test_very_short_cases(self):
        x = np.random.default_rng(0).normal(size=(8, 6, 1))
        data = from_arrays({"train": x, "test": x}, {"train": [0, 1] * 4, "test": [0, 1] * 4}, SMALL)
        method = built(data)
        assert all(torch.isfinite(v) for v in method.terms(batch_of(method, data)).values())
        with pytest.raises(DataError, match="has cases of 3 steps"):
            AutoTCL.inspect(SMALL, from_arrays({"train": x[:, :3], "test": x[:, :3]}, {"train": [0, 1] * 4}, SMALL))

"""Ti-MAE: hide three quarters of the time steps of a series and learn to reconstruct them.

One pre-trained network then forecasts directly, at any horizon, by treating the future as one more hidden part;
carries a linear forecast head; fills gaps; scores anomalies; and represents whole series for classification.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor, nn

from polycontrast.config import MethodConfig
from polycontrast.data import Batch, Dataset, Examples, TensorExamples, derive_seed, draws, uniform
from polycontrast.errors import DataError
from polycontrast.method import Baseline, Chart, Method, OptimiserSpec, Stage, Term
from polycontrast_timeseries import classification, forecasting
from polycontrast_timeseries.cases import CaseDataset
from polycontrast_timeseries.pictures import forecasts_against_truth
from polycontrast_timeseries.raw import Raw, Series, long_frame, scaler
from polycontrast_timeseries.series import ETT_COLUMNS, SeriesDataset, Windows, future_times
from polycontrast_timeseries.ti_mae import published
from polycontrast_timeseries.ti_mae.chunks import mean_over_parts
from polycontrast_timeseries.ti_mae.config import TiMAEConfig
from polycontrast_timeseries.ti_mae.masking import complementary_masks, draw_masks, hidden_steps, visible_steps
from polycontrast_timeseries.ti_mae.network import TiMAENetwork

Pooling = Literal["mean", "max"]
Variant = tuple[Pooling, bool]
Float = npt.NDArray[np.float64]

_LOOK = 256
"""Validation windows that pre-training looks at after each epoch."""
_BATCH = 256
"""Series per forward pass where nothing is learned."""


class TiMAE(Method):
    """Ti-MAE (Li et al. 2023, arXiv 2301.08871): masked auto-encoding of time series.

    Batches are standardised; frames and arrays given to :meth:`forecast`, :meth:`impute`, :meth:`reconstruct`,
    :meth:`transform` and :meth:`anomaly_score` are in original units, with NaN where a value is missing.

    Args:
        config: see :class:`TiMAEConfig`.
        info: from :meth:`inspect`; at least ``channels``, the names of the channels in.
    """

    id = "timeseries/ti-mae"
    Config = TiMAEConfig
    TERMS: ClassVar[Mapping[str, Term]] = {"reconstruction": Term("reconstruction"), "forecast": Term("task")}
    HEADLINE = "mse"
    """Mean over the horizons of the squared error; ``accuracy`` when the data are labelled cases."""
    CITATION = (
        "Zhe Li, Zhongwen Rao, Lujia Pan, Pengyun Wang, Zenglin Xu. Ti-MAE: Self-Supervised Masked Time Series "
        "Autoencoders. arXiv:2301.08871, 2023."
    )

    config: TiMAEConfig

    def __init__(self, config: TiMAEConfig, info: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, info)
        c, info = config, self.info
        info.setdefault("task", "forecasting")
        info.setdefault("channels", ["value"])
        info.setdefault("targets", list(range(len(info["channels"]))))
        info.setdefault("mean", [0.0] * len(info["channels"]))
        info.setdefault("std", [1.0] * len(info["channels"]))
        info.setdefault("length", c.context + max(c.horizons))
        self.network = TiMAENetwork(
            len(info["channels"]), info["targets"],
            width=c.width, layers=c.layers, heads=c.heads, ff_multiplier=c.ff_multiplier,
            decoder_width=c.decoder_width, decoder_layers=c.decoder_layers, decoder_heads=c.decoder_heads,
            embed_kernel=c.embed_kernel, leak_free=c.leak_free, revin=c.revin, positions=c.positions, dropout=c.dropout,
        )  # fmt: skip
        self.head: ForecastHead | None = None
        if self.forecasts:
            if c.head_epochs:
                self.head = ForecastHead(c.head_layout, c.head_context, c.width, max(c.horizons), len(info["targets"]))
        else:
            self.HEADLINE, self.HIGHER_IS_BETTER = "accuracy", True  # type: ignore[misc]
            probe = info.setdefault("probe", _NO_PROBE)
            self.register_buffer("probe_features", torch.zeros(probe["cases"], c.width))
            self.register_buffer("probe_labels", torch.zeros(probe["cases"], dtype=torch.int64))

    @property
    def forecasts(self) -> bool:
        """Whether the task is forecasting; else it is classification."""
        return bool(self.info["task"] == "forecasting")

    # ---- the algorithm ---------------------------------------------------------------------------------------

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """``reconstruction`` of windows ``x`` (B, L, m); of contexts ``x`` with their ``future``, ``forecast``."""
        if "future" in batch:
            return {"forecast": self._forecast_error(batch)} if self.active("forecast") else {}
        return {"reconstruction": self._reconstruction_error(batch)} if self.active("reconstruction") else {}

    def _reconstruction_error(self, batch: Batch, n_masks: int | None = None) -> Tensor:
        """Squared error of the hidden steps, averaged over channels, steps, samples and masks (paper section 3.2)."""
        c, network, targets = self.config, self.network, self.info["targets"]
        x, missing = _split_missing(batch["x"])
        draw = batch["draw"] if "draw" in batch else torch.randint(2**62, (len(x),), device=x.device)
        length, n_masks = x.shape[1], n_masks or c.n_masks

        def squared_error(embedded: Tensor | None, *, masks: range) -> tuple[Tensor, Tensor]:
            total, count = x.new_zeros(()), x.new_zeros(())
            for rows, keep in draw_masks(
                draw, length, masks=masks, kind=c.mask_type, ratio=c.mask_ratio, forecast_ratio=c.forecast_ratio,
                horizon=self._future_steps(length), missing=None if missing is None else missing.any(2),
            ):  # fmt: skip
                view = network.view(x, keep, rows, missing=missing, embedded=embedded)  # conv(x) + p at visible steps
                reconstruction = network.decode(network.encode(view), view, length)
                counts = hidden_steps(keep, length).unsqueeze(2)
                if missing is not None:
                    counts = counts & ~missing[rows][..., targets]
                error = (reconstruction - x[rows][..., targets]).square() * counts
                # A mean per row first: rows may hide different numbers of steps, and the loss must not depend on how a
                # batch is shared between processes.
                per_row = error.sum((1, 2)) / counts.expand_as(error).sum((1, 2)).clamp(min=1)
                total, count = total + per_row.sum(), count + len(rows)
            return total, count

        size = c.masks_per_chunk or (1 if x.device.type == "cpu" else 8)
        parts = [partial(squared_error, masks=range(n_masks)[i : i + size]) for i in range(0, n_masks, size)]
        return mean_over_parts(parts, list(network.parameters()), network.embed(x))

    def direct_forecast(self, x: Tensor, horizon: int) -> Tensor:
        """Reconstruct the steps after the context, which are hidden steps like others (paper section 3.3).

        The decoder is given a whole window as in training, of which the first steps after the context are read: with
        fewer mask tokens than it was trained on, short horizons would be forecast worse than long ones.

        Args:
            x: (B, L, m) standardised, NaN where missing.
            horizon: any number of steps, H; longer than in training it is an extrapolation.

        Returns:
            (B, H, o) standardised.
        """
        x, missing = _split_missing(x)
        view = self.network.view(x, missing=missing)
        first, last = x.shape[1], x.shape[1] + horizon
        return self.network.decode(self.network.encode(view), view, max(last, self.info["length"]))[:, first:last]

    def head_forecast(self, x: Tensor, horizon: int | None = None) -> Tensor:
        """A linear map of the encoder's tokens of the last ``head_context`` steps, none of them hidden.

        One head serves all horizons: the outputs of a linear map do not depend on each other, so its first steps are
        those of a head made for a shorter one.

        Args:
            x: (B, L, m) standardised, NaN where missing.
            horizon: up to the longest of the config, H. None: that.

        Returns:
            (B, H, o) standardised.
        """
        if self.head is None or x.shape[1] < self.config.head_context:
            need = "head_epochs of at least 1" if self.head is None else f"{self.config.head_context} steps of context"
            raise DataError(f"a forecast by the head needs {need}")
        learns = self.config.fine_tune
        x, missing = _split_missing(x[:, -self.config.head_context :])
        with torch.set_grad_enabled(torch.is_grad_enabled() and learns), _mode(self.network, self.training and learns):
            view = self.network.view(x, missing=missing)
            latent = self.network.encode(view)
        if view.valid is not None:
            latent = latent * view.valid.unsqueeze(2)
        return self.network.rescale(self.head(latent), view)[:, :horizon]

    def _forecast_error(self, batch: Batch) -> Tensor:
        future, missing = _split_missing(batch["future"][..., self.info["targets"]])
        error = (self.head_forecast(batch["x"]) - future).square()
        if missing is None:
            return error.mean()
        return ((error * ~missing).sum((1, 2)) / (~missing).sum((1, 2)).clamp(min=1)).mean()

    def _future_steps(self, length: int) -> int:
        """Steps that a future mask hides."""
        return max(self.config.horizons) if self.forecasts else length - visible_steps(length, self.config.mask_ratio)

    # ---- before training -------------------------------------------------------------------------------------

    @classmethod
    def inspect(cls, config: MethodConfig, data: Dataset) -> dict[str, Any]:
        """Task, channels, scaler and what else is needed to use the model on raw data."""
        if isinstance(data, CaseDataset):
            return {
                "task": "classification",
                "channels": [f"c{i}" for i in range(data.mean.size)],
                "mean": data.mean.tolist(),
                "std": data.std.tolist(),
                "length": data.x["train"].shape[1],
                "classes": list(data.classes),
            }
        if isinstance(data, SeriesDataset):
            return {
                "task": "forecasting",
                "channels": list(data.channels),
                "targets": list(data.targets),
                "mean": data.mean.tolist(),
                "std": data.std.tolist(),
                "frequency": data.frequency,
                "period": data.period,
            }
        raise DataError(f"{data.name} is a {type(data).__name__}; {cls.id} takes a series or labelled cases")

    def examples(self, data: Dataset, split: str) -> Examples:
        """Windows of a series, or cases; under the model's own scaler when opened to predict."""
        c, own = self.config, scaler(self.info) if split == "all" else None
        if isinstance(data, SeriesDataset):
            horizon, stride = (0, 1) if split == "all" else (max(c.horizons), c.stride if split == "train" else 1)
            return data.windows(split, context=c.context, horizon=horizon, stride=stride, scaler=own)
        cases = super().examples(data, split)
        if own is None or not isinstance(data, CaseDataset):
            return cases
        return TensorExamples({"id": torch.arange(len(cases)), "x": data.scale(own)[split]})

    def stages(self, data: Dataset) -> Sequence[Stage]:
        """``pretrain``, and for forecasts ``head``, each left out if its term is off."""
        stages = []
        if self.active("reconstruction"):
            stages.append(Stage(name="pretrain", data=self.examples(data, "train"), trains=("network.",)))
        if self.forecasts:
            self._check_windows(data)
        if self.head is not None and self.active("forecast"):
            encoder = ("network.embedding.", "network.encoder") if self.config.fine_tune else ()
            head = Stage(
                name="head", data=self._head_examples(data, "train"), epochs=self.config.head_epochs,
                trains=("head.", *encoder), select="forecast", patience=self.config.head_patience,
            )  # fmt: skip
            stages.append(head)
        return stages

    def _check_windows(self, data: Dataset) -> None:
        """Refuse at once what is too short for a horizon in any part."""
        for split, horizon in itertools.product(("val", "test"), self.config.horizons):
            cast(SeriesDataset, data).windows(split, context=self.config.context, horizon=horizon)

    def _head_examples(self, data: Dataset, split: str, stride: int | None = None) -> Supervised:
        c = self.config
        return Supervised(
            cast(SeriesDataset, data).windows(
                split, context=c.head_context, horizon=max(c.horizons), stride=stride or c.stride
            )
        )

    def optimisers(self, stage: Stage) -> dict[str, OptimiserSpec]:
        """The head has its own."""
        learns = [p for p in self.parameters() if p.requires_grad]
        config = self.config.head_optimiser if stage.name == "head" else self.config.optimiser
        return {"main": OptimiserSpec(learns, config)}

    # ---- measuring -------------------------------------------------------------------------------------------

    def validate(self, data: Dataset, stage: Stage) -> dict[str, float]:
        """Errors on validation windows, or nothing for labelled cases.

        Of the head ``forecast``, by which its weights are chosen, on all of them. Of pre-training, whose last weights
        count as in the paper, ``reconstruction`` and the ``mse`` of direct forecasts, on a few and only to look at.
        """
        if not isinstance(data, SeriesDataset):
            return {}
        if stage.name == "head":
            batches = self.batches(self._head_examples(data, "val", 1), _BATCH)
            errors = [(len(b["id"]), float(self._forecast_error(b))) for b in batches]
            return {"forecast": sum(n * e for n, e in errors) / sum(n for n, _ in errors)}
        windows = cast(Windows, self.examples(data, "val"))
        some = replace(windows, starts=windows.starts[:: -(-len(windows) // _LOOK)])
        sums, count = {"reconstruction": 0.0, "mse": 0.0}, 0
        for batch in self.batches(some):
            known, future = batch["x"][:, : self.config.context], batch["x"][:, self.config.context :]
            error = forecasting.metrics(
                future[..., self.info["targets"]].cpu(), self.direct_forecast(known, future.shape[1]).cpu()
            )
            sums["reconstruction"] += len(known) * float(self._reconstruction_error(batch, n_masks=1))
            sums["mse"] += len(known) * error["mse"]
            count += len(known)
        return {name: total / count for name, total in sums.items()}

    def evaluate(self, data: Dataset) -> dict[str, float]:
        """Forecast errors, standardised; or the accuracy of a support vector machine on the representations.

        ``mse_H`` and ``mae_H`` are the decoder's, ``frozen_mse_H`` and ``frozen_mae_H`` the head's; without the H they
        are means over the horizons. After fine-tuning there are only the head's, called ``mse_H`` and ``mae_H``.
        """
        if isinstance(data, CaseDataset):
            self._fit_probe(data)
            features = self._features(data.x["test"], *self._variant)
            return {"accuracy": classification.accuracy(data.y["test"], self._classify(features))}
        series, c = cast(SeriesDataset, data), self.config
        metrics = {} if c.fine_tune else self._score(series, c.context, self.direct_forecast)
        if self.head is not None:
            prefix = "" if c.fine_tune else "frozen_"
            metrics |= {prefix + k: v for k, v in self._score(series, c.head_context, self.head_forecast).items()}
        return metrics

    def _score(
        self, data: SeriesDataset, context: int, forecast: Callable[[Tensor, int], Tensor], split: str = "test"
    ) -> dict[str, float]:
        def answer(x: Tensor, horizon: int) -> Tensor:
            return forecast(x.to(self.device), horizon).cpu()

        with torch.no_grad(), _mode(self, False):
            return forecasting.score(data, context, self.config.horizons, answer, split=split, batch_size=_BATCH)

    def baselines(self, data: Dataset) -> dict[str, Baseline]:
        """What an expert would try first.

        Forecasts from the same context: persistence and seasonal naive (floors), ridge and DLinear. Labelled cases: an
        untrained encoder under the same probe and the largest class (floors), nearest neighbours by Euclidean distance
        and by DTW, and logistic regression on raw values.
        """
        seed = int(torch.randint(2**31, ()))
        if isinstance(data, CaseDataset):
            untrained = type(self)(self.config, {**self.info, "probe": _NO_PROBE}).to(self.device).eval()
            parts = (data.x["train"], data.y["train"], data.x["test"], data.y["test"])
            found = {"untrained": untrained.evaluate(data)} | classification.baselines(*parts, seed=seed)
        else:
            how = (cast(SeriesDataset, data), self.config.context, self.config.horizons)
            found = (
                forecasting.persistence(*how)
                | forecasting.seasonal_naive(*how)
                | forecasting.ridge(*how)
                | forecasting.dlinear(*how, seed=seed)
            )
        floors = ("persistence", "seasonal_naive", "untrained", "majority")
        return {name: Baseline(metrics, floor=name in floors) for name, metrics in found.items()}

    def published(self, data: Dataset) -> dict[str, dict[str, float]]:
        """The paper's tables, where they are about these data and horizons."""
        if not isinstance(data, SeriesDataset):
            return published.accuracies(data.name)
        is_etth = data.channels == ETT_COLUMNS[1:] and data.frequency == "h"
        return published.forecasts(data.name, data.channels, data.targets, self.config.horizons, is_etth=is_etth)

    def charts(self, data: Dataset) -> Sequence[Chart]:
        """Forecasts of the longest horizon against the truth."""
        if not isinstance(data, SeriesDataset):
            return ()

        def forecast(x: Tensor, horizon: int) -> Tensor:
            with self._using():
                return self._answer(x.to(self.device), horizon).cpu()

        return forecasts_against_truth(data, self.config.context, max(self.config.horizons), forecast)

    # ---- classification --------------------------------------------------------------------------------------

    @property
    def _variant(self) -> Variant:
        """Pooling and positions of the representation: for labelled cases as chosen on the training part."""
        if not self.forecasts:
            return self.info["probe"]["pooling"], self.info["probe"]["positions"]
        return "max" if self.config.pooling == "max" else "mean", self.config.positions

    def _fit_probe(self, data: CaseDataset) -> None:
        """Choose pooling and positions by cross-validation, and keep what the probe is fitted on."""
        c, y = self.config, data.y["train"]
        poolings: Sequence[Pooling] = ("mean", "max") if c.pooling == "best" else (c.pooling,)
        positions = (True, False) if c.feature_positions == "best" else (c.feature_positions == "with",)
        ways: list[Variant] = list(itertools.product(poolings, positions))
        features = [self._features(data.x["train"], *way) for way in ways]
        best = 0
        if len(ways) > 1:
            folds = list(data.folds())

            def right(z: Tensor) -> float:
                answers = ((classification.svm_probe(z[a], y[a], z[b], seed=0), y[b]) for a, b in folds)
                return sum(classification.accuracy(truth, answer) * len(truth) for answer, truth in answers)

            best = int(np.argmax([right(z) for z in features]))
        self.info["probe"] = {"cases": len(y), "pooling": ways[best][0], "positions": ways[best][1]}
        self.probe_features, self.probe_labels = features[best].to(self.device), y.to(self.device)

    def _classify(self, features: Tensor) -> npt.NDArray[np.int64]:
        """Class of each representation (n, D), by the support vector machine on those of the training cases."""
        if not len(self.probe_labels):
            raise DataError("the model has seen no labelled cases yet; evaluate it on some first")
        known = self.probe_features.cpu(), self.probe_labels.cpu()
        return classification.svm_probe(*known, features.detach().cpu(), seed=0)

    def _features(self, x: Tensor, pooling: Pooling, positions: bool) -> Tensor:
        """(n, L, m) standardised to (n, D) on the CPU."""
        with torch.no_grad(), _mode(self, False):
            parts = [self._represent(part.to(self.device), pooling, positions).cpu() for part in x.split(_BATCH)]
        return torch.cat(parts)

    def _represent(self, x: Tensor, pooling: Pooling, positions: bool) -> Tensor:
        x, missing = _split_missing(x)
        view = self.network.view(x, missing=missing, positions=positions)
        latent = self.network.encode(view)
        if pooling == "max":
            return (latent if view.valid is None else latent.masked_fill(~view.valid.unsqueeze(2), -torch.inf)).amax(1)
        if view.valid is None:
            return latent.mean(1)
        return (latent * view.valid.unsqueeze(2)).sum(1) / view.valid.sum(1, keepdim=True)

    # ---- using: batches and tables ---------------------------------------------------------------------------

    def embed(self, batch: Batch) -> Tensor:
        """Pooled tokens of the series in ``x`` (B, L, m), (B, D)."""
        return self._represent(batch["x"], *self._variant)

    def predict(self, batch: Batch) -> Tensor:
        """Forecast of the longest horizon, (B, H, o) standardised; or the position of each case's class, (B,).

        A forecast is made from the first ``context`` steps of ``x``, whatever comes after them.
        """
        if not self.forecasts:
            return torch.from_numpy(self._classify(self.embed(batch)))
        return self._answer(batch["x"][:, : self.config.context], max(self.config.horizons))

    def _answer(self, x: Tensor, horizon: int) -> Tensor:
        return self.head_forecast(x, horizon) if self.config.fine_tune else self.direct_forecast(x, horizon)

    def predict_table(self, data: Dataset) -> pa.Table:
        """What comes after the last row, in original units; or the class of each case.

        Columns ``unique_id`` (channel), ``ds`` (time, or row) and ``prediction``, as many steps as the longest
        horizon; of cases ``id`` and ``prediction``.
        """
        if not isinstance(data, SeriesDataset):
            table = super().predict_table(data)
            classes = [self.info["classes"][int(i)] for i in table["prediction"].to_pylist()]
            return pa.table({"id": table["id"], "prediction": classes})
        window = data.last(self.config.context, scaler=scaler(self.info))
        values = self._unscale(torch.cat([self.predict(batch) for batch in self.batches(window)]))[0]
        times: pd.Index = future_times(data, len(values))
        return pa.Table.from_pandas(long_frame(self._target_names, times, values, "prediction"), preserve_index=False)

    # ---- using: frames and arrays in original units ----------------------------------------------------------

    def forecast(self, x: Series, horizon: int | None = None) -> pd.DataFrame:
        """What comes next.

        Args:
            x: (T,), (T, m) or (B, T, m), or a wide or long frame; of its end, ``context`` steps are used.
            horizon: any number of steps. None: the longest of the config. Beyond that, forecasts are fed back as
                context, which is worse and is warned of.

        Returns:
            For a long frame ``unique_id``, ``ds`` and ``prediction``; else a column per target, indexed by time,
            or by step as counted from the first of ``x``.
        """
        longest = max(self.config.horizons)
        horizon = horizon or longest
        raw, z = self._read(x)
        if horizon > longest:
            if self.info["targets"] != list(range(len(self.info["channels"]))):
                raise DataError(f"a model of some channels only cannot go beyond its longest horizon, {longest} steps")
            warnings.warn(f"{horizon} steps are rolled from forecasts of {longest}, the longest trained", stacklevel=2)
        known, steps = z[:, -self.config.context :], 0
        with self._using():
            while steps < horizon:
                new = self._answer(known[:, -self.config.context :], min(longest, horizon - steps))
                known, steps = torch.cat([known, new], 1) if horizon > longest else new, steps + new.shape[1]
        return raw.forecast_frame(self._unscale(known[:, -horizon:]), self._target_names)

    def impute(self, x: Series) -> Any:
        """Fill the gaps.

        Args:
            x: as for :meth:`forecast`, NaN where a value is missing. Any length: long series are filled window by
                window, overlapping by half.

        Returns:
            The same in the same form, of all target channels; observed values are untouched.
        """
        raw, z = self._read(x)
        given = raw.values[..., self.info["targets"]]
        filled = self._unscale(self._reconstruct(z, torch.zeros(z.shape[:2], dtype=torch.bool)))
        return raw.give_back(np.where(np.isnan(given), filled, given), self._target_names)

    def reconstruct(self, x: Series, mask: npt.ArrayLike) -> Any:
        """Hide some steps and reconstruct everything.

        Args:
            x: as for :meth:`forecast`.
            mask: (T,), or (B, T) for arrays of three dimensions; true, or 1, where a step is hidden.

        Returns:
            The reconstruction of the target channels in the form of ``x``, visible steps too (on which the network
            is not trained).
        """
        raw, z = self._read(x)
        hidden = torch.as_tensor(np.asarray(mask, dtype=bool)).expand(z.shape[:2])
        return raw.give_back(self._unscale(self._reconstruct(z, hidden)), self._target_names)

    def transform(self, x: Series, pooling: Pooling | None = None, *, positions: bool | None = None) -> Float:
        """Representation of each series as a whole.

        Args:
            x: as for :meth:`forecast`.
            pooling: over time. None: as the model was set or has chosen, else mean.
            positions: whether the encoder adds positions; without them shapes matter more than places. None: as the
                model was set or has chosen.

        Returns:
            (B, D); B is 1 for a frame or an array of one or two dimensions.
        """
        _, z = self._read(x)
        chosen = self._variant
        features = self._features(z, pooling or chosen[0], chosen[1] if positions is None else positions)
        return np.asarray(features, dtype=np.float64)

    def anomaly_score(self, x: Series, n_masks: int = 8) -> Float:
        """How badly each step is reconstructed from the others.

        Args:
            x: as for :meth:`forecast`.
            n_masks: random masks over which the error is averaged; rounded up so that each step is hidden equally
                often.

        Returns:
            (T,), or (B, T) for arrays of three dimensions: the squared error of a step when hidden, in units of the
            training variance, averaged over masks and observed target channels; NaN where nothing was observed.
        """
        raw, z = self._read(x)
        truth = z[..., self.info["targets"]]
        total, times, made = torch.zeros(z.shape[:2]), torch.zeros(z.shape[:2]), 0
        keys = draws(derive_seed("anomaly"), torch.arange(len(z)))
        while made < n_masks:
            for keep in complementary_masks(uniform(keys, z.shape[1], stream=made), self.config.mask_ratio):
                hidden = hidden_steps(keep, z.shape[1])
                error = (self._reconstruct(z, hidden) - truth).square().nanmean(2)
                total, times = total + torch.where(hidden, error, 0.0), times + hidden
                made += 1
        score = np.asarray(total / times, dtype=np.float64)
        return score if raw.dims == 3 and raw.dataset is None else score[0]

    def _reconstruct(self, z: Tensor, hidden: Tensor) -> Tensor:
        """(B, T, m) standardised with NaN, steps to hide besides (B, T) bool: (B, T, o), by overlapping windows."""
        length, window = z.shape[1], min(z.shape[1], self.info["length"])
        # What is hidden counts as missing: the embedding must not see it through its neighbours either.
        z = z.masked_fill(hidden.unsqueeze(2), torch.nan)
        starts = sorted({*range(0, length - window + 1, max(window // 2, 1)), length - window})
        windows = z.unfold(1, window, 1)[:, starts].flatten(0, 1).transpose(1, 2)  # (B * W, window, m)
        with self._using():
            parts = [self._fill(part.to(self.device)).cpu() for part in windows.split(_BATCH)]
        filled = torch.cat(parts).unflatten(0, (len(z), len(starts)))
        total, times = torch.zeros(*z.shape[:2], filled.shape[-1]), torch.zeros(length, 1)
        for i, start in enumerate(starts):
            total[:, start : start + window] += filled[:, i]
            times[start : start + window] += 1
        return total / times

    def _fill(self, x: Tensor) -> Tensor:
        x, missing = _split_missing(x)
        view = self.network.view(x, missing=missing)
        return self.network.decode(self.network.encode(view), view, x.shape[1])

    def _read(self, x: Series) -> tuple[Raw, Tensor]:
        """The series as given, and (B, T, m) standardised."""
        raw = Raw.read(x, self.info["channels"], self.config.data)
        mean, std = scaler(self.info)
        return raw, torch.from_numpy(((raw.values - mean) / std).astype(np.float32))

    def _unscale(self, z: Tensor) -> Float:
        """(..., o) standardised to original units."""
        mean, std = (part[self.info["targets"]] for part in scaler(self.info))
        return np.asarray(z.cpu(), dtype=np.float64) * std + mean

    @property
    def _target_names(self) -> list[str]:
        return [self.info["channels"][i] for i in self.info["targets"]]

    @contextmanager
    def _using(self) -> Iterator[None]:
        with torch.no_grad(), _mode(self, False):
            yield


class ForecastHead(nn.Module):
    """One linear map from the tokens of a context to the steps and channels of a forecast.

    Args:
        layout: see :attr:`TiMAEConfig.head_layout`.
        context: tokens, L.
        width: of a token, D.
        horizon: steps of the forecast, H.
        targets: its channels, o.
    """

    def __init__(self, layout: Literal["flatten", "factored"], context: int, width: int, horizon: int, targets: int):
        super().__init__()
        self.shape = (horizon, targets)
        flatten = layout == "flatten"
        self.over_time = None if flatten else nn.Linear(context, horizon)
        self.linear = nn.Linear(*((context * width, horizon * targets) if flatten else (width, targets)))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, latent: Tensor) -> Tensor:
        """(B, L, D) to (B, H, o)."""
        if self.over_time is None:
            return self.linear(latent.flatten(1)).unflatten(1, self.shape)
        return self.linear(self.over_time(latent.transpose(1, 2)).transpose(1, 2))


@dataclass(frozen=True)
class Supervised:
    """Windows cut into ``x`` (B, context, m) and ``future`` (B, H, m)."""

    windows: Windows

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, positions: list[int]) -> Batch:
        batch = self.windows[positions]
        known, future = batch["x"].split([self.windows.context, self.windows.horizon], 1)
        return {"id": batch["id"], "x": known, "future": future}


_NO_PROBE: dict[str, Any] = {"cases": 0, "pooling": "mean", "positions": True}


def _split_missing(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Values with 0 for NaN, and where NaN was; None if nowhere."""
    missing = x.isnan()
    return (x.masked_fill(missing, 0.0), missing) if bool(missing.any()) else (x, None)


@contextmanager
def _mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Training or evaluation mode inside the block."""
    before = module.training
    module.train(training)
    try:
        yield
    finally:
        module.train(before)

"""AutoTCL: two networks against each other over what a view of a series may leave out.

One, the encoder, learns to recognise a series in its view; the other, the augmenter, makes views that keep the
information and drop the rest. What comes out represents every step (for forecasts) or a whole series (for classes).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import polycontrast
from polycontrast.config import MethodConfig
from polycontrast.data import Batch, Dataset, Examples, TensorExamples, uniform
from polycontrast.errors import DataError
from polycontrast.losses import mmd
from polycontrast.method import Baseline, Chart, Engine, Method, OptimiserSpec, Stage, Term
from polycontrast_timeseries import classification, forecasting
from polycontrast_timeseries.autotcl import published
from polycontrast_timeseries.autotcl.augmentation import (
    FIXED,
    Augmenter,
    Factors,
    consistency,
    draw_steps,
    gate,
    over_budget,
)
from polycontrast_timeseries.autotcl.config import AutoTCLConfig
from polycontrast_timeseries.autotcl.contrast import ViewContrast, local_contrast
from polycontrast_timeseries.autotcl.encoder import HasTrunk, build, evaluating, last_step, pooled
from polycontrast_timeseries.autotcl.inputs import Sections, calendar_scaler, covariates, crop, inputs
from polycontrast_timeseries.autotcl.probe import errors, features, raw_features
from polycontrast_timeseries.calendar import NAMES
from polycontrast_timeseries.cases import CaseDataset
from polycontrast_timeseries.pictures import forecasts_against_truth
from polycontrast_timeseries.raw import Raw, Series, long_frame, scaler
from polycontrast_timeseries.ridge import RidgeHead
from polycontrast_timeseries.series import ETT_COLUMNS, SeriesDataset, Windows, future_times

Float = npt.NDArray[np.float64]

_BATCH = 256
"""Windows per forward pass where nothing is learned."""
_LOOK = 1024
"""Training windows that a look at the validation part fits on, at most; validation windows are thinned out alike."""
_CROP, _GATE, _NEW_GATE, _STEPS, _SEGMENT = 1, 2, 3, 4, 5
"""Streams of a sample's randomness."""


_OBJECTIVE_OF = {"relevance": "pri", "budget": "pri", "consistency": "pri", "adversary": "adversarial"}
"""``aug_mode`` by term of the augmenter."""


class AutoTCL(Method):
    """AutoTCL (Zheng et al. 2024, arXiv 2402.10434): time series contrastive learning with a parametric augmentation.

    Batches are standardised, calendar channels first; frames and arrays given to :meth:`transform`, :meth:`mask`,
    :meth:`forecast` and :meth:`classify` are in original units, with NaN where a value is missing.

    Args:
        config: see :class:`AutoTCLConfig`.
        info: from :meth:`inspect`; at least ``channels``, the names of the channels of the series.
    """

    id = "timeseries/autotcl"
    Config = AutoTCLConfig
    TERMS: ClassVar[Mapping[str, Term]] = {
        "global": Term("contrastive"),
        "local": Term("contrastive", "alpha_local"),
        "relevance": Term("regularisation"),
        "budget": Term("regularisation", "beta_mask"),
        "consistency": Term("regularisation", "lambda_time"),
        "adversary": Term("regularisation"),
    }
    HEADLINE = "mse"
    """Mean over the horizons of the squared error; ``accuracy`` when the data are labelled cases."""
    CITATION = (
        "Xu Zheng, Tianchun Wang, Wei Cheng, Aitian Ma, Haifeng Chen, Mo Sha, Dongsheng Luo. Parametric Augmentation "
        "for Time Series Contrastive Learning. ICLR 2024. arXiv:2402.10434."
    )

    config: AutoTCLConfig

    def __init__(self, config: AutoTCLConfig, info: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, info)
        c, info = config, self.info
        info.setdefault("task", "forecasting")
        info.setdefault("channels", ["value"])
        info.setdefault("targets", list(range(len(info["channels"]))))
        info.setdefault("mean", [0.0] * len(info["channels"]))
        info.setdefault("std", [1.0] * len(info["channels"]))
        info.setdefault("calendar", None)
        info.setdefault("start", int(torch.randint(2**31, ())))
        info.setdefault("heads", [])
        info.setdefault("probe", 0)
        self.encoder = self.new_encoder()
        self.augmenter: Augmenter | None = None
        if c.learns_views:
            self.augmenter = Augmenter(
                self.channels_in, hidden=c.aug_hidden, depth=c.aug_depth, dim=c.aug_dim,
                kernels=c.kernels if c.aug_head else (),
            )  # fmt: skip
        # The mean begins with the initial weights: they count as the first iterate.
        self.average: AveragedModel | None = AveragedModel(self.encoder) if c.averaging == "swa" else None
        if self.average is not None:
            self.average.requires_grad_(False).update_parameters(self.encoder)
        self.objective = ViewContrast(c.contrastive)
        if self.forecasts:
            for head in info["heads"]:
                self._keep_head(head["horizon"], torch.zeros(c.out_dim, head["horizon"] * len(info["targets"])))
        else:
            self.HEADLINE, self.HIGHER_IS_BETTER = "accuracy", True  # type: ignore[misc]
            self.register_buffer("probe_features", torch.zeros(info["probe"], c.out_dim))
            self.register_buffer("probe_labels", torch.zeros(info["probe"], dtype=torch.int64))

    def new_encoder(self) -> nn.Module:
        """The encoder with its initial weights, (B, T, C) to (B, T, out_dim). The same weights each time.

        Override it to bring an encoder of your own, or name one in the config (``backbone``).
        """
        c = self.config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.info["start"])
            return build(
                c.backbone, self.channels_in, c.out_dim, hidden=c.hidden, depth=c.depth, kernels=c.kernels,
                causal=c.causal,
            )  # fmt: skip

    @property
    def forecasts(self) -> bool:
        """Whether the task is forecasting; else it is classification."""
        return bool(self.info["task"] == "forecasting")

    @property
    def channels_in(self) -> int:
        """Channels of the encoder: calendar and series."""
        return self._calendar + len(self.info["channels"])

    @property
    def _calendar(self) -> int:
        return len(NAMES) if self.info["calendar"] else 0

    @property
    def represents(self) -> nn.Module:
        """The encoder that is evaluated: with averaged weights, if they are averaged."""
        return self.encoder if self.average is None else self.average.module

    # ---- the algorithm ---------------------------------------------------------------------------------------

    def step(self, batch: Batch, engine: Engine) -> None:
        """First the augmenter, for a fixed encoder; then the encoder, for a view that is drawn anew."""
        x, seen, draw = self._prepare(batch)
        if self.augmenter is not None and engine.stage_step % self.config.ratio_step == 0:
            factors = self.augmenter(x)
            if terms := self._view_terms(x, seen, factors, draw):
                engine.minimise(terms, "augmenter")
            engine.log({"view/keep": factors.keep.mean(), "view/scale": factors.scale.mean()})
        engine.minimise(self._contrast_terms(x, seen, draw))

    @classmethod
    def weight_in(cls, config: MethodConfig, name: str) -> float:
        """Weight of a term; 0 where the augmenter learns by another objective, or not at all."""
        mode = _OBJECTIVE_OF.get(name)
        other = mode is not None and mode != cast(AutoTCLConfig, config).aug_mode
        return 0.0 if other else super().weight_in(config, name)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Of the augmenter ``relevance``, ``budget``, ``consistency`` or ``adversary``; then ``global`` and ``local``.

        The engine is given the two groups one after the other; see :meth:`step`.
        """
        x, seen, draw = self._prepare(batch)
        views = {} if self.augmenter is None else self._view_terms(x, seen, self.augmenter(x), draw)
        return {**views, **self._contrast_terms(x, seen, draw)}

    def _view_terms(self, x: Tensor, seen: Tensor | None, factors: Factors, draw: Tensor) -> dict[str, Tensor]:
        """The principle of relevant information: lose what can be lost, but not what the encoder sees."""
        c, terms = self.config, {}
        if c.aug_mode == "adversarial":
            if self.active("adversary"):
                with torch.no_grad():
                    z = self.encoder(x)
                terms["adversary"] = -self.objective(z, self.encoder(self._learned_view(x, factors, draw, _GATE)), seen)
            return terms
        if self.active("relevance"):
            with torch.no_grad():
                whole = pooled(self._prior(x), seen)
            view = self._learned_view(x, factors, draw, _GATE)
            terms["relevance"] = mmd(whole, pooled(self._prior(view), seen))
        if self.active("budget"):
            terms["budget"] = over_budget(factors.keep, c.mask_budget)
        if self.active("consistency") and x.shape[1] > 2:
            terms["consistency"] = consistency(
                factors.keep, *draw_steps(draw, x.shape[1], stream=_STEPS), rule=c.time_reg
            )
        return terms

    def _contrast_terms(self, x: Tensor, seen: Tensor | None, draw: Tensor) -> dict[str, Tensor]:
        """A series shall be recognised in its view, and a segment in the next one."""
        c, terms = self.config, {}
        if self.active("global"):
            with torch.no_grad():
                view = self._view(x, draw)
            z, of_view = self.encoder(torch.cat([x, view])).chunk(2)
            terms["global"] = self.objective(z, of_view, seen)
        elif self.active("local"):
            z = self.encoder(x)
        if self.active("local"):
            segments = min(c.segments, x.shape[1])
            room = x.shape[1] % segments
            start = (uniform(draw, 1, stream=_SEGMENT)[:, 0].double() * (room + 1)).long()
            some = slice(1 if c.local_batch == "first" else None)
            values = local_contrast(z[some], start[some], segments=segments, temperature=c.temperature_local)
            terms["local"] = values.mean()
        return terms

    def _view(self, x: Tensor, draw: Tensor) -> Tensor:
        """A view of (B, T, C), learned or not."""
        c = self.config
        if self.augmenter is not None:
            return self._learned_view(x, self.augmenter(x), draw, _NEW_GATE)
        if c.aug_mode == "none":
            return x
        return self._spare_calendar(x, FIXED[c.aug_mode](x, draw, c.fixed_strength, stream=_NEW_GATE))

    def _learned_view(self, x: Tensor, factors: Factors, draw: Tensor, stream: int) -> Tensor:
        """``g m x`` with a freshly drawn gate m."""
        noise = uniform(draw, x[0].numel(), stream=stream).view_as(x).to(x.dtype)
        return self._spare_calendar(x, factors.scale * self._gate(factors, noise) * x)

    def _gate(self, factors: Factors, noise: Tensor | None) -> Tensor:
        c = self.config
        return gate(
            factors.logit if c.gate_input == "logit" else factors.keep, noise, bias=c.gumbel_bias, gamma=-c.stretch,
            temperature=c.gate_temperature, hard=c.hard_mask,
        )  # fmt: skip

    def _spare_calendar(self, x: Tensor, view: Tensor) -> Tensor:
        k = self._calendar
        return view if self.config.augment_covariates or not k else torch.cat([x[..., :k], view[..., k:]], dim=2)

    def _prior(self, x: Tensor) -> Tensor:
        """Features on which the augmenter is judged."""
        if self.config.prior_features == "trunk" and isinstance(self.encoder, HasTrunk):
            return self.encoder.trunk(x)
        return self.encoder(x)

    def _prepare(self, batch: Batch) -> tuple[Tensor, Tensor | None, Tensor]:
        """Cropped series without NaN, which of their steps hold any value (None: all), and keys of randomness."""
        x = batch["x"]
        draw = batch["draw"] if "draw" in batch else torch.randint(2**62, (len(x),), device=x.device)
        return *self._fill(crop(x, draw, self.config.max_len, stream=_CROP)), draw

    def _fill(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        missing = x.isnan()
        if not bool(missing.any()):
            return x, None
        return x.masked_fill(missing, 0.0), ~missing[..., self._calendar :].all(2)

    # ---- before and during training --------------------------------------------------------------------------

    @classmethod
    def inspect(cls, config: MethodConfig, data: Dataset) -> dict[str, Any]:
        """Task, channels, scalers and what else is needed to use the model on raw data."""
        if isinstance(data, CaseDataset):
            length = data.x["train"].shape[1]
            if length < 4:
                raise DataError(f"{data.name} has cases of {length} steps; {cls.id} needs 4 at least")
            return {
                "task": "classification", "channels": [f"c{i}" for i in range(data.mean.size)],
                "mean": data.mean.tolist(), "std": data.std.tolist(), "length": length, "classes": list(data.classes),
            }  # fmt: skip
        if isinstance(data, SeriesDataset):
            return {
                "task": "forecasting", "channels": list(data.channels), "targets": list(data.targets),
                "mean": data.mean.tolist(), "std": data.std.tolist(), "frequency": data.frequency,
                "period": data.period, "calendar": calendar_scaler(cast(AutoTCLConfig, config), data),
            }  # fmt: skip
        raise DataError(f"{data.name} is a {type(data).__name__}; {cls.id} takes a series or labelled cases")

    def examples(self, data: Dataset, split: str) -> Examples:
        """Sections of a series to train on, else windows of it; or cases. The model's own scaler for ``all``."""
        c, own = self.config, scaler(self.info) if split == "all" else None
        if isinstance(data, SeriesDataset):
            series = inputs(data, self.info, scaler=own)
            if split == "train":
                low, high = data.borders["train"]
                return Sections.cut(series, low, high, length=c.max_len, stride=c.stride, name=data.name)
            windows = data.windows(split, context=c.context, horizon=0)
            return Windows(series=series, starts=windows.starts, context=c.context, horizon=0)
        cases = super().examples(data, split)
        if own is None or not isinstance(data, CaseDataset):
            return cases
        return TensorExamples({"id": torch.arange(len(cases)), "x": data.scale(own)[split]})

    def stages(self, data: Dataset) -> Sequence[Stage]:
        """One. What is too short for a horizon in any part is refused."""
        if isinstance(data, SeriesDataset):
            for horizon in self.config.horizons:
                for part in ("train", "val", "test"):
                    data.windows(part, context=self.config.context, horizon=horizon)
        select = "mse" if self.config.select and self.forecasts else None
        learns = ("encoder.", "objective.", *(("augmenter.",) if self.augmenter is not None else ()))
        learns = tuple(p for p in learns if any(name.startswith(p) for name, _ in self.named_parameters()))
        return [Stage(name="train", data=self.examples(data, "train"), trains=learns, select=select)]

    def optimisers(self, stage: Stage) -> dict[str, OptimiserSpec]:
        """``main`` for the encoder, ``augmenter`` for the augmentation network."""
        groups: list[dict[str, Any]] = [{"params": list(self.encoder.parameters())}]
        if scale := list(self.objective.parameters()):
            groups.append({"params": scale, "weight_decay": 0.0})
        found = {"main": OptimiserSpec(groups, self.config.optimiser)}
        if self.augmenter is not None:
            found["augmenter"] = OptimiserSpec(list(self.augmenter.parameters()), self.config.augmenter_optimiser)
        return found

    def on_step_end(self, stage: Stage, engine: Engine) -> None:
        """The mean of the weights moves on; a learned temperature stays within its bounds."""
        if self.average is not None:
            self.average.requires_grad_(False).update_parameters(self.encoder)
        self.objective.clamp_()

    def validate(self, data: Dataset, stage: Stage) -> dict[str, float]:
        """``mse`` of forecasts of the validation part, from some windows of long series; nothing for labelled cases."""
        if not isinstance(data, SeriesDataset):
            return {}
        context, (low, high) = self.config.context, data.borders["train"]
        every = -(-(high - low) // _LOOK)
        parts = features(data, self.info, context, lambda windows: self._thinned(windows, every), ("train", "val"))
        metrics, _ = errors(parts, data, context, self.config.horizons, every=every, split="val")
        return {"mse": metrics["mse"]}

    # ---- measuring -------------------------------------------------------------------------------------------

    def evaluate(self, data: Dataset) -> dict[str, float]:
        """Errors of a ridge regression on the last step of every window; or the accuracy of a support vector machine.

        Both are fitted on the training part; the penalty is chosen on the validation part, the machine's C by
        cross-validation.
        """
        if isinstance(data, CaseDataset):
            self.info["probe"] = len(data.y["train"])
            self.probe_features = self._vectors(self.represents, data.x["train"]).to(self.device)
            self.probe_labels = data.y["train"].to(self.device)
            vectors = self._vectors(self.represents, data.x["test"])
            metrics = {"accuracy": classification.accuracy(data.y["test"], self._classify(vectors))}
            if self.augmenter is not None and "test" in data.informative:
                metrics["mask_auc"] = self._mask_quality(data.x["test"], data.informative["test"])
            return metrics
        metrics, heads = self._forecast_errors(self.represents, cast(SeriesDataset, data))
        self.info["heads"] = [{"horizon": head.horizon, "alpha": head.alpha} for head in heads]
        for head in heads:
            self._keep_head(head.horizon, head.weight, head.bias)
        return metrics

    def _mask_quality(self, x: Tensor, informative: npt.NDArray[np.bool_]) -> float:
        """How well h tells informative steps from others: area under the curve, over all steps of all cases."""
        keep = np.concatenate([self._keep(part)[1].mean(2).numpy() for part in x.split(_BATCH)])
        return float(roc_auc_score(informative.ravel(), keep.ravel()))

    def _keep(self, x: Tensor) -> Factors:
        """What the augmenter says of (B, L, C) standardised, maybe with gaps, on the CPU."""
        assert self.augmenter is not None
        with torch.no_grad(), evaluating(self):
            return Factors(*(f.cpu() for f in self.augmenter(self._fill(x.to(self.device))[0])))

    def _forecast_errors(self, encoder: nn.Module, data: SeriesDataset) -> tuple[dict[str, float], list[RidgeHead]]:
        c = self.config
        parts = features(data, self.info, c.context, lambda windows: self._last_steps(encoder, windows))
        return errors(parts, data, c.context, c.horizons)

    def _keep_head(self, horizon: int, weight: Tensor, bias: Tensor | None = None) -> None:
        bias = torch.zeros(weight.shape[1]) if bias is None else bias
        self.register_buffer(f"head_{horizon}_weight", weight.float().to(self.device))
        self.register_buffer(f"head_{horizon}_bias", bias.float().to(self.device))

    def baselines(self, data: Dataset) -> dict[str, Baseline]:
        """What an expert would try first, and the encoder before training.

        Forecasts: persistence, seasonal naive and the encoder with its initial weights under the same probe (floors);
        the same probe on the raw window (``ridge_window``), a ridge regression shared by the channels, and DLinear.
        Labelled cases: the initial encoder and the largest class (floors), nearest neighbours by Euclidean distance and
        by DTW, and logistic regression on raw values.
        """
        seed = int(torch.randint(2**31, ()))
        untrained = self.new_encoder().to(self.device).eval()
        if isinstance(data, CaseDataset):
            train, test = (self._vectors(untrained, data.x[part]) for part in ("train", "test"))
            answer = classification.svm_probe(train, data.y["train"], test, seed=0)
            found = {"untrained": {"accuracy": classification.accuracy(data.y["test"], answer)}}
            found |= classification.baselines(
                data.x["train"], data.y["train"], data.x["test"], data.y["test"], seed=seed
            )
        else:
            series, c = cast(SeriesDataset, data), self.config
            how = (series, c.context, c.horizons)
            found = {"untrained": self._forecast_errors(untrained, series)[0]}
            found |= forecasting.persistence(*how) | forecasting.seasonal_naive(*how)
            found["ridge_window"] = errors(raw_features(series, self.info, c.context), *how)[0]
            found |= forecasting.ridge(*how) | forecasting.dlinear(*how, seed=seed)
        floors = ("persistence", "seasonal_naive", "untrained", "majority")
        return {name: Baseline(metrics, floor=name in floors) for name, metrics in found.items()}

    def published(self, data: Dataset) -> dict[str, dict[str, float]]:
        """The paper's tables, where they are about these data and horizons."""
        if not isinstance(data, SeriesDataset):
            return {}
        univariate = data.channels == ("OT",)
        is_etth = data.frequency == "h" and (univariate or data.channels == ETT_COLUMNS[1:])
        is_etth &= data.protocol.get("protocol") == "ett"
        return published.forecasts(data.name, is_etth=is_etth, univariate=univariate, horizons=self.config.horizons)

    def charts(self, data: Dataset) -> Sequence[Chart]:
        """Forecasts against the truth, and what the augmentation keeps of a test window."""
        drawn: list[Chart] = []
        if isinstance(data, SeriesDataset):
            c = self.config
            horizon = max(h for h in c.horizons if h <= max(min(c.horizons), c.context))
            windows = data.windows("test", context=c.context, horizon=horizon)
            at = int(windows.starts[len(windows) // 2])  # the window that is drawn
            x = inputs(data, self.info)[at : at + c.context]

            def forecast(_: Tensor, horizon: int) -> Tensor:
                return self.forecaster(horizon).predict(self._last_step(x.unsqueeze(0)))

            drawn += forecasts_against_truth(data, c.context, horizon, forecast)
        else:
            x = cast(CaseDataset, data).x["test"][0]
        if self.augmenter is not None:
            k, steps = self._calendar, list(range(len(x)))
            lines = {"standardised": x[:, k].tolist(), "kept (h)": self._keep(x.unsqueeze(0)).keep[0, :, k].tolist()}
            title = f"What the augmentation keeps of {self.info['channels'][0]}"
            drawn.append(Chart(title=title, x=steps, lines=lines, x_unit="step of a test window"))
        return drawn

    # ---- representations -------------------------------------------------------------------------------------

    def embed(self, batch: Batch) -> Tensor:
        """Of a window to forecast from its last step, of a case the maximum over time, (B, out_dim)."""
        x, seen = self._fill(batch["x"])
        return last_step(self.represents, x) if self.forecasts else pooled(self.represents(x), seen)

    def _last_step(self, x: Tensor) -> Tensor:
        """(B, L, C) standardised, maybe with gaps, to (B, O) on the CPU."""
        with torch.no_grad(), evaluating(self):
            return last_step(self.represents, self._fill(x.to(self.device))[0]).cpu()

    def _last_steps(self, encoder: nn.Module, windows: Windows) -> Tensor:
        """The last step of every window, (n, O) on the CPU; of a causal encoder by one pass over the series."""
        with torch.no_grad(), evaluating(self):
            if self.config.causal:
                first, last = int(windows.starts[0]), int(windows.starts[-1]) + windows.context
                whole = encoder(self._fill(windows.series[:last].unsqueeze(0).to(self.device))[0])[0]
                return whole[first + windows.context - 1 :].cpu()
            parts = []
            for begin in range(0, len(windows), _BATCH):
                x = windows[list(range(begin, min(begin + _BATCH, len(windows))))]["x"]
                parts.append(last_step(encoder, self._fill(x.to(self.device))[0]).cpu())
        return torch.cat(parts)

    def _thinned(self, windows: Windows, every: int) -> Tensor:
        """Every so manyth window; the others are left at 0."""
        if self.config.causal:
            return self._last_steps(self.represents, windows)
        some = Windows(series=windows.series, starts=windows.starts[::every], context=windows.context, horizon=0)
        found = torch.zeros(len(windows), self.config.out_dim)
        found[::every] = self._last_steps(self.represents, some)
        return found

    def _vectors(self, encoder: nn.Module, x: Tensor) -> Tensor:
        """Cases (n, L, m), standardised, to (n, O) on the CPU."""
        with torch.no_grad(), evaluating(self):
            parts = []
            for part in x.split(_BATCH):
                filled, seen = self._fill(part.to(self.device))
                parts.append(pooled(encoder(filled), seen).cpu())
        return torch.cat(parts)

    # ---- using -----------------------------------------------------------------------------------------------

    @classmethod
    def fit(cls, x: pd.DataFrame | npt.NDArray[Any], *, out: str | Path, seed: int = 0, **settings: Any) -> AutoTCL:
        """Train on a frame or array in memory: ``polycontrast.train`` on a Parquet file that is written beside the run.

        Args:
            x: a wide or long frame, or (T,) or (T, m).
            out: run directory to make; the data go to ``OUT.parquet``.
            seed: of everything random.
            settings: of the config, e.g. ``horizons=(24,)``; ``config="etth1-uni"`` names a preset.

        Returns:
            The trained model; its numbers are in the run directory.
        """
        frame = x if isinstance(x, pd.DataFrame) else pd.DataFrame(np.asarray(x).reshape(len(x), -1))
        if isinstance(frame.index, pd.DatetimeIndex):
            frame = frame.rename_axis("time").reset_index()
        file = Path(f"{out}.parquet")
        file.parent.mkdir(parents=True, exist_ok=True)
        frame.rename(columns=str).to_parquet(file, index=False)
        preset = settings.pop("config", None)
        polycontrast.train(cls.id, data=file, config=preset, set=settings, out=out, seed=seed)
        return cast(AutoTCL, polycontrast.load(out))

    def predict(self, batch: Batch) -> Tensor:
        """Forecast of the longest horizon, (B, H, o) standardised; or the position of each case's class, (B,)."""
        if not self.forecasts:
            return torch.from_numpy(self._classify(self.embed(batch)))
        return self.forecaster().predict(self.embed(batch))

    def predict_table(self, data: Dataset) -> pa.Table:
        """What comes after the last row, in original units; or the class of each case.

        Columns ``unique_id`` (channel), ``ds`` (time, or row) and ``prediction``, as many steps as the longest
        horizon; of cases ``id`` and ``prediction``.
        """
        if not isinstance(data, SeriesDataset):
            table = super().predict_table(data)
            classes = [self.info["classes"][int(i)] for i in table["prediction"].to_pylist()]
            return pa.table({"id": table["id"], "prediction": classes})
        data.last(self.config.context)  # refuses too few rows
        x = inputs(data, self.info, scaler=scaler(self.info))
        values = self._unscale(self.forecaster().predict(self._last_step(self._known(x).unsqueeze(0)))[0])
        times: pd.Index = future_times(data, len(values))
        return pa.Table.from_pandas(long_frame(self._target_names, times, values, "prediction"), preserve_index=False)

    def forecaster(self, horizon: int | None = None) -> RidgeHead:
        """The ridge regression from the representation of a step to the values after it, standardised.

        Args:
            horizon: one of the config. None: the longest.

        Raises:
            DataError: the model has not been evaluated, or not for this horizon.
        """
        fitted = {head["horizon"]: head["alpha"] for head in self.info["heads"]}
        horizon = horizon or max(fitted, default=0)
        if horizon not in fitted:
            known = ", ".join(map(str, sorted(fitted))) or "none; evaluate it on a series first"
            raise DataError(f"the model has no forecaster for {horizon} steps; horizons that it has: {known}")
        weight, bias = (getattr(self, f"head_{horizon}_{part}").cpu() for part in ("weight", "bias"))
        return RidgeHead(weight, bias, fitted[horizon], horizon)

    def forecast(self, x: Series, horizon: int | None = None) -> pd.DataFrame:
        """What comes next.

        Args:
            x: (T,), (T, m) or (B, T, m), or a wide or long frame; of its end, ``context`` steps are used. With calendar
                channels a frame with timestamps.
            horizon: one of the config. None: the longest.

        Returns:
            For a long frame ``unique_id``, ``ds`` and ``prediction``; else a column per target, indexed by time, or by
            step as counted from the first of ``x``.
        """
        raw, z = self._read(x)
        head = self.forecaster(horizon)
        if z.shape[1] < self.config.context:
            raise DataError(f"the series has {z.shape[1]} steps, a forecast needs {self.config.context}; give it more")
        return raw.forecast_frame(self._unscale(head.predict(self._last_step(self._known(z)))), self._target_names)

    def classify(self, x: Series) -> list[str]:
        """The class of each series, (B, T, m) or a single one in the forms of :meth:`forecast`."""
        answers = self._classify(self._vectors(self.represents, self._read(x)[1]))
        return [self.info["classes"][int(i)] for i in answers]

    def transform(self, x: Series, pooling: Literal["max", "last"] | int | None = None) -> Float:
        """Representations.

        Args:
            x: as for :meth:`forecast`.
            pooling: None: of every step, from the whole series, its future too; "max": of the series, the maximum over
                time; "last": of the last step; a number: of every step, from so many steps that end there.

        Returns:
            (B, T, O), or (B, O) when pooled; B is 1 for a frame or an array of one or two dimensions.
        """
        _, z = self._read(x)
        if pooling == "last":
            found = torch.cat([self._last_step(part) for part in z.split(_BATCH)])
        elif pooling == "max":
            found = self._vectors(self.represents, z)
        elif pooling is None:
            with torch.no_grad(), evaluating(self):
                found = torch.cat([self.represents(self._fill(p.to(self.device))[0]).cpu() for p in z.split(_BATCH)])
        elif isinstance(pooling, int) and pooling > 0:
            start = torch.full((len(z), pooling - 1, z.shape[2]), torch.nan)
            padded = torch.cat([start, z], dim=1)
            steps = torch.arange(z.shape[1])
            rows = [Windows(series=s, starts=steps, context=pooling, horizon=0) for s in padded]
            found = torch.stack([self._last_steps(self.represents, windows) for windows in rows])
        else:
            raise DataError(f"pooling must be max, last, a number of steps or None, got {pooling!r}")
        return np.asarray(found, dtype=np.float64)

    def mask(self, x: Series) -> tuple[Float, Float]:
        """What the augmentation keeps: h, and the gate m without noise, each (B, T, m).

        Args:
            x: as for :meth:`forecast`.

        Raises:
            DataError: the model has no augmentation network (``aug_mode``).
        """
        if self.augmenter is None:
            raise DataError(f"aug_mode {self.config.aug_mode} learns no mask; train with pri or adversarial")
        factors = self._keep(self._read(x)[1])
        pair = (factors.keep, self._gate(factors, None))
        keep, gates = (np.asarray(v[..., self._calendar :], dtype=np.float64) for v in pair)
        return keep, gates

    def _read(self, x: Series) -> tuple[Raw, Tensor]:
        """The series as given, and (B, T, K + m) standardised with its calendar channels."""
        raw = Raw.read(x, self.info["channels"], self.config.data)
        mean, std = scaler(self.info)
        z = torch.from_numpy(((raw.values - mean) / std).astype(np.float32))
        if not self._calendar:
            return raw, z
        if raw.dataset is None:
            raise DataError("the model was trained with calendar channels; give a frame with timestamps, not an array")
        return raw, torch.cat([covariates(raw.dataset, self.info).unsqueeze(0), z], dim=2)

    def _known(self, z: Tensor) -> Tensor:
        """What a forecast is made from: the last steps of (..., T, C); all of them for a causal encoder."""
        return z if self.config.causal else z[..., -self.config.context :, :]

    def _unscale(self, z: Tensor) -> Float:
        """(..., o) standardised to original units."""
        mean, std = (part[self.info["targets"]] for part in scaler(self.info))
        return np.asarray(z, dtype=np.float64) * std + mean

    @property
    def _target_names(self) -> list[str]:
        return [self.info["channels"][i] for i in self.info["targets"]]

    def saved_state(self) -> dict[str, Tensor]:
        """Without the objective, and where weights are averaged without the last ones."""
        left_out = ("objective.",) if self.average is None else ("objective.", "encoder.")
        return {k: v for k, v in self.state_dict().items() if not k.startswith(left_out)}

    def load_saved_state(self, file: Path) -> None:
        """What was left out of the file begins where the averages are."""
        super().load_saved_state(file)
        if self.average is not None:
            self.encoder.load_state_dict(self.average.module.state_dict())

    def _classify(self, vectors: Tensor) -> npt.NDArray[np.int64]:
        if not len(self.probe_labels):
            raise DataError("the model has seen no labelled cases yet; evaluate it on some first")
        known = self.probe_features.cpu(), self.probe_labels.cpu()
        return classification.svm_probe(*known, vectors.detach().cpu(), seed=0)

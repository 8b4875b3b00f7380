"""ST-SSDL: compare the present of every sensor with its own history, and forecast with the difference.

The current window and its historical anchor go through one graph-convolutional encoder; a few prototypes turn how far
apart they are into something that can be told apart; a decoder over a graph learned from both makes the forecast.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, cast

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from torch import Tensor, nn

from polycontrast.config import MethodConfig
from polycontrast.data import Batch, Dataset, derive_seed, draws, uniform
from polycontrast.errors import DataError
from polycontrast.method import Baseline, Chart, Engine, Method, OptimiserSpec, Stage, Term
from polycontrast_timeseries.st_ssdl import baselines, pictures, published, terms
from polycontrast_timeseries.st_ssdl.anchors import Anchors, filled, slot_means
from polycontrast_timeseries.st_ssdl.config import STSSDLConfig
from polycontrast_timeseries.st_ssdl.graph import Graph, Mixer, static_mixer
from polycontrast_timeseries.st_ssdl.graph_files import GraphLike, as_graph
from polycontrast_timeseries.st_ssdl.metrics import MaskedErrors, masked_mae
from polycontrast_timeseries.st_ssdl.network import Encoded, STSSDLNetwork
from polycontrast_timeseries.st_ssdl.panel import PanelDataset, PanelWindows, from_table

Frame = pd.DataFrame | PanelDataset
_BESIDE = {"plain": "plain_gcru", "off": "off"}
"""Names of the networks trained beside, as in ``compare`` and as baselines."""


class STSSDL(Method):
    """ST-SSDL (Gao et al., NeurIPS 2025, arXiv 2510.04908): spatio-temporal forecasts by self-supervised deviation.

    Batches, frames and results are in original units, with NaN where a value is missing.

    Args:
        config: see :class:`STSSDLConfig`.
        info: from :meth:`inspect`; at least ``sensors``, their names.
    """

    id = "timeseries/st-ssdl"
    Config = STSSDLConfig
    TERMS: ClassVar[Mapping[str, Term]] = {
        "forecast": Term("task"),
        "contrast": Term("contrastive", "lambda_contrast"),
        "deviation": Term("regularisation", "lambda_deviation"),
    }
    HEADLINE = "mae"
    """Masked mean absolute error over all steps ahead, original units."""
    TRAINING_ONLY = ("beside.",)
    CITATION = (
        "Haotian Gao, Zheng Dong, Jiawei Yong, Shintaro Fukushima, Kenjiro Taura, Renhe Jiang. How Different from the "
        "Past? Spatio-Temporal Time Series Forecasting with Self-Supervised Deviation Learning. NeurIPS 2025, "
        "arXiv:2510.04908."
    )

    config: STSSDLConfig
    graph_edges: Tensor
    graph_weights: Tensor
    anchor_table: Tensor
    prepared: Tensor

    def __init__(self, config: STSSDLConfig, info: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, info)
        info = self.info
        info.setdefault("sensors", ["0", "1", "2"])
        n = len(info["sensors"])
        for name, value in {"mean": 0.0, "std": 1.0, "per_day": 288, "period": 288, "edges": n, "step": None}.items():
            info.setdefault(name, value)
        self.network = self._build(plain=config.plain)
        beside = {"plain": lambda: self._build(plain=True), "off": lambda: copy.deepcopy(self.network)}
        self.beside = nn.ModuleDict({_BESIDE[name]: _Beside(beside[name]()) for name in config.compare})
        edges, weights = Graph.none(n).edges()
        if info["edges"] != n:
            edges, weights = edges.new_zeros(2, info["edges"]), weights.new_zeros(info["edges"])
        self.register_buffer("graph_edges", edges)
        self.register_buffer("graph_weights", weights)
        self.register_buffer("anchor_table", torch.zeros(info["period"], n))
        self.register_buffer("prepared", torch.tensor(False))
        self._mixer: Mixer | None = None
        self._mixer_for: Any = None
        self.register_load_state_dict_post_hook(lambda method, _: method._forget_mixer())

    def _build(self, *, plain: bool) -> STSSDLNetwork:
        c = self.config
        return STSSDLNetwork(
            len(self.info["sensors"]), t_in=c.t_in, hidden=c.hidden, layers=c.layers, cheb_k=c.cheb_k,
            supports=2 if c.adjacency == "double_transition" else 1, prototypes=c.prototypes,
            prototype_dim=c.prototype_dim, value_dim=c.value_dim, node_dim=c.node_dim, tod_dim=c.tod_dim,
            adaptive_dim=c.adaptive_dim, graph_dim=c.graph_dim or c.tod_dim, slots_per_day=self.info["per_day"],
            use_embeddings=c.use_embeddings, plain=plain, top_k=c.top_k, checkpoint=c.checkpoint,
        )  # fmt: skip

    # ---- the algorithm ---------------------------------------------------------------------------------------

    def terms(self, batch: Batch, feed: Sequence[bool] = ()) -> dict[str, Tensor]:
        """``forecast``, ``contrast`` and ``deviation`` of windows with their targets ``y`` (B, t_out, N).

        Args:
            batch: see :class:`PanelWindows`.
            feed: after which steps the decoder is fed the label, see :meth:`coins`. Default: never.
        """
        forecast, encoded = self._run(self.network, batch, feed)
        found: dict[str, Tensor] = {}
        if self.active("forecast"):
            found["forecast"] = masked_mae(forecast, batch["y"])
        return found | self._auxiliary(encoded)

    def _auxiliary(self, encoded: Encoded) -> dict[str, Tensor]:
        """The two terms that shape the prototypes (spec of the code, sections 3.4 and 3.6)."""
        c, found = self.config, {}
        if c.plain:
            return {}
        prototypes = self.network.prototypes.prototypes
        if self.active("contrast"):
            views = 1 if c.contrast_branches == "current" else 2
            queries = encoded.queries[:views].detach() if c.stop_grad_query else encoded.queries[:views]
            found["contrast"] = terms.contrast(
                queries, prototypes, encoded.indices[:views],
                kind=c.contrast, margin=c.margin, temperature=c.temperature,
            )  # fmt: skip
        if self.active("deviation"):
            query_distance, prototype_distance = terms.distances(encoded, prototypes)
            if c.stop_grad_query:
                query_distance = query_distance.detach()
            found["deviation"] = terms.deviation(query_distance, prototype_distance)
        return found

    @property
    def contrasts_embeddings(self) -> bool:
        """Not where the contrast moves the prototypes alone."""
        return not self.config.stop_grad_query and super().contrasts_embeddings

    def step(self, batch: Batch, engine: Engine) -> None:
        """One step of the stage's network, with scheduled sampling."""
        feed = self.coins(engine.seed, engine.stage_step)
        name = engine.stage.name
        if name in self.beside:
            forecast, _ = self._run(self._network(name), batch, feed)
            engine.minimise({"forecast": masked_mae(forecast, batch["y"])})
            return
        engine.minimise(self.terms(batch, feed))

    def coins(self, seed: int, step: int) -> list[bool]:
        """Whether the label is fed back after each step ahead: one coin per step for the whole batch.

        A function of seed and step, so that a resumed run, an accumulated batch and other processes see the same.
        """
        probability = terms.teacher_probability(step, self.config.teacher_decay)
        key = draws(derive_seed(seed, "teacher"), torch.tensor([step]))
        return [bool(coin < probability) for coin in uniform(key, self.config.t_out)[0]]

    def _run(self, network: STSSDLNetwork, batch: Batch, feed: Sequence[bool] = ()) -> tuple[Tensor, Encoded]:
        """Forecasts (B, t_out, N) in original units, and what was encoded."""
        x, anchor = self._inputs(batch)
        labels = self._scaled(batch["y"]) if any(feed) else None
        forecast, encoded = network(
            x, anchor, batch["tod"].to(x), batch["tod_out"].to(x), self.mixer(x), labels=labels, feed=feed
        )
        return forecast * self.info["std"] + self.info["mean"], encoded

    def _inputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Standardised windows with their gaps filled, and their anchors."""
        dtype = next(self.network.parameters()).dtype
        x, anchor = self._scaled(batch["x"].to(dtype)), self._scaled(batch["anchor"].to(dtype))
        match self.config.fill:
            case "anchor":
                return torch.where(x.isnan(), anchor, x), anchor
            case "mean":
                return x.nan_to_num(nan=0.0), anchor
            case _:
                return x.nan_to_num(nan=-self.info["mean"] / self.info["std"]), anchor

    def _scaled(self, values: Tensor) -> Tensor:
        return (values - self.info["mean"]) / self.info["std"]

    # ---- graph and anchors -----------------------------------------------------------------------------------

    def mixer(self, like: Tensor) -> Mixer:
        """The given graph, normalised, ready to multiply on the device and in the precision of ``like``."""
        key = (like.device, like.dtype)
        if self._mixer is None or self._mixer_for != key:
            self._mixer, self._mixer_for = self._mixer_of(self.graph, like), key
        return self._mixer

    def _mixer_of(self, graph: Graph, like: Tensor) -> Mixer:
        return static_mixer(graph, self.config.adjacency, self.config.cheb_k, self.config.encoder, like)

    def _forget_mixer(self) -> None:
        self._mixer = None

    @property
    def graph(self) -> Graph:
        """The graph that the model was trained on."""
        sources, targets = self.graph_edges.cpu().numpy()
        return Graph.of_edges(len(self.info["sensors"]), sources, targets, self.graph_weights.cpu().numpy())

    def anchors(self, data: PanelDataset) -> Anchors:
        """Anchors for a panel: averages of the data the model was trained on, causal ones of the panel itself."""
        c = self.config
        table = self.anchor_table.cpu().numpy()
        return Anchors(table, c.anchor_mode, c.anchor_decay, self.info["per_day"], data.config.null_value)

    def prepare(self, data: PanelDataset) -> None:
        """Take graph and anchors from the data, once; a saved model has its own."""
        if bool(self.prepared):
            return
        c = self.config
        edges, weights = data.graph.edges()
        rows = data.input_rows(c.t_in, c.t_out, c.anchor_fit)
        slots = data.clock.slots(np.arange(rows), self.info["period"])
        table = slot_means(data.values[:rows], slots, self.info["period"], null_value=data.config.null_value)
        with torch.no_grad():
            self.graph_edges.copy_(edges)
            self.graph_weights.copy_(weights)
            self.anchor_table.copy_(torch.from_numpy(filled(table, self.info["per_day"])))
            self.prepared.fill_(True)
        self._forget_mixer()

    # ---- before training -------------------------------------------------------------------------------------

    @classmethod
    def inspect(cls, config: MethodConfig, data: Dataset) -> dict[str, Any]:
        """Sensors, scaler, season and what else is needed to use the model on raw data."""
        if not isinstance(data, PanelDataset):
            raise DataError(f"{data.name} is a {type(data).__name__}; {cls.id} takes a panel of sensors")
        assert isinstance(config, STSSDLConfig)
        rows = data.input_rows(config.t_in, config.t_out)
        mean, std = data.statistics(rows)
        period = data.clock.period(config.anchor_period)
        fit_rows = data.input_rows(config.t_in, config.t_out, config.anchor_fit)
        if fit_rows < 3 * period and not config.plain:
            message = (
                f"{data.name}: the anchors are averages over only {fit_rows / period:.1f} periods of {period} rows, so "
                "that a training window is much of its own anchor; use more data, anchor_mode=expanding, or a shorter "
                "anchor_period" + (" (day)" if config.anchor_period == "week" else "")
            )
            warnings.warn(message, stacklevel=2)
            data.notes = (*data.notes, f"WARNING: {message}")
        return {
            "sensors": list(data.sensors), "mean": mean, "std": std, "per_day": data.clock.per_day, "period": period,
            "edges": int(data.graph.matrix.nnz), "step": data.clock.step.total_seconds(),
            "timestamps": data.clock.start is not None,
        }  # fmt: skip

    def examples(self, data: Dataset, split: str) -> PanelWindows:
        """Windows of a part; of ``all``, the one that ends with the last row."""
        panel, c = cast(PanelDataset, data).select(self.info["sensors"]), self.config
        if split == "all":
            return self._last_window(panel)
        self.prepare(panel)
        starts = panel.starts(split, c.t_in, c.t_out)
        return PanelWindows(data=panel, anchors=self.anchors(panel), starts=starts, t_in=c.t_in, t_out=c.t_out)

    def stages(self, data: Dataset) -> Sequence[Stage]:
        """``train``, and one for each network that is compared; the best by validation ``mae`` is kept."""
        windows = self.examples(data, "train")
        how: dict[str, Any] = {"data": windows, "select": "mae", "patience": self.config.patience}
        return [
            Stage(name="train", trains=("network.",), **how),
            *(Stage(name=name, trains=(f"beside.{name}.",), **how) for name in self.beside),
        ]

    def optimisers(self, stage: Stage) -> dict[str, OptimiserSpec]:
        """One, over what learns."""
        return {"main": OptimiserSpec([p for p in self.parameters() if p.requires_grad], self.config.optimiser)}

    def on_stage_end(self, stage: Stage, engine: Engine) -> None:
        """A network beside counts as a baseline once it is trained."""
        if stage.name in self.beside:
            cast(_Beside, self.beside[stage.name]).trained.fill_(True)

    def _network(self, name: str) -> STSSDLNetwork:
        return cast(_Beside, self.beside[name]).network if name in self.beside else self.network

    # ---- measuring -------------------------------------------------------------------------------------------

    def validate(self, data: Dataset, stage: Stage) -> dict[str, float]:
        """Masked ``mae`` and ``rmse`` over all predictions of the validation part."""
        errors = self._errors(self._network(stage.name), self.examples(data, "val"))
        found = errors.metrics()
        return {"mae": found["mae"], "rmse": found["rmse"]}

    def evaluate(self, data: Dataset) -> dict[str, float]:
        """Masked ``mae``, ``rmse`` and ``mape`` over all steps, and ``mae_3``, ... at the steps to report.

        ``prototypes_used`` counts prototypes that are the nearest of some test window; ``deviation_auc`` is there where
        the data know their incidents.
        """
        windows = self.examples(data, "test")
        if self.config.plain:
            return self._errors(self.network, windows).metrics()
        errors, distances, used = self._new_errors(), [], set()
        for batch in self.batches(windows):
            forecast, encoded = self._run(self.network, batch)
            errors.update(forecast, batch["y"])
            distances.append(terms.distances(encoded, self.network.prototypes.prototypes)[0].cpu())
            used.update(encoded.indices[0, ..., 0].unique().tolist())
        found = errors.metrics() | {"prototypes_used": float(len(used))}
        return found | baselines.incident_auc(windows, torch.cat(distances))

    def _new_errors(self) -> MaskedErrors:
        return MaskedErrors(self.config.report_steps, mape_min=self.config.data.mape_min)

    def _errors(self, network: STSSDLNetwork, windows: PanelWindows) -> MaskedErrors:
        errors = self._new_errors()
        for batch in self.batches(windows):
            errors.update(self._run(network, batch)[0], batch["y"])
        return errors

    def baselines(self, data: Dataset) -> dict[str, Baseline]:
        """Last value, historical average, repeated window (floors); anchor and residual, ridge, DLinear, and networks.

        ``plain_gcru`` and ``off`` are there if ``compare`` asks for them and they were trained in this run.
        """
        windows, seed = self.examples(data, "test"), int(torch.randint(2**31, ()))
        found = baselines.naive(windows, self._new_errors)
        found |= baselines.linear(windows.data, self.config.t_in, self.config.t_out, self._new_errors, seed)
        for name, beside in self.beside.items():
            if bool(cast(_Beside, beside).trained):
                found[name] = self._errors(self._network(name), windows).metrics()
        return {name: Baseline(metrics, floor=name in baselines.FLOORS) for name, metrics in found.items()}

    def published(self, data: Dataset) -> dict[str, dict[str, float]]:
        """The paper's table, where the file is one of its datasets."""
        return published.table(len(self.info["sensors"]), len(cast(PanelDataset, data).values))

    def charts(self, data: Dataset) -> Sequence[Chart]:
        """Forecasts against truth for three sensors, a deviation over time, and what the prototypes look like."""
        return pictures.charts(self, self.examples(data, "test"))

    # ---- using -----------------------------------------------------------------------------------------------

    def embed(self, batch: Batch) -> Tensor:
        """State and prototype values of the present, averaged over sensors, (B, H + d)."""
        encoded = self._encode(batch)
        return torch.cat([encoded.states[0], encoded.values[0]], -1).mean(1)

    def _encode(self, batch: Batch, mixer: Mixer | None = None) -> Encoded:
        x, anchor = self._inputs(batch)
        windows = x if self.config.plain else torch.cat([x, anchor])
        return self.network.encode(windows, batch["tod"].to(x), mixer or self.mixer(x))

    def predict(self, batch: Any, graph: GraphLike | None = None) -> Any:
        """What comes next.

        Args:
            batch: a batch of windows, or a frame (wide, or long with ``unique_id``, ``ds``, ``y``) of the sensors of
                the model, in original units, of whose end ``t_in`` rows are used.
            graph: of a frame: another graph between the model's sensors. None: the one it was trained on.

        Returns:
            Of a batch (B, t_out, N); of a frame ``unique_id``, ``ds`` and ``yhat``, sensor by sensor.
        """
        if isinstance(batch, dict):
            return self._run(self.network, batch)[0]
        panel = self._panel(batch)
        return self._frame(self._last_window(panel), graph)

    def predict_table(self, data: Dataset) -> pa.Table:
        """What comes after the last row: ``unique_id``, ``ds`` and ``yhat`` in original units."""
        return pa.Table.from_pandas(self._frame(self.examples(data, "all"), None), preserve_index=False)

    def _frame(self, windows: PanelWindows, graph: GraphLike | None) -> pd.DataFrame:
        mixer = None if graph is None else self._mixer_of(self._other(graph), self.graph_weights)
        kept = self._mixer, self._mixer_for
        if mixer is not None:
            self._mixer, self._mixer_for = mixer, (self.device, torch.float32)
        try:
            values = torch.cat([self._run(self.network, batch)[0].cpu() for batch in self.batches(windows)])[0]
        finally:
            self._mixer, self._mixer_for = kept
        rows = int(windows.starts[0]) + self.config.t_in + np.arange(self.config.t_out)
        times = windows.data.clock.times(rows)
        return pd.DataFrame(
            {
                "unique_id": np.repeat(np.asarray(self.info["sensors"], dtype=object), len(rows)),
                "ds": pd.Index(np.tile(times.to_numpy(), len(self.info["sensors"]))),
                "yhat": values.double().numpy().T.ravel(),
            }
        )

    def deviation(self, frame: Frame, *, stride: int = 1) -> pd.DataFrame:
        """How far every sensor is from its own history: a score for incidents.

        Args:
            frame: as of :meth:`predict`; every ``stride``-th window of ``t_in`` rows is scored.
            stride: rows between two windows.

        Returns:
            ``unique_id``, ``ds`` (last row of the window), ``deviation`` (distance of the queries of window and
            anchor), ``prototype_deviation`` (distance of their prototypes), and the numbers of these, ``prototype`` and
            ``anchor_prototype``.
        """
        self._needs_prototypes()
        windows = self._windows(frame, stride)
        parts: list[tuple[Tensor, ...]] = []
        for batch in self.batches(windows):
            encoded = self._encode(batch)
            distances = terms.distances(encoded, self.network.prototypes.prototypes)
            parts.append((*distances, *encoded.indices[..., 0]))
        names = ("deviation", "prototype_deviation", "prototype", "anchor_prototype")
        columns = [torch.cat(part).cpu().numpy().ravel() for part in zip(*parts, strict=True)]
        n = len(self.info["sensors"])
        times = windows.data.clock.times(windows.starts + self.config.t_in - 1)
        return pd.DataFrame(
            {
                "unique_id": np.tile(np.asarray(self.info["sensors"], dtype=object), len(windows)),
                "ds": pd.Index(np.repeat(times.to_numpy(), n)),
                **dict(zip(names, columns, strict=True)),
            }
        )

    def prototype_profile(self, frame: Frame, *, stride: int = 1) -> pd.DataFrame:
        """What the windows look like that are nearest to each prototype.

        Args:
            frame: as of :meth:`predict`.
            stride: rows between two windows.

        Returns:
            ``prototype``, ``step`` (1 to ``t_in``), ``current`` and ``anchor`` (mean values in original units, NaN
            where there is none), and ``windows``, how many (window, sensor) pairs it has.
        """
        self._needs_prototypes()
        count, steps = self.config.prototypes, self.config.t_in
        sums, seen = torch.zeros(2, count, steps).double(), torch.zeros(2, count, steps).double()
        pairs = torch.zeros(count)
        for batch in self.batches(self._windows(frame, stride)):
            nearest = self._encode(batch).indices[0, ..., 0].flatten()
            pairs += torch.bincount(nearest, minlength=count).cpu()
            for i, name in enumerate(("x", "anchor")):
                values = batch[name].transpose(1, 2).flatten(0, 1).double()  # (B N, t_in)
                sums[i] += values.new_zeros(count, steps).index_add_(0, nearest, values.nan_to_num()).cpu()
                there = (~values.isnan()).double()
                seen[i] += values.new_zeros(count, steps).index_add_(0, nearest, there).cpu()
        means = (sums / seen).flatten(1).numpy()
        return pd.DataFrame(
            {
                "prototype": np.repeat(np.arange(count), steps), "step": np.tile(np.arange(1, steps + 1), count),
                "current": means[0], "anchor": means[1], "windows": np.repeat(pairs.long().numpy(), steps),
            }
        )  # fmt: skip

    def _needs_prototypes(self) -> None:
        if self.config.plain:
            raise DataError("a plain GCRU has no prototypes and no deviation; train with plain=false")

    def _panel(self, frame: Frame) -> PanelDataset:
        """A person's own panel, with the model's sensors in their order.

        Raises:
            DataError: a sensor is missing, or the rows are spaced otherwise than in training.
        """
        if not isinstance(frame, PanelDataset):
            config = replace(self.config.data, max_sensors=None)
            frame = from_table(frame, None, config, name="the frame")
        panel = frame.select(self.info["sensors"])
        if self.info.get("timestamps") and panel.clock.start is None:
            raise DataError(f"{panel.name} has no timestamps, which the model was trained with; give them as the index")
        step = self.info["step"]
        if step is not None and panel.clock.step.total_seconds() != step:
            raise DataError(
                f"{panel.name} has rows {panel.clock.step} apart, the model was trained on "
                f"{pd.Timedelta(step, unit='s')}; resample it"
            )
        return panel

    def _last_window(self, panel: PanelDataset) -> PanelWindows:
        return self._windows(panel, 1, last=True)

    def _windows(self, frame: Frame, stride: int, *, last: bool = False) -> PanelWindows:
        panel, c = self._panel(frame), self.config
        if not bool(self.prepared):
            raise DataError("the model has no graph and no anchors yet; train it first")
        end = len(panel.values) - c.t_in
        if end < 0:
            raise DataError(f"{panel.name} has {len(panel.values)} rows, a window needs {c.t_in}; give it more")
        return PanelWindows(
            data=panel, anchors=self.anchors(panel), starts=np.arange(end if last else 0, end + 1, stride),
            t_in=c.t_in, t_out=c.t_out, known=False,
        )  # fmt: skip

    def _other(self, graph: GraphLike) -> Graph:
        return as_graph(graph, self.info["sensors"], self.config.data)


class _Beside(nn.Module):
    """A network that is compared with, and whether it has been trained."""

    trained: Tensor

    def __init__(self, network: STSSDLNetwork) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("trained", torch.tensor(False))

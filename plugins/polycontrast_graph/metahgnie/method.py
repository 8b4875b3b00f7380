"""MetaHGNIE: how important is an entity of a knowledge graph, by its relations and by what is said of it?

Two channels look at one hypergraph, one with structural features and one with text; their latent vectors of a node are
drawn together by contrast; each gives a score, and the two become one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor, nn

from polycontrast import losses
from polycontrast.config import MethodConfig
from polycontrast.data import Batch, Dataset, Examples, derive_seed, uniform
from polycontrast.errors import DataError
from polycontrast.method import Baseline, Engine, Listing, Method, Stage, Term
from polycontrast_graph import baselines
from polycontrast_graph.features import FeatureMaker, content_key, make_features
from polycontrast_graph.folds import TEST, TRAIN, VAL, folds
from polycontrast_graph.hypergraph import make_builder, paths_of
from polycontrast_graph.kg import KnowledgeGraph
from polycontrast_graph.metahgnie import conformal, incremental, ridge
from polycontrast_graph.metahgnie import explain as reasons_of
from polycontrast_graph.metahgnie import export as tables
from polycontrast_graph.metahgnie.config import MetaHGNIEConfig
from polycontrast_graph.metahgnie.graph import Int, View
from polycontrast_graph.metahgnie.network import MetaHGNIENetwork, Scores, contrast
from polycontrast_graph.ranking import importance_metrics, spearman
from polycontrast_graph.read import GraphDataset

Float = npt.NDArray[np.float64]
Part = Literal["train", "stop", "calibrate", "test"]

_BLENDS = np.linspace(0.0, 1.0, 21)


class MetaHGNIE(Method):
    """MetaHGNIE (arXiv 2512.12477): node importance from a hypergraph, structure and text in contrast.

    Scores are on the scale that was learned, log(1 + raw score).

    Args:
        config: see :class:`MetaHGNIEConfig`.
        info: from :meth:`inspect`.
    """

    id = "graph/metahgnie"
    Config = MetaHGNIEConfig
    TERMS: ClassVar[Mapping[str, Term]] = {
        "fused": Term("task", "fused_weight"),
        "aux_struct": Term("task", "aux_weight"),
        "aux_text": Term("task", "aux_weight"),
        "contrast": Term("contrastive", "contrast_weight"),
    }
    HEADLINE = "spearman"
    HIGHER_IS_BETTER = True
    CITATION = (
        "MetaHGNIE: Meta-Path Induced Hypergraph Contrastive Learning in Heterogeneous Knowledge Graphs. "
        "arXiv:2512.12477, 2025."
    )

    config: MetaHGNIEConfig
    centre: Tensor
    """(folds,) what a network that says 0 means, on the scale of the labels or of what ridge leaves over, and"""
    unit: Tensor
    """(folds,) what a network that says 1 means beyond that."""
    share: Tensor
    """(folds,) of the network, where ridge helps."""
    radius: Tensor
    """(folds,) half the width of intervals."""
    ridge: Tensor
    """(folds, F + 1) weights and intercept of the ridge regressions."""
    ridge_strength: Tensor
    """(folds,) their penalties."""
    ridge_stars: Tensor
    """(S,) see :class:`~polycontrast_graph.metahgnie.ridge.Design`."""

    def __init__(self, config: MetaHGNIEConfig, info: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, info)
        c, info = config, self.info
        for name, value in _NOTHING.items():
            info.setdefault(name, value)
        self.networks = nn.ModuleList(self._new_network() for _ in info["folds"])
        """One per fold that is trained."""
        count = len(info["folds"])
        self.register_buffer("centre", torch.zeros(count, dtype=torch.float64))
        self.register_buffer("unit", torch.ones(count, dtype=torch.float64))
        self.register_buffer("share", torch.ones(count, dtype=torch.float64))
        self.register_buffer("radius", torch.full((count,), torch.inf, dtype=torch.float64))
        wide = info["ridge_width"] + 1 if c.baseline != "none" else 0
        self.register_buffer("ridge", torch.zeros(count, wide, dtype=torch.float64))
        self.register_buffer("ridge_stars", torch.zeros(info["ridge_stars"] if wide else 0, dtype=torch.int64))
        self.register_buffer("ridge_strength", torch.ones(count, dtype=torch.float64))
        chosen = losses.get(c.contrast.objective)
        options: dict[str, Any] = {}
        if chosen.name != "siglip" and "temperature" in {f.name for f in fields(chosen.config_class)}:
            options["temperature"] = c.contrast.temperature  # that of siglip is learned
        self.objective = chosen(**options)
        self._view: View | None = None
        self._maker: FeatureMaker | None = None
        self._known: dict[Any, Any] = {}

    def _new_network(self) -> MetaHGNIENetwork:
        c, info = self.config, self.info
        return MetaHGNIENetwork(
            info["struct_width"], info["text_width"], len(info["types"]), heads=c.heads, hidden=c.hidden,
            layers=c.layers, relation_width=c.relation_width, fusion=c.fusion, fusion_share=c.fusion_share,
            input=c.input, collapse=c.collapse, centrality=c.centrality, norm=c.norm, node_aggr=c.node_aggr,
            dropout=c.dropout, attention_dropout=c.attention_dropout, slope=c.slope, no_text=c.no_text,
            chunk_size=c.chunk_size,
        )  # fmt: skip

    # ---- the algorithm ---------------------------------------------------------------------------------------

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """Squared errors of the fused and the single scores of nodes ``id`` (B,); contrast of their channels."""
        fold, nodes = int(batch["fold"][0]), batch["id"]
        scores = self._seen_from(nodes, fold, batch)
        target = ((self._targets(fold)[nodes] - self.centre[fold]) / self.unit[fold]).to(scores.score)
        found = {
            name: (score - target).square().mean()
            for name, score in (("fused", scores.score), ("aux_struct", scores.struct), ("aux_text", scores.text))
            if self.active(name)
        }
        if self.active("contrast"):
            some = self._contrasted(batch)
            projector = self.network(fold).projector
            found["contrast"] = contrast(self.objective, projector, scores.z_struct[some], scores.z_text[some])
        return found

    def _seen_from(self, nodes: Tensor, fold: int, batch: Batch) -> Scores:
        """What the network says of some nodes, from the whole graph or from a sampled neighbourhood."""
        view, network = self.view, self.network(fold)
        if not self.config.sampled:
            return _rows(network(view.x_struct, view.x_text, view.incidence), nodes)
        near = view.sampler.draw(nodes.cpu().numpy(), self.config.layers, self.config.fan_out, int(batch.get("key", 0)))
        at = torch.from_numpy(near.nodes).to(self.device)
        out = network(view.x_struct[at], view.x_text[at], near.incidence.to(self.device))
        return _rows(out, torch.arange(near.seeds, device=self.device))

    def _contrasted(self, batch: Batch) -> Tensor:
        """Positions of the nodes that are contrasted: those of the least lots, drawn by (seed, epoch, node)."""
        size = self.config.contrast_size
        if size == "all" or size >= len(batch["id"]):
            return torch.arange(len(batch["id"]), device=self.device)
        return uniform(batch["draw"], 1, stream=1).squeeze(1).topk(size, largest=False, sorted=False).indices

    def step(self, batch: Batch, engine: Engine) -> None:
        """One optimiser step; neighbourhoods are drawn anew in each epoch."""
        batch["key"] = derive_seed(engine.seed, engine.stage.name, engine.epoch)
        engine.minimise(self.terms(batch))

    # ---- the data --------------------------------------------------------------------------------------------

    @classmethod
    def inspect(cls, config: MethodConfig, data: Dataset) -> dict[str, Any]:
        """Widths of the features, types of hyperedges, meta-paths, folds and their mean labels."""
        kg, c = _graph(data), cast(MetaHGNIEConfig, config)
        if len(kg.relation_names) == 0 or not kg.labelled.any():
            raise DataError(f"{data.name}: no node has a score; training needs some")
        builder = make_builder(c.hypergraph, kg)
        x_struct, x_text, maker = make_features(kg, c.features)
        help_ = ridge.Design.of(kg, maker)
        which = list(range(c.data.folds)) if c.data.fold == "all" else [c.data.fold]
        return {
            "graph": content_key(kg, c.features, 0), "nodes": kg.num_nodes, "folds": which,
            "struct_width": x_struct.shape[1], "text_width": max(x_text.shape[1], 1),
            "ridge_stars": len(help_.stars), "ridge_width": help_.width,
            "paths": [list(path) for path in paths_of(builder)], "types": list(builder(kg).type_names),
        }  # fmt: skip

    def attach(self, data: Dataset | KnowledgeGraph) -> Self:
        """Take up the graph whose nodes are scored: the one of the training, or one that grew out of it.

        Returns:
            This method, so that calls can be chained.
        """
        kg = data if isinstance(data, KnowledgeGraph) else _graph(data)
        if self._view is None or self._view.kg is not kg:
            self._view = View.of(kg, self.config, self.info, self._maker)
            self._maker, self._known = self._view.maker, {}
        return self

    @property
    def view(self) -> View:
        """The graph that was taken up, on the device of the method."""
        if self._view is None:
            raise DataError("the model has no graph yet; give it one with attach(data)")
        self._view = self._view.to(self.device)
        return self._view

    def on_run_start(self, data: Dataset, engine: Engine) -> None:
        """Features and hypergraph, from the cache after a resume."""
        self.attach(data)

    def nodes(self, fold: int, part: Part) -> Int:
        """Nodes of a part of a fold. The validation part is halved: one half chooses, the other calibrates."""

        def find() -> Int:
            at = self._parts[self.info["folds"][fold]]
            if part in ("train", "test"):
                return np.flatnonzero(at == (TRAIN if part == "train" else TEST))
            val = np.random.default_rng(0).permutation(np.flatnonzero(at == VAL))
            return np.sort(val[: (len(val) + 1) // 2] if part == "stop" else val[(len(val) + 1) // 2 :])

        return cast(Int, self._once(("nodes", fold, part), find))

    @property
    def _parts(self) -> npt.NDArray[np.int8]:
        d = self.config.data
        return cast(
            "npt.NDArray[np.int8]",
            self._once("parts", lambda: folds(self._kg().labelled, count=d.folds, seed=d.split_seed)),
        )

    def stages(self, data: Dataset) -> Sequence[Stage]:
        """One per fold; its batches are the labelled nodes it trains on, all at once unless sampled."""
        self.attach(data)
        return [self._stage(fold) for fold in range(len(self.networks))]

    def _stage(self, fold: int) -> Stage:
        train = self.nodes(fold, "train")
        for part in ("train", "stop", "calibrate", "test"):
            if len(self.nodes(fold, part)) < 2:
                raise DataError(
                    f"{self.view.kg.name}: fold {self.info['folds'][fold]} has too few labelled nodes to {part}, "
                    f"{len(self.nodes(fold, part))}; label more nodes"
                )
        learned = ("objective.",) if list(self.objective.parameters()) else ()
        # A batch that is never full is all there is, in equal parts to all processes.
        size = None if self.config.sampled else -(-len(train) // 64) * 64
        return Stage(
            name=f"fold{self.info['folds'][fold]}", data=Nodes(train, fold),
            batch_size=size, trains=(f"networks.{fold}.", *learned),
            select="spearman", higher_is_better=True, patience=self.config.patience, payload=fold,
        )  # fmt: skip

    def examples(self, data: Dataset, split: str) -> Examples:
        """Labelled nodes of a part of the first fold, or ``all`` nodes."""
        self.attach(data)
        if split == "all":
            return Nodes(np.arange(self.view.kg.num_nodes), 0)
        return Nodes(self.nodes(0, cast(Part, {"val": "stop"}.get(split, split))), 0)

    def on_stage_start(self, stage: Stage, engine: Engine) -> None:
        """Fit the ridge regression that helps, and find the scale of what the network learns."""
        fold = cast(int, stage.payload)
        if self.config.baseline != "none":
            train, stop = self.nodes(fold, "train"), self.nodes(fold, "stop")
            self.ridge_stars.copy_(torch.from_numpy(ridge.Design.of(self.view.kg, self.view.maker).stars))
            strength, weights = ridge.choose(self._design, self._y, train, stop)
            self.ridge[fold] = torch.from_numpy(weights).to(self.ridge)
            self.ridge_strength[fold] = strength
        learned = self._targets(fold)[torch.from_numpy(self.nodes(fold, "train"))].double()
        if self.config.target != "raw":
            self.centre[fold] = learned.mean()
        if self.config.target == "standard":
            self.unit[fold] = learned.std().clamp_min(1e-6)

    def on_stage_end(self, stage: Stage, engine: Engine) -> None:
        """With the best weights: the share of the network on stopping nodes, the intervals on the others."""
        fold = cast(int, stage.payload)
        stop, calibrate = self.nodes(fold, "stop"), self.nodes(fold, "calibrate")
        if self.config.baseline != "none":
            network, help_ = self.channel_scores(fold).score[stop], self.ridge_scores(fold)[stop]
            tried = [spearman(self._y[stop], self.joined(network, help_, share)) for share in _BLENDS]
            self.share[fold] = _BLENDS[int(np.argmax(np.round(tried, 4)))]
        if len(calibrate) < (need := conformal.fewest(self.config.coverage)):
            engine.say(
                f"intervals that hold {self.config.coverage:.0%} of the scores need {need} nodes to calibrate on, "
                f"{stage.name} has {len(calibrate)}: they are unbounded; label more nodes or lower coverage"
            )
        found = self.scores(fold)[calibrate]
        self.radius[fold] = conformal.radius(self._y[calibrate], found, self.config.coverage)

    def _targets(self, fold: int) -> Tensor:
        """(N,) what the network learns; NaN without a label."""

        def make() -> Tensor:
            if self.config.baseline != "residual":
                return self.view.y
            train = self.nodes(fold, "train")
            target = self._y - self.ridge_scores(fold)
            # What ridge leaves over on nodes that it was fitted on is smaller than what it leaves over on new ones.
            strength = float(self.ridge_strength[fold])
            target[train] = self._y[train] - ridge.cross_fitted(self._design, self._y, train, strength)
            return torch.from_numpy(target).to(self.view.y)

        return cast(Tensor, self._once(("targets", fold), make)).to(self.device)

    # ---- scores ----------------------------------------------------------------------------------------------

    def scores(self, fold: int | None = None) -> Float:
        """(N,) of every node.

        Args:
            fold: which of the trained folds, by position. None: of a node that a fold tests, the network of that fold;
                of every other node the mean over folds.
        """
        if fold is not None:
            network = self.channel_scores(fold).score
            if self.config.baseline == "none":
                return network
            return self.joined(network, self.ridge_scores(fold), float(self.share[fold]))
        return self._over_folds([self.scores(f) for f in range(len(self.networks))])

    def radii(self) -> Float:
        """(N,) half the width of the interval around each score."""
        ones = np.ones(self._kg().num_nodes)
        return self._over_folds([ones * float(r) for r in self.radius])

    def _over_folds(self, found: list[Float]) -> Float:
        total = np.mean(found, axis=0)
        if len(found) > 1:
            for fold, one in enumerate(found):
                test = self.nodes(fold, "test")
                total[test] = one[test]
        return cast(Float, total)

    def joined(self, network: Float, help_: Float, share: float) -> Float:
        """Final scores from those of network and ridge."""
        if self.config.baseline == "residual":
            return help_ + share * network
        return share * network + (1 - share) * help_

    def channel_scores(self, fold: int) -> Channels:
        """What the network of a fold says of every node, in evaluation mode; kept until its weights change."""
        network = self.network(fold)
        version = self.weights_version(fold)

        def make() -> Channels:
            with self.evaluating(network):
                out = network(self.view.x_struct, self.view.x_text, self.view.incidence)
            return Channels(*self.scaled(fold, out))

        if self._known.get(("version", fold)) != version:
            self._known[("version", fold)] = version
            self._known.pop(("scores", fold), None)
        return cast(Channels, self._once(("scores", fold), make))

    def ridge_scores(self, fold: int) -> Float:
        """(N,) predictions of the ridge regression of a fold."""
        weights = self.ridge[fold].cpu().numpy()
        return cast(Float, self._once(("ridge", fold, weights.tobytes()), lambda: ridge.apply(self._design, weights)))

    def ridge_score(self, fold: int, node: int) -> float | None:
        """Of one node; None where no ridge regression helps."""
        return None if self.config.baseline == "none" else float(self.ridge_scores(fold)[node])

    @property
    def _design(self) -> Any:
        return self._once("design", lambda: self.design_rows(self.view))

    def design_rows(self, view: View, nodes: Int | None = None) -> Any:
        """(n, F) what the ridge regression is told of nodes; None: of all."""
        design = ridge.Design(view.maker, self.ridge_stars.cpu().numpy())
        return design.rows(view.kg, view.x_text.cpu().numpy(), nodes)

    @property
    def _y(self) -> Float:
        return self._kg().y.astype(np.float64)

    def _kg(self) -> KnowledgeGraph:
        return self.view.kg

    def network(self, fold: int) -> MetaHGNIENetwork:
        """Of a fold, by position."""
        return cast(MetaHGNIENetwork, self.networks[fold])

    def fold_of(self, node: int) -> int:
        """Position of the fold that tests a node; the first one when none does."""
        return next((f for f in range(len(self.networks)) if self._parts[self.info["folds"][f], node] == TEST), 0)

    def replace_view(self, view: View) -> None:
        """Go on with a graph that grew; scores are found anew unless they are handed over."""
        self._view, self._known = view, {}

    def keep_channel_scores(self, fold: int, found: Channels) -> None:
        """Hand over what the network of a fold says of this graph."""
        self._known[("version", fold)] = self.weights_version(fold)
        self._known[("scores", fold)] = found

    def keep_ridge_scores(self, fold: int, found: Float) -> None:
        """Hand over what ridge says of this graph."""
        self._known[("ridge", fold, self.ridge[fold].cpu().numpy().tobytes())] = found

    def scaled(self, fold: int, out: Scores) -> tuple[Float, Float, Float]:
        """Scores of network and channels on the scale of the labels, or of what ridge leaves over."""
        centre, unit = float(self.centre[fold]), float(self.unit[fold])
        score, struct, text = (centre + unit * x.double().cpu().numpy() for x in (out.score, out.struct, out.text))
        return score, struct, text

    def weights_version(self, fold: int) -> int:
        """A number that changes whenever the weights of a network do."""
        network = self.network(fold)
        return sum(t._version for t in (*network.parameters(), *network.buffers()))

    def _once(self, key: Any, make: Any) -> Any:
        """What was made for this graph before, or is made now."""
        if key not in self._known:
            self._known[key] = make()
        return self._known[key]

    @staticmethod
    @contextmanager
    def evaluating(network: nn.Module) -> Iterator[None]:
        """Evaluation mode and no gradients inside the block."""
        before = network.training
        network.eval()
        try:
            with torch.no_grad():
                yield
        finally:
            network.train(before)

    # ---- measuring -------------------------------------------------------------------------------------------

    def validate(self, data: Dataset, stage: Stage) -> dict[str, float]:
        """Metrics on the half of the validation nodes that decides when to stop."""
        fold = cast(int, stage.payload)
        stop = self.nodes(fold, "stop")
        score = self.channel_scores(fold).score[stop]
        if self.config.baseline == "residual":
            score = score + self.ridge_scores(fold)[stop]
        found = importance_metrics(self._y[stop], score)
        return {name: found[name] for name in ("spearman", "ndcg@100", "rmse")}

    def evaluate(self, data: Dataset) -> dict[str, float]:
        """The metrics of the literature on test nodes, means over the folds that were trained.

        With several folds, ``NAME_std`` beside each. Besides: ``struct_spearman`` and ``text_spearman`` of the single
        channels, ``coverage`` and ``interval`` (width) of the conformal intervals; where a ridge regression helps,
        ``network_*`` and ``ridge_*`` alone and the ``network_share``.
        """
        self.attach(data)
        rows = [self._measure(fold) for fold in range(len(self.networks))]
        return _means(rows)

    def _measure(self, fold: int) -> dict[str, float]:
        test, network = self.nodes(fold, "test"), self.channel_scores(fold)
        y, final = self._y[test], self.scores(fold)[test]
        half = float(self.radius[fold])
        found = importance_metrics(y, final)
        found["struct_spearman"] = spearman(y, network.struct[test])
        found["text_spearman"] = spearman(y, network.text[test])
        found["coverage"], found["interval"] = conformal.covered(y, final, half), 2 * half
        if self.config.baseline != "none":
            for name, alone in (("network", network.score[test]), ("ridge", self.ridge_scores(fold)[test])):
                found |= {f"{name}_{k}": v for k, v in importance_metrics(y, alone, (100,)).items() if k in _BRIEF}
            found["network_share"] = float(self.share[fold])
        return found

    def baselines(self, data: Dataset) -> dict[str, Baseline]:
        """Degree and PageRank (floors); personalised PageRank and ridge regressions, strengths chosen on validation."""
        self.attach(data)
        kg, floors = self._kg(), ("random", "degree", "pagerank")
        rows: dict[str, list[dict[str, float]]] = {}
        for fold in self.info["folds"]:
            for name, metrics in baselines.measure(kg, self._parts[fold]).items():
                rows.setdefault(name, []).append(dict(metrics))
        return {name: Baseline(_means(found), floor=name in floors) for name, found in rows.items()}

    # ---- using -----------------------------------------------------------------------------------------------

    def embed(self, batch: Batch) -> Tensor:
        """Latent vectors of both channels side by side, (B, 2 K), of nodes ``id`` (B,)."""
        with self.evaluating(self):
            out = self.network(0)(self.view.x_struct, self.view.x_text, self.view.incidence)
        return torch.cat([out.z_struct, out.z_text], 1)[batch["id"]]

    def predict(self, batch: Batch) -> Tensor:
        """Scores (B,) of nodes ``id`` (B,)."""
        return torch.from_numpy(self.scores())[batch["id"].cpu()].float()

    def embed_table(self, data: Dataset) -> pa.Table:
        """``id`` and ``embedding`` of every node."""
        nodes = torch.arange(self.attach(data).view.kg.num_nodes, device=self.device)
        return pa.table({"id": nodes.tolist(), "embedding": self.embed({"id": nodes}).float().cpu().tolist()})

    def predict_table(self, data: Dataset) -> pa.Table:
        """Every node with its score, rank, interval and, for the first 100, the reasons; see :meth:`export`."""
        return tables.table(self.attach(data))

    def charts(self, data: Dataset) -> Sequence[Listing]:
        """The first twenty nodes with their intervals and reasons."""
        first = tables.table(self.attach(data), top=20).sort_by("rank").slice(0, 20).to_pylist()
        rows = [
            [r["name"], f"{r['score']:.3f}", f"{r['low']:.3f} to {r['high']:.3f}", "; ".join(r["reasons"]) or "-"]
            for r in first
        ]
        return [Listing(title="First nodes, and why", columns=("node", "score", "interval", "reasons"), rows=rows)]

    def export(self, file: str | Path, *, reasons: int = 3, top: int | None = 100) -> Path:
        """Write the scores of all nodes as Parquet.

        Args:
            file: where to.
            reasons: hyperedges that are named as reasons of a score.
            top: for so many of the first nodes; None: for all.

        Returns:
            The file. Columns: ``node_id``, ``name``, ``score`` (log(1 + raw score)), ``estimate`` (raw scale),
            ``rank``, ``percentile``, ``low``, ``high`` (of the interval), ``label`` (where known), ``reasons``.
        """
        return tables.write(tables.table(self, reasons=reasons, top=top), Path(file))

    def explain(self, node: int | str, k: int = 5) -> reasons_of.Explanation:
        """Why a node has its score; see :class:`~polycontrast_graph.metahgnie.explain.Explanation`.

        Args:
            node: its position or its id.
            k: hyperedges that are named.
        """
        return reasons_of.explain(self, node, k)

    def deletion_test(self, nodes: int = 200, k: int = 3, seed: int = 0) -> reasons_of.DeletionTest:
        """Whether taking away the k first hyperedges of a node moves its score more than taking away k others.

        Args:
            nodes: how many are drawn, among those in at least 2 k hyperedges.
            k: hyperedges taken away.
            seed: of both draws.
        """
        return reasons_of.deletion_test(self, nodes, k, seed)

    def score_new(
        self, nodes: Sequence[str], edges: Sequence[tuple[str, str, str]], text: Sequence[str] | None = None
    ) -> pa.Table:
        """Score entities that the model has never seen; the graph stays as it is.

        Args:
            nodes: ids of the new entities.
            edges: triples of head, relation and tail, by id; at least one end is new. Relations are known ones.
            text: one per new entity.

        Returns:
            ``node_id``, ``score``, ``estimate``, ``low`` and ``high`` of the new entities.

        Raises:
            DataError: an id exists already, or an edge names what does not exist.
        """
        return incremental.score_new(self, nodes, edges, text)

    def insert(self, edges: Sequence[tuple[str, str, str]]) -> Int:
        """Add edges between known entities; only scores that they reach are computed again.

        Args:
            edges: as in :meth:`score_new`.

        Returns:
            Positions of the nodes whose scores were computed again.
        """
        return incremental.insert(self, edges)

    @classmethod
    def from_official_state_dict(cls, state: Mapping[str, Tensor], **options: Any) -> MetaHGNIENetwork:
        """The network of a published checkpoint; see :meth:`MetaHGNIENetwork.from_official_state_dict`."""
        return MetaHGNIENetwork.from_official_state_dict(state, **options)

    # ---- saving ----------------------------------------------------------------------------------------------

    def saved_state(self) -> dict[str, Tensor]:
        """Without the projectors, which only the contrast needs."""
        return {k: v for k, v in super().saved_state().items() if ".projector." not in k}

    def _save_pretrained(self, save_directory: Path) -> None:
        super()._save_pretrained(save_directory)
        if self._maker is not None:
            self._maker.save(save_directory)

    def load_saved_state(self, file: Path) -> None:
        """Weights, and the maker of features beside them."""
        super().load_saved_state(file)
        self._maker = FeatureMaker.load(self.config.features, file.parent)


@dataclass(frozen=True)
class Nodes:
    """Nodes as examples."""

    nodes: Int
    fold: int
    """By position among the folds that are trained."""

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, positions: list[int]) -> Batch:
        ids = torch.from_numpy(self.nodes[positions])
        return {"id": ids, "fold": torch.full_like(ids, self.fold)}


@dataclass(frozen=True)
class Channels:
    """What a network says of every node."""

    score: Float
    """(N,) fused."""
    struct: Float
    """(N,)."""
    text: Float
    """(N,)."""

    def with_rows(self, nodes: Int, rows: tuple[Float, Float, Float]) -> Channels:
        """The same with other scores of some nodes."""
        parts = [part.copy() for part in (self.score, self.struct, self.text)]
        for part, new in zip(parts, rows, strict=True):
            part[nodes] = new
        return Channels(*parts)


_NOTHING: dict[str, Any] = {
    "graph": "", "nodes": 0, "folds": [0], "struct_width": 1, "text_width": 1, "ridge_width": 1, "ridge_stars": 0,
    "paths": [], "types": ["isolated"],
}  # fmt: skip
_BRIEF = ("spearman", "ndcg@100", "rmse")


def _graph(data: Dataset) -> KnowledgeGraph:
    if not isinstance(data, GraphDataset):
        raise DataError(f"{data.name} is a {type(data).__name__}; {MetaHGNIE.id} takes a knowledge graph")
    return data.kg


def _rows(scores: Scores, at: Tensor) -> Scores:
    return Scores(*(getattr(scores, f.name).index_select(0, at) for f in fields(Scores)))


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    found = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    if len(rows) > 1:
        found |= {f"{name}_std": float(np.std([row[name] for row in rows], ddof=1)) for name in rows[0]}
    return found


__all__ = ["MetaHGNIE", "Nodes"]

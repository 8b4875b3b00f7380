"""The method on a small made-up catalogue: terms, folds, runs, resumes, and what users ask of a trained model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

pytest.importorskip("torch_geometric")

from polycontrast.config import EngineConfig, from_dict
from polycontrast.data import derive_seed, draws
from polycontrast.engine import Engine, accelerator_for, checkpoint, seed_everything
from polycontrast.errors import CheckpointError, ConfigError, DataError, Interrupted
from polycontrast.runs import Run
from polycontrast_graph.folds import TEST
from polycontrast_graph.generators import catalogue
from polycontrast_graph.kg import KnowledgeGraph
from polycontrast_graph.metahgnie import conformal
from polycontrast_graph.metahgnie.config import MetaHGNIEConfig
from polycontrast_graph.metahgnie.method import MetaHGNIE
from polycontrast_graph.metahgnie.network import Fusion, MetaHGNIENetwork
from polycontrast_graph.metahgnie.sampling import NeighbourSampler
from polycontrast_graph.metahgnie.segments import Incidence
from polycontrast_graph.read import GraphDataset, dataset_of

SMALL: dict[str, Any] = {
    "heads": 2, "hidden": 4, "node_aggr": "mean", "coverage": 0.8,
    "features": {"structure": ["given", "counts", "degree"], "text": "given"}, "hypergraph": {"max_size": 40},
    "engine": {"epochs": 4, "log_steps": 1},
}  # fmt: skip


@pytest.fixture(scope="module")
def kg() -> KnowledgeGraph:
    return catalogue(items=160, tags=8, makers=20)


def config_of(**changes: Any) -> MetaHGNIEConfig:
    return from_dict(MetaHGNIEConfig, {**SMALL, **changes}, source="test")


def engine_of(path: Path, config: MetaHGNIEConfig, data: GraphDataset, seed: int = 0) -> Engine:
    if not Run.exists(path):
        Run.create(path, config={"method": MetaHGNIE.id, "data": "x", "seed": seed, "config": {}}, environment={})
    saved = checkpoint.newest(path / "checkpoints")
    seed_everything(derive_seed(seed, "initialisation"))
    info = saved.info if saved is not None else MetaHGNIE.inspect(config, data)
    accelerator = accelerator_for("cpu", "no")
    return Engine(MetaHGNIE(config, info), data, Run.open(path), accelerator, seed=seed, saved=saved, progress=False)


def trained(path: Path, kg: KnowledgeGraph, **changes: Any) -> tuple[MetaHGNIE, GraphDataset]:
    config = config_of(**changes)
    data = dataset_of(kg, config)
    engine = engine_of(path, config, data)
    engine.run()
    method = engine.method
    assert isinstance(method, MetaHGNIE)
    return method.eval(), data


@pytest.fixture(scope="module")
def model(kg: KnowledgeGraph, tmp_path_factory: pytest.TempPathFactory) -> MetaHGNIE:
    return trained(tmp_path_factory.mktemp("run"), kg, engine={"epochs": 30}, optimiser={"name": "adam", "lr": 0.02})[0]


@pytest.fixture(scope="module")
def helped(kg: KnowledgeGraph, tmp_path_factory: pytest.TempPathFactory) -> MetaHGNIE:
    folds = {"fold": "all", "folds": 3}
    return trained(tmp_path_factory.mktemp("run"), kg, baseline="residual", data=folds, layers=2)[0]


class TestSettings:
    @pytest.mark.parametrize(
        ("how", "message"),
        [
            ({"heads": 0}, "heads must be at least 1"),
            ({"dropout": 1.0}, "dropout must lie in"),
            ({"coverage": 1.0}, "coverage must lie between"),
            ({"fan_out": [-1, 2]}, "fan_out must not be negative"),
            ({"chunk_size": 0}, "chunk_size must be positive"),
            ({"contrast_size": 1}, "contrast_size must be at least 2"),
            ({"contrast": {"temperature": 0.0}}, "temperature must be positive"),
        ],
    )
    def test_refuses(self, how: dict[str, Any], message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            config_of(**how)

    def test_other_objectives(self, kg: KnowledgeGraph) -> None:
        for objective in ("ntxent", "siglip", "vicreg"):
            method, batch = prepared(kg, contrast={"objective": objective})
            assert method.terms(batch)["contrast"].isfinite()


def prepared(kg: KnowledgeGraph, **changes: Any) -> tuple[MetaHGNIE, dict[str, Any]]:
    config = config_of(**changes)
    data = dataset_of(kg, config)
    torch.manual_seed(0)
    method = MetaHGNIE(config, MetaHGNIE.inspect(config, data)).attach(data).eval()
    batch = method.stages(data)[0].data[list(range(40))]  # type: ignore[index]
    batch["draw"] = draws(0, batch["id"])
    return method, batch


class TestTerms:
    def test_names_and_weights(self, kg: KnowledgeGraph) -> None:
        method, batch = prepared(kg)
        terms = method.terms(batch)
        assert {name: method.weight(name) for name in terms} == {
            "fused": 1.0, "aux_struct": 0.1, "aux_text": 0.1, "contrast": 0.1,
        }  # fmt: skip
        scores = torch.from_numpy(method.channel_scores(0).score)[batch["id"]]
        expected = (scores - method.view.y[batch["id"]]).square().mean()
        assert terms["fused"].item() == pytest.approx(expected.item(), 1e-5)

    def test_what_is_off_is_not_computed(self, kg: KnowledgeGraph) -> None:
        method, batch = prepared(kg, off=["contrast", "aux_text"])
        assert set(method.terms(batch)) == {"fused", "aux_struct"}

    def test_contrast_draws_a_subset_by_lot(self, kg: KnowledgeGraph) -> None:
        method, batch = prepared(kg, contrast_size=7)
        first = method._contrasted(batch)
        assert len(set(first.tolist())) == 7
        again = {**batch, "draw": draws(1, batch["id"])}
        assert set(first.tolist()) == set(method._contrasted(batch).tolist()) != set(method._contrasted(again).tolist())
        turned = {name: value.flip(0) for name, value in batch.items()}
        assert set(batch["id"][first].tolist()) == set(turned["id"][method._contrasted(turned)].tolist())

    def test_test_labels_change_no_term_and_choose_nothing(self, kg: KnowledgeGraph, tmp_path: Path) -> None:
        config = config_of(baseline="blend")
        data = dataset_of(kg, config)
        test = data.nodes("test")
        y = kg.y.copy()
        y[test] = y[test][::-1]
        graphs = {"as they are": kg, "permuted": kg.with_labels(y)}
        found = [trained(tmp_path / name, g, baseline="blend")[0].state_dict() for name, g in graphs.items()]
        for name, value in found[0].items():
            assert torch.equal(value, found[1][name]), name

    def test_sampled_without_bounds_is_the_whole_graph(self, kg: KnowledgeGraph) -> None:
        for layers in (1, 2):
            whole, batch = prepared(kg, layers=layers)
            part, _ = prepared(kg, layers=layers, sampled=True, fan_out=[0, 0])
            for name, value in whole.terms(batch).items():
                torch.testing.assert_close(part.terms(batch)[name], value, atol=1e-6, rtol=1e-5)

    @pytest.mark.parametrize("target", ["raw", "centred", "standard"])
    def test_scale_of_what_is_learned(self, kg: KnowledgeGraph, tmp_path: Path, target: str) -> None:
        method, _ = trained(tmp_path, kg, target=target, engine={"epochs": 1})
        y = kg.y[method.nodes(0, "train")].astype(np.float64)
        assert float(method.centre[0]) == pytest.approx(0.0 if target == "raw" else y.mean(), abs=1e-5)
        assert float(method.unit[0]) == pytest.approx(y.std(ddof=1) if target == "standard" else 1.0, abs=1e-5)


class TestSampler:
    def test_bounds_and_independence(self, kg: KnowledgeGraph) -> None:
        method, _ = prepared(kg)
        h = method.view.hypergraph
        sampler = NeighbourSampler(h.hyperedge_index, h.hyperedge_type, h.num_nodes, len(h.type_names))
        near = sampler.draw(np.arange(20), 1, (2, 3), key=1)
        assert near.nodes[:20].tolist() == list(range(20))
        alone = sampler.draw(np.array([5]), 1, (2, 3), key=1)
        assert len(alone.incidence.memberships) <= 2 * 4
        assert int(alone.incidence.degree[0]) == min(2, int(h.degrees[5]))
        assert set(alone.nodes.tolist()) <= set(near.nodes.tolist())
        other = sampler.draw(np.array([5]), 1, (2, 3), key=2)
        assert alone.nodes.tolist() != other.nodes.tolist()


class TestRuns:
    def test_a_run_that_is_stopped_ends_the_same(self, kg: KnowledgeGraph, tmp_path: Path) -> None:
        for sampled in (False, True):
            changes: dict[str, Any] = {"sampled": sampled, "baseline": "residual", "data": {"fold": "all", "folds": 2}}
            changes["engine"] = {"epochs": 3, "log_steps": 1, "checkpoint_steps": 1, "batch_size": 16}
            config = config_of(**changes)
            data = dataset_of(kg, config)
            whole = engine_of(tmp_path / f"whole{sampled}", config, data)
            whole.run()
            for stop_at in (2, whole.step // 2 + 1):
                engine = engine_of(tmp_path / f"killed{sampled}", config, data)

                def stop(batch: Any, at: Any, engine: Engine = engine, stop_at: int = stop_at) -> None:
                    MetaHGNIE.step(engine.method, batch, at)  # type: ignore[arg-type]
                    if engine.step + 1 == stop_at:
                        engine._stop.received = 15

                engine.method.step = stop  # type: ignore[method-assign]
                with pytest.raises(Interrupted):
                    engine.run()
            resumed = engine_of(tmp_path / f"killed{sampled}", config, data)
            resumed.run()
            for name, value in whole.method.state_dict().items():
                assert torch.equal(value, resumed.method.state_dict()[name]), name

    def test_folds(self, helped: MetaHGNIE, kg: KnowledgeGraph) -> None:
        data = dataset_of(kg, helped.config)
        metrics = helped.evaluate(data)
        wanted = {"spearman", "spearman_std", "ndcg@100", "network_spearman", "ridge_spearman", "network_share"}
        assert wanted <= set(metrics)
        baselines = helped.baselines(data)
        assert baselines["degree"].floor
        assert baselines["pagerank"].floor
        assert not baselines["ridge"].floor
        rows = [helped._measure(f)["spearman"] for f in range(3)]
        assert metrics["spearman"] == pytest.approx(np.mean(rows))
        for fold in range(3):
            test = helped.nodes(fold, "test")
            np.testing.assert_array_equal(helped.scores()[test], helped.scores(fold)[test])
            assert (helped._parts[fold][test] == TEST).all()
            parts = [set(helped.nodes(fold, part).tolist()) for part in ("train", "stop", "calibrate", "test")]
            assert sum(map(len, parts)) == len(set.union(*parts)) == int(kg.labelled.sum())

    def test_learns(self, model: MetaHGNIE, kg: KnowledgeGraph) -> None:
        data = dataset_of(kg, model.config)
        assert model.evaluate(data)["spearman"] > model.baselines(data)["degree"].metrics["spearman"]

    def test_too_few_labels(self, kg: KnowledgeGraph) -> None:
        y = np.full_like(kg.y, np.nan)
        y[:12] = kg.y[:12]
        config = config_of()
        data = dataset_of(kg.with_labels(y), config)
        method = MetaHGNIE(config, MetaHGNIE.inspect(config, data))
        with pytest.raises(DataError, match="too few labelled nodes to"):
            method.stages(data)

    def test_save_and_load(self, helped: MetaHGNIE, kg: KnowledgeGraph, tmp_path: Path) -> None:
        helped.save_pretrained(tmp_path)
        loaded = MetaHGNIE.from_pretrained(tmp_path)
        assert not any("projector" in name for name in loaded.saved_state())
        data = dataset_of(kg, helped.config, purpose="predict")
        np.testing.assert_allclose(loaded.attach(data).scores(), helped.scores(), rtol=1e-6)
        assert loaded.predict_table(data).equals(helped.predict_table(data))
        (tmp_path / "features.json").unlink()
        with pytest.raises(CheckpointError, match=r"features\.json is missing"):
            MetaHGNIE.from_pretrained(tmp_path)

    def test_needs_a_graph(self, model: MetaHGNIE) -> None:
        with pytest.raises(DataError, match="no graph yet"):
            MetaHGNIE(model.config, model.info).scores()


class TestUse:
    def test_table(self, model: MetaHGNIE, tmp_path: Path) -> None:
        rows = pq.read_table(model.export(tmp_path / "scores.parquet", top=5)).to_pydict()
        order = np.argsort(rows["rank"])
        assert np.all(np.diff(np.array(rows["score"])[order]) <= 0)
        assert 0 < min(rows["percentile"]) < max(rows["percentile"]) < 100
        first = int(order[0])
        assert rows["rank"][first] == 1
        assert rows["low"][first] < rows["score"][first] < rows["high"][first]
        assert rows["estimate"][first] == pytest.approx(np.expm1(rows["score"][first]))
        assert sum(bool(r) for r in rows["reasons"]) <= 5
        assert rows["label"][-1] is None

    def test_explanation(self, model: MetaHGNIE) -> None:
        found = model.explain("item 3", k=3)
        assert found.name == "item 3"
        assert found.score == pytest.approx(model.scores()[3])
        assert 1 <= len(found.reasons) <= 3
        sizes = [abs(r.contribution) for r in found.reasons]
        assert sizes == sorted(sizes, reverse=True)
        assert 0 <= found.struct_share <= 1
        assert all("item 3" not in r.members for r in found.reasons)
        with pytest.raises(DataError, match=r"no node 'item x3'\. Did you mean 'item 3'"):
            model.explain("item x3")
        with pytest.raises(DataError, match="no node 999999"):
            model.explain(999999)

    @pytest.mark.parametrize("aggr", ["sum", "mean", "sqrt"])
    def test_contributions_are_what_a_small_change_would_do(self, kg: KnowledgeGraph, aggr: str) -> None:
        """A linear head on nothing but messages: then the first order is exact for the structure channel."""
        method, _ = prepared(kg, node_aggr=aggr, fusion="fixed", fusion_share=1.0)
        network = method.network(0)
        network.struct_layers[0].activation = False
        from polycontrast_graph.metahgnie.explain import contributions

        view = method.view
        struct, _ = contributions(network, view.x_struct, view.x_text, view.incidence)
        s, given = view.incidence.memberships, view.incidence.given
        before = method.channel_scores(0).struct
        for n in (0, 5, 17):
            for p in range(int(s.ptr[n]), int(s.ptr[n + 1])):
                near = view.sampler.draw(np.array([n]), 1, without=given[s.column[p]].numpy()[None])
                at = torch.from_numpy(near.nodes)
                with torch.no_grad():
                    after = network(view.x_struct[at], view.x_text[at], near.incidence).struct[0]
                assert float(struct[p]) == pytest.approx(before[n] - float(after), abs=1e-4)

    def test_deletion(self, model: MetaHGNIE) -> None:
        found = model.deletion_test(nodes=60, k=1)
        assert found.top > found.random
        assert found.p < 0.05

    @pytest.mark.parametrize("which", ["model", "helped"])
    def test_new_entities_are_scored_as_in_the_whole_graph(self, which: str, request: pytest.FixtureRequest) -> None:
        method: MetaHGNIE = request.getfixturevalue(which)
        from polycontrast_graph.metahgnie import incremental

        edges = [("new", "tagged", "tag 1"), ("new", "made by", "maker 2"), ("newer", "tagged", "tag 1")]
        table = method.score_new(["new", "newer"], edges)
        assert table["node_id"].to_pylist() == ["new", "newer"]
        kg, touched = incremental.extended(method.view.kg, ["new", "newer"], edges, None)
        view, _ = method.view.grown(kg, touched, method.config, method.info)
        fresh = [kg.num_nodes - 2, kg.num_nodes - 1]
        expected = []
        for fold in range(len(method.networks)):
            with method.evaluating(method.network(fold)):
                out = method.network(fold)(view.x_struct, view.x_text, view.incidence)
            score = method.scaled(fold, out)[0][fresh]
            if method.config.baseline != "none":
                help_ = method.design_rows(view) @ method.ridge[fold].numpy()[:-1] + float(method.ridge[fold][-1])
                score = method.joined(score, help_[fresh], float(method.share[fold]))
            expected.append(score)
        np.testing.assert_allclose(table["score"].to_numpy(), np.mean(expected, axis=0), atol=1e-5)

    @pytest.mark.parametrize("which", ["model", "helped"])
    def test_inserted_edges_change_what_they_reach_alone(self, which: str, request: pytest.FixtureRequest) -> None:
        method: MetaHGNIE = request.getfixturevalue(which)
        start = method.view
        before = method.scores().copy()
        edges = [("item 1", "made by", "maker 7"), ("item 2", "made by", "maker 7")]
        reached = method.insert(edges)
        after = method.scores()
        grown = method.view
        untouched = np.setdiff1d(np.arange(len(before)), reached)
        np.testing.assert_array_equal(after[untouched], before[untouched])
        if method.config.layers == 1:
            assert 0 < len(reached) < len(before)
        assert abs(after[1] - before[1]) > 0
        method.replace_view(grown)  # forget every score
        np.testing.assert_allclose(method.scores(), after, atol=1e-5)
        method.replace_view(start)

    @pytest.mark.parametrize(
        ("nodes", "edges", "text", "message"),
        [
            ([], [], None, "name at least one"),
            (["item 1"], [], None, "'item 1' exists already"),
            (["a"], [("a", "tagged", "tag x1")], None, r"no entity 'tag x1'\. Did you mean 'tag 1"),
            (["a"], [("a", "tag", "tag 1")], None, "no relation 'tag'"),
            (["a"], [("a", "tagged")], None, "is not a triple"),
            (["a"], [], ["x", "y"], "2 texts for 1 new"),
        ],
    )
    def test_refuses_what_does_not_fit(
        self, model: MetaHGNIE, nodes: list[str], edges: list[Any], text: list[str] | None, message: str
    ) -> None:
        with pytest.raises(DataError, match=message):
            model.score_new(nodes, edges, text)


class TestIntervals:
    def test_radius_is_the_right_order_statistic(self) -> None:
        error = np.arange(1, 20) / 10
        assert conformal.radius(error, np.zeros(19), 0.9) == 1.8
        assert conformal.radius(error[:8], np.zeros(8), 0.9) == np.inf
        assert conformal.radius(error[:9], np.zeros(9), 0.9) == 0.9
        assert conformal.fewest(0.9) == 9

    def test_coverage_over_draws(self) -> None:
        rng = np.random.default_rng(0)
        shares = []
        for _ in range(400):
            y, new = rng.standard_cauchy(50), rng.standard_cauchy(200)
            shares.append(conformal.covered(new, np.zeros(200), conformal.radius(y, np.zeros(50), 0.9)))
        assert 0.89 < np.mean(shares) < 0.93


class TestNetwork:
    def test_fusion_of_one_share(self) -> None:
        s, t = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [5.0]])
        torch.testing.assert_close(Fusion("fixed", 0.25)(s, t), torch.tensor([[2.5], [4.25]]))
        for mode in ("adaptive", "attention", "gate", "concat"):
            out = Fusion(mode)(s, t)  # type: ignore[arg-type]
            assert out.shape == (2, 1)

    def test_gate(self) -> None:
        fusion, s, t = Fusion("gate"), torch.tensor([[1.0]]), torch.tensor([[3.0]])
        for linear in (fusion.struct, fusion.text):
            torch.nn.init.ones_(linear.weight)
            torch.nn.init.zeros_(linear.bias)
        g = torch.sigmoid(torch.tensor(4.0))
        torch.testing.assert_close(fusion(s, t), (g * 1 + (1 - g) * 3).reshape(1, 1))

    def test_missing_text_and_centrality(self) -> None:
        network = MetaHGNIENetwork(3, 3, 1, no_text=True, centrality="log_degree").eval()
        index = torch.arange(6).repeat(2, 1)
        graph = Incidence.of(index, torch.zeros(6, dtype=torch.int64), 6, 1)
        x = torch.randn(6, 3)
        x[2] = 0
        plain = network(x, x, graph)
        assert network.no_text is not None
        torch.nn.init.ones_(network.no_text)
        changed = network(x, x, graph).text != plain.text
        assert changed.tolist() == [False, False, True, False, False, False]

    def test_not_a_published_checkpoint(self) -> None:
        with pytest.raises(CheckpointError, match="not a checkpoint of the published model"):
            MetaHGNIE.from_official_state_dict({"x": torch.zeros(1)})


def test_engine_defaults_are_the_papers() -> None:
    config = MetaHGNIEConfig()
    assert (config.optimiser.name, config.optimiser.lr, config.optimiser.weight_decay) == ("adam", 5e-3, 5e-4)
    assert replace(config, engine=EngineConfig(epochs=1)).engine.epochs == 1

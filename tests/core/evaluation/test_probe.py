from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from polycontrast.evaluation import OnlineProbe, linear_probe


def clusters(n: int = 300, *, apart: float = 1.0, dim: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    classes = 3
    random = torch.Generator().manual_seed(seed)
    centre = apart * torch.randn(classes, dim, generator=torch.Generator().manual_seed(99))
    y = torch.randint(classes, (n,), generator=random)
    return centre[y] + torch.randn(n, dim, generator=random), y


@pytest.mark.parametrize("c", [1e-3, 1.0, 100.0])
def test_logistic_is_scikit_learns(c: float) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    (x, y), (new, truth) = clusters(120), clusters(400, seed=1)
    probe = linear_probe(x.double(), y, new, truth, validation=(x[:40], y[:40]), grid=(c,), seeds=(0,))
    whole, labels = torch.cat([x, x[:40]]).double(), torch.cat([y, y[:40]])  # the choice is fitted on both
    mean, std = whole.mean(0), whole.std(0, unbiased=False)
    theirs = linear_model.LogisticRegression(C=c, max_iter=1000, tol=1e-8)
    theirs.fit(((whole - mean) / std).numpy(), labels.numpy())
    assert probe.accuracy == pytest.approx(theirs.score(((new - mean) / std).numpy(), truth.numpy()), abs=0.003)


@pytest.mark.parametrize("mode", ["logistic", "sgd"])
def test_separable_clusters_are_read(mode: str) -> None:
    (x, y), (new, truth) = clusters(apart=6.0), clusters(100, apart=6.0, seed=1)
    probe = linear_probe(x, y, new, truth, mode=mode, epochs=10, batch_size=64)  # type: ignore[arg-type]
    assert probe.accuracy > 0.97
    assert len(probe.chosen) == 3
    assert linear_probe(x, y, new, truth, mode=mode, epochs=10, batch_size=64) == probe  # type: ignore[arg-type]


def test_the_choice_is_made_on_validation_rows_alone() -> None:
    x, y = clusters(60, apart=0.7, dim=40)
    look, new = clusters(200, apart=0.7, dim=40, seed=1), clusters(200, apart=0.7, dim=40, seed=2)
    probe = linear_probe(x, y, *new, validation=look, seeds=(0,))
    shuffled = new[1][torch.from_numpy(np.random.default_rng(0).permutation(200))]
    other = linear_probe(x, y, new[0], shuffled, validation=look, seeds=(0,))
    assert other.chosen == probe.chosen
    assert other.accuracy < probe.accuracy
    assert probe.chosen[0] < 1.0  # many noisy features ask for strong regularisation


def test_deviation_over_seeds() -> None:
    (x, y), (new, truth) = clusters(60, dim=30), clusters(200, dim=30, seed=1)
    probe = linear_probe(x, y, new, truth, mode="sgd", epochs=2, grid=(0.01,), seeds=range(4))
    singles = [
        linear_probe(x, y, new, truth, mode="sgd", epochs=2, grid=(0.01,), seeds=(s,)).accuracy for s in range(4)
    ]
    assert probe.accuracy == pytest.approx(np.mean(singles))
    assert probe.std == pytest.approx(np.std(singles, ddof=1))
    assert probe.std > 0


def test_constant_and_huge_features_do_no_harm() -> None:
    (x, y), (new, truth) = clusters(apart=6.0), clusters(100, apart=6.0, seed=1)
    wide = lambda t: torch.cat([1e4 * t, torch.full((len(t), 2), 7.0), 1e-4 * t], 1)  # noqa: E731
    assert linear_probe(wide(x), y, wide(new), truth, seeds=(0,)).accuracy > 0.97


def test_what_is_refused() -> None:
    x, y = clusters(20)
    with pytest.raises(ValueError, match="train_labels must be 0 or more, got -100"):
        linear_probe(x, torch.full_like(y, -100), x, y)
    with pytest.raises(ValueError, match="leaves a part empty"):
        linear_probe(x[:2], y[:2], x, y)
    with pytest.raises(ValueError, match="grid must hold positive numbers"):
        linear_probe(x, y, x, y, grid=())
    with pytest.raises(ValueError, match="train and test must have rows of one length"):
        linear_probe(x, y, x[:, :3], y)


def test_the_online_probe_learns_and_leaves_the_features_alone() -> None:
    torch.manual_seed(0)
    (x, y), (new, truth) = clusters(apart=6.0), clusters(100, apart=6.0, seed=1)
    x = x.requires_grad_()
    probe = OnlineProbe(6, 3)
    optimiser = torch.optim.Adam(probe.parameters(), lr=0.1)
    for _ in range(60):
        optimiser.zero_grad()
        out = probe.loss(x * 100.0, y)
        out["loss"].backward()
        optimiser.step()
    assert x.grad is None
    assert probe.eval().loss(new * 100.0, truth)["accuracy"] > 0.95


def test_the_online_probe_without_labels_and_with_one_row() -> None:
    probe = OnlineProbe(4, 3)
    out = probe.loss(torch.randn(2, 4), torch.tensor([-100, -100]))
    assert out["loss"] == 0.0
    out["loss"].backward()
    assert bool(torch.isfinite(probe(torch.randn(1, 4))).all())

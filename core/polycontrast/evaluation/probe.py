"""Linear probes: how much of the labels a linear map can read from frozen features, and one that learns along.

Everything that is chosen (strength of regularisation, learning rate) is chosen on a validation part, never on the rows
that are scored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from polycontrast.evaluation.rows import checked, mean_and_std, one_per_row, same_width

C_GRID = (1e-3, 1e-2, 1e-1, 1.0, 1e1, 1e2)
"""Inverse strengths of regularisation, as scikit-learn defines C."""
LR_GRID = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Learning rates of the ``sgd`` mode."""


@dataclass(frozen=True, slots=True)
class Probe:
    """What :func:`linear_probe` found."""

    accuracy: float
    """Mean over seeds of the share of test rows that are classified correctly, in [0, 1]."""
    std: float
    """Sample standard deviation over seeds; 0 for one seed."""
    chosen: tuple[float, ...]
    """C, or the learning rate, chosen for each seed."""
    validation: float
    """Mean over seeds of the accuracy on the validation part with the choice."""


def linear_probe(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    validation: tuple[Tensor, Tensor] | None = None,
    mode: Literal["logistic", "sgd"] = "logistic",
    grid: Sequence[float] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    validation_share: float = 0.2,
    epochs: int = 30,
    batch_size: int = 256,
) -> Probe:
    """Accuracy of a linear classifier on frozen features.

    Features are standardised by the training rows. ``logistic``: multinomial logistic regression by L-BFGS, as
    scikit-learn's with penalty l2. ``sgd``: momentum 0.9, cosine schedule, no weight decay. Each grid value is scored
    on the validation part; the best (the first among equals) is fitted again on training and validation rows together.

    Args:
        train: (N, D) features.
        train_labels: (N,) classes 0, 1, ...
        test: (M, D).
        test_labels: (M,).
        validation: features and labels to choose on. None: a random share of the training rows, another one per seed.
        mode: how the classifier is fitted.
        grid: values of C or of the learning rate. None: :data:`C_GRID` or :data:`LR_GRID`.
        seeds: one fit each: of the validation share and, for ``sgd``, of initialisation and order. With a validation
            part of your own, ``logistic`` has no randomness and one seed is enough.
        validation_share: in (0, 1).
        epochs: of ``sgd``.
        batch_size: of ``sgd``.

    Raises:
        ValueError: shapes or labels that do not fit, rows that are not finite, too few rows.
    """
    train, test = checked(train, "train"), checked(test, "test").to(train)
    same_width(train, test, "train and test")
    y = _classes(train_labels, train, "train_labels")
    truth = _classes(test_labels, test, "test_labels")
    values = tuple(grid) if grid is not None else (C_GRID if mode == "logistic" else LR_GRID)
    if not values or min(values) <= 0 or not seeds:
        raise ValueError(f"grid must hold positive numbers and seeds at least one, got {values} and {list(seeds)}")
    held: tuple[Tensor, Tensor] | None = None
    if validation is not None:
        rows = checked(validation[0], "validation").to(train)
        same_width(train, rows, "train and validation")
        held = rows, _classes(validation[1], rows, "validation labels")
    elif not 0 < validation_share < 1 or not 0 < round(len(train) * validation_share) < len(train):
        raise ValueError(f"validation_share {validation_share} of {len(train)} rows leaves a part empty")
    n_classes = 1 + max(int(t.max()) for t in (y, truth, *([held[1]] if held else [])))

    scores, chosen, on_validation = [], [], []
    for seed in seeds:
        if held is not None:
            fit, look = (train, y), held
        else:
            order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).to(train.device)
            n = round(len(train) * validation_share)
            fit, look = (train[order[n:]], y[order[n:]]), (train[order[:n]], y[order[:n]])
        how = _Fit(mode, n_classes, seed, epochs, batch_size)
        accuracies = how.along(values, *fit, *look)
        best = max(range(len(values)), key=lambda i: accuracies[i])
        chosen.append(values[best])
        on_validation.append(accuracies[best])
        whole = torch.cat([fit[0], look[0]]), torch.cat([fit[1], look[1]])
        scores.append(how.along((values[best],), *whole, test, truth)[0])
    mean, std = mean_and_std(scores)
    return Probe(mean, std, tuple(chosen), sum(on_validation) / len(on_validation))


def _classes(labels: Tensor, rows: Tensor, name: str) -> Tensor:
    labels = one_per_row(labels, rows, name)
    if int(labels.min()) < 0:
        raise ValueError(f"{name} must be 0 or more, got {int(labels.min())}; leave unlabelled rows out")
    return labels


@dataclass(frozen=True)
class _Fit:
    mode: str
    n_classes: int
    seed: int
    epochs: int
    batch_size: int

    def along(self, values: Sequence[float], x: Tensor, y: Tensor, new: Tensor, truth: Tensor) -> list[float]:
        """Accuracy on new rows for every grid value."""
        mean, std = x.mean(0), x.std(0, unbiased=False)
        std = torch.where(std > 1e-6 * std.max().clamp_min(1e-30), std, 1.0)
        x, new = (x - mean) / std, (new - mean) / std
        weights = x.new_zeros((self.n_classes, x.shape[1])), x.new_zeros(self.n_classes)
        accuracies = {}
        for value in sorted(values):  # from strong to weak regularisation, each fit starting from the one before
            weights = self._logistic(value, x, y, weights) if self.mode == "logistic" else self._sgd(value, x, y)
            predicted = (new @ weights[0].T + weights[1]).argmax(1)
            accuracies[value] = float((predicted == truth).double().mean())
        return [accuracies[value] for value in values]

    def _logistic(self, c: float, x: Tensor, y: Tensor, start: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Minimise ``mean cross entropy + |W|^2 / (2 C N)``; the bias is free."""
        w, b = (t.clone().requires_grad_() for t in start)
        optimiser = torch.optim.LBFGS(
            [w, b], lr=1.0, max_iter=200, history_size=10, tolerance_grad=1e-5, tolerance_change=1e-8,
            line_search_fn="strong_wolfe",
        )  # fmt: skip

        def closure() -> Tensor:
            optimiser.zero_grad()
            loss = F.cross_entropy(x @ w.T + b, y) + w.square().sum() / (2.0 * c * len(x))
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        with torch.enable_grad():
            optimiser.step(closure)  # type: ignore[no-untyped-call]
        return w.detach(), b.detach()

    def _sgd(self, lr: float, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        w = (0.01 * torch.randn(self.n_classes, x.shape[1], generator=generator)).to(x).requires_grad_()
        b = x.new_zeros(self.n_classes).requires_grad_()
        optimiser = torch.optim.SGD([w, b], lr=lr, momentum=0.9)
        size = min(self.batch_size, len(x))
        per_epoch = len(x) // size
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.epochs * per_epoch)
        with torch.enable_grad():
            for _ in range(self.epochs):
                order = torch.randperm(len(x), generator=generator).to(x.device)
                for part in order[: per_epoch * size].view(per_epoch, size):
                    optimiser.zero_grad()
                    F.cross_entropy(x[part] @ w.T + b, y[part]).backward()  # type: ignore[no-untyped-call]
                    optimiser.step()
                    schedule.step()
        return w.detach(), b.detach()


class OnlineProbe(nn.Module):
    """A linear classifier on detached features that learns along with the method and never disturbs it.

    In a method: make it in ``__init__``, name it in ``TRAINING_ONLY``, declare ``Term("task")`` and return its loss
    among the terms. The gradient ends at the features.

    Args:
        dim: width of the features.
        n_classes: classes.
        standardise: batch normalisation without weights before the linear map, so that one learning rate suits
            features of any size.
    """

    def __init__(self, dim: int, n_classes: int, *, standardise: bool = True) -> None:
        super().__init__()
        self.scale = nn.BatchNorm1d(dim, affine=False) if standardise else nn.Identity()
        self.linear = nn.Linear(dim, n_classes)

    def forward(self, features: Tensor) -> Tensor:
        """(N, D) to logits (N, C)."""
        features = features.detach().float()
        if self.training and len(features) == 1 and isinstance(self.scale, nn.BatchNorm1d):
            mean, var = self.scale.running_mean, self.scale.running_var  # one row has no deviation of its own
            return self.linear(F.batch_norm(features, mean, var, eps=self.scale.eps))  # type: ignore[no-any-return]
        return self.linear(self.scale(features))  # type: ignore[no-any-return]

    def loss(self, features: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """``loss``, the mean cross entropy, and ``accuracy``, detached.

        Args:
            features: (N, D).
            labels: (N,) classes; -100 where there is none.
        """
        logits = self(features)
        known = labels >= 0
        if not bool(known.any()):
            return {"loss": logits.sum() * 0.0, "accuracy": logits.new_tensor(torch.nan)}
        right = (logits.detach().argmax(1) == labels)[known]
        return {"loss": F.cross_entropy(logits, labels, ignore_index=-100), "accuracy": right.float().mean()}


__all__ = ["C_GRID", "LR_GRID", "OnlineProbe", "Probe", "linear_probe"]

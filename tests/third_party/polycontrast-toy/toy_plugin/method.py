"""A linear encoder trained with a contrastive loss."""

from typing import ClassVar

import torch
from torch import nn
from torch.nn import functional as F

from polycontrast.method import Baseline, Method, Term

from .config import PairConfig


class Pair(Method):
    """Two noisy looks at one point are a positive pair."""

    id = "toy/pair"
    Config = PairConfig
    TERMS: ClassVar = {"contrastive": Term("contrastive")}
    HEADLINE = "accuracy"
    HIGHER_IS_BETTER = True

    def __init__(self, config, info=None):
        super().__init__(config, info)
        self.encoder = nn.Linear(self.info["features"], config.dim, bias=False)

    @classmethod
    def inspect(cls, config, data):
        return {"features": data.splits["train"].tensors["look"].shape[1]}

    def terms(self, batch):
        look = F.normalize(self.encoder(batch["look"]), dim=1)
        other = F.normalize(self.encoder(batch["other"]), dim=1)
        similarity = look @ other.T / self.config.temperature
        return {"contrastive": F.cross_entropy(similarity, torch.arange(len(look), device=look.device))}

    def embed(self, batch):
        return F.normalize(self.encoder(batch["look"]), dim=1)

    def evaluate(self, data):
        return {"accuracy": self._accuracy(data, self.embed)}

    def baselines(self, data):
        untrained = torch.randn(self.encoder.weight.shape, device=self.device)
        return {
            "untrained": Baseline(
                {"accuracy": self._accuracy(data, lambda b: F.normalize(b["look"] @ untrained.T, dim=1))}, floor=True
            ),
            "raw": Baseline({"accuracy": self._accuracy(data, lambda b: b["look"])}),
        }

    def _accuracy(self, data, embed):
        """Nearest class mean, the means from the training part."""
        seen, label = self._all(data, "train", embed)
        means = torch.stack([seen[label == k].mean(0) for k in range(int(label.max()) + 1)])
        new, truth = self._all(data, "test", embed)
        return float((torch.cdist(new, means).argmin(1) == truth).double().mean())

    def _all(self, data, part, embed):
        rows = [(embed(b), b["label"]) for b in self.batches(self.examples(data, part))]
        return torch.cat([r[0] for r in rows]), torch.cat([r[1] for r in rows])

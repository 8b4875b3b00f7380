"""Clusters that only some coordinates show; the others are louder and mean nothing."""

import torch

from polycontrast.data import Dataset, TensorExamples

CLASSES, TELLING, NOISE = 5, 4, 16


def demo(config, seed, purpose):
    """768 points in 20 dimensions, two noisy looks at each, and the cluster of each."""
    random = torch.Generator().manual_seed(seed)
    label = torch.randint(CLASSES, (768,), generator=random)
    point = torch.randn(CLASSES, TELLING, generator=random)[label]
    looks = []
    for _ in range(2):
        telling = point + 0.5 * torch.randn(point.shape, generator=random)
        looks.append(torch.cat([telling, 2.0 * torch.randn(len(point), NOISE, generator=random)], 1))
    part = {"train": slice(0, 512), "val": slice(512, 640), "test": slice(640, 768)}
    tensors = {"look": looks[0], "other": looks[1], "label": label}
    splits = {name: TensorExamples({k: t[at] for k, t in tensors.items()}) for name, at in part.items()}
    return Dataset(name="demo", splits=splits, protocol={"split": "512/128/128"}, licence="CC0-1.0")

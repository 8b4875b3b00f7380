from __future__ import annotations

import pytest
import torch

from polycontrast.data import draws
from polycontrast.reference.views import dropped, noisy, shifted

DRAW = draws(3, torch.arange(500))


def test_noise_is_of_the_sample_and_of_the_stream() -> None:
    x = torch.zeros(500, 4, 5)
    first = noisy(x, DRAW, 2.0, stream=0)
    assert float(first.std()) == pytest.approx(2.0, rel=0.02)
    assert torch.equal(noisy(x[7:9], DRAW[7:9], 2.0, stream=0), first[7:9])
    assert abs(float((first * noisy(x, DRAW, 2.0, stream=1)).mean())) < 0.1
    assert noisy(x, DRAW, 0.0, stream=0) is x


def test_a_share_is_dropped() -> None:
    out = dropped(torch.ones(500, 40), DRAW, 0.3, stream=2)
    assert set(out.unique().tolist()) == {0.0, 1.0}
    assert float(out.mean()) == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("shape", [(6, 5), (2, 6, 5)])
def test_images_move_whole(shape: tuple[int, ...]) -> None:
    x = torch.rand(500, *shape)
    out = shifted(x, DRAW, 1, -9.0, stream=0)
    seen = set()
    for image, moved in zip(x, out, strict=True):
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                expected = torch.full_like(image, -9.0)
                h, w = shape[-2:]
                to = (slice(max(-down, 0), h - max(down, 0)), slice(max(-right, 0), w - max(right, 0)))
                source = (slice(max(down, 0), h - max(-down, 0)), slice(max(right, 0), w - max(-right, 0)))
                expected[(..., *to)] = image[(..., *source)]
                if torch.equal(expected, moved):
                    seen.add((down, right))
                    break
            else:
                continue
            break
        else:
            pytest.fail("an image was not moved whole")
    assert len(seen) == 9
    assert shifted(x, DRAW, 0, 0.0, stream=0) is x

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from polycontrast.data import draws
from polycontrast.errors import ConfigError
from polycontrast_rl.taco.augmentation import draw_shifts, random_shift
from polycontrast_rl.taco.networks import ACTION_LIMIT, ActionEncoder, Encoder, log_probability, sample_action
from polycontrast_rl.taco.schedule import scheduled


@pytest.mark.parametrize("shape", [(5, 9, 16, 16), (3, 2, 11, 20), (1, 1, 9, 8)])
@pytest.mark.parametrize("pad", [1, 4])
def test_shift_is_a_crop_of_the_padded_image(shape: tuple[int, ...], pad: int) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randint(0, 256, shape, dtype=torch.uint8, generator=g)
    shift = torch.randint(0, 2 * pad + 1, (shape[0], 2), generator=g)
    moved = random_shift(x, shift, pad)
    for i, (column, row) in enumerate(shift.tolist()):
        wide = functional.pad(x[i : i + 1].double(), (pad,) * 4, "replicate")[0]
        assert torch.equal(moved[i].double(), wide[:, row : row + shape[2], column : column + shape[3]])
    assert moved.dtype == torch.uint8


def test_the_middle_shift_and_no_shift_leave_images_alone() -> None:
    x = torch.arange(2 * 3 * 8 * 8).view(2, 3, 8, 8)
    assert torch.equal(random_shift(x, torch.full((2, 2), 4), 4), x)
    assert torch.equal(random_shift(x, torch.zeros(2, 2, dtype=torch.int64), 0), x)


def test_every_shift_is_equally_likely_and_a_function_of_the_key() -> None:
    key = draws(0, torch.arange(20_000))
    shift = draw_shifts(key, 2, stream=1)
    counts = torch.bincount(5 * shift[:, 0] + shift[:, 1], minlength=25)
    assert counts.min() > 650
    assert counts.max() < 950
    assert torch.equal(draw_shifts(key[7:9], 2, stream=1), shift[7:9])
    assert not torch.equal(draw_shifts(key, 2, stream=2), shift)


@pytest.mark.parametrize(
    ("text", "step", "value"),
    [
        ("0.2", 7, 0.2), ("linear(1.0,0.1,100)", 50, 0.55), (" linear( 1, 0.1 , 100 )", 1000, 0.1),
        ("step_linear(1.0,0.5,10,0.1,10)", 10, 0.5), ("step_linear(1.0,0.5,10,0.1,10)", 15, 0.3),
    ],
)  # fmt: skip
def test_schedule(text: str, step: int, value: float) -> None:
    assert scheduled(text, step) == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "linear(1,2)", "cosine(1,2,3)", "linear(a,b,c)"])
def test_unknown_schedules_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"is not understood; write 0\.2, linear"):
        scheduled(text, 0)


def test_encoder_in_parts_is_the_encoder() -> None:
    net = Encoder((9, 84, 84)).double()
    x = torch.randint(0, 256, (40, 9, 84, 84), dtype=torch.uint8)
    h = net(x)  # more than one part
    assert h.shape == (40, 39200)
    alone = net.convolutions(x[33:34].double() / 255 - 0.5).flatten(1)
    torch.testing.assert_close(h[33:34], alone, rtol=1e-12, atol=1e-12)


def test_images_too_small_for_the_encoder() -> None:
    with pytest.raises(ConfigError, match="images of 8 x 8 pixels are too small for 4 layers"):
        Encoder((9, 8, 8))


@pytest.mark.parametrize(("actions", "code"), [(1, 2), (2, 3), (4, 6), (6, 8), (21, 27)])
def test_length_of_an_action_code(actions: int, code: int) -> None:
    assert ActionEncoder(actions)(torch.zeros(3, 5, actions)).shape == (3, 5, code)


def test_codes_of_discrete_actions_are_a_table() -> None:
    encoder = ActionEncoder(4, 7, discrete=True)
    u = encoder(torch.tensor([[0, 3], [3, 1]]))
    assert u.shape == (2, 2, 7)
    assert torch.equal(u[0, 1], u[1, 0])


def test_a_sampled_action_stays_in_the_box_and_passes_its_gradient_straight_through() -> None:
    mean = torch.tensor([[0.9, -0.2, 0.0]], requires_grad=True)
    noise = torch.tensor([[2.0, 0.1, -9.0]])
    free = sample_action(mean, 0.5, noise)
    torch.testing.assert_close(free, torch.tensor([[ACTION_LIMIT, -0.15, -ACTION_LIMIT]]))
    clipped = sample_action(mean, 0.5, noise, 0.3)
    torch.testing.assert_close(clipped, torch.tensor([[ACTION_LIMIT, -0.15, -0.3]]))
    clipped.sum().backward()
    assert torch.equal(mean.grad, torch.ones(1, 3))  # type: ignore[arg-type]


def test_log_probability_is_that_of_torch() -> None:
    mean, action = torch.randn(4, 3), torch.randn(4, 3)
    expected = torch.distributions.Normal(mean, 0.3).log_prob(action).sum(-1, keepdim=True)
    torch.testing.assert_close(log_probability(mean, 0.3, action), expected)

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from polycontrast_rl.taco.augmentation import draw_shifts, random_shift
from polycontrast_rl.taco.loss import TACOLoss

B, K, A = 6, 3, 2


class Small(nn.Module):
    """Images (B, 3, 4, 4) to 10 numbers."""

    repr_dim = 10

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(48, 10)

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.linear(images.flatten(1).to(self.linear.weight.dtype) / 255 - 0.5))


def module(**options: Any) -> TACOLoss:
    torch.manual_seed(0)
    return TACOLoss(Small(), A, K, feature_dim=5, hidden=8, **options).double()


def batch(n: int = B) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(1)
    images = [torch.randint(0, 256, (n, 3, 4, 4), dtype=torch.uint8, generator=g) for _ in range(2)]
    actions = torch.rand(n, K, A, generator=g, dtype=torch.float64) * 2 - 1
    return {"obs": images[0], "action_seq": actions, "obs_K": images[1], "reward": actions[:, 0, :1] + 0.5}


def slow_infonce(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    total = torch.zeros((), dtype=x.dtype)
    for i in range(len(x)):
        scores = [x[i] @ w @ y[j] for j in range(len(y))]
        total = total - scores[i] + torch.stack(scores).logsumexp(0)
    return total / len(x)


def parts(loss: TACOLoss, b: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """z, q and y without augmentation."""
    z = loss.project(loss.encoder(b["obs"]))
    q = loss.predict(torch.cat([z, loss.sequence_code(b["action_seq"])], 1))
    return z, q, loss.project(loss.encoder(b["obs_K"]))


def test_against_loops() -> None:
    loss, b = module(), batch()
    z, q, y = parts(loss, b)
    terms = loss(**b)
    torch.testing.assert_close(terms["taco"], slow_infonce(q, y, loss.W))
    torch.testing.assert_close(terms["curl"], slow_infonce(z, z, loss.W))
    head = loss.reward(torch.cat([z, loss.sequence_code(b["action_seq"])], 1))
    torch.testing.assert_close(terms["reward"], (head - b["reward"]).square().mean())
    hits = ((q @ loss.W @ y.T).argmax(1) == torch.arange(B)).double().mean()
    assert float(terms["accuracy"]) == pytest.approx(float(hits))


def test_only_the_anchor_gets_a_gradient() -> None:
    loss, b = module(use_curl=False, use_reward=False), batch()
    loss(**b)["taco"].backward()
    given = loss.encoder.linear.weight.grad.clone()  # type: ignore[union-attr]
    loss.zero_grad()
    _, q, y = parts(loss, b)
    slow_infonce(q, y.detach(), loss.W).backward()
    torch.testing.assert_close(given, loss.encoder.linear.weight.grad)


def test_order_of_the_batch_does_not_matter() -> None:
    loss, b = module(), batch()
    order = torch.randperm(B, generator=torch.Generator().manual_seed(3))
    for name, value in loss(**{k: v[order] for k, v in b.items()}).items():
        torch.testing.assert_close(value, loss(**b)[name])


def test_switched_off_parts_do_not_exist() -> None:
    loss = module(use_reward=False, use_curl=False)
    assert set(loss(**batch())) == {"taco", "accuracy"}
    assert not [name for name, _ in loss.named_parameters() if name.startswith("reward")]
    curl = module(use_taco=False, use_reward=False)
    assert curl.action_encoder is None
    assert set(curl(**batch())) == {"curl", "curl_accuracy"}


def test_augmentation_is_drawn_anew_for_each_of_the_three() -> None:
    seen: list[Tensor] = []

    def aug(images: Tensor) -> Tensor:
        seen.append(random_shift(images, draw_shifts(torch.arange(len(images)), 1, stream=len(seen)), 1))
        return seen[-1]

    module()(**batch(), aug=aug)
    assert len(seen) == 3
    assert not torch.equal(seen[0], seen[1])


def test_the_present_frame_as_a_wrong_answer() -> None:
    b = batch()
    plain, harder = module(use_curl=False), module(use_curl=False, in_episode_negatives=True)
    z, q, y = parts(harder, b)
    scores = torch.cat([q @ harder.W @ y.T, ((q @ harder.W) * z).sum(1, keepdim=True)], 1)
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(B))
    torch.testing.assert_close(harder(**b)["taco"], expected)
    assert harder(**b)["taco"] > plain(**b)["taco"]


def test_both_directions() -> None:
    loss, b = module(symmetric=True), batch()
    _, q, y = parts(loss, b)
    scores, labels = q @ loss.W @ y.T, torch.arange(B)
    both = [torch.nn.functional.cross_entropy(s, labels) for s in (scores, scores.T)]
    torch.testing.assert_close(loss(**b)["taco"], (both[0] + both[1]) / 2)


def test_averaged_keys_follow_slowly() -> None:
    loss, b = module(key_momentum=0.9), batch()
    before = loss.key(b["obs_K"])
    torch.testing.assert_close(before, loss.project(loss.encoder(b["obs_K"])))
    with torch.no_grad():
        loss.encoder.linear.weight.add_(1.0)
    assert torch.equal(loss.key(b["obs_K"]), before)
    loss.update_keys()
    assert not torch.equal(loss.key(b["obs_K"]), before)


@pytest.mark.parametrize("objective", ["siglip", "triplet", "vse"])
def test_other_objectives_learn_from_the_same_scores(objective: str) -> None:
    loss = module(objective=objective, use_reward=False)
    terms = loss(**batch())
    assert all(torch.isfinite(value) for value in (terms["taco"], terms["curl"]))
    (terms["taco"] + terms["curl"]).backward()
    assert float(loss.W.grad.abs().sum()) > 0  # type: ignore[union-attr]


def test_discrete_actions() -> None:
    torch.manual_seed(0)
    loss = TACOLoss(Small(), 5, K, feature_dim=5, hidden=8, discrete=True)
    b = {**batch(), "action_seq": torch.randint(0, 5, (B, K)), "reward": torch.zeros(B, 1)}
    terms = loss(**b)
    sum(terms[name] for name in ("taco", "curl", "reward")).backward()  # type: ignore[union-attr]
    assert float(loss.action_encoder.layers.weight.grad.abs().sum()) > 0  # type: ignore[union-attr]


def test_in_anyones_loop_it_falls() -> None:
    loss, b = module(), batch()
    optimiser = torch.optim.Adam(loss.parameters(), lr=1e-2)
    values = []
    for _ in range(40):
        terms = loss(**b)
        total = terms["taco"] + terms["curl"] + terms["reward"]
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
        values.append(float(total.detach()))
    assert values[-1] < 0.5 * values[0]


def test_bad_calls() -> None:
    with pytest.raises(ValueError, match="K must be at least 1, got 0"):
        TACOLoss(Small(), A, 0)
    with pytest.raises(ValueError, match="symmetric and in_episode_negatives belong to infonce, not to siglip"):
        module(objective="siglip", symmetric=True)
    with pytest.raises(ValueError, match="the reward term needs reward"):
        module()(**{**batch(), "reward": None})

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

pytest.importorskip("pandas")

from polycontrast.errors import ConfigError
from polycontrast_timeseries.autotcl.encoder import (
    CausalMean,
    CoSTEncoder,
    HasTrunk,
    TransformerEncoder,
    build,
    causal_convolution,
    last_step,
    pooled,
)


def plain(encoder: CoSTEncoder, x: torch.Tensor) -> torch.Tensor:
    """As the paper writes it: all taps, and the mean of the results of all kernels."""
    z = encoder.input(x).transpose(1, 2)
    for block in encoder.blocks:
        z = block.conv2(F.gelu(block.conv1(F.gelu(z)))) + block.project(z)
    found = [
        F.conv1d(F.pad(z, (len(w) - 1, 0)), w.permute(2, 1, 0), b)
        for w, b in zip(encoder.head.weights, encoder.head.biases, strict=True)
    ]
    return torch.stack(found).mean(0).transpose(1, 2)


@pytest.mark.parametrize(("length", "taps"), [(257, 128), (64, 32), (65, 33), (1000, 128), (70, 128), (513, 40)])
def test_blocks_and_fourier_transforms_change_nothing(length: int, taps: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, length, 5, dtype=torch.float64, requires_grad=True)
    kernel = torch.randn(taps, 5, 7, dtype=torch.float64, requires_grad=True)
    ours = causal_convolution(x, kernel)
    theirs = F.conv1d(F.pad(x.transpose(1, 2), (taps - 1, 0)), kernel.permute(2, 1, 0)).transpose(1, 2)
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    weight = torch.randn_like(ours)
    grads = [torch.autograd.grad((y * weight).sum(), (x, kernel)) for y in (ours, theirs)]
    torch.testing.assert_close(*grads, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("length", [20, 100, 201])
def test_fused_head_and_skipped_taps_equal_the_plain_encoder(length: int) -> None:
    torch.manual_seed(0)
    encoder = CoSTEncoder(3, 16, hidden=8)
    x = torch.randn(2, length, 3)
    torch.testing.assert_close(encoder(x), plain(encoder, x), rtol=0, atol=1e-6)
    torch.testing.assert_close(encoder.last(x), plain(encoder, x)[:, -1], rtol=0, atol=1e-6)
    torch.testing.assert_close(encoder.trunk(x, 5), encoder.trunk(x)[:, -5:], rtol=0, atol=1e-6)


def test_half_precision_stays_near() -> None:
    torch.manual_seed(0)
    encoder = CoSTEncoder(3, 16, hidden=8)
    x = torch.randn(2, 100, 3)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = encoder(x)
    full = encoder(x)
    torch.testing.assert_close(half.detach(), full.detach(), rtol=0, atol=0.05 * float(full.detach().abs().max()))


def test_kernels_may_come_in_any_order() -> None:
    torch.manual_seed(0)
    head = CausalMean(4, (8, 1, 3))
    x = torch.randn(2, 30, 4)
    parts = [
        F.conv1d(F.pad(x.transpose(1, 2), (len(w) - 1, 0)), w.permute(2, 1, 0), b).transpose(1, 2)
        for w, b in zip(head.weights, head.biases, strict=True)
    ]
    torch.testing.assert_close(head(x), torch.stack(parts).mean(0))


@pytest.mark.parametrize(("name", "causal"), [("cost", True), ("dilated", True), ("transformer", False)])
def test_causal_encoders_do_not_see_the_future(name: str, causal: bool) -> None:
    torch.manual_seed(0)
    encoder = build(name, 3, 8, hidden=8, depth=4, kernels=(1, 2, 4), causal=causal).eval()
    x = torch.randn(2, 40, 3)
    other = x.clone()
    other[:, 25:] = torch.randn(2, 15, 3)
    torch.testing.assert_close(encoder(x)[:, :25], encoder(other)[:, :25])
    assert not torch.allclose(encoder(x)[:, 25:], encoder(other)[:, 25:])
    torch.testing.assert_close(last_step(encoder, x), encoder(x)[:, -1])


def test_the_usual_trunk_sees_its_future() -> None:
    encoder = CoSTEncoder(3, 8, hidden=8, depth=2, kernels=(1,))
    x = torch.randn(1, 20, 3)
    other = x.clone()
    other[:, 15:] = 0
    assert not torch.allclose(encoder(x)[:, 14], encoder(other)[:, 14])


class Own(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


class Wrong(Own):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).transpose(1, 2)


def not_a_module(channels: int, out: int) -> str:
    return "encoder"


HOW: dict[str, Any] = {"hidden": 8, "depth": 2, "kernels": (1, 2)}


class TestBackbones:
    def test_by_name(self) -> None:
        assert isinstance(build("transformer", 3, 8, **HOW), TransformerEncoder)
        assert build("dilated", 3, 8, **HOW).head is None
        assert isinstance(build("cost", 3, 8, **HOW), HasTrunk)

    def test_of_ones_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import sys

        monkeypatch.setitem(sys.modules, "own_encoders", sys.modules[__name__])
        found = build("own_encoders:Own", 3, 8, **HOW)
        assert found(torch.zeros(2, 5, 3)).shape == (2, 5, 8)
        for name, message in (
            ("own_encoders:Wrong", r"maps \(2, 24, 3\) to \(2, 8, 24\); it must give \(2, 24, 8\)"),
            ("own_encoders:Missing", "cannot be imported"),
            ("no_such_module:Own", "cannot be imported"),
            ("own_encoders:not_a_module", "gave a str; it must give a torch.nn.Module"),
        ):
            with pytest.raises(ConfigError, match=message):
                build(name, 3, 8, **HOW)


def test_pooling_leaves_out_what_was_not_seen() -> None:
    z = torch.tensor([[[1.0], [5.0], [3.0]], [[1.0], [5.0], [3.0]]])
    seen = torch.tensor([[True, False, True], [False, False, False]])
    assert pooled(z, seen).tolist() == [[3.0], [5.0]]
    assert pooled(z).tolist() == [[5.0], [5.0]]

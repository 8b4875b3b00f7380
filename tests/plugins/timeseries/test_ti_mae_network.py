from __future__ import annotations

import math
from functools import partial

import pytest
import torch
from torch import nn

pytest.importorskip("pandas")

from polycontrast_timeseries.ti_mae.chunks import mean_over_parts
from polycontrast_timeseries.ti_mae.masking import random_mask
from polycontrast_timeseries.ti_mae.network import Block, TiMAENetwork, sinusoidal_positions

SMALL = {
    "width": 8, "heads": 2, "layers": 2, "decoder_width": 4, "decoder_heads": 2, "decoder_layers": 1, "dropout": 0.0
}  # fmt: skip


def network(channels: int = 3, targets: list[int] | None = None, **how) -> TiMAENetwork:
    torch.manual_seed(0)
    built = TiMAENetwork(channels, targets, **{**SMALL, **how}).double()
    nn.init.normal_(built.mask_token)
    return built


@pytest.fixture
def x():
    return torch.randn(4, 16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def keep():
    return random_mask(torch.rand(4, 16, generator=torch.Generator().manual_seed(2)), 0.75)


@pytest.mark.parametrize("width", [1, 5, 8])
def test_positions(width):
    table = sinusoidal_positions(7, width, dtype=torch.float64)
    assert table.shape == (7, width)
    for step in range(7):
        for column in range(width):
            angle = step / 10000 ** (column // 2 * 2 / width)
            assert table[step, column].item() == pytest.approx((math.sin, math.cos)[column % 2](angle), abs=1e-12)


def test_parameters_at_the_papers_sizes():
    """The layer list of the specification, for 7 channels."""
    sizes = {name: p.numel() for name, p in TiMAENetwork(7).named_parameters()}
    total = lambda prefix: sum(n for name, n in sizes.items() if name.startswith(prefix))  # noqa: E731
    assert total("embedding.") == 64 * 7 * 3 + 64
    assert total("encoder.0.") == 49_984
    assert total("encoder_norm.") == 128
    assert total("bridge.") == 2_080
    assert total("mask_token") == 32
    assert total("decoder.1.") == 12_704
    assert total("decoder_norm.") + total("output.") == 64 + 33 * 7
    assert not TiMAENetwork(7).mask_token.any()


def test_query_key_and_value_begin_as_layers_of_their_own():
    weight = TiMAENetwork(7).encoder[0].qkv.weight
    bound = math.sqrt(6 / (64 + 64))  # Glorot & Bengio 2010, of 64 to 64
    for part in weight.chunk(3):
        assert 0.95 * bound < part.abs().max() <= bound


def test_block_is_torchs_pre_norm_layer():
    ours = Block(8, 2, 4, 0.0).double()
    theirs = nn.TransformerEncoderLayer(8, 2, 32, 0.0, "gelu", batch_first=True, norm_first=True).double()
    theirs.load_state_dict({
        "self_attn.in_proj_weight": ours.qkv.weight, "self_attn.in_proj_bias": ours.qkv.bias,
        "self_attn.out_proj.weight": ours.out.weight, "self_attn.out_proj.bias": ours.out.bias,
        "linear1.weight": ours.expand.weight, "linear1.bias": ours.expand.bias,
        "linear2.weight": ours.contract.weight, "linear2.bias": ours.contract.bias,
        "norm1.weight": ours.attention_norm.weight, "norm1.bias": ours.attention_norm.bias,
        "norm2.weight": ours.mlp_norm.weight, "norm2.bias": ours.mlp_norm.bias,
    })  # fmt: skip
    z = torch.randn(3, 5, 8, dtype=torch.float64)
    valid = torch.rand(3, 5) < 0.7
    valid[:, 0] = True
    torch.testing.assert_close(ours(z), theirs(z))
    torch.testing.assert_close(ours(z, valid), theirs(z, src_key_padding_mask=~valid))


def test_visible_tokens_may_be_in_any_order(x, keep):
    net = network()
    other = keep.flip(1)
    torch.testing.assert_close(net(x, keep), net(x, other))


@pytest.mark.parametrize("how", [{}, {"leak_free": True}, {"revin": True}, {"leak_free": True, "revin": True}])
def test_what_the_encoder_sees_of_hidden_steps(x, keep, how):
    """Nothing with ``leak_free``; with the paper's embedding the visible neighbours carry it."""
    net = network(**how)
    hidden = torch.ones(4, 16, dtype=torch.bool).scatter(1, keep, False)
    other = torch.where(hidden.unsqueeze(2), x + 5.0, x)
    same = torch.allclose(net.encode(net.view(x, keep)), net.encode(net.view(other, keep)), atol=1e-12)
    assert same == bool(how.get("leak_free", False))


def test_a_kernel_of_one_does_not_leak(x, keep):
    net = network(embed_kernel=1)
    hidden = torch.ones(4, 16, dtype=torch.bool).scatter(1, keep, False)
    other = torch.where(hidden.unsqueeze(2), x + 5.0, x)
    torch.testing.assert_close(net(x, keep), net(other, keep))


def test_leak_free_is_the_plain_embedding_when_nothing_is_hidden(x):
    net = network()
    plain = net.view(x).tokens
    net.leak_free = True
    torch.testing.assert_close(net.view(x).tokens, plain)


def test_leak_free_divides_by_the_visible_share():
    net = network(channels=1, leak_free=True, positions=False)
    nn.init.ones_(net.embedding.weight)
    nn.init.zeros_(net.embedding.bias)
    x = torch.arange(1.0, 7.0, dtype=torch.float64).view(1, 6, 1)
    keep = torch.tensor([[0, 1, 3, 5]])
    # taps in sight: 1 2 | 1 2 (of 3) | 4 (of 3) | 6 (of 2)
    expected = torch.tensor([3.0, 3 * 3 / 2, 4 * 3.0, 6 * 2.0], dtype=torch.float64)
    torch.testing.assert_close(net.view(x, keep).tokens[0, :, 0], expected)


def test_revin_is_blind_to_level_and_scale(x, keep):
    net = network(revin=True)
    shift, scale = torch.randn(4, 1, 3, dtype=torch.float64), torch.rand(4, 1, 3, dtype=torch.float64) + 2.0
    torch.testing.assert_close(net(x * scale + shift, keep), net(x, keep) * scale + shift, rtol=1e-3, atol=1e-3)


def test_missing_steps_are_as_if_they_were_hidden(x, keep):
    """Whatever is shown of a step without a value, the answer is that of the other steps."""
    net = network(leak_free=True)
    missing = torch.zeros_like(x, dtype=torch.bool)
    missing.scatter_(1, keep[:, :2].unsqueeze(2).expand(-1, -1, 1), True)  # one channel of two visible steps
    view = net.view(x, keep, missing=missing)
    torch.testing.assert_close(net.decode(net.encode(view), view, 16), net(x, keep[:, 2:]))
    everything = torch.ones_like(missing)
    view = net.view(torch.zeros_like(x), keep, missing=everything)
    assert net.decode(net.encode(view), view, 16).isfinite().all()


def test_targets_are_some_channels(x, keep):
    net = network(targets=[2], revin=True)
    assert net(x, keep).shape == (4, 16, 1)
    torch.testing.assert_close(net(x + torch.tensor([0.0, 0.0, 7.0]), keep), net(x, keep) + 7.0)


def test_forecast_depends_on_the_context_alone(x):
    net = network()
    past = net.view(x[:, :12])
    longer = net.decode(net.encode(past), past, 16)
    assert longer.shape == (4, 16, 3)


class TestMeanOverParts:
    """Sums of parts, differentiated one by one."""

    def parts(self, weight):
        def part(shared, *, factor):
            value = (shared * weight * factor).sin()
            return value.sum(), torch.tensor(float(value.numel()))

        return [partial(part, factor=f) for f in (1.0, 2.0, 3.5)]

    def test_is_the_mean_with_its_gradients(self):
        weight, start = nn.Parameter(torch.randn(5)), nn.Parameter(torch.randn(2, 5))
        shared = start * 2
        chunked = 3 * mean_over_parts(self.parts(weight), [weight], shared)
        chunked.backward()
        gradients = weight.grad.clone(), start.grad.clone()
        weight.grad = start.grad = None
        plain = 3 * torch.stack([(start * 2 * weight * f).sin() for f in (1.0, 2.0, 3.5)]).mean()
        plain.backward()
        torch.testing.assert_close(chunked, plain)
        torch.testing.assert_close(gradients, (weight.grad, start.grad))

    def test_without_gradients(self):
        weight = nn.Parameter(torch.randn(5))
        with torch.no_grad():
            assert not mean_over_parts(self.parts(weight), [weight], torch.randn(2, 5)).requires_grad
        weight.requires_grad_(False)
        assert not mean_over_parts(self.parts(weight), [weight], torch.randn(2, 5)).requires_grad

    def test_nothing_counted(self):
        weight = nn.Parameter(torch.ones(2))
        parts = [lambda shared: ((weight * 0).sum(), torch.tensor(0.0))] * 2
        assert mean_over_parts(parts, [weight]).item() == 0.0

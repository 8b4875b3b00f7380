"""Rules of Ti-MAE; the README beside its files says what each holds."""

from __future__ import annotations

from golden.rules import Case, rule
from polycontrast_timeseries.ti_mae.masking import hidden_steps, random_mask
from polycontrast_timeseries.ti_mae.network import TiMAENetwork, sinusoidal_positions

# Names of the golden weights, and of ours.
_NAMES = {
    "emb": "embedding", "en": "encoder_norm", "d2": "bridge", "mt": "mask_token", "dn": "decoder_norm", "out": "output",
    "enc": "encoder", "dec": "decoder", "n1": "attention_norm", "qkv": "qkv", "o": "out", "n2": "mlp_norm",
    "f1": "expand", "f2": "contract",
}  # fmt: skip


def _ours(golden: str) -> str:
    return ".".join(_NAMES.get(part, part) for part in golden.split("__"))


@rule("ti_mae", "masking")
def masking(case: Case) -> None:
    noise = case.tensor("noise")
    keep = random_mask(noise, case.number("ratio"))
    case.same("keep", keep)
    case.same("mask", hidden_steps(keep, noise.shape[1]).double())


@rule("ti_mae", "positional")
def positional(case: Case) -> None:
    base = case.number("position_base")
    for name in case.names("pe_"):
        length, width = case.array(name).shape
        table = sinusoidal_positions(length, width, base=base, dtype=case.tensor(name).dtype)
        case.close(name, table)


@rule("ti_mae", "forward")
def forward(case: Case) -> None:
    x = case.tensor("x")
    length, channels = x.shape[1:]
    network = TiMAENetwork(
        channels,
        width=case.integer("width"),
        layers=case.integer("encoder_layers"),
        heads=case.integer("heads"),
        decoder_width=case.integer("decoder_width"),
        decoder_layers=case.integer("decoder_layers"),
        decoder_heads=case.integer("heads"),
        ff_multiplier=case.integer("ff_multiplier"),
        embed_kernel=case.integer("conv_kernel"),
        dropout=case.number("dropout"),
    ).to(x.dtype)
    network.load_state_dict({_ours(name.removeprefix("param__")): case.tensor(name) for name in case.names("param__")})
    case.same("layer_norm_eps", network.encoder_norm.eps)
    case.same("position_base", 10000.0)
    case.same("activation", "gelu_erf")

    keep = random_mask(case.tensor("noise"), case.number("ratio"))
    prediction = network(x, keep)
    hidden = hidden_steps(keep, length)
    loss = (prediction - x)[hidden].square().mean()
    case.close("pred", prediction)
    case.close("loss", loss)
    loss.backward()
    parameters = dict(network.named_parameters())
    for name in case.names("grad_"):
        ours = _ours(name.removeprefix("grad_"))
        case.close(name, parameters[ours if ours in parameters else f"{ours}.weight"].grad)  # type: ignore[arg-type]

    case.close("latent_full", network.encode(network.view(x)))
    horizon = case.integer("horizon")
    past = network.view(x[:, : length - horizon])
    case.close("forecast", network.decode(network.encode(past), past, length)[:, length - horizon :])

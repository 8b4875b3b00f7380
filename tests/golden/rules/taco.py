"""Rules of TACO and DrQ-v2; the README beside its files says what each holds. Those of the replay: rules/replay.py."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from golden.rules import Case, rule
from polycontrast_rl.taco.augmentation import random_shift
from polycontrast_rl.taco.drqv2 import VIEWS, Agent, Draws, actor_loss, critic_loss, target_value, update
from polycontrast_rl.taco.loss import TACOLoss
from polycontrast_rl.taco.networks import (
    ACTION_LIMIT,
    Encoder,
    log_probability,
    sample_action,
)
from polycontrast_rl.taco.schedule import scheduled

CLOSE = 1e-6
"""Of the specification, for the files whose arrays went through many float64 operations."""

_OURS = {
    "encoder.convnet.": "encoder.convolutions.", "taco.encoder.": "encoder.", "taco.act_tok.": "act_tok.",
    "act_tok.action_tokenizer.": "action_encoder.layers.", "act_tok.action_seq_tokenizer.": "sequence.",
    "taco.": "", "proj_sa.": "predict.", "proj_s.": "project.", ".Q1.": ".q1.", ".Q2.": ".q2.",
}  # fmt: skip


def _ours(golden: str) -> str:
    """Our name of a golden parameter, counted from TACOLoss or from the agent."""
    for theirs, ours in _OURS.items():
        golden = golden.replace(theirs, ours)
    return golden


class _Flat(nn.Module):
    """The small image encoder of the ``taco_*`` files."""

    def __init__(self, pixels: int, width: int, scale: float, offset: float) -> None:
        super().__init__()
        self.l = nn.Linear(pixels, width)
        self.scale, self.offset, self.repr_dim = scale, offset, width

    def forward(self, images: Tensor) -> Tensor:
        return torch.relu(self.l(images.flatten(1).to(self.l.weight.dtype) / self.scale + self.offset))


@rule("taco", "aug")
def augmentation(case: Case) -> None:
    x, shift = case.tensor("x"), case.tensor("shift_xy")
    pad = case.integer("pad")
    assert str(case.array("padding")) == "replicate"
    moved = random_shift(x, shift, pad)
    case.close("y", moved, tolerance=CLOSE)
    case.close("y_float32", moved.float(), tolerance=5e-3)
    if bool((x == x.round()).all()):
        assert torch.equal(random_shift(x.to(torch.uint8), shift, pad).to(x.dtype), moved)


@rule("taco", "schedule")
def schedule(case: Case) -> None:
    texts, steps = case.array("schedule"), case.array("step")
    case.close("value", [scheduled(str(text), int(step)) for text, step in zip(texts, steps, strict=True)])


@rule("taco", "encoder")
def encoder(case: Case) -> None:
    x = case.tensor("x")
    net = Encoder(x.shape[1:], case.array("channels").tolist(), case.array("strides").tolist(), case.integer("kernel"))
    net = net.double()
    given = case.names("encoder.convnet.")
    net.load_state_dict({_ours(name).removeprefix("encoder."): case.tensor(name) for name in given})
    case.same("input_scale", 255.0)
    case.same("input_offset", -0.5)
    h = net(x)
    loss = h.square().mean()
    loss.backward()
    case.same("h_shape", np.array(h.shape))
    case.close("h_mean", h.mean(1), tolerance=CLOSE)
    case.close("h_std", h.std(1), tolerance=CLOSE)
    case.close("h_sum", h.sum(1), tolerance=CLOSE)
    case.close("h_first512", h[:, :512], tolerance=CLOSE)
    case.close("h_last512", h[:, -512:], tolerance=CLOSE)
    case.close("loss", loss, tolerance=CLOSE)
    for name, parameter in net.named_parameters():
        case.close(f"grad.encoder.{name.replace('convolutions', 'convnet')}", parameter.grad, tolerance=CLOSE)


@rule("taco", "bilinear_infonce")
def bilinear_infonce(case: Case) -> None:
    x, y = case.tensor("z_a").requires_grad_(), case.tensor("z_pos").requires_grad_()
    module = TACOLoss(nn.Identity(), 1, 1, feature_dim=x.shape[1], hidden=2, repr_dim=3).double()
    module.load_state_dict({"W": case.tensor("W")}, strict=False)
    loss, _ = module.contrast(x, y)
    loss.backward()
    case.close("loss", loss, tolerance=CLOSE)
    case.close("logits", module.logits(x, y), tolerance=CLOSE)
    case.close("grad_z_a", x.grad, tolerance=CLOSE)
    case.close("grad_z_pos", y.grad, tolerance=CLOSE)
    case.close("grad_W", module.W.grad, tolerance=CLOSE)


@rule("taco", "taco")
def taco(case: Case) -> None:
    images = case.tensor("obs_anchor")
    actions, reward = case.tensor("action_seq"), case.tensor("reward")
    weights = {name: case.tensor(name) for name in case.names("taco.")}
    width, pixels = weights["taco.encoder.l.weight"].shape
    use_curl, use_reward = bool(case.array("use_curl")), bool(case.array("use_reward"))
    for name, used in (("taco", True), ("curl", use_curl), ("reward", use_reward)):
        case.same(f"{name}_weight", float(used))
    module = TACOLoss(
        _Flat(pixels, width, case.number("input_scale"), case.number("input_offset")),
        actions.shape[2],
        case.integer("K"),
        case.integer("latent_action_dim"),
        case.integer("feature_dim"),
        case.integer("hidden_dim"),
        use_curl,
        use_reward,
    ).double()
    ours = {_ours(name): name for name in weights}
    # The files hold the weights of a head that is switched off, too.
    known = module.state_dict().keys()
    left = module.load_state_dict({o: weights[n] for o, n in ours.items() if o in known}, strict=False)
    assert not left.missing_keys

    views = iter([case.tensor("obs_pos"), images, case.tensor("obs_next_K")] if use_curl else
                 [images, case.tensor("obs_next_K")])  # fmt: skip
    terms = module(images, actions, case.tensor("obs_next_K"), reward, lambda _: next(views))
    total = sum(terms[name] for name in ("taco", "curl", "reward") if name in terms)
    total.backward()
    for name in ("taco", "curl", "reward"):
        case.close(f"{name}_loss", terms.get(name, torch.zeros(())).double(), tolerance=CLOSE)
    case.close("total_loss", total, tolerance=CLOSE)

    z = module.project(module.encoder(images))
    z_pos, y = module.key(case.tensor("obs_pos")), module.key(case.tensor("obs_next_K"))
    u = module.sequence_code(actions)
    q = module.predict(torch.cat([z, u], 1))
    case.close("z_anchor", z, tolerance=CLOSE)
    case.close("z_pos", z_pos, tolerance=CLOSE)
    case.close("z_next", y, tolerance=CLOSE)
    case.close("u_single", module.action_encoder(case.tensor("action")), tolerance=CLOSE)  # type: ignore[misc]
    case.close("u_seq", u, tolerance=CLOSE)
    case.close("proj_sa", q, tolerance=CLOSE)
    case.close("taco_logits", module.logits(q, y), tolerance=CLOSE)
    case.close("curl_logits", module.logits(z, z_pos), tolerance=CLOSE)
    if use_reward:
        case.close("reward_pred", module.reward(torch.cat([z, u], 1)), tolerance=CLOSE)
    elif "reward_pred" in case:
        case.skip("reward_pred", reason="the reward head is switched off, and we have none then")
    _compare_gradients(case, "grad.", ours, dict(module.named_parameters()))


def _compare_gradients(
    case: Case, prefix: str, ours: Mapping[str, str], parameters: Mapping[str, nn.Parameter]
) -> None:
    """Every ``grad.NAME``, an empty one meaning none. ``ours`` maps our names to theirs."""
    for own, golden in ours.items():
        name = prefix + golden
        if case.array(name).size == 0:
            assert own not in parameters or parameters[own].grad is None, f"{name}: the reference has no gradient"
        else:
            case.close(name, parameters[own].grad, tolerance=CLOSE)  # type: ignore[arg-type]


@rule("taco", "actor_critic")
def actor_critic(case: Case) -> None:
    h, action = case.tensor("h").requires_grad_(), case.tensor("action")
    h_next = case.tensor("h_next")
    width, size = h.shape[1], action.shape[1]
    feature, hidden, latent = (case.integer(name) for name in ("feature_dim", "hidden_dim", "latent_action_dim"))
    features = nn.Identity()
    features.repr_dim = width  # type: ignore[assignment]
    module = None
    if bool(case.array("use_action_encoder")):
        module = TACOLoss(features, size, case.integer("K"), latent, feature, hidden)
    else:
        case.same("K", 0)
    agent = Agent(
        features, size, feature_dim=feature, hidden=hidden, target_rate=case.number("tau"), taco=module
    ).double()
    given = [n for n in case.names() if n.split(".")[0] in ("actor", "critic", "act_tok")]
    ours = {(f"taco.{o}" if n.startswith("act_tok") else o): n for n in given for o in [_ours(n)]}
    state = {o: case.tensor(n) for o, n in ours.items()}
    state |= {_target(n): case.tensor(n) for n in case.names("target.")}
    agent.load_state_dict(state, strict=False)
    assert case.number("action_limit") == ACTION_LIMIT
    std, clip = scheduled(str(case.array("schedule")), case.integer("step")), case.number("clip")
    case.close("std", std)

    noise = case.tensor("noise_target")
    batch = {"reward": case.tensor("reward"), "discount": case.tensor("discount")}
    next_action = sample_action(agent.actor(h_next), std, noise, clip)
    case.close("next_action", next_action, tolerance=CLOSE)
    for i, value in enumerate(agent.target(h_next, agent.code(next_action)), 1):
        case.close(f"target_q{i}", value, tolerance=CLOSE)
    target = target_value(agent, batch, h_next, noise, std, clip)
    case.close("target_q", target, tolerance=CLOSE)

    adam = {
        "lr": case.number("lr"), "betas": (case.number("adam_beta1"), case.number("adam_beta2")),
        "eps": case.number("adam_eps"),
    }  # fmt: skip
    loss, q1, q2 = critic_loss(agent, h, action, target)
    case.close("q1", q1, tolerance=CLOSE)
    case.close("q2", q2, tolerance=CLOSE)
    case.close("critic_loss", loss, tolerance=CLOSE)
    optimiser = torch.optim.Adam(agent.critic.parameters(), **adam)  # this case does not step the action encoder
    loss.backward()
    case.close("grad.h", h.grad, tolerance=CLOSE)
    parameters = dict(agent.named_parameters())
    if module is not None:  # the agent lists the shared action encoder under its first name
        parameters |= {f"taco.{n}": p for n, p in module.named_parameters()}
    _compare_gradients(case, "grad.", {o: n for o, n in ours.items() if not n.startswith("actor")}, parameters)
    optimiser.step()
    agent.zero_grad()

    loss, mean, drawn = actor_loss(agent, h, case.tensor("noise_actor"), std, clip)
    case.close("actor_mean", mean, tolerance=CLOSE)
    case.close("actor_action", drawn, tolerance=CLOSE)
    case.close("actor_logprob", log_probability(mean, std, drawn), tolerance=CLOSE)
    case.close("actor_loss", loss, tolerance=CLOSE)
    optimiser = torch.optim.Adam(agent.actor.parameters(), **adam)
    loss.backward()
    _compare_gradients(case, "grad.", {o: n for o, n in ours.items() if n.startswith("actor")}, parameters)
    optimiser.step()
    agent.target.update(agent.critic)
    state = agent.state_dict()
    for name in case.names("after."):
        golden = name.removeprefix("after.")
        case.close(name, state[_target(golden) if golden.startswith("target.") else _ours(golden)], tolerance=CLOSE)


def _target(golden: str) -> str:
    return _ours(golden).replace("target.", "target.model.")


def _closed_form(shape: torch.Size, j: int) -> Tensor:
    """Weights of the ``full_update_*`` files, README."""
    k = torch.arange(shape.numel(), dtype=torch.float64)
    wave = torch.sin(0.37 * k + 1.1 * j + 0.5)
    if len(shape) == 1:
        return 0.05 * wave
    scale = (2.0 if len(shape) == 4 else 1.0) * (2.0 / shape[1:].numel()) ** 0.5
    return (scale * wave).view(shape)


def _closed_form_images(n: int, shape: tuple[int, ...], c: float) -> Tensor:
    pixels = int(np.prod(shape))
    k = torch.arange(n * pixels, dtype=torch.float64)
    wave = torch.sin(0.013 * k * (1 + 0.01 * c) + c + 0.9 * torch.floor(k / pixels))
    return torch.floor(127.5 + 127.5 * wave).clamp(0, 255).to(torch.uint8).view(n, *shape)


def _agent(case: Case, size: int) -> Agent:
    images = tuple(int(n) for n in case.array("image_shape"))
    net = Encoder(images, case.array("conv_channels").tolist(), case.array("conv_strides").tolist(),
                  case.integer("conv_kernel"))  # fmt: skip
    curl, reward = bool(case.array("curl")), bool(case.array("reward_head"))
    feature, hidden = case.integer("feature_dim"), case.integer("hidden")
    case.same("hidden_dim", hidden)
    uses_taco = case.number("taco_weight") > 0
    for name, used in (("curl", curl), ("reward", reward), ("taco", uses_taco)):
        case.same(f"{name}_weight", float(used))
    case.same("use_action_encoder", uses_taco or reward)
    module = None
    if uses_taco or curl or reward:
        module = TACOLoss(
            net, size, case.integer("K"), case.integer("latent_action_dim"), feature, hidden, curl, reward,
            use_taco=uses_taco, action_hidden=case.integer("action_encoder_hidden"),
        )  # fmt: skip
    else:
        case.skip("action_encoder_hidden", reason="DrQ-v2 has no action encoder")
        case.same("latent_action_dim", 0)
    agent = Agent(net, size, feature_dim=feature, hidden=hidden, target_rate=case.number("tau"), taco=module)
    assert case.number("layer_norm_eps") == agent.actor.trunk[1].eps
    return agent.double()


@rule("taco", "full_update")
def full_update(case: Case) -> None:
    n, size, k = case.integer("B"), case.integer("action_dim"), case.integer("K")
    agent = _agent(case, size)
    of_taco = ("act_tok", "proj_s", "reward", "W")
    order = [str(name) for name in case.array("param_order")]
    ours = {name: f"taco.{_ours(name)}" if name.startswith(of_taco) else _ours(name) for name in order}
    parameters: dict[str, Tensor] = dict(agent.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for j, name in enumerate(order):
            p = parameters[ours[name]]
            if name == "W":
                wave = torch.sin(0.37 * torch.arange(p.numel(), dtype=torch.float64) + 3.0)
                p.copy_((0.5 + 0.5 * wave).view_as(p))
            else:
                norm = p.ndim == 1 and name.endswith("1.weight")
                p.copy_(_closed_form(p.shape, j) + float(norm))
    agent.target.copy_from(agent.critic)

    images = tuple(int(x) for x in case.array("image_shape"))
    actions = torch.sin(0.7 * torch.arange(n * k * size, dtype=torch.float64) + 0.3).view(n, k, size)
    reward = (0.5 + 0.5 * torch.cos(torch.arange(n, dtype=torch.float64))).view(n, 1)
    batch = {
        "obs": _closed_form_images(n, images, 0.0),
        "next_obs": _closed_form_images(n, images, 1.0),
        "obs_k": _closed_form_images(n, images, 1.5),
        "action": actions[:, 0],
        "action_seq": actions,
        "reward": reward,
        "reward_seq": reward,
        "discount": torch.full((n, 1), case.number("discount"), dtype=torch.float64),
    }
    for name, corner in (("obs", "obs"), ("next_obs", "next_obs"), ("obs_k", "rnext")):
        case.close(f"{corner}_corner", batch[name][:, :, :3, :3].double())
    shifts = torch.zeros(VIEWS, n, 2, dtype=torch.int64)
    given = case.tensor("shifts")
    shifts[: len(given)] = given
    flat = torch.arange(n * size, dtype=torch.float64).view(n, size)
    noise = [1.5 * torch.sin(1.3 * flat + phase) for phase in (0.0, 2.0)]
    draws = Draws(shifts, noise[0], noise[1], case.integer("pad"))
    assert case.number("action_limit") == ACTION_LIMIT
    step = case.integer("step")
    assert step % case.integer("update_every_steps") == 0  # the reference updates at this step

    losses: dict[str, Tensor] = {}
    facts = update(
        agent, batch, draws, std=scheduled(str(case.array("schedule")), step), clip=case.number("clip"),
        minimise=_minimiser(case, agent, losses),
    )  # fmt: skip
    for name in case.names("metric."):
        short = name.removeprefix("metric.")
        value = losses[short.removesuffix("_loss")] if short.endswith("_loss") else facts[short]
        case.close(name, value.double(), tolerance=CLOSE)

    state = agent.state_dict()
    for name in case.names("after_sum."):
        golden = name.removeprefix("after_sum.")
        value = state[_target(golden) if golden.startswith("target.") else ours[golden]].flatten()
        case.close(f"after_sum.{golden}", value.sum(), tolerance=CLOSE)
        case.close(f"after_abs.{golden}", value.abs().sum(), tolerance=CLOSE)
        case.close(f"after_first8.{golden}", value[:8], tolerance=CLOSE)


def _minimiser(case: Case, agent: Agent, losses: dict[str, Tensor]) -> Callable[[Mapping[str, Tensor], str], None]:
    """Three Adams of torch, as the engine has them."""
    owned = {"critic": agent.critic_parameters(), "actor": list(agent.actor.parameters())}
    if agent.taco is not None:
        owned["auxiliary"] = list(agent.taco.parameters())
    betas = (case.number("adam_beta1"), case.number("adam_beta2"))
    optimisers = {
        name: torch.optim.Adam(parameters, lr=case.number("lr"), betas=betas, eps=case.number("adam_eps"))
        for name, parameters in owned.items()
    }

    def minimise(terms: Mapping[str, Tensor], name: str) -> None:
        losses.update({term: value.detach() for term, value in terms.items()})
        torch.stack(list(terms.values())).sum().backward(inputs=owned[name])
        optimisers[name].step()
        optimisers[name].zero_grad()

    return minimise

#!/usr/bin/env python
"""What one update of rl/taco costs, against a straightforward implementation of the same update.

The straightforward one is what the papers describe, written plainly on torch: images to float, random shift by sampling
a shifted grid, one pass of the encoder per image tensor (five with TACO, two without), `loss.backward()`, one Adam
per network. Both take the same batch in one process, in turn; best of several rounds; one thread unless told otherwise.

    python scripts/benchmark_taco.py                      84 x 84, batch 256, hidden 1024 (two to four minutes)
    python scripts/benchmark_taco.py --batch 64           fits the processor's cache either way
    python scripts/benchmark_taco.py --size 32            the network of preset taco-cpu
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from polycontrast.data import draws
from polycontrast_rl.taco.drqv2 import Agent, Draws, fast_update, update
from polycontrast_rl.taco.loss import TACOLoss
from polycontrast_rl.taco.networks import Encoder

ACTION, K, STD, CLIP, LR = 4, 3, 0.5, 0.3, 1e-4
SIZES = {84: ((32, 32, 32, 32), (2, 1, 1, 1), 1024, 4), 32: ((16, 32), (2, 2), 256, 2)}
"""By edge: channels, strides, hidden, largest shift."""


def batch_of(size: int, edge: int) -> dict[str, Tensor]:
    """Random images and numbers."""
    g = torch.Generator().manual_seed(0)
    images = [torch.randint(0, 256, (size, 9, edge, edge), dtype=torch.uint8, generator=g) for _ in range(2)]
    actions = torch.rand(size, K, ACTION, generator=g) * 2 - 1
    reward = torch.rand(size, 1, generator=g)
    return {
        "obs": images[0], "next_obs": images[1], "obs_k": images[1], "action": actions[:, 0], "action_seq": actions,
        "reward": reward, "reward_seq": reward, "discount": torch.full((size, 1), 0.97),
    }  # fmt: skip


def ours(edge: int, *, taco: bool, mode: str) -> Callable[[dict[str, Tensor]], None]:
    """One update as the method makes it, with the optimisers that the engine builds."""
    channels, strides, hidden, pad = SIZES[edge]
    encoder = Encoder((9, edge, edge), channels, strides)
    loss = TACOLoss(encoder, ACTION, K, hidden=hidden) if taco else None
    agent = Agent(encoder, ACTION, hidden=hidden, taco=loss)
    owned = {"critic": agent.critic_parameters(), "actor": list(agent.actor.parameters())}
    if loss is not None and mode == "paper":
        owned["auxiliary"] = list(loss.parameters())
    elif loss is not None:
        owned["critic"] = list({id(p): p for p in [*owned["critic"], *loss.parameters()]}.values())
    optimisers = {name: torch.optim.Adam(p, lr=LR, fused=True) for name, p in owned.items()}

    def minimise(terms: Any, name: str) -> None:
        torch.stack(list(terms.values())).sum().backward(inputs=owned[name])
        optimisers[name].step()
        optimisers[name].zero_grad(set_to_none=True)

    def one(batch: dict[str, Tensor]) -> None:
        numbers = Draws.of(draws(0, torch.arange(len(batch["obs"]))), ACTION, pad)
        (fast_update if mode == "fast" else update)(agent, batch, numbers, std=STD, clip=CLIP, minimise=minimise)

    return one


def straightforward(edge: int, *, taco: bool) -> Callable[[dict[str, Tensor]], None]:
    """The same update from the papers' descriptions."""
    channels, strides, hidden, pad = SIZES[edge]
    layers: list[nn.Module] = []
    for before, after, stride in zip((9, *channels), channels, strides, strict=False):
        layers += [nn.Conv2d(before, after, 3, stride), nn.ReLU()]
    net = nn.Sequential(*layers, nn.Flatten())
    width = net(torch.zeros(1, 9, edge, edge)).shape[1]

    def trunk() -> nn.Module:
        return nn.Sequential(nn.Linear(width, 50), nn.LayerNorm(50), nn.Tanh())

    def mlp(*sizes: int) -> nn.Module:
        parts: list[nn.Module] = []
        for a, b in pairwise(sizes):
            parts += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*parts[:-1])

    latent = int(1.25 * ACTION) + 1
    code: nn.Module = nn.Sequential(nn.Linear(ACTION, 64), nn.Tanh(), nn.Linear(64, latent)) if taco else nn.Identity()
    seen = 50 + (latent if taco else ACTION)
    actor_trunk, policy = trunk(), mlp(50, hidden, hidden, ACTION)
    critic = nn.ModuleList([trunk(), mlp(seen, hidden, hidden, 1), mlp(seen, hidden, hidden, 1)])
    target = nn.ModuleList([trunk(), mlp(seen, hidden, hidden, 1), mlp(seen, hidden, hidden, 1)])
    target.load_state_dict(critic.state_dict())
    project, joined = trunk(), 50 + K * latent
    sequence = nn.Sequential(nn.Linear(K * latent, K * latent), nn.LayerNorm(K * latent), nn.Tanh())
    predict, head = mlp(joined, hidden, 50), mlp(joined, hidden, 1)
    bilinear = nn.Parameter(torch.rand(50, 50))

    def adam(*parts: nn.Module) -> torch.optim.Adam:
        return torch.optim.Adam([p for part in parts for p in part.parameters()], lr=LR)

    encoder_adam, critic_adam, actor_adam = adam(net, code), adam(critic), adam(actor_trunk, policy)
    taco_adam = adam(net, code, project, sequence, predict, head)
    taco_adam.add_param_group({"params": [bilinear]})

    def shifted(x: Tensor) -> Tensor:
        n, _, h, _ = x.shape
        x = functional.pad(x, (pad,) * 4, "replicate")
        eps = 1.0 / (h + 2 * pad)
        line = torch.linspace(-1.0 + eps, 1.0 - eps, h + 2 * pad)[:h].unsqueeze(0).repeat(h, 1).unsqueeze(2)
        base = torch.cat([line, line.transpose(1, 0)], dim=2).unsqueeze(0).repeat(n, 1, 1, 1)
        shift = torch.randint(0, 2 * pad + 1, (n, 1, 1, 2)).float() * 2.0 / (h + 2 * pad)
        return functional.grid_sample(x, base + shift, padding_mode="zeros", align_corners=False)

    def encode(x: Tensor) -> Tensor:
        return net(x / 255.0 - 0.5)

    def values(parts: nn.ModuleList, h: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        both = torch.cat([parts[0](h), code(action)], dim=-1)
        return parts[1](both), parts[2](both)

    def act(h: Tensor) -> Tensor:
        mean = torch.tanh(policy(actor_trunk(h)))
        action = mean + (torch.randn_like(mean) * STD).clamp(-CLIP, CLIP)
        return action - action.detach() + action.detach().clamp(-1 + 1e-6, 1 - 1e-6)

    def contrast(x: Tensor, y: Tensor) -> Tensor:
        logits = x @ (bilinear @ y.T)
        logits = logits - logits.max(1)[0][:, None]
        return functional.cross_entropy(logits, torch.arange(len(x)))

    def one(batch: dict[str, Tensor]) -> None:
        h = encode(shifted(batch["obs"].float()))
        with torch.no_grad():
            h_next = encode(shifted(batch["next_obs"].float()))
            goal = batch["reward"] + batch["discount"] * torch.min(*values(target, h_next, act(h_next)))
        loss = sum(functional.mse_loss(q, goal) for q in values(critic, h, batch["action"]))
        encoder_adam.zero_grad()
        critic_adam.zero_grad()
        loss.backward()
        critic_adam.step()
        encoder_adam.step()
        h = h.detach()
        loss = -torch.min(*values(critic, h, act(h))).mean()
        actor_adam.zero_grad()
        loss.backward()
        actor_adam.step()
        for slow, fast in zip(target.parameters(), critic.parameters(), strict=True):
            slow.data.copy_(0.01 * fast.data + 0.99 * slow.data)
        if not taco:
            return
        z = project(encode(shifted(batch["obs"].float())))
        with torch.no_grad():
            z_pos = project(encode(shifted(batch["obs"].float())))
            y = project(encode(shifted(batch["obs_k"].float())))
        known = torch.cat([z, sequence(code(batch["action_seq"]).flatten(1))], dim=-1)
        loss = contrast(predict(known), y) + contrast(z, z_pos) + functional.mse_loss(head(known), batch["reward_seq"])
        taco_adam.zero_grad()
        loss.backward()
        taco_adam.step()

    return one


def seconds(step: Callable[[dict[str, Tensor]], None], batch: dict[str, Tensor]) -> float:
    """Seconds of one update."""
    begin = time.perf_counter()
    step(batch)
    return time.perf_counter() - begin


def main() -> None:
    """Print a row per kind of update."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, choices=SIZES, default=84, help="edge of the images (default: 84)")
    parser.add_argument("--batch", type=int, default=256, help="(default: 256)")
    parser.add_argument("--rounds", type=int, default=5, help="times that each is measured, in turn (default: 5)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object per row")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(args.threads)
    batch = batch_of(args.batch, args.size)
    steps = {
        "taco, straightforward": straightforward(args.size, taco=True),
        "taco": ours(args.size, taco=True, mode="paper"),
        "taco, fast": ours(args.size, taco=True, mode="fast"),
        "drqv2, straightforward": straightforward(args.size, taco=False),
        "drqv2": ours(args.size, taco=False, mode="paper"),
    }
    for step in steps.values():
        step(batch)  # warm-up
    best = dict.fromkeys(steps, float("inf"))
    for _ in range(args.rounds):
        for name, step in steps.items():
            best[name] = min(best[name], seconds(step, batch))
    for name, value in best.items():
        plain = best[f"{name.split(',')[0]}, straightforward"]
        row = {
            "update": name, "size": args.size, "batch": args.batch, "threads": args.threads, "ms": 1e3 * value,
            "ratio": value / plain,
        }  # fmt: skip
        print(json.dumps(row) if args.json else f"{name:24}{row['ms']:9.1f} ms   {row['ratio']:.2f}")


if __name__ == "__main__":
    main()

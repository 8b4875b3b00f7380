"""TACO: temporal, action-driven contrastive learning for control from images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from polycontrast.config import MethodConfig
from polycontrast.data import Batch, Dataset, Examples, TensorExamples, derive_seed
from polycontrast.errors import ConfigError, DataError
from polycontrast.method import Baseline, Engine, Method, OptimiserSpec, Stage, Term
from polycontrast_rl.environments import PixelEnvs, make
from polycontrast_rl.replay import ReplayBuffer, open_replay
from polycontrast_rl.taco import published
from polycontrast_rl.taco.config import TacoConfig
from polycontrast_rl.taco.data import EnvDataset
from polycontrast_rl.taco.drqv2 import (
    Agent,
    Draws,
    actor_loss,
    auxiliary_terms,
    critic_loss,
    fast_update,
    target_value,
    update,
)
from polycontrast_rl.taco.export import PixelEncoder
from polycontrast_rl.taco.loss import TACOLoss
from polycontrast_rl.taco.networks import Encoder
from polycontrast_rl.taco.offline import bc_update, td3_bc_update
from polycontrast_rl.taco.playing import Played, Policy, play
from polycontrast_rl.taco.servo import TASK, colour_servo
from polycontrast_rl.taco.stream import ActingStream, RecordedStream, as_policy
from polycontrast_rl.video import write_video


class Taco(Method):
    """TACO (Zheng et al. 2023, arXiv 2306.13229) on DrQ-v2: control from images, online or from recordings.

    Args:
        config: see :class:`TacoConfig`.
        info: from :meth:`inspect`: ``observation`` (C, H, W) with stacked frames in C, ``action`` length, ``discrete``.
    """

    id = "rl/taco"
    Config = TacoConfig
    TERMS: ClassVar[Mapping[str, Term]] = {
        "critic": Term("task"),
        "actor": Term("task"),
        "bc": Term("task"),
        "taco": Term("contrastive", "taco_weight"),
        "curl": Term("contrastive", "curl_weight"),
        "reward": Term("task", "reward_weight"),
    }
    HEADLINE = "return"
    """Undiscounted, mean over test episodes with the mean action."""
    HIGHER_IS_BETTER = True
    TRAINING_ONLY = ("agent.target", "agent.taco.keys")
    CITATION = (
        "Ruijie Zheng, Xiyao Wang, Yanchao Sun, Shuang Ma, Jieyu Zhao, Huazhe Xu, Hal Daumé III, Furong Huang. TACO: "
        "Temporal Latent Action-Driven Contrastive Loss for Visual Reinforcement Learning. NeurIPS 2023. "
        "arXiv:2306.13229."
    )

    config: TacoConfig

    def __init__(self, config: TacoConfig, info: Mapping[str, Any] | None = None) -> None:
        super().__init__(config, info)
        c, info = config, self.info
        info.setdefault("observation", [3 * c.data.frame_stack, c.data.height, c.data.width])
        info.setdefault("action", 1)
        info.setdefault("discrete", False)
        encoder = Encoder(info["observation"], c.channels, c.strides)
        taco = None
        if c.auxiliary:
            taco = TACOLoss(
                encoder, info["action"], c.lookahead, c.latent_action, c.feature, c.hidden, c.weighs("curl"),
                c.weighs("reward"), use_taco=c.weighs("taco"), objective=c.contrastive.objective,
                symmetric=c.contrastive.symmetric, in_episode_negatives=c.contrastive.in_episode_negatives,
                key_momentum=c.contrastive.key_momentum,
            )  # fmt: skip
        self.agent = Agent(
            encoder, info["action"], feature_dim=c.feature, hidden=c.hidden, target_rate=c.target_rate, taco=taco
        )
        self._stream: ActingStream | RecordedStream | None = None
        self._arenas: dict[int, PixelEnvs] = {}
        self._folder: Path | None = None

    @classmethod
    def inspect(cls, config: MethodConfig, data: Dataset) -> dict[str, Any]:
        """Shapes of observations and actions, from one environment that is made, draws once and is closed again."""
        env = cast(EnvDataset, data).env
        with closing(make(env, 1, 0)) as envs:
            envs.reset()  # a machine that cannot draw is found out before anything is written
            channels, *size = envs.frame_shape
            return {
                "observation": [env.frame_stack * channels, *size],
                "action": int(envs.fingerprint["actions"]),
                "discrete": bool(envs.discrete),
            }

    @classmethod
    def weight_in(cls, config: MethodConfig, name: str) -> float:
        """Weight of a term; 0 where the algorithm has none of that name."""
        unused = {"drqv2": ("bc",), "td3+bc": (), "bc": ("critic", "actor")}[cast(TacoConfig, config).algorithm]
        return 0.0 if name in unused else super().weight_in(config, name)

    # ---- stages ----------------------------------------------------------------------------------------------

    def stages(self, data: Dataset) -> Sequence[Stage]:
        """Random steps and then training; from a recording, training alone."""
        c, stream = self.config, self._source(cast(EnvDataset, data))
        if isinstance(stream, RecordedStream):
            return [Stage(name="train", data=stream, steps=c.updates, validate_steps=max(c.updates // 20, 1))]
        repeat = cast(EnvDataset, data).env.action_repeat
        per_update = repeat * c.update_every
        updates = (c.frames - c.seed_frames) // per_update
        if updates < 1:
            raise ConfigError(
                f"frames {c.frames} leave no update after seed_frames {c.seed_frames}; raise the one or lower the other"
            )
        train = Stage(
            name="train", data=stream, steps=updates, validate_steps=max(round(c.eval_frames / per_update), 1)
        )
        random_steps = -(-c.seed_frames // (repeat * c.envs))
        return [Stage(name="explore", data=stream, steps=random_steps), train] if random_steps else [train]

    def _source(self, data: EnvDataset) -> ActingStream | RecordedStream:
        """The one stream of all stages."""
        c = self.config
        if self._stream is None and data.recording is not None:
            if c.algorithm == "drqv2":
                raise ConfigError("algorithm drqv2 acts in an environment; from a recording learn with td3+bc or bc")
            self._stream = RecordedStream(c, self._recorded(data))
        elif self._stream is None:
            if c.algorithm != "drqv2":
                raise ConfigError(f"algorithm {c.algorithm} learns from a recording; name a replay folder with --data")
            self._stream = ActingStream(c, data, self.agent)
        return self._stream

    def _recorded(self, data: EnvDataset) -> ReplayBuffer:
        assert data.recording is not None
        replay = open_replay(data.recording)
        seen = [replay.stack * replay.frame_shape[0], *replay.frame_shape[1:]]
        if seen != list(self.info["observation"]) or replay.action_dim != self.info["action"]:
            raise DataError(
                f"{data.recording} holds observations {seen} and actions of length {replay.action_dim}, "
                f"the model takes {list(self.info['observation'])} and {self.info['action']}"
            )
        return replay

    def on_run_start(self, data: Dataset, engine: Engine) -> None:
        """Tell the stream where the run is."""
        self._folder = engine.folder
        self._source(cast(EnvDataset, data)).prepare(engine)

    def on_stage_end(self, stage: Stage, engine: Engine) -> None:
        """Let go of environments and replay."""
        if stage.name == "train" and self._stream is not None:
            self._stream.close()

    def optimisers(self, stage: Stage) -> dict[str, OptimiserSpec]:
        """Adam for the critic and for the auxiliary loss, both over encoder and action encoder, and for the actor."""
        agent, taco = self.agent, self.agent.taco
        owned = {"critic": agent.critic_parameters()} if self.config.algorithm != "bc" else {}
        if taco is not None and self.config.update == "paper":
            owned["auxiliary"] = list(taco.parameters())
        elif taco is not None:
            known = {id(p) for p in owned["critic"]}
            owned["critic"] += [p for p in taco.parameters() if id(p) not in known]
        acting = [{"params": list(agent.actor.parameters()), "lr": self.config.actor_rate}]
        if self.config.algorithm == "bc":
            acting.append({"params": list(agent.encoder.parameters())})
        specs = {name: OptimiserSpec(parameters, self.config.optimiser) for name, parameters in owned.items()}
        return {**specs, "actor": OptimiserSpec(acting, self.config.optimiser)}

    # ---- the algorithm ---------------------------------------------------------------------------------------

    def step(self, batch: Batch, engine: Engine) -> None:
        """One update of critic, actor, target and auxiliary loss, see :func:`polycontrast_rl.taco.drqv2.update`."""
        if engine.stage.name == "explore":
            return
        c, agent, draws, batch = self.config, self.agent, self._draws(batch), self._with_reward(batch)

        def minimise(terms: Mapping[str, Tensor], optimiser: str) -> None:
            active = {name: value for name, value in terms.items() if self.active(name)}
            if active:
                engine.minimise(active, optimiser)

        if c.algorithm == "bc":
            facts = bc_update(agent, batch, draws, minimise=minimise)
        elif c.algorithm == "td3+bc":
            facts = td3_bc_update(
                agent, batch, draws, smoothing=c.smoothing, clip=c.clip, alpha=c.alpha, minimise=minimise
            )
        else:
            how: Any = fast_update if c.update == "fast" else partial(update, merged=c.update == "merged")
            facts = how(agent, batch, draws, std=batch["std"], clip=c.clip, minimise=minimise)
        engine.log(facts)

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """All terms of a batch with the weights as they are; :meth:`step` has the order in which they are learnt."""
        c, agent, draws, batch = self.config, self.agent, self._draws(batch), self._with_reward(batch)
        h = agent.encoder(draws.view(0, batch["obs"]))
        std = batch.get("std", c.smoothing)
        found = {}
        if c.algorithm != "bc":
            with torch.no_grad():
                h_next = agent.encoder(draws.view(1, batch["next_obs"]))
            y = target_value(agent, batch, h_next, draws.target_noise, std, c.clip)
            found["critic"], *_ = critic_loss(agent, h, batch["action"], y)
            found["actor"], *_ = actor_loss(agent, h, draws.actor_noise, std, c.clip)
        if c.algorithm != "drqv2":
            mean = agent.actor(h if c.algorithm == "bc" else h.detach())
            found["bc"] = torch.nn.functional.mse_loss(mean, batch["action"])
        found |= auxiliary_terms(agent, batch, draws)
        return {name: value for name, value in found.items() if name in self.TERMS and self.active(name)}

    def _draws(self, batch: Batch) -> Draws:
        return Draws.of(batch["draw"], self.info["action"], self.config.shift)

    def _with_reward(self, batch: Batch) -> Batch:
        """The batch with what the reward term predicts."""
        return {**batch, "reward_seq": batch["reward" if self.config.reward_horizon == "n_step" else "reward_k"]}

    # ---- measuring -------------------------------------------------------------------------------------------

    def validate(self, data: Dataset, stage: Stage) -> dict[str, float]:
        """``return`` and ``length`` of evaluation episodes, also in eval.csv; a video if they are kept."""
        if stage.name == "explore":
            return {}
        played = self._play(data, as_policy(self.agent, self.device), "validation", self.config.eval_episodes)
        numbers = {"return": float(played.returns.mean()), "length": float(played.lengths.mean())}
        if self._stream is not None:
            self._stream.write_evaluation(numbers["return"], numbers["length"])
        if played.frames is not None and self._folder is not None and self._stream is not None:
            write_video(self._folder / "videos" / f"{self._stream.frames:09d}.gif", played.frames)
        return numbers

    def evaluate(self, data: Dataset) -> dict[str, float]:
        """``return`` of test episodes with the mean action: mean, deviation and length over episodes."""
        return self._summary(self._play(data, as_policy(self.agent, self.device), "test", self.config.test_episodes))

    def baselines(self, data: Dataset) -> dict[str, Baseline]:
        """A random policy and one that does nothing, on the same episodes; a working method must beat both.

        On the point mass also a controller that finds ball and target by colour.
        """
        n, size = self._arena(data).num_envs, self.info["action"]

        def random(obs: Any, step: int) -> Any:
            rng = np.random.default_rng([derive_seed("random policy") % 2**32, step])
            return rng.uniform(-1.0, 1.0, (n, size)).astype(np.float32)

        def zero(obs: Any, step: int) -> Any:
            return np.zeros((n, size), np.float32)

        policies: dict[str, Policy] = {"random": random, "zero action": zero}
        if cast(EnvDataset, data).env.task == TASK and self.info["observation"][0] >= 6:
            policies["colour servo"] = colour_servo
        played = {name: self._play(data, p, "test", self.config.test_episodes) for name, p in policies.items()}
        self._close()
        return {name: Baseline(self._summary(p), floor=name != "colour servo") for name, p in played.items()}

    def published(self, data: Dataset) -> dict[str, dict[str, float]]:
        """The paper's table 1 for its nine tasks, at 1 M frames."""
        return published.figures(cast(EnvDataset, data).env.task)

    @staticmethod
    def _summary(played: Played) -> dict[str, float]:
        returns = played.returns
        return {
            "return": float(returns.mean()), "return_std": float(returns.std()), "length": float(played.lengths.mean()),
        }  # fmt: skip

    def _play(self, data: Dataset, policy: Policy, part: str, episodes: int) -> Played:
        seed = derive_seed(cast(EnvDataset, data).seed, part)
        film = self.config.videos and part == "validation"
        return play(self._arena(data), policy, episodes, seed=seed, film=film)

    def _arena(self, data: Dataset) -> PixelEnvs:
        """Environments for evaluations, kept for the next one: making them costs a renderer."""
        n = min(self.config.envs, self.config.eval_episodes, self.config.test_episodes)
        if n not in self._arenas:
            self._arenas[n] = make(cast(EnvDataset, data).env, n, cast(EnvDataset, data).seed, evaluation=True)
        return self._arenas[n]

    def _close(self) -> None:
        for envs in self._arenas.values():
            with suppress(OSError):
                envs.close()
        self._arenas = {}

    # ---- using -----------------------------------------------------------------------------------------------

    def embed(self, batch: Batch) -> Tensor:
        """z of observations ``obs`` (B, C, H, W), (B, feature); without TACO what the critic's trunk makes of them."""
        project = self.agent.critic.trunk if self.agent.taco is None else self.agent.taco.project
        return project(self.agent.encoder(batch["obs"]))

    def predict(self, batch: Batch) -> Tensor:
        """Mean actions for observations ``obs`` (B, C, H, W), (B, A) in [-1, 1]."""
        return self.agent.act(batch["obs"])

    def select_action(self, obs: Any) -> Any:
        """The mean action for one observation (C, H, W) or several (n, C, H, W), uint8; arrays in, arrays out."""
        images = np.asarray(obs)
        batch = torch.from_numpy(images if images.ndim == 4 else images[None]).to(self.device)
        if list(batch.shape[1:]) != list(self.info["observation"]):
            raise DataError(f"observations must have shape {tuple(self.info['observation'])}, got {images.shape}")
        action = self.agent.act(batch).cpu().numpy()
        return action if images.ndim == 4 else action[0]

    def export_encoder(self) -> PixelEncoder:
        """A copy of encoder and projection by itself, with ``save_pretrained`` and ``from_pretrained``."""
        c = self.config
        alone = PixelEncoder(self.info["observation"], c.channels, c.strides, c.feature)
        project = self.agent.critic.trunk if self.agent.taco is None else self.agent.taco.project
        alone.encoder.load_state_dict(self.agent.encoder.state_dict())
        alone.project.load_state_dict(project.state_dict())
        return alone.eval()

    def examples(self, data: Dataset, split: str) -> Examples:
        """``test``: observations of the recording, or of one test episode; there are no other parts."""
        if split != "test":
            return super().examples(data, split)
        env = cast(EnvDataset, data)
        if env.recording is not None:
            return RecordedExamples(self._recorded(env))
        seen: list[Any] = []
        policy = as_policy(self.agent, self.device)

        def remembering(obs: Any, step: int) -> Any:
            seen.append(obs[0].copy())
            return policy(obs, step)

        length = int(self._play(data, remembering, "test", 1).lengths[0])
        return TensorExamples({"obs": torch.from_numpy(np.stack(seen[:length]))})


class RecordedExamples:
    """Observations of a replay memory, in order."""

    def __init__(self, replay: ReplayBuffer) -> None:
        self._replay, self._starts = replay, replay.starts(1, 1)

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, positions: list[int]) -> Batch:
        batch = self._replay.gather(self._starts[positions], 1, 1, 1.0)
        return {"id": torch.as_tensor(positions), "obs": batch["obs"], "action": batch["action"]}

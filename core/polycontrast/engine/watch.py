"""The collapse watch: a look at a few embeddings now and then, and a plain word when they have become all the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from polycontrast.data import Batch, Dataset, Examples
from polycontrast.engine.randomness import undisturbed
from polycontrast.errors import DataError, one_line
from polycontrast.evaluation import Collapse, collapse
from polycontrast.method import Engine, Method

SAMPLE = 256
"""Most examples per look."""
_FEWEST = 16
_SHARE = 0.03
"""Examples embedded per example trained on. Training on one costs at least three forward passes, so the watch stays
below one per cent of the time; it is not measured by the clock, so that a resumed run looks at the same steps."""
_LOW = 0.3
"""Spread below which a fall to half is called collapsing; at a tenth it has collapsed."""


class CollapseWatch:
    """Embeds a fixed sample of validation examples (else training examples) and judges how they lie.

    It looks when the engine looks at the validation part, as far as its share of the work allows, and at the end of
    every stage. A method without ``embed``, or that says it does not contrast what ``embed`` gives, is not watched, and
    nothing that goes wrong here ends a run.

    Args:
        method: the method.
        data: the dataset.
        on: ``engine.watch``.
    """

    def __init__(self, method: Method, data: Dataset, *, on: bool = True) -> None:
        self._method, self._data = method, data
        self._on = on and method.contrasts_embeddings and type(method).embed is not Method.embed
        self._embedded = 0
        self._highest = 0.0
        self._told = 0
        self._looked_at = -1
        self._warnings: list[str] = []

    @property
    def warnings(self) -> list[str]:
        """What it told so far, also before a resume."""
        return list(self._warnings)

    def look(self, engine: Engine, *, last: bool = False) -> dict[str, float]:
        """Numbers for metrics.jsonl, empty if there was no look; tells the person when there is reason to.

        Args:
            engine: for the step, and to speak.
            last: the stage ends here.
        """
        if not self._on or (last and self._looked_at == engine.step and engine.stage.select is None):
            return {}
        trained = engine.step * (engine.stage.batch_size or self._method.config.engine.batch_size)
        if not last and self._embedded + SAMPLE > _SHARE * trained:
            return {}
        try:
            with undisturbed():
                rows = self._embeddings(engine)
                found = collapse(rows) if rows is not None else None
        except Exception as error:  # noqa: BLE001  a stranger's embed may do anything; watching must not end a run
            found = None
            engine.say(f"the collapse watch is off: embed failed with {type(error).__name__}: {one_line(error)[:200]}")
        if found is None:
            self._on = False
            return {}
        self._looked_at = engine.step
        self._embedded += found.rows
        self._tell(engine, found)
        return {
            "geometry/std": found.std, "geometry/effective_rank": found.effective_rank,
            "geometry/similarity": found.similarity,
        }  # fmt: skip

    def _embeddings(self, engine: Engine) -> Tensor | None:
        """(n, D) on the CPU; None where there is nothing to look at."""
        examples = self._examples(engine)
        if examples is None:
            return None
        parts = []
        for batch in self._method.batches(_Sample(examples, min(SAMPLE, len(examples)))):
            part = self._method.embed(batch)
            if not isinstance(part, Tensor) or part.ndim != 2:
                return None
            parts.append(part.detach().float().cpu())
        return torch.cat(parts)

    def _examples(self, engine: Engine) -> Examples | None:
        """The validation part, else the training part, else what the stage trains on, whichever is large enough."""
        for part in ("val", "train"):
            try:
                found = self._method.examples(self._data, part)
            except DataError:
                continue
            if len(found) >= _FEWEST:
                return found
        source = engine.stage.data
        return source if isinstance(source, Examples) and len(source) >= _FEWEST else None

    def _tell(self, engine: Engine, found: Collapse) -> None:
        """Speak when it has become worse than what was told, and again if it recovers and falls anew."""
        falling = found.std < _LOW and found.std < 0.5 * self._highest
        level = 2 if found.collapsed else 1 if falling else 0
        if level > self._told:
            text = found.explain() if found.collapsed else self._falling(found)
            self._warnings.append(f"collapse watch at step {engine.step}: {text}")
            engine.say(f"WARNING from the {self._warnings[-1]}")
        self._told = level
        self._highest = max(self._highest, found.std)

    def _falling(self, found: Collapse) -> str:
        return (
            f"the representation is collapsing: embeddings of different examples grow alike (their spread fell from "
            f"{self._highest:.2f} to {found.std:.2f} of an even one, their mean similarity is {found.similarity:.2f}). "
            "If it goes on, the embeddings will not tell examples apart, however low the loss. What to try: a lower "
            "optimiser.lr, a larger batch, an objective with negatives or with a spread term."
        )

    def state_dict(self) -> Mapping[str, Any]:
        """What a resumed run must know to look and speak as the uninterrupted one."""
        return {name: getattr(self, f"_{name}") for name in _STATE}

    def load_state_dict(self, state: Mapping[str, Any], /) -> None:
        """Restore it."""
        for name in _STATE:
            setattr(self, f"_{name}", state[name])


_STATE = ("on", "embedded", "highest", "told", "looked_at", "warnings")


@dataclass(frozen=True)
class _Sample:
    """``size`` examples at even distances: always the same ones."""

    examples: Examples
    size: int

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, positions: list[int]) -> Batch:
        return self.examples[[p * len(self.examples) // self.size for p in positions]]

"""Settings of toy/pair."""

from dataclasses import dataclass, field

from polycontrast.config import EngineConfig, MethodConfig, OptimiserConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class PairConfig(MethodConfig):
    """Settings of toy/pair."""

    dim: int = 8
    """Width of the embedding."""
    temperature: float = 0.2
    """Divides the cosine similarity."""
    optimiser: OptimiserConfig = field(default_factory=lambda: OptimiserConfig(name="adam", lr=1e-2))
    engine: EngineConfig = field(default_factory=lambda: EngineConfig(batch_size=64, epochs=20))

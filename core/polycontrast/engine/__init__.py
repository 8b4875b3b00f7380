"""The one training loop, on Hugging Face accelerate."""

from polycontrast.engine.loop import Engine, accelerator_for, describe_stage
from polycontrast.engine.randomness import seed_everything

__all__ = ["Engine", "accelerator_for", "describe_stage", "seed_everything"]

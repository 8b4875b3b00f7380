"""The trained encoder by itself, for another agent or a policy: ``save_pretrained``, ``from_pretrained``, AutoModel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from huggingface_hub import PyTorchModelHubMixin
from torch import Tensor, nn

from polycontrast.errors import MissingDependency
from polycontrast_rl.taco.networks import Encoder, trunk

MODEL_TYPE = "taco-encoder"


class PixelEncoder(nn.Module, PyTorchModelHubMixin, library_name="polycontrast", tags=["polycontrast", "taco"]):
    """Stacked frames to z. The folder that ``save_pretrained`` writes holds config.json and model.safetensors.

    Args:
        observation: (C, H, W), stacked frames in C.
        channels: of the convolutions.
        strides: of the convolutions.
        feature: width of z.
    """

    def __init__(
        self,
        observation: Sequence[int],
        channels: Sequence[int] = (32, 32, 32, 32),
        strides: Sequence[int] = (2, 1, 1, 1),
        feature: int = 50,
        model_type: str = MODEL_TYPE,
    ) -> None:
        super().__init__()
        self.encoder = Encoder(observation, channels, strides)
        self.project = trunk(self.encoder.repr_dim, feature)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """(B, C, H, W) grey levels 0 to 255, uint8 or floating, to z (B, feature) in (-1, 1)."""
        return self.project(self.encoder(pixel_values))


def register_auto() -> None:
    """Teach ``transformers.AutoConfig`` and ``AutoModel`` to read such a folder.

    Raises:
        MissingDependency: transformers is not installed.
    """
    try:
        from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel
        from transformers.modeling_outputs import BaseModelOutputWithPooling
    except ImportError:
        raise MissingDependency("AutoModel needs the package 'transformers': pip install transformers") from None

    class TacoEncoderConfig(PretrainedConfig):
        model_type = MODEL_TYPE

        def __init__(
            self,
            observation: Sequence[int] = (9, 84, 84),
            channels: Sequence[int] = (32, 32, 32, 32),
            strides: Sequence[int] = (2, 1, 1, 1),
            feature: int = 50,
            **more: Any,
        ) -> None:
            super().__init__(**more)
            self.observation, self.channels = list(observation), list(channels)
            self.strides, self.feature = list(strides), feature

    class TacoEncoder(PreTrainedModel):
        config_class = TacoEncoderConfig
        main_input_name = "pixel_values"

        def __init__(self, config: TacoEncoderConfig) -> None:
            super().__init__(config)
            self.encoder = Encoder(config.observation, config.channels, config.strides)
            self.project = trunk(self.encoder.repr_dim, config.feature)
            self.post_init()

        def _init_weights(self, module: nn.Module) -> None:
            """Layers come initialised."""

        def forward(self, pixel_values: Tensor) -> BaseModelOutputWithPooling:
            h = self.encoder(pixel_values)
            return BaseModelOutputWithPooling(last_hidden_state=h.unsqueeze(1), pooler_output=self.project(h))

    AutoConfig.register(MODEL_TYPE, TacoEncoderConfig, exist_ok=True)
    AutoModel.register(TacoEncoderConfig, TacoEncoder, exist_ok=True)

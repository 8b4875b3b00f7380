"""Contrastive learning for reinforcement learning and robot policies: the manifest of the plugin."""

from polycontrast.plugins import DatasetSpec, MethodSpec, Plugin

_DATA = "polycontrast_rl.taco.data"

PLUGIN = Plugin(
    domain="rl",
    api=(1, 0),
    extra="rl",
    checks="polycontrast_rl.rendering:check",
    methods=(
        MethodSpec(
            name="taco",
            target="polycontrast_rl.taco.method:Taco",
            config="polycontrast_rl.taco.config:TacoConfig",
            summary="Control from images: DrQ-v2 with a contrastive loss over action sequences, online or offline.",
            paper="arXiv:2306.13229",
            reader=f"{_DATA}:recording",
        ),
    ),
    datasets=(
        DatasetSpec(
            name="demo",
            target=f"{_DATA}:environment",
            summary="A point mass that is pushed to a target, drawn with NumPy: needs no renderer.",
            methods=("taco",),
            preset="demo",
        ),
        DatasetSpec(
            name="environment",
            target=f"{_DATA}:environment",
            summary="The environment that data.task names: dm_control, gymnasium, or one that draws itself.",
            methods=("taco",),
        ),
    ),
)

"""One small method with a dataset of its own."""

from polycontrast.plugins import DatasetSpec, MethodSpec, Plugin

PLUGIN = Plugin(
    domain="toy",
    api=(1, 0),
    methods=(
        MethodSpec(
            name="pair",
            target="toy_plugin.method:Pair",
            config="toy_plugin.config:PairConfig",
            summary="Two noisy looks at one point are a positive pair.",
        ),
    ),
    datasets=(
        DatasetSpec(
            name="demo",
            target="toy_plugin.data:demo",
            summary="Clusters in a few of many noisy coordinates.",
            methods=("pair",),
            preset="demo",
            licence="CC0-1.0",
        ),
    ),
)

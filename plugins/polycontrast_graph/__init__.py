"""Contrastive learning on graphs: the manifest of the plugin."""

from polycontrast.plugins import DatasetSpec, MethodSpec, Plugin

PLUGIN = Plugin(
    domain="graph",
    api=(1, 0),
    extra="graph",
    methods=(
        MethodSpec(
            name="metahgnie",
            target="polycontrast_graph.metahgnie.method:MetaHGNIE",
            config="polycontrast_graph.metahgnie.config:MetaHGNIEConfig",
            summary="Importance of the entities of a knowledge graph, from a hypergraph and texts in contrast.",
            paper="arXiv:2512.12477",
            reader="polycontrast_graph.read:read",
        ),
    ),
    datasets=(
        DatasetSpec(
            name="demo",
            target="polycontrast_graph.generators:demo",
            summary="1500 made-up items with makers and tags, whose scores are to be predicted.",
            methods=("metahgnie",),
            preset="demo",
        ),
    ),
)

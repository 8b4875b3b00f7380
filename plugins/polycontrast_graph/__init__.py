"""Contrastive learning on knowledge graphs: how important is each entity, and why."""

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
            summary="Importance of entities by hypergraph attention, structure and text in contrast.",
            paper="arXiv:2512.12477",
            reader="polycontrast_graph.read:read",
        ),
    ),
    datasets=(
        DatasetSpec(
            name="demo",
            target="polycontrast_graph.generators:demo",
            summary="A made-up catalogue of 1500 items with makers, tags and texts, whose popularity is to be found.",
            methods=("metahgnie",),
            preset="demo",
        ),
    ),
)

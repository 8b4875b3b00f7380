"""The reference method: contrastive learning on feature vectors or images given as arrays, with the core alone."""

from polycontrast.plugins import DatasetSpec, MethodSpec, Plugin

PLUGIN = Plugin(
    domain="core",
    api=(1, 0),
    methods=(
        MethodSpec(
            name="simclr",
            target="polycontrast.reference.method:SimCLR",
            config="polycontrast.reference.config:SimCLRConfig",
            summary="Two altered views of one sample are a positive pair; any objective of the core, on arrays.",
            paper="arXiv:2002.05709",
            reader="polycontrast.reference.arrays:read",
        ),
    ),
    datasets=(
        DatasetSpec(
            name="demo",
            target="polycontrast.reference.arrays:digits",
            summary="1797 handwritten digits of 8 x 8 pixels (scikit-learn's), seen through noise, to classify.",
            methods=("simclr",),
            preset="demo",
            licence="CC-BY-4.0",
            citation=(
                "E. Alpaydin, C. Kaynak. Optical Recognition of Handwritten Digits. UCI Machine Learning Repository, "
                "1998. doi:10.24432/C50P49."
            ),
        ),
    ),
)

"""Contrastive and masked learning on time series: forecasting, classification, gaps and anomalies."""

from polycontrast.plugins import DatasetSpec, MethodSpec, Plugin

_GENERATORS = "polycontrast_timeseries.generators"

PLUGIN = Plugin(
    domain="timeseries",
    api=(1, 0),
    extra="timeseries",
    methods=(
        MethodSpec(
            name="ti-mae",
            target="polycontrast_timeseries.ti_mae.method:TiMAE",
            config="polycontrast_timeseries.ti_mae.config:TiMAEConfig",
            summary="Masked auto-encoding of time steps: forecasts, classification, gaps, anomalies.",
            paper="arXiv:2301.08871",
            reader="polycontrast_timeseries.read:read",
        ),
        MethodSpec(
            name="autotcl",
            target="polycontrast_timeseries.autotcl.method:AutoTCL",
            config="polycontrast_timeseries.autotcl.config:AutoTCLConfig",
            summary="Contrastive learning with a learned augmentation: forecasts, classification, retrieval.",
            paper="arXiv:2402.10434",
            reader="polycontrast_timeseries.read:read",
        ),
        MethodSpec(
            name="st-ssdl",
            target="polycontrast_timeseries.st_ssdl.method:STSSDL",
            config="polycontrast_timeseries.st_ssdl.config:STSSDLConfig",
            summary="Forecasts at the sensors of a graph by deviation from their own history; incident scores.",
            paper="arXiv:2510.04908",
            reader="polycontrast_timeseries.st_ssdl.readers:read",
        ),
    ),
    datasets=(
        DatasetSpec(
            name="demo",
            target=f"{_GENERATORS}:demo_series",
            summary="Five made-up sensors, 2000 hours with seasons, trends and level shifts, to forecast.",
            methods=("ti-mae", "autotcl"),
            preset="demo",
        ),
        DatasetSpec(
            name="demo-classes",
            target=f"{_GENERATORS}:demo_cases",
            summary="Made-up waves of three shapes in two channels, to classify.",
            methods=("ti-mae",),
            preset="demo-classes",
        ),
        DatasetSpec(
            name="motifs",
            target=f"{_GENERATORS}:motifs",
            summary="Made-up cases with a motif that tells the class, among bursts of noise, to classify.",
            methods=("autotcl",),
            preset="motifs",
        ),
        DatasetSpec(
            name="synthetic",
            target=f"{_GENERATORS}:synthetic_trend",
            summary="The paper's synthetic series: three cosines on a slope, 400 steps.",
            methods=("ti-mae",),
            preset="synthetic",
        ),
        DatasetSpec(
            name="demo",
            target="polycontrast_timeseries.st_ssdl.generators:demo_panel",
            summary="24 made-up speed sensors on a graph, 8 weeks by half hours, with incidents that spread.",
            methods=("st-ssdl",),
            preset="demo",
        ),
    ),
)

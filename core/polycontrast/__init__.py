"""A small contrastive-learning core, and what its domain plugins are written against.

Names are looked up when they are first used, so that ``import polycontrast`` costs next to nothing and imports no
torch::

    import polycontrast

    result = polycontrast.train("timeseries/ti-mae")
    model = polycontrast.load(result.run)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from polycontrast import api as api
    from polycontrast import config as config
    from polycontrast import data as data
    from polycontrast import errors as errors
    from polycontrast import evaluation as evaluation
    from polycontrast import losses as losses
    from polycontrast import memory as memory
    from polycontrast import plugins as plugins
    from polycontrast import report as report
    from polycontrast import schedules as schedules
    from polycontrast.api import Plan as Plan
    from polycontrast.api import Result as Result
    from polycontrast.api import ablate as ablate
    from polycontrast.api import compare as compare
    from polycontrast.api import embed as embed
    from polycontrast.api import evaluate as evaluate
    from polycontrast.api import load as load
    from polycontrast.api import plan as plan
    from polycontrast.api import predict as predict
    from polycontrast.api import train as train
    from polycontrast.api import train_seeds as train_seeds
    from polycontrast.config import DataConfig as DataConfig
    from polycontrast.config import EngineConfig as EngineConfig
    from polycontrast.config import MethodConfig as MethodConfig
    from polycontrast.config import OptimiserConfig as OptimiserConfig
    from polycontrast.data import Batch as Batch
    from polycontrast.data import Dataset as Dataset
    from polycontrast.data import Examples as Examples
    from polycontrast.data import Purpose as Purpose
    from polycontrast.data import TensorExamples as TensorExamples
    from polycontrast.errors import PolycontrastError as PolycontrastError
    from polycontrast.method import Baseline as Baseline
    from polycontrast.method import Chart as Chart
    from polycontrast.method import Engine as Engine
    from polycontrast.method import Listing as Listing
    from polycontrast.method import Method as Method
    from polycontrast.method import OptimiserSpec as OptimiserSpec
    from polycontrast.method import Stage as Stage
    from polycontrast.method import Stream as Stream
    from polycontrast.method import Term as Term
    from polycontrast.plugins import DatasetSpec as DatasetSpec
    from polycontrast.plugins import MethodSpec as MethodSpec
    from polycontrast.plugins import Plugin as Plugin
    from polycontrast.runs import Run as Run

    __version__: str

_NAMES_BY_MODULE = {
    "api": (
        *("Plan", "Result", "ablate", "compare", "embed", "evaluate", "load"),
        *("plan", "predict", "train", "train_seeds"),
    ),
    "config": ("DataConfig", "EngineConfig", "MethodConfig", "OptimiserConfig"),
    "data": ("Batch", "Dataset", "Examples", "Purpose", "TensorExamples"),
    "errors": ("PolycontrastError",),
    "method": ("Baseline", "Chart", "Engine", "Listing", "Method", "OptimiserSpec", "Stage", "Stream", "Term"),
    "plugins": ("DatasetSpec", "MethodSpec", "Plugin"),
    "runs": ("Run",),
}
_WHERE = {name: f"polycontrast.{module}" for module, names in _NAMES_BY_MODULE.items() for name in names}
# Whole modules. ``report`` is one of them: the function is api.report, because a submodule and a function of one
# name would replace each other depending on the order of imports.
_MODULES = (
    "api", "config", "data", "errors", "evaluation", "losses", "memory", "plugins", "report", "schedules",
)  # fmt: skip

__all__ = ["__version__", *_MODULES, *_WHERE]


def __getattr__(name: str) -> Any:
    if name in _WHERE:
        value = getattr(import_module(_WHERE[name]), name)
    elif name in _MODULES:
        value = import_module(f"polycontrast.{name}")
    elif name == "__version__":
        from importlib.metadata import version

        value = version("polycontrast")
    else:
        raise AttributeError(f"module 'polycontrast' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

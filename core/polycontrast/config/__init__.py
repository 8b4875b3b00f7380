"""Configs are frozen dataclasses whose defaults are the paper's; YAML files and ``--set`` only override them."""

from polycontrast.config.fields import DataConfig, EngineConfig, MethodConfig, OptimiserConfig
from polycontrast.config.reader import (
    Field,
    changed,
    describe,
    dump_yaml,
    flat,
    from_dict,
    load_yaml,
    parse_assignments,
    resolve,
    to_dict,
)

__all__ = [
    "DataConfig", "EngineConfig", "Field", "MethodConfig", "OptimiserConfig", "changed", "describe", "dump_yaml",
    "flat", "from_dict", "load_yaml", "parse_assignments", "resolve", "to_dict",
]  # fmt: skip

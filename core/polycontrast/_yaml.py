"""YAML in and out, by the rules of YAML 1.2: ``1e-3`` is a number, ``off`` and ``no`` are words.

Here and not in ``config`` because ``plugins``, on the same floor, reads presets. PyYAML is imported when it is
first needed, so that ``polycontrast list`` does without.
"""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Mapping
from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from polycontrast.errors import ConfigError

if TYPE_CHECKING:
    import yaml

_SCALARS = {
    # tag: (pattern, first characters)
    "null": (r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    "int": (r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    "float": (
        r"[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?"
        r"|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        list("-+0123456789."),
    ),
    "merge": ("<<", ["<"]),
}


def _teach(kind: type[yaml.SafeLoader] | type[yaml.SafeDumper]) -> None:
    for tag, (pattern, first) in _SCALARS.items():
        kind.add_implicit_resolver(f"tag:yaml.org,2002:{tag}", re.compile(rf"(?:{pattern})\Z"), first)


@cache
def _loader() -> type[yaml.SafeLoader]:
    import yaml

    class Loader(yaml.SafeLoader):
        """The safe loader with the scalars of YAML 1.2, which refuses a key given twice."""

        yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 - PyYAML's own

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
            lines: dict[tuple[str, str], int] = {}
            for key, _ in node.value:
                if not isinstance(key, yaml.ScalarNode):
                    continue
                if (key.tag, key.value) in lines:
                    line = lines[key.tag, key.value]
                    raise self.complaint(f"key {key.value!r} is given twice, first on line {line}", key)
                lines[key.tag, key.value] = key.start_mark.line + 1
            return super().construct_mapping(node, deep)

        def construct_int(self, node: yaml.ScalarNode) -> int:
            text = node.value
            try:
                return int(text, 0) if text[:2] in ("0x", "0o") else int(text)
            except ValueError:
                raise self.complaint(f"{short(text)} is not an integer, or too long for one", node) from None

        def construct_float(self, node: yaml.ScalarNode) -> float:
            text = node.value.lower()
            try:
                number = float(text.replace(".", "") if "n" in text else text)
            except ValueError:
                raise self.complaint(f"{short(node.value)} is not a number", node) from None
            if math.isinf(number) and "n" not in text:
                raise self.complaint(f"{node.value} is too large; write .inf if infinity is meant", node)
            return number

        @staticmethod
        def complaint(what: str, node: yaml.Node) -> yaml.MarkedYAMLError:
            return yaml.MarkedYAMLError(problem=what, problem_mark=node.start_mark)

    _teach(Loader)
    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_int)
    Loader.add_constructor("tag:yaml.org,2002:float", Loader.construct_float)
    return Loader


@cache
def _dumper() -> type[yaml.SafeDumper]:
    import yaml

    class Dumper(yaml.SafeDumper):
        """Block mappings, lists of scalars on one line, and quotes where any YAML version could misread a word."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

        def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
            super().increase_indent(flow, False)

    def sequence(dumper: Dumper, items: list[Any]) -> yaml.Node:
        flat = not any(isinstance(item, list | dict) for item in items)
        return dumper.represent_sequence("tag:yaml.org,2002:seq", items, flow_style=flat)

    def string(dumper: Dumper, text: str) -> yaml.Node:
        # Line breaks to YAML 1.1, which only double quotes keep apart from spaces.
        style = '"' if any(c in text for c in "\r\x85\u2028\u2029") else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)

    Dumper.add_representer(str, string)
    Dumper.add_representer(list, sequence)
    _teach(Dumper)
    return Dumper


def parse_yaml(text: str, *, source: str, empty: Any = None) -> Any:
    """The one document in ``text``, as plain Python values.

    Args:
        text: YAML; only the safe tags are understood.
        source: names the text in errors.
        empty: what to answer when ``text`` holds nothing but comments.

    Raises:
        ConfigError: one line with source and line: broken syntax, a key given twice, a number out of range,
            more than one document.
    """
    import yaml

    loader: yaml.SafeLoader | None = None
    try:
        loader = _loader()(text)
        node = loader.get_single_node()
        return empty if node is None else loader.construct_document(node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        what = error.problem or error.context or "cannot be read"
        raise ConfigError(f"{source}: {where}{' '.join(what.split())}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(f"{source}: line {line}: the character {text[error.position]!r} is not allowed") from None
    except (AttributeError, KeyError, TypeError, ValueError):  # PyYAML's answers to e.g. !!bool maybe
        raise ConfigError(f"{source}: a value does not suit its !!tag") from None
    except RecursionError:
        raise ConfigError(f"{source}: nested too deeply") from None
    finally:
        if loader is not None:
            loader.dispose()


def load_yaml(path: str | Path | Traversable) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping.

    Args:
        path: a path, or a resource of :mod:`importlib.resources`.

    Raises:
        ConfigError: no such file, not UTF-8, broken syntax, or not a mapping.
    """
    file = Path(path) if isinstance(path, str) else path
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"{file}: no such file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{file}: not UTF-8 at byte {error.start}; save it as UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror or error})") from None
    values = parse_yaml(text, source=str(file))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: must hold 'key: value' lines, got {short(values)}")
    return cast(dict[str, Any], values)


def write_yaml(values: Mapping[str, Any]) -> str:
    """YAML text of plain values (dict, list, str, int, float, bool, None) that :func:`load_yaml` reads back exactly."""
    import yaml

    # No folding: it is the one thing of PyYAML that does not always read back.
    return yaml.dump(dict(values), Dumper=_dumper(), sort_keys=False, allow_unicode=True, width=1 << 30)


def short(value: Any) -> str:
    """A value in an error message: as Python writes it, ``null`` for None, on one line of at most 60 characters."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else text[:57] + "..."

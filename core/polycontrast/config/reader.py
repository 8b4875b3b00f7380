"""From mappings to config dataclasses and back.

The order is: field default < dataset preset < ``--config`` < ``--set``. Every layer is checked key by key and
value by value; what ``__post_init__`` checks across fields is checked once, on the merged values.

Fields may be ``bool``, ``int``, ``float``, ``str``, ``Path``, ``Literal``, ``X | None`` and other unions,
``tuple[X, ...]``, ``tuple[X, Y]``, ``list[X]``, ``dict[str, X]``, other config dataclasses, and ``Any``.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from polycontrast._yaml import load_yaml, parse_yaml, short, write_yaml
from polycontrast.errors import ConfigError, did_you_mean, one_line

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T", bound="DataclassInstance")
Given = list[tuple[str, Any]]
"""What each layer says about one field: (source, value), later wins."""

_SCALARS = (bool, int, float, str, Path)
# What YAML 1.1 readers leave a string.
_EXPONENT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")


@dataclass(frozen=True, slots=True)
class Field:
    """One setting as ``polycontrast info`` shows it."""

    path: str
    """Dotted, as ``--set`` takes it."""
    type: str
    """In words, e.g. ``int or null``."""
    default: Any
    """As plain values; None if the field is required."""
    doc: str
    required: bool = False


# ---- reading -----------------------------------------------------------------------------------------------------


def from_dict(cls: type[T], mapping: Mapping[str, Any], *, source: str) -> T:
    """An instance of ``cls`` with the values of ``mapping``, defaults for the rest.

    Args:
        cls: a config dataclass.
        mapping: nested, as YAML or JSON give it.
        source: names the mapping in errors, e.g. a file.

    Raises:
        ConfigError: an unknown key, a wrong type, or what ``__post_init__`` refuses; with the full dotted path.
    """
    return resolve(cls, [(source, mapping)])


def resolve(cls: type[T], layers: Sequence[tuple[str, Mapping[str, Any]]]) -> T:
    """An instance of ``cls`` from layers of values over its defaults; later layers win, nested groups are merged.

    Args:
        cls: a config dataclass.
        layers: (source, nested mapping); the source names the layer in errors.

    Raises:
        ConfigError: as :func:`from_dict`, also for a value that a later layer overrides.
    """
    return _build(cls, None, list(layers), "", _Root(cls))


class _Root:
    """The class that a person configures; near matches are looked for in all of it."""

    def __init__(self, cls: type[DataclassInstance]) -> None:
        self.cls = cls

    def unknown(self, source: str, path: str, siblings: list[str]) -> ConfigError:
        group, _, name = path.rpartition(".")
        everywhere = [field.path for field in describe(self.cls)]
        leaves = {p: p.rpartition(".")[2] for p in everywhere}
        same = [p for p, leaf in leaves.items() if _folded(leaf) == _folded(name)]
        near = [f"{group}.{sibling}" if group else sibling for sibling in siblings]
        if path in everywhere:
            same, hint = [], f" Nest it: {name!r} belongs below {group!r}."
        elif not 0 < len(same) <= 3:
            best = _nearest(name, siblings)
            same = [near[siblings.index(best)]] if best else []
            best = None if same else _nearest(name, leaves.values())
            same = same or [p for p, leaf in leaves.items() if leaf == best][:3]
            hint = ""
        if same:
            hint = f" Did you mean {' or '.join(map(repr, same))}?"
        if not hint:
            listed = ", ".join(near[:12]) + (f" and {len(near) - 12} more" if len(near) > 12 else "")
            hint = f" Known keys: {listed}." if near else f" {group or self.cls.__name__} has no settings."
        return ConfigError(f"{source}: unknown key {path!r}.{hint}")


def _build(cls: type[T], base: T | None, layers: Given, path: str, root: _Root) -> T:
    """One group: defaults from ``base`` (else from the class), overridden by ``layers``."""
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}
    hints = _hints(cls)
    maps: list[tuple[str, Mapping[str, Any]]] = []
    for source, value in layers:
        if isinstance(value, cls):
            value = {name: getattr(value, name) for name in fields}
        if not isinstance(value, Mapping):
            raise _wrong(source, path or cls.__name__, "a mapping of keys to values", value)
        for key in value:
            if not isinstance(key, str):
                raise ConfigError(f"{source}: key {short(key)}{_in(path)} must be text; put it in quotes")
            if key not in fields:
                raise root.unknown(source, _join(path, key), list(fields))
        maps.append((source, value))

    values: dict[str, Any] = {}
    used: set[str] = set()
    for name, field in fields.items():
        given = [(source, m[name]) for source, m in maps if name in m]
        below = _join(path, name)
        try:
            start = getattr(base, name) if base is not None else _default(field)
        except (ConfigError, ValueError) as error:
            raise ConfigError(f"defaults of {cls.__name__}: {below}: {one_line(error)}") from error
        values[name] = _merge(hints[name], start, given, below, root)
        if values[name] is MISSING:
            raise ConfigError(f"{_sources(layers, cls)}: {below!r} is required, {_words(hints[name])}")
        used.update(source for source, _ in (given if _nested(hints[name]) else given[-1:]))
    try:
        return cls(**values)
    except (ConfigError, ValueError) as error:
        where = _sources([(source, m) for source, m in maps if source in used], cls)
        raise ConfigError(f"{where}: {path + ': ' if path else ''}{one_line(error)}") from error


def _merge(hint: Any, start: Any, given: Given, path: str, root: _Root) -> Any:
    """The value of one field; ``start`` is its default or MISSING."""
    members = _members(hint)
    optional = types.NoneType in members
    group = _group(hint, start)
    if group is not None:
        layers: Given = []
        current = start
        for source, value in given:
            if value is None and optional:
                current, layers = None, []
            elif isinstance(value, Mapping | group):
                layers.append((source, value))
            elif len(members) > 1 + optional:
                current, layers = _convert(hint, value, source, path, root), []
            else:
                raise _wrong(source, path, _words(hint), value)
        if layers or (current is MISSING and not optional):
            return _build(group, start if isinstance(start, group) else None, layers, path, root)
        return current
    mapping = next((m for m in members if typing.get_origin(m) in _MAPPINGS), None)
    if mapping is not None and len(members) == 1 + optional:
        inner = typing.get_args(mapping)[1]
        merged: dict[str, Given] | None = None
        current = start
        for source, value in given:
            if value is None and optional:
                current, merged = None, None
                continue
            if not isinstance(value, Mapping):
                raise _wrong(source, path, _words(hint), value)
            merged = {} if merged is None else merged
            for key, item in value.items():
                if not isinstance(key, str):
                    raise ConfigError(f"{source}: key {short(key)}{_in(path)} must be text; put it in quotes")
                merged.setdefault(key, []).append((source, item))
        if merged is None:
            return current
        known = dict(current) if isinstance(current, Mapping) else {}
        for key, items in merged.items():
            known[key] = _merge(inner, known.get(key, MISSING), items, _join(path, key), root)
        return known
    for source, value in given:
        start = _convert(hint, value, source, path, root)
    return start


def _convert(hint: Any, value: Any, source: str, path: str, root: _Root) -> Any:
    """``value`` as ``hint`` wants it."""
    members = _members(hint)
    if len(members) > 1:
        if value is None and types.NoneType in members:
            return None
        # Exact types before the float that would take an int.
        rest = sorted((m for m in members if m is not types.NoneType), key=lambda m: m is float)
        errors = []
        for member in rest:
            if _shape_fits(member, value):
                try:
                    return _convert(member, value, source, path, root)
                except ConfigError as error:
                    errors.append(error)
        if len(errors) == 1 and isinstance(value, Mapping | list | tuple):
            raise errors[0]  # it tells which part of the value is wrong
        raise _wrong(source, path, _words(hint), value, _hint(rest[0], value) if len(rest) == 1 else "")
    hint = members[0]
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return _plain(value)
    if origin is Literal:
        for choice in args:
            if choice == value and (type(choice) is type(value) or (type(choice) is float and type(value) is int)):
                return choice
    elif hint is None or hint is types.NoneType:
        if value is None:
            return None
    elif hint is bool:
        if isinstance(value, bool):
            return value
    elif hint is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return int(value)
    elif hint is float:
        if isinstance(value, str) and _EXPONENT.fullmatch(value):
            value = float(value)
            if math.isinf(value):
                raise ConfigError(f"{source}: {path!r} is too large for a float; write .inf if infinity is meant")
        if isinstance(value, int | float) and not isinstance(value, bool):
            try:
                return float(value)
            except OverflowError:
                raise ConfigError(f"{source}: {path!r} is too large for a float, got {short(value)}") from None
    elif hint is str:
        if isinstance(value, str):
            return str(value)
    elif hint is Path:
        if isinstance(value, str | Path):
            return Path(value)
    elif origin in (tuple, list, Sequence):
        if isinstance(value, list | tuple):
            if origin is tuple and not (len(args) == 2 and args[1] is ...):
                if len(args) != len(value):
                    raise _wrong(source, path, f"{_words(hint)} ({len(args)} values)", value)
                each = args
            else:
                each = (args[0],) * len(value)
            pairs = enumerate(zip(each, value, strict=True))
            items = [_convert(h, v, source, f"{path}[{i}]", root) for i, (h, v) in pairs]
            return items if origin is list else tuple(items)
    elif origin in _MAPPINGS:
        if isinstance(value, Mapping):
            return _merge(hint, MISSING, [(source, value)], path, root)
    elif dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, Mapping | hint):
            return _build(hint, None, [(source, value)], path, root)
    else:
        raise ConfigError(f"{path!r} of {root.cls.__name__} has the type {hint!r}, which a config cannot hold")
    raise _wrong(source, path, _words(hint), value, _hint(hint, value))


_MAPPINGS = (dict, Mapping)


def _shape_fits(hint: Any, value: Any) -> bool:
    """Whether a union member is worth a try, so that an error inside a list or group is told as such."""
    origin = typing.get_origin(hint)
    if origin in (tuple, list, Sequence):
        return isinstance(value, list | tuple)
    if origin in _MAPPINGS or dataclasses.is_dataclass(hint):
        return isinstance(value, Mapping) or (isinstance(hint, type) and isinstance(value, hint))
    return not isinstance(value, Mapping | list | tuple) or hint is Any


def _hint(hint: Any, value: Any) -> str:
    origin = typing.get_origin(hint)
    if origin is Literal and isinstance(value, str):
        return did_you_mean(value, [c for c in typing.get_args(hint) if isinstance(c, str)])
    if hint is int and isinstance(value, float) and value.is_integer():
        return f" Write {int(value)}."
    if hint is str and isinstance(value, int | float):
        return " Put it in quotes."
    if origin in (tuple, list, Sequence) and isinstance(value, str | int | float) and not isinstance(value, bool):
        return f" Write [{value}]."
    if hint is float and isinstance(value, str) and value.lower().lstrip("+-") in ("inf", "nan"):
        return f" Write {'-' if value.startswith('-') else ''}.{value.lower().lstrip('+-')}."
    return ""


def _wrong(source: str, path: str, words: str, value: Any, hint: str = "") -> ConfigError:
    return ConfigError(f"{source}: {path!r} must be {words}, got {short(value)}.{hint}".removesuffix("."))


def _folded(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()


def _nearest(word: str, known: Iterable[str]) -> str | None:
    return next(iter(difflib.get_close_matches(word, list(known), n=1)), None)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _in(path: str) -> str:
    return f" in {path!r}" if path else ""


def _sources(layers: Given, cls: type) -> str:
    return " and ".join(dict.fromkeys(source for source, _ in layers)) or f"defaults of {cls.__name__}"


def _hints(cls: type[DataclassInstance]) -> dict[str, Any]:
    try:
        return typing.get_type_hints(cls)
    except NameError as error:
        raise ConfigError(
            f"{cls.__module__}.{cls.__qualname__}: {error}; import the types of config fields at run time"
        ) from error


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is MISSING else field.default_factory()


def _members(hint: Any) -> tuple[Any, ...]:
    """The alternatives of a union; of anything else, itself."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _group(hint: Any, default: Any = MISSING) -> type[DataclassInstance] | None:
    """The dataclass of a nested group. A default of a derived class tells that its fields are meant."""
    groups = [m for m in _members(hint) if isinstance(m, type) and dataclasses.is_dataclass(m)]
    for group in groups:
        if isinstance(default, group):
            return type(default)
    return groups[0] if len(groups) == 1 else None


def _nested(hint: Any) -> bool:
    return _group(hint) is not None or any(typing.get_origin(m) in _MAPPINGS for m in _members(hint))


def _words(hint: Any) -> str:
    """A type as a person writing YAML should read it."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    members = _members(hint)
    if len(members) > 1:
        first = [m for m in members if m is not types.NoneType]
        return " or ".join([_words(m) for m in first] + ["null"] * (len(first) < len(members)))
    if origin is Literal:
        return "one of " + ", ".join(short(c) for c in args)
    if origin is tuple and not (len(args) == 2 and args[1] is ...):
        return f"[{', '.join(map(_words, args))}]"
    if origin in (tuple, list, Sequence):
        return f"list of {_words(args[0])}"
    if origin in _MAPPINGS:
        return f"mapping of {_words(args[0])} to {_words(args[1])}"
    if hint is Path:
        return "path"
    if hint is types.NoneType or hint is None:
        return "null"
    if hint is Any:
        return "any value"
    if hint in _SCALARS:
        return str(hint.__name__)
    return "a group of keys" if dataclasses.is_dataclass(hint) else repr(hint)


# ---- command line and files --------------------------------------------------------------------------------------


def parse_assignments(assignments: Iterable[str], *, source: str = "--set") -> dict[str, Any]:
    """The nested mapping of ``["a.b=c", ...]``; of two assignments to one key the later wins.

    Args:
        assignments: ``dotted.key=value``, the value a YAML scalar, list or mapping: ``1e-3`` is a float, ``[1, 2]``
            a list, ``null`` None.
        source: names the assignments in errors.

    Raises:
        ConfigError: names the text that cannot be read.
    """
    tree: dict[str, Any] = {}
    for text in assignments:
        key, equals, value_text = text.partition("=")
        parts = [part.strip() for part in key.split(".")]
        if not equals or not all(parts):
            raise ConfigError(f"{source}: {text!r} must look like key=value, e.g. optimiser.lr=1e-3")
        value = parse_yaml(value_text, source=f"{source}: {text!r}", empty=MISSING)
        if value is MISSING:
            raise ConfigError(f"{source}: {text!r} gives no value; write null, or '' for empty text")
        group = tree
        for part in parts[:-1]:
            group = group.setdefault(part, {})
            if not isinstance(group, dict):
                raise ConfigError(f"{source}: {text!r} goes below {part!r}, which was given the value {short(group)}")
        _update(group, parts[-1], value)
    return tree


def _update(group: dict[str, Any], key: str, value: Any) -> None:
    if isinstance(value, dict) and isinstance(group.get(key), dict):
        for name, item in value.items():
            _update(group[key], name, item)
    else:
        group[key] = value


def dump_yaml(config: DataclassInstance | Mapping[str, Any]) -> str:
    """YAML text of a config, or of a mapping of plain values; :func:`load_yaml` restores it exactly."""
    return write_yaml(_plain(config))


def to_dict(config: DataclassInstance) -> dict[str, Any]:
    """A config as plain values for JSON and YAML: groups and mappings to dicts, tuples to lists, paths to text."""
    return {f.name: _plain(getattr(config, f.name)) for f in dataclasses.fields(config) if f.init}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def changed(a: DataclassInstance | Mapping[str, Any], b: DataclassInstance | Mapping[str, Any]) -> list[str]:
    """Dotted paths whose values differ, in the order of ``a``'s fields, then those that only ``b`` has."""
    left, right = flat(a), flat(b)
    paths = dict.fromkeys([*left, *right])
    pairs = ((p, left.get(p, MISSING), right.get(p, MISSING)) for p in paths)
    # NaN differs from itself, but its text does not.
    return [p for p, x, y in pairs if x != y and repr(x) != repr(y)]


def flat(config: DataclassInstance | Mapping[str, Any]) -> dict[str, Any]:
    """Values by dotted path: ``{"a": {"b": 1}}`` -> ``{"a.b": 1}``."""
    return dict(_leaves(_plain(config)))


def _leaves(values: Mapping[str, Any], path: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, _join(path, key))
        else:
            yield _join(path, key), value


# ---- describing --------------------------------------------------------------------------------------------------


def describe(cls: type[DataclassInstance]) -> list[Field]:
    """Every setting of a config class with type, default and doc, nested groups dotted, in the order of definition.

    The doc is the string under the field, read from the source; a field defined again without one keeps the doc of
    the class it was inherited from. Without source at hand docs are empty.
    """
    return list(_describe(cls, None, "", {}))


def _describe(
    cls: type[DataclassInstance], base: DataclassInstance | None, path: str, sources: dict[str, ast.Module | None]
) -> Iterable[Field]:
    docs: dict[str, str] = {}
    for parent in reversed(cls.__mro__):
        if dataclasses.is_dataclass(parent):
            docs.update(_docs(parent, sources))
    hints = _hints(cls)
    for field in dataclasses.fields(cls):
        if not field.init:
            continue
        name = _join(path, field.name)
        hint = hints[field.name]
        default = getattr(base, field.name) if base is not None else _default(field)
        group = _group(hint, default)
        if group is None or len(_members(hint)) > 1:
            required = default is MISSING
            yield Field(name, _words(hint), None if required else _plain(default), docs.get(field.name, ""), required)
        if group is not None:
            yield from _describe(group, default if isinstance(default, group) else None, name, sources)


def _docs(cls: type, sources: dict[str, ast.Module | None]) -> dict[str, str]:
    """Docs by field name, of the fields that ``cls`` itself defines."""
    module = cls.__module__
    if module not in sources:
        try:
            sources[module] = ast.parse(inspect.getsource(sys.modules[module]))
        except (OSError, TypeError, KeyError, SyntaxError):
            sources[module] = None
    scope: ast.AST | None = sources[module]
    for part in cls.__qualname__.split("."):
        if scope is None:
            return {}
        if part != "<locals>":
            named = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
            found = [n for n in ast.walk(scope) if isinstance(n, named) and n.name == part]
            # walk is breadth first: the outermost of that name. Of two in one place the later is in force.
            scope = found[0] if found else None
    if not isinstance(scope, ast.ClassDef):
        return {}
    docs = {}
    for node, after in zip(scope.body, scope.body[1:], strict=False):
        if (
            isinstance(node, ast.AnnAssign)
            and isinstance(node.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        ):
            docs[node.target.id] = " ".join(after.value.value.split())
    return docs


__all__ = [
    "Field", "changed", "describe", "dump_yaml", "from_dict", "load_yaml", "parse_assignments", "resolve", "to_dict",
]  # fmt: skip

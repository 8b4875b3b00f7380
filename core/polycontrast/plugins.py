"""Plugins: what a distribution offers, how it is found, and what to do when it cannot be used.

A plugin is a :class:`Plugin`, a frozen manifest that a distribution names in its entry points::

    [project.entry-points."polycontrast.plugins"]
    lidar = "acme_lidar:PLUGIN"

The entry point's name is the domain. Everything below reads manifests and package metadata only; a method's own
module, and with it torch, is imported by :meth:`Entry.load`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import import_module, invalidate_caches
from importlib.metadata import Distribution, EntryPoint, PackageNotFoundError, distribution, entry_points
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from polycontrast._yaml import load_yaml
from polycontrast.errors import MissingDependency, PluginError, PolycontrastError, did_you_mean, reason

if TYPE_CHECKING:
    from packaging.requirements import Requirement

PLUGIN_API = (1, 0)
"""What plugins implement. The minor number counts additions that plugins may ignore, the major one the rest."""
GROUP = "polycontrast.plugins"
"""The entry-point group."""

State = Literal["ready", "not installed", "broken"]

_KEBAB = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_TARGET = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_EXTRA = re.compile(r"""\bextra\s*==\s*['"]([^'"]+)""")
_DOCTOR = "(details: polycontrast doctor)"


# ---- manifests ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class MethodSpec:
    """One method of a plugin."""

    name: str
    """Second half of the id, lower case with hyphens, e.g. ``ti-mae``."""
    target: str
    """``package.module:ClassName`` of the method."""
    config: str
    """``package.module:ClassName`` of its config dataclass, in a module that imports no torch. A folder
    ``presets/`` beside that module holds its presets, one YAML file each."""
    summary: str
    """One line for ``polycontrast list``."""
    paper: str = ""
    """DOI or arXiv id."""
    reader: str = ""
    """``package.module:function`` that opens what ``--data PATH`` names:
    ``f(path, config, seed, purpose) -> Dataset``. Empty: the method reads no files."""

    def __post_init__(self) -> None:
        _check_name("method", self.name)
        _check_target("target", self.target, self.name, "ClassName")
        _check_target("config", self.config, self.name, "ClassName")
        if self.reader:
            _check_target("reader", self.reader, self.name, "function")
        _check_summary(self.summary, self.name)


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """One named dataset of a plugin."""

    name: str
    """What ``--data`` takes, lower case with hyphens, e.g. ``demo``."""
    target: str
    """``package.module:function``, ``f(config, seed, purpose) -> Dataset``."""
    summary: str
    """One line for ``polycontrast info``."""
    methods: tuple[str, ...]
    """Names of the plugin's methods that it suits. Two datasets may share a name if they share no method."""
    preset: str = ""
    """Preset of the method that comes with it."""
    licence: str = ""
    """SPDX id or name of the licence."""
    citation: str = ""
    """How to cite it."""

    def __post_init__(self) -> None:
        _check_name("dataset", self.name)
        _check_target("target", self.target, self.name, "function")
        _check_summary(self.summary, self.name)
        if isinstance(self.methods, str) or not self.methods:
            raise PluginError(f"methods of dataset {self.name!r} must be a tuple of method names, got {self.methods!r}")


@dataclass(frozen=True, slots=True)
class Check:
    """Whether one thing that no Python package brings is there: a renderer, a codec, a driver."""

    name: str
    ok: bool
    detail: str
    """One line: what was found, or what is wrong and what to install."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """The manifest of one plugin."""

    domain: str
    """First half of its ids and name of its entry point, lower case with hyphens."""
    api: tuple[int, int]
    """The :data:`PLUGIN_API` it was written for."""
    extra: str = ""
    """Extra of its own distribution that its methods need. Empty: the distribution itself is enough."""
    methods: tuple[MethodSpec, ...] = ()
    datasets: tuple[DatasetSpec, ...] = ()
    checks: str = ""
    """``package.module:function``, ``f() -> Iterable[Check]``: what ``polycontrast doctor`` says of things that no
    Python package brings, once the extra is installed. The module imports nothing heavy."""

    def __post_init__(self) -> None:
        _check_name("domain", self.domain)
        if self.checks:
            _check_target("checks", self.checks, self.domain, "function")
        api: Any = self.api
        if not (isinstance(api, tuple) and len(api) == 2 and all(type(n) is int and n >= 0 for n in api)):
            raise PluginError(f"api of plugin {self.domain!r} must be two numbers, e.g. (1, 0), got {api!r}")
        for kind, wanted, items in (("methods", MethodSpec, self.methods), ("datasets", DatasetSpec, self.datasets)):
            if not isinstance(items, tuple) or not all(isinstance(item, wanted) for item in items):
                raise PluginError(f"{kind} of plugin {self.domain!r} must be a tuple of {wanted.__name__}")
        names = [method.name for method in self.methods]
        if repeated := _repeated(names):
            raise PluginError(f"plugin {self.domain!r} has two methods {repeated!r}; rename one")
        for dataset in self.datasets:
            for method in dataset.methods:
                if method not in names:
                    raise PluginError(
                        f"dataset {dataset.name!r} of plugin {self.domain!r} names the unknown method {method!r}."
                        + did_you_mean(str(method), names)
                    )
        if pair := _repeated([(method, dataset.name) for dataset in self.datasets for method in dataset.methods]):
            raise PluginError(f"method {pair[0]!r} of plugin {self.domain!r} has two datasets {pair[1]!r}; rename one")


def _check_name(what: str, name: object) -> None:
    if not isinstance(name, str) or not _KEBAB.fullmatch(name):
        raise PluginError(f"{what} name {name!r} must be lower case with hyphens, e.g. 'info-graph'")


def _check_target(what: str, target: object, name: str, kind: str) -> None:
    if not isinstance(target, str) or not _TARGET.fullmatch(target):
        raise PluginError(f"{what} {target!r} of {name!r} must look like 'package.module:{kind}'")


def _check_summary(summary: object, name: str) -> None:
    if not isinstance(summary, str) or not summary.strip() or "\n" in summary:
        raise PluginError(f"summary of {name!r} must be one line, got {summary!r}")


def _repeated(items: list[Any]) -> Any:
    return next((item for i, item in enumerate(items) if item in items[:i]), None)


def _check_api(api: tuple[int, int], owner: str, dist_name: str) -> None:
    major, minor = PLUGIN_API
    if api[0] == major and api[1] <= minor:
        return
    speaks = f"{major}.0 to {major}.{minor}" if minor else f"{major}.0"
    raise PluginError(
        f"{owner} was written for plugin API {api[0]}.{api[1]}; this polycontrast speaks {speaks}. "
        f"To fix: upgrade {'polycontrast' if api > PLUGIN_API else dist_name}."
    )


# ---- requirements ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Unmet:
    """A requirement that is not met."""

    name: str
    specifier: str
    found: str
    """The installed version, or the empty string."""

    @property
    def text(self) -> str:
        return f"{self.name}{self.specifier}"


class _Source:
    """The distribution behind an entry point, its metadata read once."""

    def __init__(self, dist: Distribution | None, fallback: str) -> None:
        self.dist = dist
        self._metadata = dist.metadata if dist is not None else None
        # Of a damaged distribution only the entry point may be left; that must not hide the other plugins.
        name, version = (self._get("Name"), self._get("Version"))
        self.name: str = name or fallback
        self.owner = f"{name} {version}" if name and version else self.name
        self._unmet: dict[str, tuple[_Unmet, ...]] = {}

    def _get(self, key: str) -> str | None:
        return self._metadata[key] if self._metadata is not None and key in self._metadata else None

    @cached_property
    def lines(self) -> list[str]:
        """Requirements as the metadata state them."""
        if self.dist is None or self._metadata is None:
            return []
        return list(self._metadata.get_all("Requires-Dist") or self.dist.requires or ())

    @cached_property
    def _requirements(self) -> list[Requirement]:
        return _requirements(self.lines, self.owner)

    def check_extra(self, extra: str) -> None:
        """Refuse an extra that the metadata do not declare: pip only warns of it, and nothing would be missing."""
        if not extra or self._metadata is None:
            return
        declared = [*(self._metadata.get_all("Provides-Extra") or ()), *_EXTRA.findall("\n".join(self.lines))]
        if _normal(extra) not in map(_normal, declared):
            raise PluginError(
                f"{self.owner} has no extra {extra!r} in its metadata, which its plugin names."
                f"{did_you_mean(extra, declared)} To fix: correct the plugin, or reinstall {self.name}."
            )

    def unmet(self, extra: str) -> tuple[_Unmet, ...]:
        """Requirements of an extra that are not installed or too old."""
        if not extra or self.dist is None:
            return ()
        if extra not in self._unmet:
            found: dict[_Unmet, None] = {}
            _collect(_normal(self.name), self._requirements, _normal(extra), found, set())
            self._unmet[extra] = tuple(found)
        return self._unmet[extra]

    def target(self, extra: str) -> str:
        """What to hand to ``pip install`` for an extra."""
        return f'"{self.name}[{extra}]"' if extra else f"--upgrade {self.name}"


def _pip(*targets: str) -> str:
    return f"pip install {' '.join(targets)}"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _requirements(lines: Iterable[str], owner: str) -> list[Requirement]:
    """Those that hold with an extra only: the rest was installed with the distribution itself."""
    from packaging.requirements import InvalidRequirement, Requirement

    found = []
    for line in lines:
        if "extra" in line:
            try:
                found.append(Requirement(line))
            except InvalidRequirement:
                raise PluginError(f"{owner} has a requirement in its metadata that cannot be read: {line!r}") from None
    return found


def _collect(
    dist: str, requirements: Iterable[Requirement], extra: str, found: dict[_Unmet, None], seen: set[tuple[str, str]]
) -> None:
    """Add what ``dist[extra]`` needs and lacks to ``found``, following requirements that name extras themselves."""
    seen.add((dist, extra))
    for req in requirements:
        if req.marker is None or not req.marker.evaluate({"extra": extra}) or req.marker.evaluate({"extra": ""}):
            continue
        name = _normal(req.name)
        other = None if name == dist else _installed(req.name)
        version = other.version if other else ""
        if name != dist and not (other and _satisfies(req, version)):
            found[_Unmet(req.name, str(req.specifier), version)] = None
            continue
        for wanted in map(_normal, sorted(req.extras)):
            if (name, wanted) not in seen:
                below = _requirements(other.requires or (), req.name) if other else requirements
                _collect(name, below, wanted, found, seen)


def _installed(name: str) -> Distribution | None:
    try:
        dist = distribution(name)
    except PackageNotFoundError:
        return None
    # An uninstalled package may leave an empty folder behind, which has no version.
    return dist if "Version" in (dist.metadata or ()) else None


def _satisfies(req: Requirement, version: str) -> bool:
    from packaging.version import InvalidVersion, Version

    try:
        return not req.specifier or req.specifier.contains(Version(version), prereleases=True)
    except InvalidVersion:  # not comparable: leave it to the import
        return True


# ---- the registry ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Preset:
    """A named YAML that overrides config fields."""

    name: str
    doc: str
    """Its first comment lines."""
    file: Traversable = field(repr=False)

    @property
    def values(self) -> dict[str, Any]:
        """The nested mapping, as :func:`polycontrast.config.resolve` takes it."""
        return load_yaml(self.file)


@dataclass(frozen=True, slots=True)
class Domain:
    """A domain as ``polycontrast list`` shows it."""

    name: str
    owner: str
    """``distribution version``; several are separated by commas."""
    extra: str
    state: State
    """``ready`` if every plugin of the domain can be used; single methods answer by :meth:`Entry.missing`."""
    hint: str
    """The command that installs what is missing, or why it is broken. Empty when ready."""
    methods: tuple[str, ...]
    """Ids of its methods, without those that clash."""
    missing: tuple[str, ...] = ()
    """Requirements of its extra that are not installed or too old."""


@dataclass(frozen=True)
class Entry:
    """A method that was found, with everything needed to use it."""

    id: str
    """``domain/name``."""
    spec: MethodSpec
    plugin: Plugin
    owner: str
    """``distribution version``."""
    _source: _Source = field(repr=False, compare=False)
    _module: str = field(repr=False)
    """Where the manifest lives."""

    @property
    def dist(self) -> Distribution | None:
        """The distribution that brought it; None for an entry point made by hand."""
        return self._source.dist

    def missing(self) -> list[str]:
        """Requirements of its extra that are not installed or too old, e.g. ``torch-geometric>=2.6``.

        They come from the distribution's own metadata. Empty when it needs no extra.
        """
        return [unmet.text for unmet in self._source.unmet(self.plugin.extra)]

    @property
    def install_command(self) -> str:
        """The command that installs what the method needs; empty for an entry point made by hand."""
        return _pip(self._source.target(self.plugin.extra)) if self.dist else ""

    def require(self) -> None:
        """Do nothing if everything the method needs is installed.

        Raises:
            MissingDependency: names what is missing and the command that installs it.
        """
        unmet = self._source.unmet(self.plugin.extra)
        if not unmet:
            return
        if all(not u.found for u in unmet):
            what = f"{_listed([u.text for u in unmet])}, which {'is' if len(unmet) == 1 else 'are'} not installed"
        else:
            what = _listed([f"{u.text} ({u.found + ' is' if u.found else 'not'} installed)" for u in unmet])
        raise MissingDependency(f"{self.id!r} needs {what}: {self.install_command}")

    def config_class(self) -> type[Any]:
        """Its config dataclass. Costs no torch and needs no extra.

        Raises:
            PluginError: the plugin is broken.
        """
        cls = self._import(self.spec.config)
        if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
            raise self._broken(f"{self.spec.config} is not a dataclass")
        return cls

    def load(self) -> type[Any]:
        """Its class, derived from ``polycontrast.method.Method``.

        Raises:
            MissingDependency: names what is missing and the command that installs it.
            PluginError: the plugin is broken.
        """
        self.require()
        cls = self._import(self.spec.target)
        if not isinstance(cls, type):
            raise self._broken(f"{self.spec.target} is not a class")
        return cls

    def presets(self) -> dict[str, Preset]:
        """Presets by name: the YAML files in the folder ``presets`` beside the config module."""
        module = self.spec.config.partition(":")[0]
        package = module.rpartition(".")[0]
        self.config_class()
        folder = files(package) / "presets" if package else Path(sys.modules[module].__file__ or "").parent / "presets"
        if not folder.is_dir():
            return {}
        found = sorted((f for f in folder.iterdir() if f.name.endswith((".yaml", ".yml"))), key=lambda f: f.name)
        return {(name := f.name.rpartition(".")[0]): Preset(name, _first_comment(f), f) for f in found}

    @property
    def datasets(self) -> dict[str, DatasetSpec]:
        """Datasets that suit the method, by name."""
        return {d.name: d for d in self.plugin.datasets if self.spec.name in d.methods}

    def dataset_loader(self, name: str) -> Callable[..., Any]:
        """The function ``f(config, seed, purpose) -> Dataset`` of a named dataset.

        Raises:
            MissingDependency, PluginError: as :meth:`load`; also for an unknown name, with a near match.
        """
        datasets = self.datasets
        if name not in datasets:
            raise PluginError(_no("dataset", name, self.id, datasets))
        self.require()
        return self._function(datasets[name].target)

    def reader(self) -> Callable[..., Any]:
        """The function ``f(path, config, seed, purpose) -> Dataset`` behind ``--data PATH``.

        Raises:
            MissingDependency, PluginError: as :meth:`load`; also when the method reads no files.
        """
        if not self.spec.reader:
            known = ", ".join(self.datasets) or "none"
            raise PluginError(f"{self.id!r} reads no files; its datasets are: {known}")
        self.require()
        return self._function(self.spec.reader)

    def _function(self, target: str) -> Callable[..., Any]:
        function = self._import(target)
        if not callable(function):
            raise self._broken(f"{target} is not a function")
        return function  # type: ignore[no-any-return]

    def _import(self, target: str) -> Any:
        module_name, _, attributes = target.partition(":")
        try:
            value: Any = import_module(module_name)
        except ModuleNotFoundError as error:
            top = (error.name or "").partition(".")[0]
            # A module of its own, or of ours, that is not there is a bug and no pip command mends it.
            own = {module_name.partition(".")[0], self._module.partition(".")[0], "polycontrast"}
            if not top or top in own:
                raise self._broken(f"{module_name} did not load: {reason(error)}") from error
            command = f": {self.install_command}" if self.install_command else ""
            raise MissingDependency(
                f"{self.id!r} needs the module {top!r}, which is not installed{command}", name=error.name
            ) from error
        except PolycontrastError:
            raise
        except (Exception, SystemExit) as error:  # a stranger's code may raise anything
            raise self._broken(f"{module_name} did not load: {reason(error)}") from error
        for attribute in attributes.split("."):
            if not hasattr(value, attribute):
                known = [name for name in dir(value) if not name.startswith("_")]
                raise self._broken(f"{module_name} has no {attributes!r}.{did_you_mean(attribute, known)}")
            value = getattr(value, attribute)
        return value

    def _broken(self, why: str) -> PluginError:
        return PluginError(f"{self.id!r} of {self.owner} is broken: {why}")


class Registry:
    """What a list of entry points offers. Nothing is imported until it is asked for; nothing is global.

    Args:
        found: entry points of the group :data:`GROUP`; tests may make them by hand.
    """

    def __init__(self, found: Iterable[EntryPoint]) -> None:
        self._found = tuple(found)

    @classmethod
    def discover(cls) -> Registry:
        """The registry of everything that is installed."""
        return cls(entry_points(group=GROUP))

    @property
    def methods(self) -> dict[str, Entry]:
        """Usable methods by id, in the order of their ids."""
        return self._scan.methods

    @property
    def broken(self) -> dict[str, Exception]:
        """Why plugins did not load, by owner.

        The owner is ``distribution version``, followed by the domain in parentheses if it has several plugins.
        """
        return self._scan.broken

    @property
    def clashes(self) -> dict[str, list[str]]:
        """Owners of the ids that more than one plugin claims; those ids cannot be used."""
        return self._scan.clashes

    @cached_property
    def _scan(self) -> _Scan:
        scan = _Scan()
        sources: dict[int, _Source] = {}
        keyed = []
        for ep in self._found:
            key = id(ep.dist) if ep.dist is not None else id(ep)
            if key not in sources:
                sources[key] = _Source(ep.dist, ep.value)
            keyed.append((ep, sources[key]))
        claims: dict[str, list[Entry]] = {}
        for ep, source in sorted(keyed, key=lambda pair: (pair[0].name, pair[1].owner, pair[0].value)):
            try:
                plugin = ep.load()
                _check_plugin(plugin, ep.name, source)
            except (Exception, SystemExit) as error:  # noqa: BLE001 - a stranger's code; the others go on
                several = sum(other is source for _, other in keyed) > 1
                owner = f"{source.owner} ({ep.name})" if several else source.owner
                why = error if isinstance(error, Exception) else PluginError(f"it called sys.exit({error.code!r})")
                scan.broken[owner] = why
                scan.broken_domains.setdefault(ep.name, []).append(owner)
                continue
            scan.plugins.append((plugin, source))
            for spec in plugin.methods:
                entry = Entry(f"{plugin.domain}/{spec.name}", spec, plugin, source.owner, source, ep.module)
                claims.setdefault(entry.id, []).append(entry)
        for id_, entries in sorted(claims.items()):
            if len(entries) == 1:
                scan.methods[id_] = entries[0]
            else:
                scan.clashes[id_] = [entry.owner for entry in entries]
        return scan

    @cached_property
    def domains(self) -> dict[str, Domain]:
        """Every domain by name, also those whose plugin is broken or lists no method."""
        scan = self._scan
        domains: dict[str, Domain] = {}
        names = {plugin.domain for plugin, _ in scan.plugins} | scan.broken_domains.keys()
        for name in sorted(names):
            plugins = [(plugin, source) for plugin, source in scan.plugins if plugin.domain == name]
            if not plugins:
                owners = scan.broken_domains[name]
                why = "; ".join(_reason(owner, scan.broken[owner]) for owner in owners)
                domains[name] = Domain(name, ", ".join(owners), "", "broken", why, ())
                continue
            lacking = [(plugin, source) for plugin, source in plugins if source.unmet(plugin.extra)]
            domains[name] = Domain(
                name=name,
                owner=", ".join(dict.fromkeys(source.owner for _, source in plugins)),
                extra=", ".join(dict.fromkeys(plugin.extra for plugin, _ in plugins if plugin.extra)),
                state="not installed" if lacking else "ready",
                hint=_pip(*(source.target(plugin.extra) for plugin, source in lacking)) if lacking else "",
                methods=tuple(id_ for id_ in scan.methods if id_.partition("/")[0] == name),
                missing=tuple(dict.fromkeys(u.text for plugin, source in lacking for u in source.unmet(plugin.extra))),
            )
        return domains

    def checks(self) -> list[tuple[str, Check]]:
        """What plugins whose extra is installed say of this machine: domain and check. May take seconds."""
        found: list[tuple[str, Check]] = []
        for plugin, source in self._scan.plugins:
            if not plugin.checks or source.unmet(plugin.extra):
                continue
            module, _, name = plugin.checks.partition(":")
            try:
                found += [(plugin.domain, check) for check in getattr(import_module(module), name)()]
            except Exception as error:  # noqa: BLE001 - a stranger's code; the others go on
                found.append((plugin.domain, Check(plugin.checks, False, f"the check itself failed: {reason(error)}")))
        return found

    def method(self, name: str) -> Entry:
        """The method of that id, or of that bare name if it is unique. Its extra need not be installed.

        Raises:
            PluginError: unknown (with a near match and the plugins that did not load), ambiguous, or claimed twice.
        """
        scan = self._scan
        if name in scan.methods:
            return scan.methods[name]
        ids = [id_ for id_ in sorted([*scan.methods, *scan.clashes]) if name in (id_, id_.partition("/")[2])]
        if len(ids) > 1:
            raise PluginError(f"{name!r} may be {_listed(ids, 'or')}; say which")
        if ids and ids[0] in scan.methods:
            return scan.methods[ids[0]]
        if ids:
            owners = scan.clashes[ids[0]]
            raise PluginError(
                f"{ids[0]!r} is claimed by {_listed(owners)}, so it cannot be used. "
                f"To fix: uninstall all but one of them, e.g. pip uninstall {owners[-1].split()[0]}"
            )
        raise PluginError(self._unknown(name))

    def _unknown(self, name: str) -> str:
        scan = self._scan
        reasons = {owner: _reason(owner, error) for owner, error in scan.broken.items()}
        domain = name.partition("/")[0]
        served = {plugin.domain for plugin, _ in scan.plugins}
        if domain in scan.broken_domains and domain not in served:
            return f"{name!r} cannot be used: {'; '.join(reasons[o] for o in scan.broken_domains[domain])} {_DOCTOR}"
        known = [*scan.methods, *scan.clashes]
        of_domain = [id_ for id_ in known if id_.startswith(f"{domain}/")]
        text = f"no method {name!r}"
        if name in served:
            text = f"{name!r} is a domain, not a method; its methods: {', '.join(of_domain) or 'none yet'}"
        elif near := _near(name, of_domain) or _near(name, known):
            text += f". Did you mean {_listed([repr(id_) for id_ in near], 'or')}?"
        elif domain in served:
            text += f"; methods of {domain!r}: {', '.join(of_domain) or 'none yet'}"
        else:
            text += ". To see all of them: polycontrast list"
        return f"{text}; note: {'; '.join(reasons.values())} {_DOCTOR}" if reasons else text


@dataclass
class _Scan:
    """What the entry points turned out to be."""

    plugins: list[tuple[Plugin, _Source]] = field(default_factory=list)
    methods: dict[str, Entry] = field(default_factory=dict)
    clashes: dict[str, list[str]] = field(default_factory=dict)
    broken: dict[str, Exception] = field(default_factory=dict)
    broken_domains: dict[str, list[str]] = field(default_factory=dict)


def _check_plugin(plugin: object, name: str, source: _Source) -> None:
    if not isinstance(plugin, Plugin):
        kind = type(plugin).__name__
        raise PluginError(f"its entry point {name!r} names an object of type {kind}, not polycontrast.plugins.Plugin")
    _check_api(plugin.api, source.owner, source.name)
    if plugin.domain != name:
        raise PluginError(f"its entry point {name!r} holds the domain {plugin.domain!r}; name both alike")
    source.check_extra(plugin.extra)
    source.unmet(plugin.extra)  # now, so that metadata that cannot be read make this plugin broken and nothing else


def _reason(owner: str, error: Exception) -> str:
    """Why a plugin did not load, on one line that begins with its owner."""
    line = reason(error)
    return line if line.startswith(owner.partition(" (")[0]) else f"{owner} did not load: {line}"


def _listed(items: list[str], word: str = "and") -> str:
    return f" {word} ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def _near(name: str, ids: Iterable[str]) -> list[str]:
    """Ids whose second half is like that of ``name``: the first half is short, and often right."""
    halves = {id_: id_.partition("/")[2] for id_ in ids}
    asked = name.rpartition("/")[2].lower().replace("_", "-")
    best = difflib.get_close_matches(asked, list(halves.values()), n=1)
    return [id_ for id_, half in halves.items() if half in best]


def _no(kind: str, name: str, id_: str, known: Iterable[str]) -> str:
    known = list(known)
    near = did_you_mean(name, known) or f" It has: {', '.join(known) or 'none'}."
    return f"{id_!r} has no {kind} {name!r}.{near}"


def _first_comment(file: Traversable) -> str:
    lines = []
    for line in file.read_bytes().decode("utf-8-sig", errors="replace").splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("#").strip())
    return " ".join(lines)


@cache
def default() -> Registry:
    """The registry of this process."""
    return Registry.discover()


def refresh() -> Registry:
    """Look again, e.g. after an installation from a notebook."""
    invalidate_caches()
    default.cache_clear()
    return default()

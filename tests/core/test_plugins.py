from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

import pytest

from polycontrast import plugins
from polycontrast.errors import MissingDependency, PluginError
from polycontrast.plugins import GROUP, PLUGIN_API, DatasetSpec, Entry, MethodSpec, Plugin, Registry

METHOD = {"name": "scan-clr", "target": "a.method:Scan", "config": "a.config:ScanConfig", "summary": "Scans."}
DATASET = {"name": "demo", "target": "a.data:demo", "summary": "Points.", "methods": ("scan-clr",)}

# The oldest plugin that must load: API 1.0, as a stranger wrote it then. Never edit it; add a copy for a newer API.
FROZEN_1_0 = """
from polycontrast.plugins import DatasetSpec, MethodSpec, Plugin

PLUGIN = Plugin(
    domain="lidar",
    api=(1, 0),
    extra="",
    methods=(
        MethodSpec(
            name="scan-clr",
            target="acme_lidar.method:ScanCLR",
            config="acme_lidar.config:ScanConfig",
            summary="Contrast of two scans of one place.",
            paper="10.1000/182",
            reader="acme_lidar.data:read",
        ),
    ),
    datasets=(
        DatasetSpec(
            name="demo",
            target="acme_lidar.data:demo",
            summary="Points on spheres.",
            methods=("scan-clr",),
            preset="demo",
            licence="CC0-1.0",
            citation="None.",
        ),
    ),
)
"""


class Site:
    """A folder on ``sys.path`` into which distributions are written by hand."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def package(self, name: str, files: dict[str, str]) -> None:
        for file, text in files.items():
            path = self.folder / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        importlib.invalidate_caches()

    def dist(self, name: str, version: str, entry_points: dict[str, str] | None = None, metadata: str = "") -> None:
        info = self.folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{metadata}")
        if entry_points:
            lines = [f"[{GROUP}]", *(f"{key} = {value}" for key, value in entry_points.items())]
            (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
        importlib.invalidate_caches()

    def plugin(self, name: str, domain: str, text: str, *, version: str = "1.0", metadata: str = "") -> None:
        """A distribution of one package whose manifest is ``text``."""
        package = name.replace("-", "_")
        self.package(package, {"__init__.py": text})
        self.dist(name, version, {domain: f"{package}:PLUGIN"}, metadata)

    def registry(self) -> Registry:
        found = distributions(path=[str(self.folder)])
        return Registry([ep for dist in found for ep in dist.entry_points if ep.group == GROUP])


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    before = set(sys.modules)
    yield Site(tmp_path)
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None) or ""
        if file.startswith(str(tmp_path)):
            del sys.modules[name]


def manifest(domain: str, *methods: str, more: str = "", api: tuple[int, int] = (1, 0)) -> str:
    package = f"acme_{domain}"
    targets = f"'{package}.method:Scan', '{package}.config:ScanConfig', 'Scans.', reader='{package}.data:read'"
    specs = ", ".join(f"MethodSpec('{name}', {targets})" for name in methods)
    return (
        "from polycontrast.plugins import DatasetSpec, MethodSpec, Plugin\n"
        f"PLUGIN = Plugin(domain='{domain}', api={api}, methods=({specs}{',' if specs else ''}) {more})\n"
    )


def message(call, *args, kind: type[Exception] = PluginError, **kwargs) -> str:
    with pytest.raises(kind) as caught:
        call(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text
    return text


# ---- manifests ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"name": "Scan"}, "method name 'Scan' must be lower case with hyphens, e.g. 'info-graph'"),
        ({"name": "a_b"}, "method name 'a_b' must be lower case with hyphens, e.g. 'info-graph'"),
        ({"target": "a.method"}, "target 'a.method' of 'scan-clr' must look like 'package.module:ClassName'"),
        ({"config": "a:b:c"}, "config 'a:b:c' of 'scan-clr' must look like 'package.module:ClassName'"),
        ({"reader": "read"}, "reader 'read' of 'scan-clr' must look like 'package.module:function'"),
        ({"summary": ""}, "summary of 'scan-clr' must be one line, got ''"),
        ({"summary": "a\nb"}, "summary of 'scan-clr' must be one line, got 'a\\nb'"),
    ],
)
def test_damaged_method(change, error):
    MethodSpec(**METHOD)
    assert message(MethodSpec, **METHOD | change) == error


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"name": "Demo!"}, "dataset name 'Demo!' must be lower case with hyphens, e.g. 'info-graph'"),
        ({"target": "demo"}, "target 'demo' of 'demo' must look like 'package.module:function'"),
        ({"methods": ()}, "methods of dataset 'demo' must be a tuple of method names, got ()"),
        ({"methods": "scan-clr"}, "methods of dataset 'demo' must be a tuple of method names, got 'scan-clr'"),
    ],
)
def test_damaged_dataset(change, error):
    DatasetSpec(**DATASET)
    assert message(DatasetSpec, **DATASET | change) == error


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"domain": "Lidar"}, "domain name 'Lidar' must be lower case with hyphens, e.g. 'info-graph'"),
        ({"api": (1,)}, "api of plugin 'lidar' must be two numbers, e.g. (1, 0), got (1,)"),
        ({"api": "1.0"}, "api of plugin 'lidar' must be two numbers, e.g. (1, 0), got '1.0'"),
        ({"methods": MethodSpec(**METHOD)}, "methods of plugin 'lidar' must be a tuple of MethodSpec"),
        ({"datasets": (1,)}, "datasets of plugin 'lidar' must be a tuple of DatasetSpec"),
        ({"methods": (MethodSpec(**METHOD),) * 2}, "plugin 'lidar' has two methods 'scan-clr'; rename one"),
        (
            {"datasets": (DatasetSpec(**DATASET | {"methods": ("scan-clt",)}),)},
            "dataset 'demo' of plugin 'lidar' names the unknown method 'scan-clt'. Did you mean 'scan-clr'?",
        ),
        (
            {"datasets": (DatasetSpec(**DATASET),) * 2},
            "method 'scan-clr' of plugin 'lidar' has two datasets 'demo'; rename one",
        ),
    ],
)
def test_damaged_plugin(change, error):
    whole = {
        "domain": "lidar",
        "api": (1, 0),
        "methods": (MethodSpec(**METHOD),),
        "datasets": (DatasetSpec(**DATASET),),
    }
    Plugin(**whole)
    assert message(Plugin, **whole | change) == error


def test_two_methods_may_have_a_demo_each():
    methods = tuple(MethodSpec(**METHOD | {"name": name}) for name in ("a", "b"))
    demos = tuple(DatasetSpec(**DATASET | {"methods": (name,)}) for name in ("a", "b"))
    plugin = Plugin("lidar", (1, 0), methods=methods, datasets=demos)
    assert plugin.datasets == demos


SPEAKS = "this polycontrast speaks 1.0."

# ---- discovery ---------------------------------------------------------------------------------------------------


def test_the_oldest_supported_plugin_still_loads(site):
    site.plugin("acme-lidar", "lidar", FROZEN_1_0, version="2.3.0")
    site.package(
        "acme_lidar",
        {
            "config.py": """
                from dataclasses import dataclass
                from polycontrast.config import MethodConfig

                @dataclass(frozen=True, slots=True, kw_only=True)
                class ScanConfig(MethodConfig):
                    rate: float = 0.5
                """,
            "method.py": "class ScanCLR: ...\n",
            "data.py": "def demo(config, seed, purpose): ...\ndef read(path, config, seed, purpose): ...\n",
            "presets/demo.yaml": "# A minute\n# on a laptop.\n\n# not this\nrate: 1e-3\n",
            "presets/paper.yml": "rate: 0.1\n",
            "presets/notes.txt": "",
        },
    )
    registry = site.registry()
    assert registry.broken == {}
    assert list(registry.methods) == ["lidar/scan-clr"]
    entry = registry.method("scan-clr")
    assert entry is registry.method("lidar/scan-clr")
    assert (entry.id, entry.owner, entry.missing()) == ("lidar/scan-clr", "acme-lidar 2.3.0", [])
    assert entry.spec.paper == "10.1000/182"
    assert entry.dist is not None
    assert entry.dist.name == "acme-lidar"
    assert entry.install_command == "pip install --upgrade acme-lidar"
    entry.require()
    assert entry.load().__name__ == "ScanCLR"
    assert entry.config_class()().rate == 0.5
    assert list(entry.datasets) == ["demo"]
    assert entry.datasets["demo"].preset == "demo"
    assert entry.dataset_loader("demo").__name__ == "demo"
    assert entry.reader().__name__ == "read"
    presets = entry.presets()
    assert {name: (p.name, p.doc, p.values) for name, p in presets.items()} == {
        "demo": ("demo", "A minute on a laptop.", {"rate": 0.001}),
        "paper": ("paper", "", {"rate": 0.1}),
    }
    assert message(entry.dataset_loader, "dmo") == "'lidar/scan-clr' has no dataset 'dmo'. Did you mean 'demo'?"
    assert message(entry.dataset_loader, "x") == "'lidar/scan-clr' has no dataset 'x'. It has: demo."
    domain = registry.domains["lidar"]
    assert (domain.owner, domain.extra, domain.state, domain.hint) == ("acme-lidar 2.3.0", "", "ready", "")
    assert domain.methods == ("lidar/scan-clr",)


def test_an_entry_point_made_by_hand(site):
    site.package("acme_lidar", {"__init__.py": manifest("lidar", "scan-clr", more=", extra='deep'")})
    registry = Registry([EntryPoint("lidar", "acme_lidar:PLUGIN", GROUP)])
    entry = registry.method("scan-clr")
    assert (entry.owner, entry.dist, entry.missing(), entry.install_command) == ("acme_lidar:PLUGIN", None, [], "")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("import acme_native\n", "acme-lidar 2.3.0 did not load: No module named 'acme_native'"),
        ("import sys; sys.exit(3)\n", "acme-lidar 2.3.0 did not load: it called sys.exit(3)"),
        ("1 / 0\n", "acme-lidar 2.3.0 did not load: ZeroDivisionError: division by zero"),
        ("x = 1\n", "acme-lidar 2.3.0 did not load: AttributeError: module 'acme_lidar' has no attribute 'PLUGIN'"),
        ("raise Exception('a\\nb')\n", "acme-lidar 2.3.0 did not load: Exception: a b"),
        (
            "PLUGIN = {}\n",
            "acme-lidar 2.3.0 did not load: its entry point 'lidar' names an object of type dict, "
            "not polycontrast.plugins.Plugin",
        ),
        (
            manifest("radar", "scan-clr"),
            "acme-lidar 2.3.0 did not load: its entry point 'lidar' holds the domain 'radar'; name both alike",
        ),
        (
            manifest("lidar", "scan-clr", "scan-clr"),
            "acme-lidar 2.3.0 did not load: plugin 'lidar' has two methods 'scan-clr'; rename one",
        ),
        (
            manifest("lidar", more=", datasets=(DatasetSpec('demo', 'a:b', 'Points.', ('x',)),)"),
            "acme-lidar 2.3.0 did not load: dataset 'demo' of plugin 'lidar' names the unknown method 'x'.",
        ),
        (
            manifest("lidar", api=(1, 9)),
            f"acme-lidar 2.3.0 was written for plugin API 1.9; {SPEAKS} To fix: upgrade polycontrast.",
        ),
        (
            manifest("lidar", api=(2, 0)),
            f"acme-lidar 2.3.0 was written for plugin API 2.0; {SPEAKS} To fix: upgrade polycontrast.",
        ),
        (
            manifest("lidar", api=(0, 3)),
            f"acme-lidar 2.3.0 was written for plugin API 0.3; {SPEAKS} To fix: upgrade acme-lidar.",
        ),
        (
            manifest("lidar", more=", extra='depe'"),
            "acme-lidar 2.3.0 has no extra 'depe' in its metadata, which its plugin names. Did you mean 'deep'? "
            "To fix: correct the plugin, or reinstall acme-lidar.",
        ),
    ],
)
def test_a_broken_plugin_is_remembered_and_breaks_no_other(site, text, error):
    site.plugin("acme-lidar", "lidar", text, version="2.3.0", metadata="Provides-Extra: deep\n")
    site.plugin("acme-sonar", "sonar", manifest("sonar", "ping"))
    registry = site.registry()
    assert list(registry.methods) == ["sonar/ping"]
    assert list(registry.broken) == ["acme-lidar 2.3.0"]
    assert (registry.domains["lidar"].state, registry.domains["lidar"].hint) == ("broken", error)
    assert registry.domains["sonar"].state == "ready"
    assert registry.method("ping").id == "sonar/ping"
    told = f"{error} (details: polycontrast doctor)"
    assert message(registry.method, "lidar/scan-clr") == f"'lidar/scan-clr' cannot be used: {told}"
    assert message(registry.method, "sonar/pong") == f"no method 'sonar/pong'. Did you mean 'sonar/ping'?; note: {told}"


def test_the_speaking_range(site, monkeypatch):
    monkeypatch.setattr(plugins, "PLUGIN_API", (1, 2))
    site.plugin("acme-lidar", "lidar", manifest("lidar", api=(1, 9)), version="2.3.0")
    site.plugin("acme-sonar", "sonar", manifest("sonar", "ping", api=(1, 2)))
    site.plugin("acme-radar", "radar", manifest("radar", "beam", api=(1, 0)))
    registry = site.registry()
    assert list(registry.methods) == ["radar/beam", "sonar/ping"]
    assert str(registry.broken["acme-lidar 2.3.0"]) == (
        "acme-lidar 2.3.0 was written for plugin API 1.9; this polycontrast speaks 1.0 to 1.2. "
        "To fix: upgrade polycontrast."
    )


def test_a_check_that_fails_itself_is_reported(site):
    site.plugin("acme-lidar", "lidar", manifest("lidar", more=", checks='acme_lidar.nowhere:look'"))
    site.plugin("acme-sonar", "sonar", manifest("sonar", more=", checks='acme_sonar:look'"))
    (lidar, why), (sonar, other) = site.registry().checks()
    assert (lidar, why.name, why.ok) == ("lidar", "acme_lidar.nowhere:look", False)
    assert why.detail == "the check itself failed: No module named 'acme_lidar.nowhere'"
    assert (sonar, other.ok) == ("sonar", False)
    assert "has no attribute 'look'" in other.detail


def test_checks_must_be_a_target():
    told = message(Plugin, "lidar", (1, 0), checks="look")
    assert told == "checks 'look' of 'lidar' must look like 'package.module:function'"


def test_two_broken_plugins_of_one_distribution(site):
    site.package("acme", {"__init__.py": ""})
    site.dist("acme", "1.0", {"lidar": "acme:NONE", "sonar": "acme.nothing:PLUGIN"})
    registry = site.registry()
    assert list(registry.broken) == ["acme 1.0 (lidar)", "acme 1.0 (sonar)"]
    assert registry.domains["sonar"].hint == "acme 1.0 (sonar) did not load: No module named 'acme.nothing'"


def test_damaged_metadata_do_no_harm(site):
    site.plugin("acme-lidar", "lidar", manifest("lidar", "scan-clr"))
    (site.folder / "acme_lidar-1.0.dist-info" / "METADATA").unlink()
    site.plugin("acme-sonar", "sonar", manifest("sonar", "ping"))
    registry = site.registry()
    assert registry.method("scan-clr").owner == "acme_lidar:PLUGIN"
    assert registry.domains["lidar"].state == "ready"
    site.plugin(
        "acme-radar", "radar", manifest("radar", "beam", more=", extra='x'"),
        metadata="Provides-Extra: x\nRequires-Dist: ???; extra == 'x'\n",
    )  # fmt: skip
    assert list(site.registry().broken) == ["acme-radar 1.0"]
    assert site.registry().domains["radar"].hint == (
        "acme-radar 1.0 has a requirement in its metadata that cannot be read: \"???; extra == 'x'\""
    )


def test_a_clash_disables_that_id_alone(site):
    site.plugin("acme-lidar", "lidar", manifest("lidar", "scan-clr", "other"))
    site.plugin("best-lidar", "lidar", manifest("lidar", "scan-clr", "third"), version="2.0")
    registry = site.registry()
    assert list(registry.methods) == ["lidar/other", "lidar/third"]
    assert registry.clashes == {"lidar/scan-clr": ["acme-lidar 1.0", "best-lidar 2.0"]}
    for name in ("lidar/scan-clr", "scan-clr"):
        assert message(registry.method, name) == (
            "'lidar/scan-clr' is claimed by acme-lidar 1.0 and best-lidar 2.0, so it cannot be used. "
            "To fix: uninstall all but one of them, e.g. pip uninstall best-lidar"
        )
    domain = registry.domains["lidar"]
    assert domain.owner == "acme-lidar 1.0, best-lidar 2.0"
    assert domain.methods == ("lidar/other", "lidar/third")
    assert registry.method("third").owner == "best-lidar 2.0"


def test_three_owners_of_one_id(site):
    for name in ("a-lidar", "b-lidar", "c-lidar"):
        site.plugin(name, "lidar", manifest("lidar", "scan-clr"))
    registry = site.registry()
    assert registry.methods == {}
    assert "claimed by a-lidar 1.0, b-lidar 1.0 and c-lidar 1.0, so" in message(registry.method, "scan-clr")


def test_unknown_names(site):
    site.plugin("acme-lidar", "lidar", manifest("lidar", "scan-clr", "ping"))
    site.plugin("acme-sonar", "sonar", manifest("sonar", "ping"))
    site.plugin("acme-radar", "radar", manifest("radar"))
    registry = site.registry()
    expected = {
        "lidar/scan-clt": "no method 'lidar/scan-clt'. Did you mean 'lidar/scan-clr'?",
        "LIDAR/Scan_CLR": "no method 'LIDAR/Scan_CLR'. Did you mean 'lidar/scan-clr'?",
        "lider/scan-clr": "no method 'lider/scan-clr'. Did you mean 'lidar/scan-clr'?",
        "radar/pin": "no method 'radar/pin'. Did you mean 'lidar/ping' or 'sonar/ping'?",
        "sonar/pin": "no method 'sonar/pin'. Did you mean 'sonar/ping'?",
        "scan-cl": "no method 'scan-cl'. Did you mean 'lidar/scan-clr'?",
        "ping": "'ping' may be lidar/ping or sonar/ping; say which",
        "lidar/xyz": "no method 'lidar/xyz'; methods of 'lidar': lidar/ping, lidar/scan-clr",
        "radar/xyz": "no method 'radar/xyz'; methods of 'radar': none yet",
        "lidar": "'lidar' is a domain, not a method; its methods: lidar/ping, lidar/scan-clr",
        "xyz": "no method 'xyz'. To see all of them: polycontrast list",
        "": "no method ''. To see all of them: polycontrast list",
    }
    assert {name: message(registry.method, name) for name in expected} == expected


# ---- what is missing ---------------------------------------------------------------------------------------------


@pytest.fixture
def entry(site):
    """Answers for the extra ``deep`` of acme-lidar with the given metadata."""

    def make(*lines: str, extra: str = "deep") -> Entry:
        site.plugin(
            "acme-lidar", "lidar", manifest("lidar", "scan-clr", more=f", extra={extra!r}"), version="2.3.0",
            metadata="".join(f"{line}\n" for line in lines),
        )  # fmt: skip
        return site.registry().method("lidar/scan-clr")

    return make


@pytest.mark.parametrize(
    ("requires", "missing"),
    [
        ("acme-none>=2.6; extra == 'deep'", ["acme-none>=2.6"]),
        ("acme-none; extra == 'deep'", ["acme-none"]),
        ("acme-none>=2.6; extra == 'other'", []),
        ("acme-none>=2.6", []),
        ("acme-none; extra == 'deep' or python_version > '3'", []),  # of the distribution itself
        ("acme-none; extra == 'deep' and python_version < '3'", []),
        ("acme-none; extra == 'deep' and python_version >= '3'", ["acme-none"]),
        ("Acme_Thing>=1.2; extra == 'deep'", []),
        ("acme.thing<3,>=2; extra == 'deep'", ["acme.thing<3,>=2"]),
        ("acme-pre>=2.0; extra == 'deep'", ["acme-pre>=2.0"]),
        ("acme-pre>=1.9; extra == 'deep'", []),
        ("acme-local<=3.0,>=3; extra == 'deep'", []),
        ("acme-odd>=1; extra == 'deep'", []),
        ("acme-none @ https://example.org/a.whl ; extra == 'deep'", ["acme-none"]),
        ("acme-empty; extra == 'deep'", ["acme-empty"]),
        ("acme-thing[fast]; extra == 'deep'", ["acme-turbo>=1"]),
    ],
)
def test_missing(site, entry, requires, missing):
    site.dist("acme-thing", "1.5", metadata="Provides-Extra: fast\nRequires-Dist: acme-turbo>=1; extra == 'fast'\n")
    site.dist("acme-pre", "2.0rc1")
    site.dist("acme-local", "3.0+cpu")
    site.dist("acme-odd", "not-a-version")
    (site.folder / "acme_empty-1.0.dist-info").mkdir()
    got = entry("Provides-Extra: deep", "Provides-Extra: other", f"Requires-Dist: {requires}")
    assert got.missing() == missing


def test_extras_that_refer_to_each_other(entry):
    got = entry(
        "Provides-Extra: graph-things", "Provides-Extra: speech", "Provides-Extra: all",
        "Requires-Dist: acme-one>=1; extra == 'graph-things'",
        "Requires-Dist: acme-two; extra == 'speech'",
        "Requires-Dist: Acme_Lidar[all]; extra == 'speech'",
        "Requires-Dist: acme-lidar[Graph_Things,speech]; extra == 'all'",
        extra="all",
    )  # fmt: skip
    assert got.missing() == ["acme-one>=1", "acme-two"]


def test_names_of_extras_are_normalised(entry):
    requires = "Requires-Dist: acme-none; extra == 'vision-language'"
    got = entry("Provides-Extra: vision-language", requires, extra="Vision_Language")
    assert got.missing() == ["acme-none"]


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        (
            ["Requires-Dist: acme-none>=2.6; extra == 'deep'"],
            "'lidar/scan-clr' needs acme-none>=2.6, which is not installed: pip install \"acme-lidar[deep]\"",
        ),
        (
            ["Requires-Dist: acme-a; extra == 'deep'", "Requires-Dist: acme-b>1; extra == 'deep'"],
            "'lidar/scan-clr' needs acme-a and acme-b>1, which are not installed: pip install \"acme-lidar[deep]\"",
        ),
        (
            ["Requires-Dist: acme-thing>=2; extra == 'deep'"],
            "'lidar/scan-clr' needs acme-thing>=2 (1.5 is installed): pip install \"acme-lidar[deep]\"",
        ),
        (
            ["Requires-Dist: acme-thing>=2; extra == 'deep'", "Requires-Dist: acme-b; extra == 'deep'"],
            "'lidar/scan-clr' needs acme-thing>=2 (1.5 is installed) and acme-b (not installed): "
            'pip install "acme-lidar[deep]"',
        ),
    ],
)
def test_require(site, entry, lines, error):
    site.dist("acme-thing", "1.5")
    got = entry("Provides-Extra: deep", *lines)
    for call in (got.require, got.load, got.reader):
        assert message(call, kind=MissingDependency) == error
    assert issubclass(MissingDependency, ImportError)


def test_a_domain_that_is_not_installed(site, entry):
    entry("Provides-Extra: deep", "Requires-Dist: acme-none>=2.6; extra == 'deep'")
    domain = site.registry().domains["lidar"]
    assert (domain.state, domain.hint) == ("not installed", 'pip install "acme-lidar[deep]"')
    assert domain.missing == ("acme-none>=2.6",)
    # a second, complete plugin of the domain does not hide that, and can be used
    site.plugin("best-lidar", "lidar", manifest("lidar", "other"))
    registry = site.registry()
    assert registry.domains["lidar"].state == "not installed"
    registry.method("other").require()


def test_a_domain_without_methods_is_judged_by_its_extra(site):
    site.plugin(
        "acme-lidar", "lidar", manifest("lidar", more=", extra='deep'"),
        metadata="Provides-Extra: deep\nRequires-Dist: acme-none; extra == 'deep'\n",
    )  # fmt: skip
    domain = site.registry().domains["lidar"]
    assert (domain.methods, domain.state) == ((), "not installed")


# ---- loading -----------------------------------------------------------------------------------------------------

BROKEN = "'lidar/scan-clr' of acme-lidar 2.3.0 is broken: "
NOT_LOADED = BROKEN + "acme_lidar.method did not load: "


@pytest.mark.parametrize(
    ("text", "kind", "error"),
    [
        (
            "import acme_native.deep\n",
            MissingDependency,
            "'lidar/scan-clr' needs the module 'acme_native', which is not installed: pip install \"acme-lidar[deep]\"",
        ),
        ("import acme_lidar.gone\n", PluginError, NOT_LOADED + "No module named 'acme_lidar.gone'"),
        ("import polycontrast.gone\n", PluginError, NOT_LOADED + "No module named 'polycontrast.gone'"),
        ("1 / 0\n", PluginError, NOT_LOADED + "ZeroDivisionError: division by zero"),
        ("import sys; sys.exit()\n", PluginError, NOT_LOADED + "SystemExit"),
        ("class Scam: ...\n", PluginError, BROKEN + "acme_lidar.method has no 'Scan'. Did you mean 'Scam'?"),
        ("Scan = 3\n", PluginError, BROKEN + "acme_lidar.method:Scan is not a class"),
        (None, PluginError, NOT_LOADED + "No module named 'acme_lidar.method'"),
    ],
)  # fmt: skip
def test_a_target_that_does_not_load(site, entry, text, kind, error):
    got = entry("Provides-Extra: deep")
    if text is not None:
        site.package("acme_lidar", {"method.py": text})
    with pytest.raises(PluginError) as caught:
        got.load()
    assert str(caught.value) == error
    assert type(caught.value) is kind
    if "did not load" in error or kind is MissingDependency:
        assert caught.value.__cause__ is not None


def test_a_config_or_function_that_is_none(site, entry):
    got = entry("Provides-Extra: deep")
    site.package("acme_lidar", {"config.py": "class ScanConfig: ...\n", "data.py": "read = 3\n"})
    assert message(got.config_class) == BROKEN + "acme_lidar.config:ScanConfig is not a dataclass"
    assert message(got.reader) == BROKEN + "acme_lidar.data:read is not a function"


def test_a_method_without_reader():
    spec = MethodSpec(**METHOD)
    plugin = Plugin("lidar", (1, 0), methods=(spec,), datasets=(DatasetSpec(**DATASET),))
    got = Entry("lidar/scan-clr", spec, plugin, "me", plugins._Source(None, "me"), "a")
    assert message(got.reader) == "'lidar/scan-clr' reads no files; its datasets are: demo"


def test_presets_of_a_package_without_any(site, entry):
    got = entry("Provides-Extra: deep")
    site.package("acme_lidar", {"config.py": "import dataclasses\n@dataclasses.dataclass\nclass ScanConfig: ...\n"})
    assert got.presets() == {}


# ---- this distribution -------------------------------------------------------------------------------------------


def test_ours_use_no_private_door():
    registry = Registry.discover()
    assert {"graph", "rl", "speech", "timeseries", "vision-language"} <= registry.domains.keys()
    ours = [domain for domain in registry.domains.values() if domain.owner.startswith("polycontrast ")]
    assert all(domain.extra == domain.name for domain in ours if domain.state != "broken" and domain.extra)
    assert PLUGIN_API == (1, 0)


def test_default_is_cached_until_refreshed():
    first = plugins.default()
    assert plugins.default() is first
    assert plugins.refresh() is not first
    assert plugins.default() is not first


def test_looking_is_light_and_quick():
    code = """
    import resource, sys
    from polycontrast import config, plugins
    registry = plugins.Registry.discover()
    registry.domains, registry.methods
    used = resource.getrusage(resource.RUSAGE_SELF)
    for entry in registry.methods.values():
        config.describe(entry.config_class()), entry.presets(), entry.missing()
    heavy = {"torch", "numpy", "pandas", "pyarrow", "accelerate"} & set(sys.modules)
    assert not heavy, heavy
    print(used.ru_utime + used.ru_stime)
    """
    run = [sys.executable, "-c", textwrap.dedent(code)]
    seconds = [float(subprocess.run(run, check=True, capture_output=True, text=True).stdout) for _ in range(3)]
    assert min(seconds) < 0.3

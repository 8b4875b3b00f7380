"""``doctor``: what works on this machine, and what to install."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import traceback
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from polycontrast.cli import output
from polycontrast.errors import one_line, reason

# In a process of its own: a torch built for another processor dies by a signal instead of raising, and ``doctor``
# is what one calls then.
_PROBE = """
import json, sys
import torch
answer = {"version": torch.__version__, "threads": torch.get_num_threads(), "cuda": torch.version.cuda,
          "devices": [], "mps": False}
try:
    if torch.cuda.is_available():
        answer["devices"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    answer["mps"] = torch.backends.mps.is_available()
except Exception as error:
    answer["accelerator_error"] = " ".join(str(error).split())
assert torch.isfinite(torch.ones(8, 8) @ torch.ones(8, 8)).all()
print(json.dumps(answer), flush=True)
import polycontrast.api
"""
_PROBE_SECONDS = 180
_SCARCE_DISK_GB = 2.0


def run(arguments: argparse.Namespace) -> int:
    """Print the findings. 0 if the core works, 1 if not."""
    found = examine()
    if arguments.json:
        output.write_json(found)
    else:
        output.write(_page(found))
    return 0 if found["ok"] else 1


def examine() -> dict[str, Any]:
    """Everything ``doctor`` looks at, as JSON-able values. ``ok`` tells whether the core works."""
    from polycontrast.plugins import default

    core_missing = _core_missing()
    torch, error = _torch()
    fix = ""
    if core_missing:
        fix = f"pip install {' '.join(json.dumps(requirement) for requirement in core_missing)}"
    elif error:
        fix = "python -c 'import polycontrast.api' shows the whole error"
    registry = default()
    domains = []
    for name, domain in registry.domains.items():
        entries = [entry for id_, entry in registry.methods.items() if id_.split("/")[0] == name]
        missing = sorted({requirement for entry in entries for requirement in entry.missing()})
        domains.append(
            {
                "domain": name,
                "owner": domain.owner,
                "state": domain.state,
                "hint": domain.hint,
                "missing": missing,
                "methods": [entry.id for entry in entries],
            }
        )
    disk_at = _nearest(Path("runs"))
    disk = round(shutil.disk_usage(disk_at).free / 1e9, 1)
    return {
        "ok": not core_missing and error is None and sys.version_info >= (3, 11),
        "polycontrast": _version("polycontrast"),
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gb": _memory(),
        "core": {"missing": core_missing, "error": error, "fix": fix},
        "torch": torch,
        "domains": domains,
        "broken": [{"owner": owner, "error": _explain(why)} for owner, why in registry.broken.items()],
        "clashes": [{"method": method, "owners": list(owners)} for method, owners in registry.clashes.items()],
        "trackers": {name: _present(name) for name in ("tensorboard", "wandb")},
        "disk": {"directory": str(disk_at), "free_gb": disk, "writable": os.access(disk_at, os.W_OK)},
        "checks": [{"domain": domain, **dataclasses.asdict(check)} for domain, check in registry.checks()],
        "hints": {"soundfile (speech)": _present("soundfile")},
    }


def _core_missing() -> list[str]:
    """Requirements of polycontrast itself that are not installed or too old."""
    from packaging.requirements import Requirement

    try:
        required = distribution("polycontrast").requires or []
    except PackageNotFoundError:
        return ["polycontrast"]
    out = []
    for requirement in map(Requirement, required):
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        installed = _version(requirement.name)
        if not installed or not requirement.specifier.contains(installed, prereleases=True):
            out.append(f"{requirement.name}{requirement.specifier}")
    return out


def _torch() -> tuple[dict[str, Any] | None, str | None]:
    try:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _PROBE], capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"torch did not start: {one_line(error)}"
    printed = [line for line in done.stdout.splitlines() if line.startswith("{")]
    torch: dict[str, Any] | None = json.loads(printed[-1]) if printed else None
    if done.returncode == 0:
        return torch, None
    last = (done.stderr.strip().splitlines() or [f"it ended with code {done.returncode}"])[-1]
    return torch, f"importing {'polycontrast.api' if torch else 'torch'} failed: {last}"


def _explain(error: BaseException) -> str:
    """The message and the place it came from, as a plugin author needs it."""
    text = reason(error)
    frames = traceback.extract_tb(error.__traceback__)
    own = str(Path(__file__).parent.parent)
    strange = [f for f in frames if not f.filename.startswith((own, "<frozen")) and "importlib" not in f.filename]
    return f"{text} ({strange[-1].filename}, line {strange[-1].lineno})" if strange else text


def _version(name: str) -> str:
    try:
        return distribution(name).version
    except PackageNotFoundError:
        return ""


def _present(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def _memory() -> dict[str, float | None]:
    """Total and available memory in gigabytes; None where the system does not say."""
    total: float | None = None
    free: float | None = None
    try:
        total = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1)
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                free = round(int(line.split()[1]) * 1024 / 1e9, 1)
    except (AttributeError, ValueError, OSError):
        pass
    return {"total": total, "available": free}


def _nearest(path: Path) -> Path:
    """The path or the first of its parents that exists."""
    return next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())


def _page(found: dict[str, Any]) -> str:
    core, torch, memory, disk = found["core"], found["torch"], found["memory_gb"], found["disk"]
    rows = [
        ["polycontrast", found["polycontrast"] or "not installed"],
        ["python", f"{found['python']}   {found['executable']}"],
        ["platform", found["platform"]],
        ["cores", str(found["cores"])],
        ["memory", f"{memory['available'] or '?'} of {memory['total'] or '?'} GB free"],
        ["disk", f"{disk['free_gb']} GB free in {disk['directory']}"],
    ]
    if torch:
        accelerator = ", ".join(torch["devices"]) or ("Apple MPS" if torch["mps"] else "none, the CPU is used")
        rows += [["torch", f"{torch['version']}, {torch['threads']} threads"], ["accelerator", accelerator]]
        if torch.get("accelerator_error"):
            rows.append(["", torch["accelerator_error"]])
    lines = [output.table(["machine", ""], rows)]

    states = [
        [
            d["domain"],
            d["state"],
            "see below" if d["state"] == "broken" else "; ".join(filter(None, (_lacks(d), d["hint"]))),
        ]
        for d in found["domains"]
    ]
    lines += ["", output.table(["domain", "state", "to do"], states)] if states else []
    for title, broken in (
        ("plugins that did not load", [[b["owner"], b["error"]] for b in found["broken"]]),
        ("methods that two plugins claim", [[c["method"], " and ".join(c["owners"])] for c in found["clashes"]]),
    ):
        lines += ["", output.table([title, ""], broken)] if broken else []

    optional = [[name, "installed" if there else f"not installed: pip install {name}"]
                for name, there in found["trackers"].items()]  # fmt: skip
    hint = "installed" if found["hints"]["soundfile (speech)"] else "not installed: pip install soundfile"
    optional.append(["soundfile (speech)", hint])
    optional += [[f"{c['name']} ({c['domain']})", c["detail"]] for c in found["checks"]]
    lines += ["", output.table(["optional", ""], optional), ""]

    if core["missing"]:
        lines.append(f"The core does not work: {', '.join(core['missing'])} missing. To fix: {core['fix']}")
    elif core["error"]:
        lines.append(f"The core does not work: {core['error']}. To fix: {core['fix']}")
    elif not found["ok"]:
        lines.append(f"The core does not work: Python {found['python']} is too old, 3.11 or newer is needed.")
    else:
        lines.append("The core works.")
    if disk["free_gb"] < _SCARCE_DISK_GB:
        lines.append(f"Little disk space: {disk['free_gb']} GB free in {disk['directory']}.")
    if not disk["writable"]:
        lines.append(f"{disk['directory']} is not writable; give train a directory with --out.")
    return "\n".join(lines)


def _lacks(domain: dict[str, Any]) -> str:
    return f"missing: {', '.join(domain['missing'])}" if domain["missing"] else ""

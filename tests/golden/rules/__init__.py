"""Golden values: arrays made elsewhere that the product must reproduce, and the rules that compare them.

Every ``.npz`` file is one case. Its folder names the method, and its name begins with that of a rule, the longest
one that fits: ``ti_mae/forward.npz`` and ``ti_mae/forward_b.npz`` are both cases of the rule ``forward`` of
``ti_mae``. A rule reads shapes and parameters from the arrays, calls public names of the product and accounts for
every array of the file: read as input, compared, or left out with a reason. One module here per method::

    @rule("ti_mae", "masking")
    def masking(case: Case) -> None:
        keep = random_mask(case.tensor("noise"), case.number("ratio"))
        case.same("keep", keep)
        case.skip("mask", reason="...")

To see that a rule can fail, break the product once by hand.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

TOLERANCE = 1e-9
"""Absolute, and relative to the expected value, for float64."""

Rule = Callable[["Case"], None]
RULES: dict[tuple[str, str], Rule] = {}
"""By method folder and prefix of the file name."""


class Case:
    """The arrays of one file, each of which must be accounted for."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with np.load(path, allow_pickle=False) as file:
            self._arrays: dict[str, npt.NDArray[np.generic]] = {name: file[name] for name in file.files}
        self._used: set[str] = set()
        self._compared: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._arrays

    def names(self, prefix: str = "") -> list[str]:
        """Names of the arrays that begin with ``prefix``."""
        return [name for name in self._arrays if name.startswith(prefix)]

    # ---- inputs ----------------------------------------------------------------------------------------------

    def array(self, name: str) -> npt.NDArray[np.generic]:
        """An input as it is."""
        assert name in self._arrays, f"{self.path.name} has no array {name!r}; it has {', '.join(self._arrays)}"
        self._used.add(name)
        return self._arrays[name]

    def tensor(self, name: str) -> Tensor:
        """An input as a tensor of its own."""
        return torch.from_numpy(np.array(self.array(name)))

    def number(self, name: str) -> float:
        """A scalar input."""
        return float(self.array(name).item())  # type: ignore[arg-type]

    def integer(self, name: str) -> int:
        """A whole-numbered scalar input."""
        value = self.array(name).item()
        assert value == int(value), f"{name} must be a whole number, got {value}"  # type: ignore[call-overload]
        return int(value)  # type: ignore[call-overload]

    # ---- outputs ---------------------------------------------------------------------------------------------

    def close(self, name: str, actual: Tensor | npt.ArrayLike, *, tolerance: float = TOLERANCE) -> None:
        """Compare an output."""
        expected = self.array(name)
        self._compared.add(name)
        got = actual.detach().cpu().numpy() if isinstance(actual, Tensor) else np.asarray(actual)
        assert got.shape == expected.shape, f"{name}: shape {got.shape}, expected {expected.shape}"
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance, err_msg=name)

    def same(self, name: str, actual: Tensor | npt.ArrayLike) -> None:
        """Compare an output exactly; a constant of the product, too."""
        expected = self.array(name)
        self._compared.add(name)
        got = actual.detach().cpu().numpy() if isinstance(actual, Tensor) else np.asarray(actual)
        assert got.shape == expected.shape, f"{name}: shape {got.shape}, expected {expected.shape}"
        np.testing.assert_array_equal(got, expected, err_msg=name)

    def skip(self, name: str, *, reason: str) -> None:
        """Leave an array out, and say why."""
        assert reason, f"{name} is left out without a reason"
        assert name in self._arrays, f"{self.path.name} has no array {name!r}"
        self._used.add(name)

    def close_accounts(self) -> None:
        """Fail if an array was ignored, or nothing compared."""
        ignored = [name for name in self._arrays if name not in self._used]
        assert not ignored, f"{self.path.name}: the rule ignores {', '.join(ignored)}; compare or skip with a reason"
        assert self._compared, f"{self.path.name}: the rule compares nothing"


def rule(method: str, prefix: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of all files ``method/prefix.npz`` and ``method/prefix_*.npz``."""

    def register(function: Rule) -> Rule:
        assert (method, prefix) not in RULES, f"two rules for {method}/{prefix}"
        RULES[method, prefix] = function
        return function

    return register


def find_rule(path: Path) -> Rule | None:
    """The rule of a file: the longest prefix of its name that its folder has a rule for."""
    stem = path.stem
    fitting = [
        prefix
        for method, prefix in RULES
        if method == path.parent.name and (stem == prefix or stem.startswith(prefix + "_"))
    ]
    return RULES[path.parent.name, max(fitting, key=len)] if fitting else None


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

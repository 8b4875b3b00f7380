"""Every golden file below ``--golden DIR`` is reproduced by the product; see :mod:`rules`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from golden.rules import RULES, Case, find_rule


def _files(folder: Path) -> list[Path]:
    return sorted(folder.resolve().rglob("*.npz"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "golden_file" in metafunc.fixturenames:
        files = _files(metafunc.config.getoption("golden"))
        metafunc.parametrize("golden_file", files, ids=[f"{file.parent.name}/{file.stem}" for file in files])


def check(file: Path) -> None:
    found = find_rule(file)
    known = ", ".join(f"{method}/{prefix}" for method, prefix in sorted(RULES))
    assert found is not None, f"no rule knows {file.parent.name}/{file.name}; rules: {known}"
    case = Case(file)
    found(case)
    case.close_accounts()


def test_golden(golden_file: Path) -> None:
    check(golden_file)


def test_there_are_golden_files(request: pytest.FixtureRequest) -> None:
    folder = request.config.getoption("golden")
    assert _files(folder), f"{folder} holds no .npz file"


class TestRunner:
    """The runner itself can fail."""

    noise = np.random.default_rng(0).random((2, 8))

    def save(self, path: Path, **arrays: object) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(path, **arrays)  # type: ignore[arg-type]
        return path

    def masking(self) -> dict[str, object]:
        order = self.noise.argsort(1)[:, :2]
        mask = np.ones_like(self.noise)
        np.put_along_axis(mask, order, 0, 1)
        return {"noise": self.noise, "ratio": 0.75, "keep": order, "mask": mask}

    def test_other_shapes_and_suffixes_are_read_from_the_file(self, tmp_path: Path) -> None:
        check(self.save(tmp_path / "ti_mae" / "masking_small.npz", **self.masking()))

    def test_unknown_file(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError, match="no rule knows ti_mae/maskings"):
            check(self.save(tmp_path / "ti_mae" / "maskings.npz", **self.masking()))

    def test_unknown_folder(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError, match="no rule knows nothing/masking"):
            check(self.save(tmp_path / "nothing" / "masking.npz", **self.masking()))

    def test_wrong_value(self, tmp_path: Path) -> None:
        arrays = self.masking()
        arrays["keep"] = np.roll(np.asarray(arrays["keep"]), 1, 1)
        with pytest.raises(AssertionError, match="keep"):
            check(self.save(tmp_path / "ti_mae" / "masking.npz", **arrays))

    def test_ignored_array(self, tmp_path: Path) -> None:
        with pytest.raises(AssertionError, match="the rule ignores extra"):
            check(self.save(tmp_path / "ti_mae" / "masking.npz", **self.masking(), extra=1.0))

    def test_nothing_compared(self, tmp_path: Path) -> None:
        case = Case(self.save(tmp_path / "x.npz", a=1.0))
        case.number("a")
        with pytest.raises(AssertionError, match="compares nothing"):
            case.close_accounts()

"""Options of the whole test run."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest_plugins = ("skips",)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden",
        metavar="DIR",
        type=Path,
        default=Path(__file__).parent / "golden",
        help="folder of golden values, one sub-folder per method with .npz files (default: tests/golden)",
    )

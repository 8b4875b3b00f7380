from __future__ import annotations

import pytest
import torch

from polycontrast.evaluation import gathered, unique_rows
from polycontrast.evaluation.rows import checked, one_per_row, unit_rows


def test_each_sample_once_in_order_of_id() -> None:
    ids = torch.tensor([5, 3, 5, 9, 3])
    x = torch.arange(10.0).view(5, 2)
    kept, rows = unique_rows(ids, x)
    assert kept.tolist() == [3, 5, 9]
    assert rows.tolist() == [[2.0, 3.0], [0.0, 1.0], [6.0, 7.0]]
    assert torch.equal(gathered(ids, x)[1], rows)  # one process: the same


def test_sizes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"same first dimension, got \[2, 3\]"):
        unique_rows(torch.arange(3), torch.zeros(2, 1))


def test_unit_rows() -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float16)
    assert unit_rows(x).dtype == torch.float32
    assert torch.allclose(unit_rows(x), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"query must have shape \(N, D\).*got \(3,\)"):
        checked(torch.zeros(3), "query")
    with pytest.raises(ValueError, match=r"query must have shape"):
        checked(torch.zeros(0, 3), "query")
    x = torch.zeros(4, 2)
    x[2, 1] = torch.nan
    x[3, 0] = torch.inf
    with pytest.raises(ValueError, match="query has 2 rows with NaN or infinity, the first at row 2"):
        checked(x, "query")
    with pytest.raises(ValueError, match=r"labels must be 4 whole numbers, one per row, got shape \(4,\) of"):
        one_per_row(torch.zeros(4), x, "labels")

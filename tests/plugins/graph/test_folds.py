from __future__ import annotations

import numpy as np
import pytest

from polycontrast_graph.folds import TEST, TRAIN, UNLABELLED, VAL, folds, fractions


@pytest.mark.parametrize("count", [2, 3, 5, 10])
@pytest.mark.parametrize("labelled", [40, 117, 1000])
def test_parts(count: int, labelled: int) -> None:
    has = np.zeros(labelled + 30, dtype=bool)
    has[np.random.default_rng(0).permutation(len(has))[:labelled]] = True
    parts = folds(has, count=count)
    assert parts.shape == (count, len(has))
    assert (parts[:, ~has] == UNLABELLED).all()
    assert (parts[:, has] != UNLABELLED).all()
    tested = (parts == TEST).sum(axis=0)[has]
    # The nodes at a border belong to both folds.
    assert (tested >= 1).all()
    assert (tested > 1).sum() <= count
    for part in parts:
        shares = [(part == p).sum() / labelled for p in (TRAIN, VAL, TEST)]
        np.testing.assert_allclose(shares, [1 - 1.5 / count, 0.5 / count, 1 / count], atol=3 / labelled)


def test_the_draw_is_the_seed_s_alone() -> None:
    has = np.arange(50) % 3 > 0
    np.testing.assert_array_equal(fractions(has), fractions(has))
    assert not np.array_equal(fractions(has), fractions(has, seed=1))
    assert (fractions(has)[~has] == -1).all()
    assert sorted(fractions(has)[has]) == pytest.approx(np.linspace(0, 1, has.sum()))

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("pandas")

from polycontrast_timeseries.st_ssdl.anchors import Anchors, filled, hide_nulls, slot_means
from polycontrast_timeseries.st_ssdl.metrics import MaskedErrors, masked_errors, masked_mae

nan = np.nan


def test_slots_are_averaged_without_zeros_and_nans():
    values = np.array([[1.0, 2.0], [3.0, 4.0], [0.0, 6.0], [5.0, nan], [4.0, nan]])
    table = slot_means(values, np.array([0, 1, 0, 1, 0]), 2)
    np.testing.assert_array_equal(table, [[2.5, 4.0], [4.0, 4.0]])


def test_another_marker_or_none():
    values = np.array([[-1.0], [0.0], [3.0]])
    slots = np.zeros(3, dtype=int)
    assert slot_means(values, slots, 1, null_value=-1.0) == 1.5
    assert slot_means(values, slots, 1, null_value=None) == pytest.approx(2 / 3)


def test_long_panels_are_read_in_pieces():
    values = np.random.default_rng(0).random((1000, 3))
    slots = (np.arange(1000) + 5) % 7
    expected = np.stack([values[slots == s].mean(0) for s in range(7)])
    np.testing.assert_allclose(slot_means(values, slots, 7), expected)


def test_empty_slots_take_the_time_of_day_then_the_sensor_then_all():
    table = np.array([[1.0, nan, nan], [2.0, 8.0, nan], [nan, nan, nan], [4.0, nan, nan]])  # two days of two slots
    expected = [[1.0, 8.0, 4.0], [2.0, 8.0, 4.0], [1.0, 8.0, 4.0], [4.0, 8.0, 4.0]]
    found = filled(table, 2)
    np.testing.assert_allclose(found[:, :2], np.array(expected)[:, :2])
    assert np.isfinite(found).all()
    assert len(set(found[:, 2])) == 1
    np.testing.assert_array_equal(filled(np.full((2, 1), nan), 1), 0.0)


@pytest.mark.parametrize("mode", ["expanding", "ewm"])
def test_causal_anchors_see_the_past_alone(mode):
    values = np.arange(1.0, 13.0)[:, None]
    anchors = Anchors(np.full((4, 1), 100.0), mode, 0.5, per_day=4)
    rows = np.arange(14)
    found = anchors.at(values, rows, rows % 4)[:, 0]
    assert (found[:4] == 100.0).all()  # nothing before: the table
    assert found[5] == 2.0
    assert found[9] == pytest.approx((2 + 6) / 2 if mode == "expanding" else (6 + 0.5 * 2) / 1.5)
    assert found[13] == pytest.approx((2 + 6 + 10) / 3 if mode == "expanding" else (10 + 3 + 0.5) / 1.75)
    changed = values.copy()
    changed[9:] = -7.0
    np.testing.assert_array_equal(anchors.at(changed, rows[:13], rows[:13] % 4)[:, 0], found[:13])


@pytest.mark.parametrize("mode", ["expanding", "ewm"])
def test_causal_anchors_ahead_know_no_more_than_the_window(mode):
    values = np.arange(1.0, 13.0)[:, None]
    anchors = Anchors(np.full((2, 1), 100.0), mode, per_day=2)
    rows, until = np.array([[4, 5, 6, 7, 8]]), np.array([[6]])  # what follows row 5 is to be forecast
    found = anchors.at(values, rows, rows % 2, until)
    changed = values.copy()
    changed[6:] = -7.0
    np.testing.assert_array_equal(anchors.at(changed, rows, rows % 2, until), found)
    assert found[0, 4, 0] == pytest.approx((1 + 3 + 5) / 3 if mode == "expanding" else (5 + 1.5 + 0.25) / 1.75)
    assert not np.array_equal(anchors.at(changed, rows, rows % 2), found)


def test_causal_anchors_of_a_first_week_take_earlier_days():
    values = np.arange(1.0, 7.0)[:, None]
    anchors = Anchors(np.full((6, 1), 100.0), "expanding", per_day=2)  # a week of three days
    assert anchors.at(values, np.array([4]), np.array([4]))[0, 0] == 2.0  # mean of rows 2 and 0


def test_missing_values_are_left_out_of_causal_anchors():
    values = np.array([[2.0], [0.0], [nan], [1.0]])
    anchors = Anchors(np.full((1, 1), 100.0), "expanding", per_day=1)
    assert anchors.at(values, np.array([3]), np.array([0]))[0, 0] == 2.0


def test_markers_have_a_tolerance():
    np.testing.assert_array_equal(np.isnan(hide_nulls(np.array([0.0, 4e-5, 1e-4]), 0.0)), [True, True, False])


def test_means_are_over_all_predictions_not_over_batches():
    prediction, target = torch.zeros(2, 1, 2), torch.tensor([[[1.0, torch.nan]], [[4.0, 4.0]]])
    errors = MaskedErrors((1,))
    for i in range(2):
        errors.update(prediction[i : i + 1], target[i : i + 1])
    assert errors.metrics()["mae"] == pytest.approx(3.0)
    assert errors.metrics()["mae_1"] == pytest.approx(3.0)
    assert masked_mae(prediction, target) == pytest.approx(3.0)


def test_small_targets_can_be_left_out_of_the_percentage():
    target, prediction = torch.tensor([[[1.0, 10.0]]]), torch.tensor([[[2.0, 11.0]]])
    errors = MaskedErrors((), mape_min=5.0)
    errors.update(prediction, target)
    assert errors.metrics()["mape"] == pytest.approx(0.1)
    assert errors.metrics()["mae"] == pytest.approx(1.0)


def test_no_target_at_all():
    found = masked_errors(torch.ones(1, 2, 3), torch.zeros(1, 2, 3), steps=(1, 3))
    assert found == {"mae": 0.0, "rmse": 0.0, "mape": 0.0, "mae_1": 0.0, "rmse_1": 0.0, "mape_1": 0.0}
    assert masked_mae(torch.ones(2), torch.full((2,), torch.nan)) == 0.0

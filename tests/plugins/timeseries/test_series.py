from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pd = pytest.importorskip("pandas")

from polycontrast.config import MethodConfig  # noqa: E402
from polycontrast.errors import ConfigError, DataError  # noqa: E402
from polycontrast_timeseries.config import SeriesConfig  # noqa: E402
from polycontrast_timeseries.series import (  # noqa: E402
    ETT_COLUMNS,
    SeriesDataset,
    from_frame,
    from_gluonts,
    future_times,
    read_series,
)


def frame(rows: int = 100, channels: int = 2, freq: str = "h", start: str = "2024-01-01") -> pd.DataFrame:
    values = np.arange(rows * channels, dtype=float).reshape(rows, channels)
    index = pd.date_range(start, periods=rows, freq=freq)
    return pd.DataFrame(values, index=index, columns=[f"s{i}" for i in range(channels)])


def ett(rows: int, freq: str = "h") -> pd.DataFrame:
    values = np.random.default_rng(0).normal(size=(rows, 7))
    result = pd.DataFrame(values, columns=list(ETT_COLUMNS[1:]))
    result.insert(0, "date", pd.date_range("2016-07-01", periods=rows, freq=freq))
    return result


def read(path: Path, purpose: Any = "train", **settings: Any) -> SeriesDataset:
    return read_series(path, MethodConfig(data=SeriesConfig(**settings)), 0, purpose)


def refusal(data: Any, purpose: Any = "train", **settings: Any) -> str:
    def attempt() -> None:
        if isinstance(data, Path):
            read(data, purpose, **settings)
        else:
            from_frame(data, SeriesConfig(**settings), purpose=purpose)

    with pytest.raises(DataError) as caught:
        attempt()
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith(str(data) if isinstance(data, Path) else "frame")
    return text


# ---- parts and scaler ----


def test_ett_borders_by_the_hour_and_by_the_quarter() -> None:
    data = from_frame(ett(17420))
    assert data.borders == {"train": (0, 8640), "val": (8640, 11520), "test": (11520, 14400)}
    assert data.protocol["protocol"] == "ett"
    assert any("ETT" in note for note in data.notes)
    assert (data.period, data.frequency) == (24, "h")
    quarters = from_frame(ett(57600, "15min"))
    assert quarters.borders["test"] == (11520 * 4, 14400 * 4)
    assert quarters.period == 96


def test_ett_is_chosen_for_exactly_its_columns() -> None:
    assert from_frame(ett(17420).rename(columns={"OT": "ot"})).protocol["protocol"] == "ratio"
    assert from_frame(ett(17420)[["date", "HULL", "HUFL", *ETT_COLUMNS[3:]]]).protocol["protocol"] == "ratio"
    assert from_frame(ett(17420), SeriesConfig(protocol="ratio")).notes == ()
    renamed = from_frame(ett(17420).rename(columns={"OT": "ot"}), SeriesConfig(protocol="ett"))
    assert renamed.borders["val"] == (8640, 11520)
    assert renamed.notes == ()
    # Also when only the target is read.
    assert from_frame(ett(17420), SeriesConfig(features="S")).protocol["protocol"] == "ett"


def test_ett_refuses_what_it_does_not_fit() -> None:
    assert "14399 rows, but protocol ett needs 14400" in refusal(ett(14399))
    assert "data.protocol=ratio" in refusal(ett(17420, "D"))
    assert "missing" in refusal(np.zeros((20000, 2)), protocol="ett")


def test_ratio_borders_count_as_time_series_library() -> None:
    # 7588 rows of the exchange set: int(.7 n) to train, int(.2 n) to test.
    data = from_frame(np.random.default_rng(0).normal(size=(7588, 2)))
    assert data.borders == {"train": (0, 5311), "val": (5311, 6071), "test": (6071, 7588)}
    six = from_frame(np.random.default_rng(0).normal(size=(17420, 1)), SeriesConfig(train_ratio=0.6, val_ratio=0.2))
    assert six.borders == {"train": (0, 10452), "val": (10452, 13936), "test": (13936, 17420)}


def test_the_scaler_knows_the_training_part_alone() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, size=(100, 2))
    one, other = values.copy(), values.copy()
    other[70:] += 1000.0
    a, b = from_frame(one), from_frame(other)
    np.testing.assert_array_equal(a.mean, b.mean)
    np.testing.assert_allclose(a.mean, values[:70].mean(axis=0))
    np.testing.assert_allclose(a.std, values[:70].std(axis=0))
    np.testing.assert_allclose(a.scaled.numpy(), (values - a.mean) / a.std, rtol=1e-6, atol=1e-6)
    assert a.scaled.dtype == torch.float32


def test_a_constant_channel_is_not_blown_up() -> None:
    values = np.column_stack([np.full(100, 0.1 + 0.2), np.arange(100.0)])
    data = from_frame(values)
    assert data.std[0] == 1.0
    assert data.scaled[:, 0].abs().max() < 1e-6


# ---- windows ----


def test_windows_by_hand() -> None:
    # 20 rows: train 0-13, val 14-15, test 16-19.
    data = from_frame(np.arange(40.0).reshape(20, 2))
    assert data.borders == {"train": (0, 14), "val": (14, 16), "test": (16, 20)}
    train = data.windows("train", context=4, horizon=2)
    assert train.starts.tolist() == list(range(9))
    val = data.windows("val", context=4, horizon=2)
    assert val.starts.tolist() == [10]
    test = data.windows("test", context=4, horizon=2)
    assert test.starts.tolist() == [12, 13, 14]
    assert data.windows("test", context=4, horizon=2, stride=2).starts.tolist() == [12, 14]
    batch = test[[2, 0]]
    assert batch["id"].tolist() == [14, 12]
    assert batch["x"].shape == (2, 6, 2)
    assert batch["x"].dtype == torch.float32
    assert torch.equal(batch["x"][0], data.scaled[14:20])
    assert torch.equal(batch["x"][1], data.scaled[12:18])


def test_every_row_of_the_test_part_is_forecast() -> None:
    data = from_frame(np.random.default_rng(0).normal(size=(1000, 1)))
    low, high = data.borders["test"]
    windows = data.windows("test", context=96, horizon=24)
    assert windows.starts[0] + 96 == low
    assert windows.starts[-1] + 96 + 24 == high
    assert len(windows) == (high - low) - 24 + 1


def test_windows_under_the_scaler_of_a_model() -> None:
    data = from_frame(np.arange(40.0).reshape(20, 2))
    x = data.windows("test", context=4, horizon=2, scaler=([10.0, 0.0], torch.tensor([2.0, 4.0])))[[0]]["x"]
    np.testing.assert_allclose(x[0, 0].numpy(), [(24 - 10) / 2, 25 / 4])
    with pytest.raises(DataError, match=r"2 channels .* trained on 3"):
        data.windows("test", context=4, horizon=2, scaler=(np.zeros(3), np.ones(3)))


def test_the_last_window_is_what_a_forecast_needs() -> None:
    data = from_frame(np.arange(40.0).reshape(20, 2), purpose="predict")
    assert data.borders == {"all": (0, 20)}
    last = data.last(5)
    assert len(last) == 1
    assert torch.equal(last[[0]]["x"][0], data.scaled[15:])
    with pytest.raises(DataError, match="has 20 rows, but a forecast needs the last 21"):
        data.last(21)
    assert from_frame(np.arange(3.0), purpose="predict").last(3)[[0]]["x"].shape == (1, 3, 1)


def test_a_part_without_a_window_says_what_is_there_and_what_is_needed() -> None:
    data = from_frame(np.random.default_rng(0).normal(size=(100, 1)))
    with pytest.raises(DataError, match=r"'train' has 70 rows, but one window needs 72 \(context 48 \+ horizon 24\)"):
        data.windows("train", context=48, horizon=24)
    with pytest.raises(DataError, match=r"'val' has 10 rows and 48 before it, .* 60 .*data.val_ratio"):
        data.windows("val", context=48, horizon=12)
    with pytest.raises(DataError, match="no part 'all'"):
        data.windows("all", context=1, horizon=1)


def test_too_few_rows_for_parts() -> None:
    assert "has 3 rows, too few" in refusal(np.arange(3.0))


# ---- features and targets ----


def test_features_and_targets() -> None:
    table = frame(channels=3).rename(columns={"s1": "OT"})
    every = from_frame(table)
    assert (every.channels, every.targets) == (("s0", "OT", "s2"), (0, 1, 2))
    single = from_frame(table, SeriesConfig(features="S"))
    assert (single.channels, single.targets, single.values.shape) == (("OT",), (0,), (100, 1))
    mixed = from_frame(table, SeriesConfig(features="MS"))
    assert (mixed.channels, mixed.targets) == (("s0", "OT", "s2"), (1,))
    assert from_frame(frame(), SeriesConfig(features="MS")).targets == (1,)
    assert from_frame(table, SeriesConfig(features="S", target="s2")).channels == ("s2",)
    text = refusal(frame(channels=2).rename(columns={"s0": "load"}), features="MS", target="laod")
    assert "no column 'laod'" in text
    assert "Did you mean 'load'?" in text


def test_at_most_so_many_channels_and_the_target() -> None:
    data = from_frame(frame(channels=9), SeriesConfig(features="MS", max_channels=3))
    assert (data.channels, data.targets) == (("s0", "s1", "s8"), (2,))
    assert from_frame(frame(channels=9), SeriesConfig(max_channels=3)).channels == ("s0", "s1", "s2")
    assert from_frame(frame(channels=3), SeriesConfig(max_channels=3)).notes == ()


def test_select_puts_channels_into_the_order_of_a_model() -> None:
    data = from_frame(frame(channels=3), SeriesConfig(features="MS"))
    turned = data.select(["s2", "s0"])
    assert (turned.channels, turned.targets) == (("s2", "s0"), (0,))
    assert torch.equal(turned.scaled, data.scaled[:, [2, 0]])
    with pytest.raises(DataError, match="no column 's7'"):
        data.select(["s7"])


# ---- forms of input ----


def test_all_forms_of_one_series_are_equal(tmp_path: Path) -> None:
    wide = frame(50)
    column = wide.reset_index(names="when")
    long = column.melt(id_vars="when", var_name="unique_id", value_name="y").rename(columns={"when": "ds"})
    column.to_csv(tmp_path / "a.csv", index=False)
    column.to_csv(tmp_path / "a.csv.gz", index=False)
    column.to_parquet(tmp_path / "a.parquet")
    wide.to_parquet(tmp_path / "index.parquet")
    long.to_csv(tmp_path / "long.csv", index=False)
    long.sample(frac=1.0, random_state=0).sort_values("unique_id", kind="stable").to_parquet(tmp_path / "long.parquet")
    # The date need not come first.
    column[["s0", "when", "s1"]].to_csv(tmp_path / "later.csv", index=False)
    periods = wide.copy()
    periods.index = wide.index.to_period()
    gluon = [{"start": pd.Period("2024-01-01", "h"), "target": wide[c].to_numpy(), "item_id": c} for c in wide]
    found = [read(path) for path in sorted(tmp_path.iterdir())]
    assert len(found) == 7
    found += [from_frame(wide), from_frame(column), from_frame(long), from_frame(periods), from_gluonts(gluon)]
    for data in found:
        assert data.channels == ("s0", "s1")
        np.testing.assert_array_equal(data.values, wide.to_numpy())
        assert data.times is not None
        assert (data.times == wide.index).all()
        assert (data.frequency, data.period) == ("h", 24)


def test_files_without_names_and_times(tmp_path: Path) -> None:
    path = tmp_path / "rates.txt.gz"
    path.write_bytes(gzip.compress(b"".join(b"0.5,1.25,%d\n" % i for i in range(40))))
    data = read(path)
    assert (data.channels, data.times, data.frequency) == (("c0", "c1", "c2"), None, None)
    assert data.values[7].tolist() == [0.5, 1.25, 7]
    assert any("data.header" in note for note in data.notes)
    assert list(future_times(data, 3)) == [40, 41, 42]
    assert from_frame(np.arange(40.0)).channels == ("c0",)
    assert from_frame(pd.Series(np.arange(40.0), name="load")).channels == ("load",)


def test_an_index_column_of_pandas_is_left_out(tmp_path: Path) -> None:
    frame(30).reset_index(names="when").to_csv(tmp_path / "a.csv")
    data = read(tmp_path / "a.csv")
    assert data.channels == ("s0", "s1")
    assert any("left out" in note for note in data.notes)


def test_long_tables_with_steps_and_extra_columns() -> None:
    long = pd.DataFrame(
        {"unique_id": ["b"] * 20 + ["a"] * 20, "ds": [*range(20)] * 2, "y": np.arange(40.0), "price": 1.0}
    )
    data = from_frame(long)
    assert (data.channels, data.times) == (("b", "a"), None)
    assert data.values[3].tolist() == [3.0, 23.0]
    assert any("price" in note for note in data.notes)
    assert "put in the steps" in refusal(long[long.ds != 7])


@pytest.mark.parametrize(
    ("written", "first"),
    [
        (["2024-01-01 00:00", "2024-01-01 01:00", "2024-01-01 02:00"], "2024-01-01"),
        (["2024-01-31T23:00:00Z", "2024-02-01T00:00:00Z", "2024-02-01T01:00:00Z"], "2024-01-31 23:00+00:00"),
        (["12/31/2023 23:00", "01/01/2024 00:00", "01/01/2024 01:00"], "2023-12-31 23:00"),
        (["31.12.2023", "01.01.2024", "02.01.2024"], "2023-12-31"),
        (["11/01/2024", "12/01/2024", "13/01/2024"], "2024-01-11"),
        (["2024-03-31T01:00+01:00", "2024-03-31T03:00+02:00", "2024-03-31T04:00+02:00"], "2024-03-31 00:00+00:00"),
    ],
)
def test_ways_of_writing_dates(written: list[str], first: str) -> None:
    data = from_frame(pd.DataFrame({"t": written, "x": [1.0, 2.0, 3.0]}), purpose="predict")
    assert data.times is not None
    assert data.times[0] == pd.Timestamp(first)
    assert data.times[2] - data.times[1] == data.times[1] - data.times[0]


# ---- what is refused ----


def test_a_word_among_numbers_is_refused_by_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    lines = ["date,load,price"] + [f"2024-01-01 {h:02d}:00,{h}.5,{h}" for h in range(24)]
    lines[6] = "2024-01-01 05:00,oops,5"
    path.write_text("\n".join(lines))
    assert "line 7: column 'load' is not numeric, it holds 'oops'" in refusal(path)
    table = frame(30).astype(object)
    table.iloc[4, 1] = "1,5"
    assert "row 4: column 's1' is not numeric, it holds '1,5'" in refusal(table)


def test_a_second_column_of_words_or_dates() -> None:
    table = frame(30)
    table["note"] = "x"
    assert "column 'note' is not numeric" in refusal(table)
    table["note"] = table.index
    assert "column 'note' holds dates" in refusal(table)


def test_gaps_are_refused_or_hidden(tmp_path: Path) -> None:
    table = frame(30)
    table.iloc[5:8, 1] = np.nan
    text = refusal(table)
    assert "row 5 (2024-01-01 05:00:00): column 's1' is empty (3 missing values in it)" in text
    assert "data.missing=hidden" in text
    table.reset_index(names="t").to_csv(tmp_path / "a.csv", index=False)
    assert "line 7" in refusal(tmp_path / "a.csv")
    data = from_frame(table, SeriesConfig(missing="hidden"))
    assert torch.isnan(data.scaled).nonzero().tolist() == [[5, 1], [6, 1], [7, 1]]
    np.testing.assert_allclose(data.mean[1], np.nanmean(table["s1"][:21]))
    np.testing.assert_allclose(data.std[1], np.nanstd(table["s1"][:21]))
    table.iloc[0:22, 1] = np.nan
    assert "'s1' has no value in the training part" in refusal(table, missing="hidden")


def test_infinite_values() -> None:
    table = frame(30)
    table.iloc[3, 0] = np.inf
    assert "row 3: column 's0' holds inf" in refusal(table)
    assert "holds inf" in refusal(table, missing="hidden")


def test_times_that_are_not_in_order() -> None:
    table = frame(30)
    assert "row 10: 2024-01-01 09:00:00 comes after 2024-01-01 10:00:00" in refusal(
        table.iloc[[*range(9), 10, 9, *range(11, 30)]]
    )
    assert "row 10: 2024-01-01 09:00:00 appears a second time" in refusal(table.iloc[[*range(10), *range(9, 30)]])
    gap = table.iloc[[*range(10), *range(12, 30)]]
    text = refusal(gap)
    assert "row 10: 2024-01-01 12:00:00 follows 2024-01-01 09:00:00" in text
    hidden = from_frame(gap, SeriesConfig(missing="hidden"))
    assert hidden.values.shape == (30, 2)
    assert np.isnan(hidden.values[10:12]).all()
    np.testing.assert_array_equal(hidden.values[12:], table.to_numpy()[12:])
    assert any("2 rows" in note for note in hidden.notes)
    shifted = table.set_axis(table.index[:29].append(table.index[29:] + pd.Timedelta("7min")), axis="index")
    assert "row 29" in refusal(shifted, missing="hidden")


def test_dates_that_are_none() -> None:
    table = frame(30).reset_index(names="t").astype({"t": str})
    table.loc[4, "t"] = "yesterday"
    assert "row 4: column 't' holds 'yesterday', which is no date" in refusal(table)
    table.loc[4, "t"] = None
    assert "row 4: column 't' is empty" in refusal(table)
    assert "no column 'tt' (data.time_column)" in refusal(table, time_column="tt")
    assert "Did you mean 't'?" in refusal(table, time_column="tt")
    assert "'s0' (data.time_column) holds numbers" in refusal(table, time_column="s0")


def test_long_tables_that_do_not_fit() -> None:
    long = frame(20).reset_index(names="ds").melt(id_vars="ds", var_name="unique_id", value_name="y")
    double = pd.concat([long, long.iloc[[3]]], ignore_index=True)
    assert "row 40: a second value for unique_id s0 at 2024-01-01 03:00:00" in refusal(double)
    ragged = long.drop(index=25)
    assert "unique_id s1 has 19 of 20 timestamps" in refusal(ragged)
    assert np.isnan(from_frame(ragged, SeriesConfig(missing="hidden")).values[5, 1])
    long.loc[7, "ds"] = pd.NaT
    assert "row 7: ds is empty" in refusal(long)


def test_nothing_to_read(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none.csv")
    assert "no column beside the time" in refusal(frame(30)[[]])
    assert "no rows" in refusal(frame(30).iloc[:0])
    assert "shape (2, 3, 4)" in refusal(np.zeros((2, 3, 4)))


def test_shares_that_leave_no_test_part() -> None:
    with pytest.raises(ConfigError, match="test part"):
        SeriesConfig(train_ratio=0.9, val_ratio=0.1)
    with pytest.raises(ConfigError, match=r"data\.period"):
        SeriesConfig(period=0)


# ---- seasons and what comes after ----


@pytest.mark.parametrize(
    ("freq", "period"),
    [
        ("h", 24),
        ("15min", 96),
        ("5min", 288),
        ("D", 7),
        ("B", 5),
        ("W-SUN", 52),
        ("MS", 12),
        ("ME", 12),
        ("QS-OCT", 4),
        ("YS-JAN", 1),
        ("7h", 1),
        ("2D", 1),
    ],
)
def test_season_by_the_spacing_and_times_that_follow(freq: str, period: int) -> None:
    table = frame(60, freq=freq)
    data = from_frame(table)
    assert data.period == period
    expected = pd.date_range(table.index[0], periods=63, freq=freq)[60:]
    assert (future_times(data, 3) == expected).all()


def test_season_by_autocorrelation() -> None:
    t = np.arange(1000)
    rng = np.random.default_rng(0)
    wave = np.sin(2 * np.pi * t / 37)[:, None] + 0.01 * t[:, None] + rng.normal(0.0, 0.5, (1000, 3))
    assert abs(from_frame(wave).period - 37) <= 1
    assert from_frame(rng.normal(size=(1000, 2))).period == 1
    assert from_frame(rng.normal(size=(1000, 2)).cumsum(axis=0)[:, :1] * 0).period == 1
    assert from_frame(wave, SeriesConfig(period=12)).period == 12

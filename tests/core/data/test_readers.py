from __future__ import annotations

import gzip
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from polycontrast.data import read_table
from polycontrast.data.readers import first_line, place
from polycontrast.errors import DataError


def write(path: Path, text: str, encoding: str = "utf-8") -> Path:
    data = text.encode(encoding)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def message(path: Path, **settings: str) -> str:
    with pytest.raises(DataError) as caught:
        read_table(path, **settings)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "\n" not in text
    assert str(path) in text
    return text


@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.txt", "a.csv.gz", "a.txt.gz"])
def test_named_columns_and_their_types(tmp_path: Path, name: str) -> None:
    table = read_table(write(tmp_path / name, "date,x,y\n2024-01-01 00:00:00,1,a\n2024-01-01 01:00:00,2.5,b\n"))
    assert table.column_names == ["date", "x", "y"]
    assert table["x"].to_pylist() == [1.0, 2.5]
    assert pa.types.is_timestamp(table["date"].type)
    assert (first_line(table), place(first_line(table), 1)) == (2, "line 3")


def test_without_names_the_first_line_is_data(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "a.txt.gz", "0.5,1.5\n2,3\n"))
    assert table.to_pydict() == {"c0": [0.5, 2.0], "c1": [1.5, 3.0]}
    assert first_line(table) == 1


def test_sensor_numbers_above_fractions_are_names(tmp_path: Path) -> None:
    text = "101,102\n64.5,67.25\n"
    assert read_table(write(tmp_path / "a.csv", text)).column_names == ["101", "102"]
    assert read_table(tmp_path / "a.csv", header="no").to_pydict() == {"c0": [101.0, 64.5], "c1": [102.0, 67.25]}
    counts = read_table(write(tmp_path / "b.csv", "1,2\n3,4\n"))
    assert counts.num_rows == 2
    assert read_table(tmp_path / "b.csv", header="yes").to_pydict() == {"1": [3], "2": [4]}


def test_semicolons_with_decimal_commas_and_tabs(tmp_path: Path) -> None:
    assert read_table(write(tmp_path / "a.csv", "x;y\n1,5;2\n3;4,25\n")).to_pydict() == {"x": [1.5, 3], "y": [2, 4.25]}
    assert read_table(write(tmp_path / "b.csv", "x;y\n1.5;2\n")).to_pydict() == {"x": [1.5], "y": [2]}
    assert read_table(write(tmp_path / "c.tsv", "x\ty\n1\t2\n")).to_pydict() == {"x": [1], "y": [2]}


def test_one_word_makes_a_column_of_strings_wherever_it_is(tmp_path: Path) -> None:
    rows = ["1.5"] * 400_000
    rows[390_000] = "oops"
    assert read_table(write(tmp_path / "a.csv", "x\n" + "\n".join(rows)))["x"][390_000].as_py() == "oops"


def test_empty_fields_are_null(tmp_path: Path) -> None:
    table = read_table(write(tmp_path / "a.csv", "\ufeffx,y\n1,\nNaN,NA\n,2\n"))
    assert table["x"].null_count == 2
    assert table["y"].null_count == 2
    assert table.column_names == ["x", "y"]


def test_parquet(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"x": [1.0, 2.0]}), tmp_path / "a.parquet")
    table = read_table(tmp_path / "a.parquet")
    assert table["x"].to_pylist() == [1.0, 2.0]
    assert place(first_line(table), 1) == "row 1"


def test_what_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in message(tmp_path / "none.csv")
    assert "is a folder" in message(tmp_path)
    assert "unknown kind" in message(write(tmp_path / "a.xlsx", "x"))
    assert "is empty" in message(write(tmp_path / "a.csv", ""))
    assert "is empty" in message(write(tmp_path / "a.csv.gz", "\n\n"))
    assert "no rows" in message(write(tmp_path / "b.csv", "x,y\n"))
    assert "line 3: 1 columns where the first line has 2" in message(write(tmp_path / "c.csv", "x,y\n1,2\n3\n"))
    assert "called 'x'" in message(write(tmp_path / "d.csv", "x,x\n1,2\n"))
    assert "line 2: not UTF-8" in message(write(tmp_path / "e.csv", "x,y\n1,caf\u00e9\n2,b\n", "latin-1"))
    late = "x,y\n" + "1,2\n" * 300_000 + "3,\u00e9\n"
    assert "line 300002: column 'y' is not UTF-8" in message(write(tmp_path / "f.csv", late, "latin-1"))
    assert "Parquet" in message(write(tmp_path / "a.parquet", "no parquet at all"))


def test_a_gzip_file_cut_short(tmp_path: Path) -> None:
    whole = gzip.compress(("x,y\n" + "".join(f"{i},{i * 7919 % 1000}\n" for i in range(100_000))).encode())
    (tmp_path / "a.csv.gz").write_bytes(whole[: len(whole) // 2])
    assert "gzip" in message(tmp_path / "a.csv.gz")
    (tmp_path / "b.csv.gz").write_bytes(b"x,y\n1,2\n")
    assert "gzip" in message(tmp_path / "b.csv.gz")

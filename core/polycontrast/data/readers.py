"""Tables from files, with errors that name the file, the place in it and the way out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from polycontrast.errors import DataError, one_line

TEXT_SUFFIXES = (".csv", ".txt", ".tsv", ".csv.gz", ".txt.gz", ".tsv.gz")
SUFFIXES = (*TEXT_SUFFIXES, ".parquet")

Header = Literal["auto", "yes", "no"]


def read_table(path: str | Path, *, header: Header = "auto") -> pa.Table:
    """The table in a text or Parquet file.

    Text files are UTF-8 with columns separated by comma, semicolon or tab (the first line tells which), and are
    read whether gzipped or not. Empty fields and NA, NaN, null and the like become nulls. The type of a column is
    that of all of its values: one word among numbers makes it a column of strings.

    Args:
        path: a file ending in one of :data:`SUFFIXES`.
        header: whether the first line of a text file names the columns. "auto": it does unless every field of it is
            a number; distinct whole numbers above a line with fractions are names too (ids of sensors). Without
            names the columns are called c0, c1, ... The metadata of the result tell what was found, see
            :func:`first_line`.

    Raises:
        DataError: the file is missing, empty, damaged or of another kind, has lines of unequal length or two
            columns of one name.
    """
    path = Path(path)
    if not path.exists():
        raise DataError(f"{path} does not exist; check the path")
    if path.is_dir():
        raise DataError(f"{path} is a folder; give a file in it that ends in {', '.join(SUFFIXES)}")
    kind = next((s for s in SUFFIXES if path.name.lower().endswith(s)), None)
    if kind is None:
        raise DataError(f"{path} is of an unknown kind; convert it to one that ends in {', '.join(SUFFIXES)}")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; it needs a line per row")
    table = _read_parquet(path) if kind == ".parquet" else _read_text(path, header)
    if table.num_rows == 0:
        raise DataError(f"{path} has no rows below the column names; add data")
    return table


def first_line(table: pa.Table) -> int | None:
    """Line of the file, counted from 1, that holds row 0 of a table from :func:`read_table`; None for Parquet."""
    value = (table.schema.metadata or {}).get(b"polycontrast.first_line")
    return int(value) if value is not None else None


def place(first: int | None, row: int) -> str:
    """How a person finds a row: the line of a text file, else the row counted from 0.

    Args:
        first: from :func:`first_line`.
        row: row of the table, counted from 0.
    """
    return f"row {row}" if first is None else f"line {first + row}"


def _read_parquet(path: Path) -> pa.Table:
    try:
        return pyarrow.parquet.read_table(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is no readable Parquet file ({one_line(error)}); write it again") from error


def _read_text(path: Path, header: Header) -> pa.Table:
    lines = _head(path)
    if not lines:
        raise DataError(f"{path} is empty; it needs a line per row")
    delimiter = next((d for d in (";", "\t") if d in lines[0]), ",")
    comma_is_point = delimiter == ";" and not any("." in line for line in lines[1:])
    rows = [[field.strip() for field in line.split(delimiter)] for line in lines]
    if comma_is_point:
        rows = [[field.replace(",", ".") for field in row] for row in rows]
    named = _names_columns(rows) if header == "auto" else header == "yes"
    names = None if named else [f"c{i}" for i in range(len(rows[0]))]
    try:
        table = pyarrow.csv.read_csv(
            pa.input_stream(str(path), compression="gzip" if path.name.lower().endswith(".gz") else None),
            # One thread: only then do errors tell the line.
            read_options=pyarrow.csv.ReadOptions(column_names=names, use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(delimiter=delimiter),
            convert_options=pyarrow.csv.ConvertOptions(
                strings_can_be_null=True, decimal_point="," if comma_is_point else "."
            ),
        )
    except (pa.ArrowException, OSError) as error:
        raise DataError(_explain(path, error)) from error
    seen: set[str] = set()
    for name in table.column_names:
        if name in seen:
            raise DataError(f"{path}: two columns are called {name!r}; rename one")
        seen.add(name)
    table = table.replace_schema_metadata({"polycontrast.first_line": str(2 if named else 1)})
    for name in table.column_names:
        if pa.types.is_binary(table[name].type):  # What pyarrow makes of text in another encoding.
            row = next(i for i, value in enumerate(table[name].to_pylist()) if not _is_utf8(value or b""))
            where = place(first_line(table), row)
            raise DataError(f"{path}, {where}: column {name!r} is not UTF-8 text; save the file as UTF-8")
    return table


def _head(path: Path) -> list[str]:
    """The first two lines that are not blank."""
    try:
        with pa.input_stream(str(path), compression="gzip" if path.name.lower().endswith(".gz") else None) as stream:
            raw = stream.read(1 << 20)
    except (pa.ArrowException, OSError) as error:
        raise DataError(_explain(path, error)) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The block may end within a character; anything earlier is another encoding.
        if error.start < len(raw) - 4:
            line = raw[: error.start].count(b"\n") + 1
            raise DataError(f"{path}, line {line}: not UTF-8 text; save the file as UTF-8") from None
        text = raw[: error.start].decode("utf-8-sig")
    return [line for line in text.splitlines() if line.strip()][:2]


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_number(field: str) -> bool:
    try:
        float(field.strip('"'))
    except ValueError:
        return False
    return True


def _names_columns(rows: list[list[str]]) -> bool:
    first = rows[0]
    if not all(_is_number(field) for field in first):
        return True
    whole = all(re.fullmatch(r'"?\d+"?', field) for field in first)
    fractions_below = len(rows) > 1 and any(re.search(r"\d\.\d", field) for field in rows[1])
    return whole and len(first) > 1 and len(set(first)) == len(first) and fractions_below


def _explain(path: Path, error: Exception) -> str:
    text = one_line(error)
    found = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text)
    if found:
        line, expected, got = found.groups()
        return f"{path}, line {line}: {got} columns where the first line has {expected}; mend that line"
    if "gzip" in text.lower() or "zlib" in text.lower() or "compressed" in text.lower():
        return f"{path} is no complete gzip file ({text}); copy or compress it again"
    return f"{path} cannot be read ({text}); check that it is a table in text form"

"""Tables of words and N-Triples, read without guessing: an entity called NA, or a name with a quote, stays itself."""

from __future__ import annotations

import gzip
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from polycontrast.data.readers import place
from polycontrast.errors import DataError, one_line

TABLES = (".tsv", ".tsv.gz", ".csv", ".csv.gz", ".txt", ".txt.gz", ".parquet")
TRIPLES = (".nt", ".nt.gz")


def find(folder: Path, stems: Iterable[str], suffixes: Iterable[str]) -> Path | None:
    """The first file ``STEM SUFFIX`` that a folder has."""
    endings = tuple(suffixes)
    return next((file for s in stems for e in endings if (file := folder / f"{s}{e}").is_file()), None)


def read_words(path: Path, known: Sequence[Sequence[str]], width: int | None = None) -> tuple[pa.Table, int | None]:
    """A table whose columns are strings, or in Parquet of any type; nothing in it becomes missing.

    Args:
        path: tab separated without quotes (``.tsv``, ``.txt``), comma separated with quotes (``.csv``), both also
            gzipped, or ``.parquet``.
        known: names that each column may have. The first line of a text file names the columns if it has those of more
            than half of them; one that must have names, of any.
        width: columns that a file without names must have; None: such a file is refused.

    Returns:
        The table, columns c0, c1, ... without names, and the line of the file that holds row 0, None for Parquet.

    Raises:
        DataError: the file is missing, empty, damaged, not UTF-8, or has lines of unequal length.
    """
    if not path.is_file():
        raise DataError(f"{path} does not exist; check the path")
    if path.stat().st_size == 0:
        raise DataError(f"{path} is empty; it needs a line per row")
    lower = path.name.lower()
    if lower.endswith(".parquet"):
        try:
            return pyarrow.parquet.read_table(path), None
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{path} is no readable Parquet file ({one_line(error)}); write it again") from error
    comma = ".csv" in lower
    first = _first_line(path).split("," if comma else "\t")
    first = [field.strip().strip('"') for field in first]
    found = sum(any(name in first for name in names) for names in known)
    named = found > (0 if width is None else len(known) // 2)
    usual = ", ".join(names[0] for names in known if names)
    if not named and width is None:
        raise DataError(f"{path}: the first line must name the columns, among them {usual}")
    if not named and len(first) != width:
        raise DataError(
            f"{path}, line 1: {len(first)} columns where {width} are needed, separated by "
            f"{'commas' if comma else 'tabs'}; or name them in the first line: {usual}"
        )
    names = None if named else [f"c{i}" for i in range(len(first))]
    types = {name: pa.string() for name in (first if named else names or ())}
    try:
        table = pyarrow.csv.read_csv(
            pa.input_stream(str(path), compression="gzip" if lower.endswith(".gz") else None),
            # One thread: only then do errors tell the line.
            read_options=pyarrow.csv.ReadOptions(column_names=names, use_threads=False),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter="," if comma else "\t", quote_char='"' if comma else False, newlines_in_values=comma
            ),
            convert_options=pyarrow.csv.ConvertOptions(column_types=types, strings_can_be_null=False),
        )
    except (pa.ArrowException, OSError) as error:
        raise DataError(_explained(path, error)) from error
    if len(set(table.column_names)) < len(table.column_names):
        twice = next(n for i, n in enumerate(table.column_names) if n in table.column_names[:i])
        raise DataError(f"{path}: two columns are called {twice!r}; rename one")
    if table.num_rows == 0:
        raise DataError(f"{path} has no rows below the column names; add data")
    return table, 2 if named else 1


def words(table: pa.Table, column: str, path: Path | str, first: int | None = None) -> pa.Array:
    """A column as strings, none of them missing or empty: ids."""
    values = table[column].combine_chunks()
    try:
        values = values.cast(pa.string())
    except pa.ArrowException as error:
        raise DataError(f"{path}: column {column!r} must hold ids, got {values.type}") from error
    for row, value in _bad(values):
        raise DataError(f"{path}, {place(first, row)}: column {column!r} is {value}; every row needs an id")
    return values


def numbers(table: pa.Table, column: str, path: Path | str, first: int | None = None) -> pa.Array:
    """A column as float64, empty fields and words like NA missing."""
    values = table[column].combine_chunks()
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        given = [value.strip() if value is not None else "" for value in values.to_pylist()]
        parsed: list[float | None] = []
        for row, value in enumerate(given):
            try:
                parsed.append(None if value.lower() in _MISSING else float(value))
            except ValueError:
                raise DataError(
                    f"{path}, {place(first, row)}: column {column!r} is {value!r}, no number; mend it or leave it empty"
                ) from None
        return pa.array(parsed, pa.float64())
    try:
        return values.cast(pa.float64())
    except pa.ArrowException as error:
        raise DataError(f"{path}: column {column!r} must hold numbers, got {values.type}") from error


_MISSING = {"", "na", "n/a", "nan", "null", "none"}


def _bad(values: pa.Array) -> list[tuple[int, str]]:
    import pyarrow.compute as pc

    empty = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(values), ""), True)
    at = pc.index(empty, True).as_py()
    return [] if at < 0 else [(at, "empty" if values[at].is_valid else "missing")]


def _first_line(path: Path) -> str:
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as file:
            return file.readline(1 << 20).decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise DataError(f"{path}, line 1: not UTF-8 text; save the file as UTF-8") from None
    except (OSError, EOFError) as error:
        raise DataError(_explained(path, error)) from error


def _explained(path: Path, error: Exception) -> str:
    text = one_line(error)
    found = re.search(r"Row #(\d+): Expected (\d+) columns, got (\d+)", text)
    if found:
        line, expected, got = found.groups()
        return f"{path}, line {line}: {got} columns where the first line has {expected}; mend that line"
    if "gzip" in text.lower() or "zlib" in text.lower() or "compressed" in text.lower():
        return f"{path} is no complete gzip file ({text}); copy or compress it again"
    if "UTF8" in text or "utf-8" in text.lower():
        return f"{path} is not UTF-8 text ({text}); save the file as UTF-8"
    return f"{path} cannot be read ({text}); check that it is a table in text form"


# ---- N-Triples -----------------------------------------------------------------------------------------------------

_TERM = r'(<[^<>"\s]*>|_:\S+)'
_LINE = re.compile(
    rf'\s*{_TERM}\s+(<[^<>"\s]*>)\s+(?:{_TERM}|("(?:[^"\\]|\\.)*")(?:@[A-Za-z0-9-]+|\^\^<[^<>\s]*>)?)\s*\.\s*(?:#.*)?'
)
_ESCAPE = re.compile(r'\\(?:u([0-9A-Fa-f]{4})|U([0-9A-Fa-f]{8})|([tbnrf"\'\\]))')
_SIMPLE = {"t": "\t", "b": "\b", "n": "\n", "r": "\r", "f": "\f", '"': '"', "'": "'", "\\": "\\"}


def read_ntriples(path: Path) -> tuple[list[tuple[str, str, str]], list[tuple[str, str, str]]]:
    """The triples of an N-Triples file (W3C 2014), also gzipped.

    Returns:
        Triples of three resources, and those whose object is a literal, without its language or type.

    Raises:
        DataError: the file is missing, damaged, or a line is no triple.
    """
    links: list[tuple[str, str, str]] = []
    facts: list[tuple[str, str, str]] = []
    try:
        with (
            gzip.open(path, "rt", encoding="utf-8")
            if path.name.endswith(".gz")
            else path.open(encoding="utf-8") as file
        ):
            for number, line in enumerate(file, 1):
                if not (text := line.strip()) or text.startswith("#"):
                    continue
                found = _LINE.fullmatch(text)
                if found is None:
                    raise DataError(
                        f"{path}, line {number}: no triple '<subject> <predicate> <object> .'; mend that line"
                    )
                subject, predicate, resource, literal = found.groups()
                if literal is None:
                    links.append((_plain(subject), _plain(predicate), _plain(resource)))
                else:
                    facts.append((_plain(subject), _plain(predicate), _unescaped(literal[1:-1])))
    except UnicodeDecodeError:
        raise DataError(f"{path} is not UTF-8 text; save the file as UTF-8") from None
    except (OSError, EOFError) as error:
        raise DataError(f"{path} cannot be read ({one_line(error)}); check the file") from error
    if not links:
        raise DataError(f"{path} has no triple of three resources; add edges")
    return links, facts


def local_name(iri: str) -> str:
    """What stands after the last ``#`` or ``/`` of an IRI."""
    return re.split(r"[#/]", iri.rstrip("#/"))[-1]


def _plain(term: str) -> str:
    return _unescaped(term[1:-1]) if term.startswith("<") else term


def _unescaped(text: str) -> str:
    if "\\" not in text:
        return text
    return _ESCAPE.sub(lambda m: chr(int(m[1] or m[2], 16)) if m[1] or m[2] else _SIMPLE[m[3]], text)


__all__ = ["TABLES", "TRIPLES", "find", "local_name", "numbers", "read_ntriples", "read_words", "words"]

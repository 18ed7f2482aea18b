"""The text of a table: its encoding, what parts its cells, and its columns by name."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import re
import zlib
from collections.abc import Sequence
from pathlib import Path

from .....cache.errors import DataError
from .....cache.text import plural
from ...columns.labels import others_beside, quoted

__all__ = ["FIRST_ROW", "TABLES", "Columns", "find_column", "is_table", "read_columns", "require"]

TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
FIRST_ROW = 2  # as a spreadsheet counts, the header being row 1
_SEPARATORS = ",;\t|"
_GZIP = b"\x1f\x8b"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Excel's first line, which says what parts the cells below.
_SEP = re.compile(r"\ufeff?\"?sep=(.)\"?\r?\n", re.IGNORECASE)
# Before the header: empty lines, some with separators, and remarks.
_BEFORE = re.compile(r"(?:[ \t,;|]*\r?\n|#[ \t][^\n]*\n)+")

Columns = dict[str, list[str]]


def is_table(name: str) -> bool:
    """Tell by its name whether a file is a table."""
    return name.lower().endswith(TABLES)


def read_columns(path: Path, what: str, usual: str) -> Columns:
    """Read a table into its columns by name, cells stripped.

    UTF-8 or UTF-16, packed by gzip or not; comma, semicolon, tab or bar; ``sep=;``, empty lines and remarks (``# …``)
    before the header.

    Parameters
    ----------
    usual : columns that such a table has, for messages

    Raises
    ------
    DataError
        It cannot be read, or is no table.
    """
    try:
        text = _decode(path.read_bytes())
        said = _SEP.match(text)
        text = text[said.end() :] if said else text
        before = _BEFORE.match(text)
        text = text[before.end() :] if before else text
        separator = said[1] if said else _separator(text)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        names = [cell.strip() for cell in next(reader, [])]
        rows = [row for row in reader if any(cell.strip() for cell in row)]
    except FileNotFoundError as exc:
        raise DataError(
            f"There is no {what}{others_beside(path)}; expected the path of a .csv with the columns {usual}."
        ) from exc
    except UnicodeDecodeError as exc:
        raise DataError(f"{what} is not UTF-8 text ({exc.reason} at byte {exc.start}); save it as CSV UTF-8.") from exc
    except csv.Error as exc:
        raise DataError(f"{what} is not a table that can be read ({exc}); save it again as CSV.") from exc
    except (gzip.BadGzipFile, EOFError, zlib.error) as exc:
        raise DataError(f"{what} is not a whole gzip file ({exc}); copy it again, or unpack it.") from exc
    except OSError as exc:
        raise DataError(f"{what} cannot be read: {exc.strerror}; mend that, or give another table.") from exc
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError(
            f"{what} has the {plural(len(twice), 'column')} {quoted(twice)} twice; expected one of each name."
        )
    for number, row in enumerate(rows, FIRST_ROW):
        if len(row) != len(names):
            raise DataError(f"{what} has {len(row)} cells in row {number}; expected {len(names)}, as in its header.")
    if not rows:
        raise DataError(f"{what} has no rows; expected a header and a row for each image.")
    return {name: [row[place].strip() for row in rows] for place, name in enumerate(names) if name}


def _decode(content: bytes) -> str:
    if content.startswith(_GZIP):
        content = gzip.decompress(content)
    if content.startswith(_UTF16):
        return content.decode("utf-16")
    if len(content) > 3 and content[1:4:2] == b"\0\0":
        return content.decode("utf-16-le")
    return content.decode("utf-8-sig")


def _separator(text: str) -> str:
    """Return what parts the cells of a header, not counting what stands in quotes."""
    header = re.sub(r'"[^"]*"', "", text.partition("\n")[0])
    return max(_SEPARATORS, key=header.count)


def find_column(columns: Columns, usual: str) -> str | None:
    """Return the column of a usual name, whose case does not count where it is the only one; None if there is none."""
    if usual in columns:
        return usual
    alike = [name for name in columns if name.lower() == usual]
    return alike[0] if len(alike) == 1 else None


def require(columns: Columns, wanted: Sequence[str], what: str, purpose: str) -> None:
    """Refuse a table without some columns.

    Raises
    ------
    DataError
    """
    missing = [name for name in wanted if name not in columns]
    if missing:
        raise DataError(
            f"{what} has no column {quoted(missing)} for {purpose}; its columns are {quoted(list(columns))}."
        )

"""The text of a table: its encoding, what parts its cells, and its columns by name."""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import logging
import re
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from .....cache.errors import DataError
from .....cache.text import plural, quoted
from ..tree import others_beside

__all__ = ["TABLES", "Columns", "Table", "find_column", "is_table", "read_table", "read_text", "require"]

TABLES = (".csv", ".tsv", ".csv.gz", ".tsv.gz")
_SEPARATORS = ",;\t|"
_GZIP = b"\x1f\x8b"
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
# Excel's first line, which says what parts the cells below.
_SEP = re.compile(r"\ufeff?\"?sep=(.)\"?\r?\n", re.IGNORECASE)
# Before the header: empty lines, some with separators, and remarks.
_BEFORE = re.compile(r"(?:[ \t,;|]*\r?\n|#[ \t][^\n]*\n)+")
# Signs or long runs of letters with marks that no western language has: a text of Cyrillic or Chinese in an encoding of
# its own, taken for Windows-1252.
_NOT_WESTERN = re.compile(r"[^\x00-\x7f\xa0À-ÖØ-öø-ÿŒœŠšŽžŸ°²³µ±·«»€–—‘’“”…]|[À-ÖØ-öø-ÿŒœŠšŽžŸ]{3}")
_WORD_BEYOND_ASCII = re.compile(r"[^\s,;|\"]*[^\x00-\x7f][^\s,;|\"]*")

_log = logging.getLogger(__name__)

Columns = dict[str, list[str]]


class Table(NamedTuple):
    """A table: its columns by name, and the number of each row as a spreadsheet counts it, for messages."""

    columns: Columns
    numbers: list[str]


def is_table(name: str) -> bool:
    """Tell by its name whether a file is a table."""
    return name.lower().endswith(TABLES)


def read_table(path: Path, what: str, usual: str) -> Table:
    """Read a table, its cells stripped.

    UTF-8, UTF-16 or Windows-1252, packed by gzip or not; comma, semicolon, tab or bar; ``sep=;``, empty lines and
    remarks (``# …``) before the header.

    Parameters
    ----------
    usual : columns that such a table has, for messages

    Raises
    ------
    DataError
        It cannot be read, or is no table.
    """
    try:
        text = read_text(path, what)
        said = _SEP.match(text)
        begin = said.end() if said else 0
        before = _BEFORE.match(text, begin)
        begin = before.end() if before else begin
        separator = said[1] if said else _separator(text[begin:])
        reader = csv.reader(io.StringIO(text[begin:], newline=""), delimiter=separator, strict=True)
        names = [cell.strip() for cell in next(reader, [])]
        first = text.count("\n", 0, begin) + 2
        rows = [(number, row) for number, row in enumerate(reader, first) if any(cell.strip() for cell in row)]
    except FileNotFoundError as exc:
        raise DataError(
            f"There is no {what}{others_beside(path)}; expected the path of a .csv with the columns {usual}."
        ) from exc
    except csv.Error as exc:
        raise DataError(f"{what} is not a table that can be read ({exc}); save it again as CSV.") from exc
    except OSError as exc:
        raise DataError(f"{what} cannot be read: {exc.strerror}; mend that, or give another table.") from exc
    twice = sorted({name for name in names if name and names.count(name) > 1})
    if twice:
        raise DataError(
            f"{what} has the {plural(len(twice), 'column')} {quoted(twice)} twice; expected one of each name."
        )
    for number, row in rows:
        if len(row) != len(names):
            raise DataError(
                f"{what} has {len(row)} {plural(len(row), 'cell')} in row {number}; expected {len(names)}, as in its "
                "header."
            )
    if not rows:
        raise DataError(f"{what} has no rows; expected a header and a row for each image.")
    columns = {name: [row[place].strip() for _, row in rows] for place, name in enumerate(names) if name}
    return Table(columns, [str(number) for number, _ in rows])


def read_text(path: Path, what: str) -> str:
    """Return the text of a file in UTF-8, UTF-16 or, with a word, Windows-1252; unpacked if it is packed by gzip.

    Raises
    ------
    DataError
        It is in another encoding, or packed and cut short.
    OSError
        It cannot be read at all.
    """
    content = path.read_bytes()
    try:
        content = gzip.decompress(content) if content.startswith(_GZIP) else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as exc:
        raise DataError(f"{what} is not a whole gzip file ({exc}); copy it again, or unpack it.") from exc
    encoding = "utf-8-sig"
    if content.startswith(_UTF16):
        encoding = "utf-16"
    elif len(content) > 3 and b"\0\0" in (content[:4:2], content[1:4:2]):
        encoding = "utf-16-le" if content[1] == 0 else "utf-16-be"
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as exc:
        return _western(content, what, exc)


def _western(content: bytes, what: str, error: UnicodeDecodeError) -> str:
    """Return a text as Excel in western Europe and America writes it, and say so."""
    try:
        text = content.decode("cp1252")
    except UnicodeDecodeError:
        text = ""
    word = _WORD_BEYOND_ASCII.search(text)
    if word is None or _NOT_WESTERN.search(text):
        raise DataError(
            f"{what} is not UTF-8 text ({error.reason} at byte {error.start}); save it as CSV UTF-8."
        ) from error
    _log.warning("%s is not UTF-8 text: it is read as Windows-1252, '%s' for one", what, word[0])
    return text


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

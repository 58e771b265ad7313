"""Code lists that come as tables: csv files, CMS' spreadsheet of ICD-9, and the SQLite file of ICD-10-PCS."""

import contextlib
import csv
import sqlite3
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openpyxl
from openpyxl.utils.exceptions import InvalidFileException

from biomistral.codes.hierarchy import Hierarchy, Node, Placed
from biomistral.errors import UserError

_ATC_PARENT_LENGTH = {1: 0, 3: 1, 4: 3, 5: 4, 7: 5}
_MAX_SPREADSHEET_BYTES = 1 << 28
_PCS_AXES = (("section", "sec_def"), ("body_system", "bs_def"), ("root_op", "ro_def"), ("body_part", "bp_def"),
             ("approach", "ap_def"), ("device", "dv_def"))


def read_csv(vocabulary: str, path: Path) -> Hierarchy:
    """Read ``code,parent_code,name`` (an empty parent makes a root) or ``atc_code,atc_name`` (more columns are let be).

    An ATC code's parent is its prefix of 1, 3, 4 or 5 characters; WHO's list repeats a code for each of its daily
    doses: the first row counts.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            columns = set(reader.fieldnames or ())
            if {"code", "parent_code", "name"} <= columns:
                return Hierarchy(vocabulary, _rows(reader, path, "code", "name"), path)
            if {"atc_code", "atc_name"} <= columns:
                return Hierarchy(vocabulary, _atc(_rows(reader, path, "atc_code", "atc_name")), path)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}) and no other format known here") from error
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: not readable as csv ({error})") from error
    raise UserError(f"{path}:1: the columns are {', '.join(sorted(map(str, columns))) or 'none'}; code, parent_code, name "
                    "or atc_code, atc_name were expected")


def _rows(reader: "csv.DictReader[str]", path: Path, code_column: str, name_column: str) -> Iterator[Placed]:
    for row in reader:
        where = f"{path}:{reader.line_num}"
        code, name = (row[code_column] or "").strip(), " ".join((row[name_column] or "").split())
        if not code or not name:
            raise UserError(f"{where}: the row has no {name_column if code else code_column}")
        yield Placed(Node(code, name, (row.get("parent_code") or "").strip() or None), where)


def _atc(rows: Iterator[Placed]) -> Iterator[Placed]:
    names: dict[str, str] = {}
    for row in rows:
        code, name = row.node.code, row.node.name
        if len(code) not in _ATC_PARENT_LENGTH:
            raise UserError(f"{row.where}: {code!r} is not an ATC code (1, 3, 4, 5 or 7 characters)")
        if names.setdefault(code, name) != name:
            raise UserError(f"{row.where}: code {code} is {name!r} here and {names[code]!r} before")
        if names[code] is name:
            yield Placed(Node(code, name, code[: _ATC_PARENT_LENGTH[len(code)]] or None), row.where)


def read_spreadsheet(vocabulary: str, path: Path) -> Hierarchy:
    """Read CMS' list of ICD-9 codes (``DIAGNOSIS CODE`` or ``PROCEDURE CODE``, ``LONG DESCRIPTION``; codes without dot).

    The sheet names only codes that can be billed. What a code's form says stands above it (250.0 and 250 above 250.00)
    is added without a name, so that codes are as far from one another as in the full list; 14,567 of the 17,736 nodes
    of MedConceptsQA's release have a name here.
    """
    placed: dict[str, Placed] = {}
    for code, name, where in _spreadsheet_rows(path):
        head = 2 if vocabulary == "ICD9PROC" else 4 if code.startswith("E") else 3
        chain = [code[:head], *(f"{code[:head]}.{code[head:end]}" for end in range(head + 1, len(code) + 1))]
        for parent, inner in zip([None, *chain], chain[:-1], strict=False):
            placed.setdefault(inner, Placed(Node(inner, "", parent), where))
        node = Node(chain[-1], name, chain[-2] if len(chain) > 1 else None)
        if node.code in placed and placed[node.code].node.name:
            raise UserError(f"{where}: code {node.code} appears twice (first in {placed[node.code].where})")
        placed[node.code] = Placed(node, where)
    return Hierarchy(vocabulary, placed.values(), path)


def _spreadsheet_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """Code, long description and place of every row of the first sheet."""
    rows = _cells(path)
    header = [str(cell or "").strip().upper() for cell in rows[0]] if rows else []
    codes = [index for index, title in enumerate(header) if title in ("DIAGNOSIS CODE", "PROCEDURE CODE")]
    if not codes or "LONG DESCRIPTION" not in header:
        raise UserError(f"{path}: row 1: the columns are {header}; 'DIAGNOSIS CODE' (or 'PROCEDURE CODE') and "
                        "'LONG DESCRIPTION' were expected")
    for number, row in enumerate(rows[1:], 2):
        if all(cell is None for cell in row):
            continue
        where = f"{path}: row {number}"
        code, name = (row[index] if index < len(row) else None for index in (codes[0], header.index("LONG DESCRIPTION")))
        if not isinstance(code, str) or len(code.strip()) < 2:
            raise UserError(f"{where}: the code is {code!r}; text was expected (a number has lost its leading zeros)")
        if not isinstance(name, str) or not name.strip():
            raise UserError(f"{where}: code {code} has no long description")
        yield code.strip(), " ".join(name.split()), where


def _cells(path: Path) -> list[tuple[Any, ...]]:
    """The first sheet, all of it: CMS' list has 14,568 rows."""
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _MAX_SPREADSHEET_BYTES:
            raise UserError(f"{path}: unpacks to {size / 1e6:.0f} MB, far more than a list of codes needs; refused")
        with contextlib.closing(openpyxl.load_workbook(path, read_only=True, data_only=True)) as book:
            return [row for sheet in book.worksheets[:1] for row in sheet.iter_rows(values_only=True)]
    except (zipfile.BadZipFile, zlib.error, KeyError, SyntaxError, InvalidFileException, OSError) as error:
        # malformed XML is a SyntaxError, a zip without a workbook an OSError
        raise UserError(f"{path}: not a readable .xlsx file ({error})") from error


def read_pcs_database(vocabulary: str, path: Path) -> Hierarchy:
    """Read ICD-10-PCS: the codes of ``pcs_codes``, and above each its prefixes, named by the axes of ``pcs_tree``.

    A prefix's name lists its axes from the section down: ``Medical and Surgical; Upper Arteries; Bypass``. Rows of the
    tree that are not in the list of codes are left out.
    """
    axes = ", ".join(f"t.{name}" for axis in _PCS_AXES for name in axis)
    query = f"SELECT c.code, c.long_name, {axes} FROM pcs_codes c LEFT JOIN pcs_tree t ON t.code = c.code ORDER BY c.code"
    try:
        with contextlib.closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute(query).fetchall()
    except sqlite3.Error as error:
        raise UserError(f"{path}: cannot be read as the ICD-10-PCS database ({error})") from error
    placed: dict[str, Placed] = {}
    for number, row in enumerate(rows, 1):
        for entry in _pcs_chain(row, f"{path}: pcs_codes row {number}"):
            placed.setdefault(entry.node.code, entry)
    return Hierarchy(vocabulary, placed.values(), path)


def _pcs_chain(row: tuple[Any, ...], where: str) -> Iterator[Placed]:
    """A code's ancestors, from the section down, and the code."""
    code, name, letters, meanings = row[0], row[1], row[2::2], row[3::2]
    if not (isinstance(code, str) and isinstance(name, str) and code.strip() and name.strip()):
        raise UserError(f"{where}: code {code!r} has no long name")
    if not all(isinstance(value, str) and value.strip() for value in (*letters, *meanings)):
        raise UserError(f"{where}: code {code} has no complete row in pcs_tree")
    if code[:-1] != "".join(letters):
        raise UserError(f"{where}: code {code} stands under the axes {''.join(letters)} in pcs_tree")
    # the root operation comes with its definition: "Bypass: Altering the route of passage ..."
    named = [meaning.partition(":")[0] for meaning in meanings]
    for end in range(1, len(code)):
        yield Placed(Node(code[:end], "; ".join(named[:end]), code[: end - 1] or None), where)
    yield Placed(Node(code, name, code[:-1]), where)

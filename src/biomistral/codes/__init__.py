"""Medical code hierarchies (ICD-10-CM, ICD-9, ICD-10-PCS, ATC), read by what a file holds, never by its name."""

from pathlib import Path

from biomistral.codes.hierarchy import Hierarchy, Node
from biomistral.codes.icd10cm import read_tabular
from biomistral.codes.tables import read_csv, read_pcs_database, read_spreadsheet
from biomistral.errors import UserError

__all__ = ["Hierarchy", "Node", "load"]

_FORMATS = (
    (b"PK\x03\x04", read_spreadsheet, ("ICD9CM", "ICD9PROC")),
    (b"SQLite format 3\0", read_pcs_database, ("ICD10PROC",)),
    (b"<", read_tabular, ("ICD10CM",)),
)
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def load(vocabulary: str, path: Path) -> Hierarchy:
    """Read a code hierarchy.

    Known by their first bytes: the CDC's tabular XML (ICD10CM), CMS' spreadsheet of ICD-9 codes (ICD9CM, ICD9PROC) and
    the SQLite file of ICD-10-PCS (ICD10PROC). Anything else is read as csv with the columns ``code,parent_code,name``
    (any vocabulary) or ``atc_code,atc_name``. Nothing is ever unpickled.

    Raises:
        UserError: the file is missing, malformed, of another vocabulary, or holds a duplicate, a cycle or an unknown
            parent; the message names file and line or row.
    """
    try:
        with path.open("rb") as stream:
            start = stream.read(64).removeprefix(_BYTE_ORDER_MARK).lstrip(b" \t\r\n")
    except FileNotFoundError as error:
        raise UserError(f"{path}: no such file") from error
    except IsADirectoryError as error:
        raise UserError(f"{path}: is a folder, a file of codes was expected") from error
    for magic, read, vocabularies in _FORMATS:
        if start.startswith(magic):
            if vocabulary not in vocabularies:
                raise UserError(f"{path}: is a file of {' or '.join(vocabularies)} codes, not of {vocabulary}")
            return read(vocabulary, path)
    return read_csv(vocabulary, path)

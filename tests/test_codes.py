"""Code hierarchies: each format, read from files made here and from the embedded lists, and what is refused."""

import sqlite3
import zipfile
from pathlib import Path

import openpyxl
import pytest

from biomistral.assets import embedded
from biomistral.codes import Hierarchy, load
from biomistral.errors import UserError

TABULAR = """<?xml version="1.0" encoding="utf-8"?>
<ICD10CM.tabular>
 <version>2026</version>
 <chapter><name>1</name><desc>Injury and  such (S00-T88)</desc>
  <excludes1><note>birth trauma</note></excludes1>
  <sectionIndex><sectionRef first="S00" last="S09" id="S00-S09">Head</sectionRef></sectionIndex>
  <section id="S00-S09"><desc>Injuries to the head (S00-S09)</desc>
   <diag><name>S06</name><desc>Intracranial injury</desc>
    <includes><note>traumatic brain injury</note><note>  </note></includes>
    <useAdditionalCode><note>one</note></useAdditionalCode><useAdditionalCode><note>two</note></useAdditionalCode>
    <sevenChrDef><extension char="A">initial encounter</extension><extension char="D">subsequent encounter</extension>
     <extension char="S">sequela</extension></sevenChrDef>
    <notes><note>7th characters D and S do not apply to codes in category S06 with 6th character 7 - death due to brain
     injury, or 8 - death due to other cause.</note></notes>
    <diag><name>S06.0</name><desc>Concussion – Größe</desc>
     <diag><name>S06.0X6</name><desc>Long</desc></diag>
     <diag><name>S06.0X7</name><desc>Death</desc></diag>
     <diag><name>S06.0X8</name><desc>Other death</desc></diag></diag>
    <diag><name>S06.1</name><desc>Oedema</desc>
     <sevenChrDef><extension char="B">open</extension></sevenChrDef></diag>
   </diag>
   <diag><name>S07</name><desc>Crushing</desc><sevenChrDef><extension char="A">initial</extension></sevenChrDef></diag>
  </section>
  <section id="T14"><desc>Unspecified region (T14)</desc><diag><name>T14</name><desc>Injury of unspecified region</desc></diag>
  </section>
 </chapter>
</ICD10CM.tabular>
"""
EXPECTED = {
    "S00-T88": None, "S00-S09": "S00-T88", "S06": "S00-S09", "S06.0": "S06",
    "S06.0X6": "S06.0", "S06.0X6A": "S06.0X6", "S06.0X6D": "S06.0X6", "S06.0X6S": "S06.0X6",
    "S06.0X7": "S06.0", "S06.0X7A": "S06.0X7", "S06.0X8": "S06.0", "S06.0X8A": "S06.0X8",
    "S06.1": "S06", "S06.1XXB": "S06.1", "S07": "S00-S09", "S07.XXXA": "S07", "T14": "S00-T88",
}


@pytest.fixture
def tabular(tmp_path: Path) -> Path:
    path = tmp_path / "tabular.txt"  # the content says what it is, not the name
    path.write_text(TABULAR, encoding="utf-8")
    return path


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_tabular_gives_chapters_blocks_codes_and_extensions_in_order(tabular: Path) -> None:
    hierarchy = load("ICD10CM", tabular)
    assert {code: node.parent for code, node in hierarchy.nodes.items()} == EXPECTED
    assert list(hierarchy.nodes) == list(EXPECTED)
    assert hierarchy.nodes["S00-T88"].name == "Injury and such"
    assert hierarchy.nodes["S00-S09"].name == "Injuries to the head"
    assert hierarchy.nodes["S06.0"].name == "Concussion – Größe"
    assert hierarchy.nodes["S06.1XXB"].name == "Oedema, open"


def test_notes_are_kept_by_kind(tabular: Path) -> None:
    nodes = load("ICD10CM", tabular).nodes
    assert nodes["S06"].notes == {"includes": ("traumatic brain injury",), "useAdditionalCode": ("one", "two")}
    assert nodes["S00-T88"].notes == {"excludes1": ("birth trauma",)}
    assert nodes["T14"].notes == nodes["S06.0X6A"].notes == {}


def test_relatives(tabular: Path) -> None:
    hierarchy = load("ICD10CM", tabular)
    assert hierarchy.roots == ("S00-T88",)
    assert hierarchy.children("S06") == ("S06.0", "S06.1")
    assert hierarchy.children("T14") == ()
    assert hierarchy.neighbours("S06") == ("S00-S09", "S06.0", "S06.1")
    assert hierarchy.ancestors("S06.1XXB") == ("S06.1", "S06", "S00-S09", "S00-T88")
    assert [hierarchy.category_of(code) for code in ("S06.1XXB", "S06", "S00-S09", "T14")] == ["S06", "S06", None, "T14"]
    assert "S06" in hierarchy
    assert len(hierarchy) == len(EXPECTED)


@pytest.mark.parametrize(("old", "new", "message"), [
    ("</ICD10CM.tabular>", "", "not well-formed"),
    ("ICD10CM.tabular>", "claml>", "outermost element is <claml>"),
    ("<desc>Oedema</desc>", "", "<diag> has no <desc>"),
    ("<name>S07</name>", "<name>S06</name>", "code S06 appears twice"),
    (" (S00-T88)", "", "does not end in its range"),
    ('char="B"', 'char=""', "needs one 'char'"),
    ("<ICD10CM.tabular>\n", '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/hostname">]><ICD10CM.tabular>\n', "document type"),
])
def test_malformed_tabular_is_refused_with_its_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write(tmp_path / "broken.xml", TABULAR.replace(old, new))
    with pytest.raises(UserError, match=message) as caught:
        load("ICD10CM", path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_entities_are_never_expanded(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE a [<!ENTITY a "aaaaaaaaaa">' + "".join(
        f'<!ENTITY {new} "{f"&{old};" * 10}">' for old, new in zip("abcdefghi", "bcdefghij", strict=True)) + "]>"
    path = write(tmp_path / "bomb.xml", bomb + "<ICD10CM.tabular><chapter><desc>&j;</desc></chapter></ICD10CM.tabular>")
    with pytest.raises(UserError, match=r"not well-formed|document type"):
        load("ICD10CM", path)


def test_csv_with_parents_in_any_order_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "codes.csv"
    path.write_text('code,parent_code,name\n001.1,001,"Cholera, el tor"\n001,001-009.99,Cholera\n001-009.99,,Intestinal\n',
                    encoding="utf-8-sig")
    hierarchy = load("ICD9CM", path)
    assert list(hierarchy.nodes) == ["001.1", "001", "001-009.99"]
    assert hierarchy.nodes["001.1"].name == "Cholera, el tor"
    assert hierarchy.ancestors("001.1") == ("001", "001-009.99")
    assert [hierarchy.category_of(code) for code in hierarchy.nodes] == ["001", "001", None]


def test_atc_takes_its_parents_from_prefixes_and_a_repeated_code_once(tmp_path: Path) -> None:
    path = write(tmp_path / "atc.csv", "atc_code,atc_name,ddd\nA,ALIMENTARY,\nA10,DIABETES,\nA10B,LOWERING,\n"
                                       "A10BA,Biguanides,\nA10BA02,metformin,2\nA10BA02,metformin,3\n")
    hierarchy = load("ATC", path)
    assert {code: node.parent for code, node in hierarchy.nodes.items()} == {
        "A": None, "A10": "A", "A10B": "A10", "A10BA": "A10B", "A10BA02": "A10BA"}
    assert hierarchy.category_of("A10BA02") == "A10"


@pytest.mark.parametrize(("text", "message"), [
    ("", ":1: the columns are none"),
    ("a,b\n1,2\n", ":1: the columns are a, b;"),
    ("code,parent_code,name\n", "holds no codes"),
    ("code,parent_code,name\nA,,x\n,,y\n", ":3: the row has no code"),
    ("code,parent_code,name\nA,,x\nB,A,\n", ":3: the row has no name"),
    ("code,parent_code,name\nA,,x\nB,A\n", ":3: the row has no name"),
    ("code,parent_code,name\nA,,x\nA,,y\n", ":3: code A appears twice (first in"),
    ("code,parent_code,name\nA,,x\nB,C,y\n", ":3: the parent C of code B is not in the file"),
    ("code,parent_code,name\nA,,x\nB,C,y\nC,B,z\n", ":3: code B has no root above it"),
    ("code,parent_code,name\nA,A,x\n", ":2: code A has no root above it"),
    ('code,parent_code,name\nA,,"x\n', "not readable as csv"),
    ("atc_code,atc_name\nA,x\nA1,y\n", ":3: 'A1' is not an ATC code"),
    ("atc_code,atc_name\nA,x\nA,y\n", ":3: code A is 'y' here and 'x' before"),
])
def test_malformed_csv_is_refused_with_its_line(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "codes.csv", text)
    with pytest.raises(UserError) as caught:
        load("X", path)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def spreadsheet(path: Path, rows: list[list[object]]) -> Path:
    book = openpyxl.Workbook()
    for row in rows:
        book.active.append(row)
    book.save(path)
    return path


def test_spreadsheet_gets_dots_and_nameless_parents(tmp_path: Path) -> None:
    path = spreadsheet(tmp_path / "dx.xlsx", [["DIAGNOSIS CODE", "LONG DESCRIPTION", "SHORT DESCRIPTION"],
                                              ["0010", "Cholera", "c"], ["25000", "Diabetes", "d"], ["25001", "Type I", "d"],
                                              ["486", "Pneumonia", "p"], ["E8001", "Train", "t"], ["V0251", "Carrier", "c"]])
    nodes = load("ICD9CM", path).nodes
    assert {code: node.parent for code, node in nodes.items()} == {
        "001": None, "001.0": "001", "250": None, "250.0": "250", "250.00": "250.0", "250.01": "250.0", "486": None,
        "E800": None, "E800.1": "E800", "V02": None, "V02.5": "V02", "V02.51": "V02.5"}
    assert [code for code, node in nodes.items() if not node.name] == ["001", "250", "250.0", "E800", "V02", "V02.5"]


def test_spreadsheet_of_procedures_has_its_dot_after_two_digits(tmp_path: Path) -> None:
    path = spreadsheet(tmp_path / "sg.xlsx", [["PROCEDURE CODE", "LONG DESCRIPTION"], ["0011", "Infusion"]])
    assert list(load("ICD9PROC", path).nodes) == ["00", "00.1", "00.11"]


@pytest.mark.parametrize(("rows", "message"), [
    ([["CODE", "NAME"]], "row 1: the columns are ['CODE', 'NAME']"),
    ([], "row 1: the columns are"),
    ([["DIAGNOSIS CODE", "LONG DESCRIPTION"], [10, "Cholera"]], "row 2: the code is 10; text was expected"),
    ([["DIAGNOSIS CODE", "LONG DESCRIPTION"], ["0010", "x"], ["0011"]], "row 3: code 0011 has no long description"),
    ([["DIAGNOSIS CODE", "LONG DESCRIPTION"], ["0010", "x"], ["0010", "y"]], "row 3: code 001.0 appears twice"),
])
def test_malformed_spreadsheet_is_refused_with_its_row(tmp_path: Path, rows: list[list[object]], message: str) -> None:
    with pytest.raises(UserError) as caught:
        load("ICD9CM", spreadsheet(tmp_path / "dx.xlsx", rows))
    assert message in str(caught.value)


def test_a_zip_that_is_no_spreadsheet_or_a_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(UserError, match="not a readable"):
        load("ICD9CM", path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="not a readable"):
        load("ICD9CM", path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", bytes(300_000_000))
    with pytest.raises(UserError, match="unpacks to 300 MB"):
        load("ICD9CM", path)


def pcs_database(path: Path, codes: list[tuple[object, ...]], tree: list[tuple[object, ...]]) -> Path:
    axes = ["section", "body_system", "root_op", "body_part", "approach", "device", "qualifier"]
    names = ["sec_def", "bs_def", "ro_def", "bp_def", "ap_def", "dv_def", "qu_def"]
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE pcs_codes (code TEXT, billable INTEGER, short_name TEXT, long_name TEXT)")
        connection.execute(f"CREATE TABLE pcs_tree ({', '.join(axes)}, code, {', '.join(names)})")
        connection.executemany("INSERT INTO pcs_codes VALUES (?, 1, '', ?)", codes)
        connection.executemany(f"INSERT INTO pcs_tree VALUES ({', '.join('?' * 15)})", tree)
    connection.close()
    return path


def pcs_row(code: str) -> tuple[str, ...]:
    return (*code, code, "Medical", "Arteries", "Bypass: Altering", "Aorta", "Open", f"Device {code[5]}", "None")


def test_pcs_prefixes_are_named_by_their_axes(tmp_path: Path) -> None:
    path = pcs_database(tmp_path / "a b#.db", [("04100A6", "Bypass A"), ("04100Z7", "Bypass Z")],
                        [pcs_row("04100A6"), pcs_row("04100Z7"), pcs_row("04100Z8")])
    hierarchy = load("ICD10PROC", path)
    assert list(hierarchy.nodes) == ["0", "04", "041", "0410", "04100", "04100A", "04100A6", "04100Z", "04100Z7"]
    assert hierarchy.nodes["041"].name == "Medical; Arteries; Bypass"
    assert hierarchy.nodes["04100Z"].name == "Medical; Arteries; Bypass; Aorta; Open; Device Z"
    assert hierarchy.nodes["04100Z7"].name == "Bypass Z"
    assert hierarchy.category_of("04100Z7") == "041"


def test_malformed_pcs_database_is_refused(tmp_path: Path) -> None:
    path = pcs_database(tmp_path / "a.db", [("04100A6", "Bypass A"), ("04100B6", "Bypass B")], [pcs_row("04100A6")])
    with pytest.raises(UserError, match="row 2: code 04100B6 has no complete row"):
        load("ICD10PROC", path)
    wrong = pcs_database(tmp_path / "b.db", [("04100A6", "Bypass")], [("9", *pcs_row("04100A6")[1:])])
    with pytest.raises(UserError, match="stands under the axes 94100A"):
        load("ICD10PROC", wrong)
    empty = tmp_path / "c.db"
    with sqlite3.connect(empty) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    with pytest.raises(UserError, match="no such table"):
        load("ICD10PROC", empty)


def test_a_file_of_another_vocabulary_is_refused(tabular: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is a file of ICD10CM codes, not of ICD9CM"):
        load("ICD9CM", tabular)
    with pytest.raises(UserError, match="no such file"):
        load("ICD9CM", tmp_path / "missing.csv")
    with pytest.raises(UserError, match="is a folder"):
        load("ICD9CM", tmp_path)
    pickle = tmp_path / "hierarchy.pickle"
    pickle.write_bytes(b"\x80\x04\x95\xff\xfe.")
    with pytest.raises(UserError, match="not UTF-8"):
        load("ICD9CM", pickle)


@pytest.fixture(scope="module")
def icd10cm() -> Hierarchy:
    return load("ICD10CM", embedded("icd10cm"))


def test_embedded_icd10cm_is_the_list_that_its_package_carries(icd10cm: Hierarchy) -> None:
    listed = set(next(embedded("icd10cm").parent.glob("code-list-*.txt")).read_text().split())
    chapters = {str(number) for number in range(1, 23)}
    assert {code.replace(".", "") for code in icd10cm.nodes if code not in icd10cm.roots} == listed - chapters
    assert len(icd10cm) == 98_466
    assert len(icd10cm.roots) == 22


def test_embedded_icd10cm_names_are_those_of_another_list(icd10cm: Hierarchy) -> None:
    """CMS' own list of full names, of another year and without diacritics, in another package."""
    connection = sqlite3.connect(embedded("icd10pcs").with_name("icd10cm.db"))
    other = dict(connection.execute("SELECT code_dot, long_name FROM cm_codes"))
    connection.close()
    shared = [code for code in icd10cm.nodes if code in other]
    same = sum(icd10cm.nodes[code].name.casefold() == other[code].casefold() for code in shared)
    assert len(shared) == 97_572
    assert same / len(shared) > 0.997


def test_embedded_icd9cm() -> None:
    hierarchy = load("ICD9CM", embedded("icd9cm"))
    assert sum(bool(node.name) for node in hierarchy.nodes.values()) == 14_567
    assert hierarchy.nodes["250.00"].name.startswith("Diabetes mellitus without mention of complication")
    assert hierarchy.ancestors("250.00") == ("250.0", "250")

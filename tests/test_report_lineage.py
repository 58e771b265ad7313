"""The drawing of a lineage: any graph is laid out, each node once and below what it is an input of; names stay text."""

from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from biomistral.reporting.layers import layout
from biomistral.reporting.lineage import Node, lineage
from biomistral.reporting.lineage_graph import fitted, lineage_graph
from tiny_results import make_chain, make_results

BOX, GAP = (100.0, 20.0), (10.0, 15.0)
NAMES = st.sampled_from("abcdefgh")
GRAPHS = st.dictionaries(NAMES, st.lists(NAMES, max_size=4), min_size=1, max_size=8)


@given(GRAPHS)
def test_any_graph_is_laid_out(below: dict[str, list[str]]) -> None:
    found = layout(below, BOX, GAP)
    assert set(found.nodes) == {*below, *(one for parts in below.values() for one in parts)}
    assert found == layout(below, BOX, GAP)
    for (x, y), (other_x, other_y) in combinations(found.nodes.values(), 2):
        assert abs(x - other_x) >= BOX[0] or abs(y - other_y) >= BOX[1] + GAP[1], "boxes stand apart"
    for x, y in found.nodes.values():
        assert BOX[0] / 2 <= x <= found.width - BOX[0] / 2
        assert BOX[1] / 2 <= y <= found.height - BOX[1] / 2
    drawn = set()
    for points in found.edges:
        downwards = [y for _, y in points]
        assert downwards == sorted(set(downwards)), "edges run down"
        ends = [name for name, point in found.nodes.items() if point in (points[0], points[-1])]
        drawn.add(tuple(sorted(ends, key=lambda name: found.nodes[name][1])))
    asked = {(upper, lower) for upper, parts in below.items() for lower in parts if upper != lower}
    assert drawn <= asked
    assert all((lower, upper) in asked or (upper, lower) in drawn or _leads(asked, lower, upper) for upper, lower in asked)


def _leads(edges: set[tuple[str, str]], start: str, end: str) -> bool:
    """Whether there is a way: then the edge back closes a cycle."""
    reached = {start}
    while more := {lower for upper, lower in edges if upper in reached} - reached:
        reached |= more
    return end in reached


def _texts(svg: str) -> list[str]:
    return ["".join(one.itertext()) for one in ElementTree.fromstring(svg).iter("text")]


def _node(name: str, kind: str = "file", licences: dict[str, object] | None = None, inputs: tuple[Node, ...] = ()) -> Node:
    return Node(name, kind, name, name, Path(name), {}, {}, licences or {}, {}, inputs)


def test_a_chain_is_drawn_down_to_its_licences(tmp_path: Path) -> None:
    chain = make_chain(tmp_path)
    results = [lineage(make_results(tmp_path, chain, name, "adapted")) for name in ("a", "b")]
    svg = lineage_graph(results)
    texts = _texts(svg)
    assert texts.count("corpus") == 2, "the kind and the name of the one box"
    for name in ("adapted", "base", "CC-BY-4.0", "CC0-1.0", "articles.xml", *(result.path.name for result in results)):
        assert texts.count(name) == 1, "what two results share is drawn once"
    assert "licence of 1 article" in texts
    assert svg == lineage_graph(results)
    assert len(svg.encode()) < 3000


def test_names_stay_text_and_find_room() -> None:
    evil, arabic, chinese = "<script>alert('x')<b>", "نموذج عربي طبي كبير جدا للأسئلة", "医学语言模型的语料库和问题集合很长"
    files = tuple(_node(f"{number}.jsonl") for number in range(9))
    licences: dict[str, object] = {f"LICENCE-{number}": number for number in range(9)}
    corpus = _node(f"/data/{arabic}", "corpus", licences, files)
    texts = _texts(lineage_graph([_node(f"/runs/{evil}", "evaluate", inputs=(corpus, _node(chinese)))]))
    assert fitted(evil) in texts
    assert fitted(arabic) in texts
    assert {"9 files", "4 more", "LICENCE-8"} <= set(texts), "many files are one box, and rare licences another"
    assert not {"0.jsonl", "LICENCE-1", "LICENCE-0"} & set(texts)
    assert all(len(text) <= 24 for text in texts)
    assert len(fitted(chinese)) <= 10, "letters of full width need twice the room"
    assert fitted("short") == "short"


@given(st.text(st.characters(exclude_categories=("Cs",), exclude_characters="…"), max_size=60))
def test_what_is_cut_keeps_its_ends(name: str) -> None:
    short = fitted(name)
    head, mark, tail = short.partition("…") if short != name else (name, "", "")
    assert short == name or (mark and name.startswith(head) and name.endswith(tail))
    assert len(short) <= 20


def test_licences_stand_where_they_come_from_alone() -> None:
    """A model has those of all that it was made from: drawn again at each they made the drawing ten times as wide."""
    files = tuple(_node(f"embedded:{name}") for name in ("icd10cm", "icd9cm"))
    corpus = _node("/corpus", "corpus", {"CC0-1.0": 3}, files)
    tuned = _node("/tuned", "finetune", {"CC0-1.0": 3, "Apache-2.0": 1}, (corpus, _node("/base", "model", {"Apache-2.0": 1})))
    texts = _texts(lineage_graph([_node("/results", "evaluate", {"CC0-1.0": 3}, (tuned,))]))
    assert [texts.count(name) for name in ("CC0-1.0", "Apache-2.0")] == [1, 1]
    assert texts.count("PD-US-Gov") == 1, "of two files one box"

"""MedConceptsQA: the questions' rules against naive references, the splits, and the codes that are taught."""

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from biomistral.artifact import Artifact, partial_folder
from biomistral.benchmarks import medconcepts, teaching
from biomistral.benchmarks.distances import Distances
from biomistral.benchmarks.medconcepts import DISTANCES, STEM, QuestionSet, split
from biomistral.benchmarks.settings import BenchmarkSettings, TeachSettings
from biomistral.codes import Hierarchy, Node, load
from biomistral.codes.hierarchy import Placed
from biomistral.errors import UserError
from biomistral.recipe import parse
from biomistral.records import Question, read_questions
from biomistral.run import execute


def make_hierarchy(parents: dict[str, str | None], names: dict[str, str] | None = None, vocabulary: str = "V") -> Hierarchy:
    placed = [Placed(Node(code, (names or {}).get(code, f"name of {code}"), parent), code) for code, parent in parents.items()]
    return Hierarchy(vocabulary, placed, Path("made.csv"))


def naive_at(hierarchy: Hierarchy, code: str, distances: tuple[int, ...]) -> list[str]:
    """Breadth-first search over neighbours, every named code at the distances."""
    found, layer, seen = [], [code], {code}
    for distance in range(1, max(distances) + 1):
        layer = [other for one in layer for other in hierarchy.neighbours(one) if other not in seen]
        seen.update(layer)
        if distance in distances:
            found.extend(other for other in layer if hierarchy.nodes[other].name)
    return sorted(found)


@st.composite
def forests(draw: st.DrawFn) -> Hierarchy:
    """Forests of up to 40 codes, in shuffled file order, some of them without a name."""
    count = draw(st.integers(1, 40))
    parents: dict[str, str | None] = {"0": None}
    for number in range(1, count):
        above = draw(st.integers(-1, number - 1))
        parents[str(number)] = None if above < 0 else str(above)
    order = draw(st.permutations(list(parents)))
    nameless = draw(st.sets(st.sampled_from(order)))
    return make_hierarchy({code: parents[code] for code in order}, dict.fromkeys(nameless, ""))


@settings(max_examples=80, deadline=None)
@given(forests())
def test_candidates_are_those_of_a_breadth_first_search(hierarchy: Hierarchy) -> None:
    distances = Distances(hierarchy)
    named = [code for code, node in hierarchy.nodes.items() if node.name]
    assert distances.named == named
    for code in named:
        assert list(distances.others(code)) == [other for other in named if other != code]
        for wanted in ((1,), (2,), (3, 4, 5)):
            candidates = distances.at(code, wanted)
            assert sorted(candidates) == naive_at(hierarchy, code, wanted)
            assert len(candidates) == len(list(candidates))


@settings(max_examples=40, deadline=None)
@given(forests(), st.sampled_from(list(DISTANCES)), st.integers(0, 5))
def test_questions_obey_the_rules(hierarchy: Hierarchy, level: str, root: int) -> None:
    questions = QuestionSet(hierarchy, Distances(hierarchy), level, root)
    askable = questions.askable()
    named = [code for code, node in hierarchy.nodes.items() if node.name]
    for code in named:
        wanted = DISTANCES[level]
        candidates = [other for other in named if other != code] if wanted is None else naive_at(hierarchy, code, wanted)
        assert (code in askable) == (len(candidates) >= 3)
        if code in askable:
            question = questions.question(code)
            distractors = list(question.options)
            assert distractors.pop(question.answer_index) == hierarchy.nodes[code].name
            assert len(set(distractors)) == 3
            assert set(distractors) <= {hierarchy.nodes[other].name for other in candidates}


def star(count: int, names: dict[str, str] | None = None) -> Hierarchy:
    return make_hierarchy({"root": None, **{f"c{number}": "root" for number in range(count)}}, names)


def test_the_question_is_the_released_one() -> None:
    hierarchy = star(5)
    question = QuestionSet(hierarchy, Distances(hierarchy), "hard", 0).question("c1")
    assert question.id == "medconceptsqa/V/hard/c1"
    assert question.task == "v_hard"
    assert question.stem == "What is the description of the medical code c1 in V?"
    assert question.meta == {"vocabulary": "V", "level": "hard", "code": "c1"}
    assert "name of root" not in question.options


def test_distractors_and_places_are_drawn_uniformly() -> None:
    hierarchy = star(9)
    distances = Distances(hierarchy)
    drawn: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for root in range(10_000):
        question = QuestionSet(hierarchy, distances, "hard", root).question("c0")
        places[question.answer] += 1
        drawn.update(option for option in question.options if option != "name of c0")
    assert len(drawn) == 8
    assert chisquare(list(drawn.values())).pvalue > 0.001
    assert len(places) == 4
    assert chisquare(list(places.values())).pvalue > 0.001


def test_a_text_is_repeated_only_when_nothing_else_is_left() -> None:
    enough = {"c0": "Same", "c1": "same", "c2": "same", "c3": "Twin", "c4": "twin"}
    for root in range(50):
        for count, names, repeats in ((7, enough, 0), (4, {"c0": "Same", "c1": "same"}, 1)):
            hierarchy = star(count, names)
            question = QuestionSet(hierarchy, Distances(hierarchy), "hard", root).question("c0")
            assert 4 - len({option.casefold() for option in question.options}) == repeats


def test_a_question_does_not_depend_on_order_or_on_what_else_is_asked() -> None:
    hierarchy = star(12)
    questions = QuestionSet(hierarchy, Distances(hierarchy), "easy", 3)
    forwards = {code: questions.question(code) for code in questions.askable()}
    backwards = {code: questions.question(code) for code in reversed(questions.askable())}
    assert forwards == backwards
    assert QuestionSet(hierarchy, Distances(hierarchy), "easy", 4).question("c1") != forwards["c1"]
    order = questions.ordered(forwards)
    assert [code for code in order if code != "c5"] == questions.ordered(code for code in forwards if code != "c5")


def splits_of(count: int, shots: int, validation: int, limit: int) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {"dev": [], "validation": [], "test": []}
    for code, name in split([str(number) for number in range(count)], shots, validation, limit):
        found[name].append(code)
    return found


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 30), st.integers(0, 5), st.integers(0, 8), st.integers(0, 40))
def test_splits_are_disjoint_and_only_grow(count: int, shots: int, validation: int, limit: int) -> None:
    found = splits_of(count, shots, validation, limit)
    codes = [code for part in found.values() for code in part]
    assert len(codes) == len(set(codes))
    assert len(found["dev"]) == min(shots, count)
    if not limit:
        assert len(codes) == count
    else:
        larger = splits_of(count, shots, validation, limit + 1)["test"]
        assert larger[: len(found["test"])] == found["test"]
        assert len(found["test"]) <= limit
    wider = splits_of(count, shots, validation + 1, limit)["validation"]
    assert wider[: len(found["validation"])] == found["validation"]


# ---- the stage ------------------------------------------------------------------------------------------------------


def write_codes(path: Path, categories: int = 12, children: int = 5, name: str = "Störung") -> Path:
    """One root, blocks of three categories, each category with flat children; category K00 has deeper ones."""
    lines = ["code,parent_code,name", "ROOT-Z,,Everything"]
    for number in range(categories):
        block, category = f"B{number // 3}-B{number // 3}", f"K{number:02}"
        if number % 3 == 0:
            lines.append(f"{block},ROOT-Z,Block {number // 3}")
        lines.append(f"{category},{block},Category {number}")
        lines.extend(f"{category}.{child},{category},{name} {number}-{child}" for child in range(children))
    lines.append("K00.00,K00.0,Deeper")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def codes(tmp_path: Path) -> Path:
    return write_codes(tmp_path / "codes.csv")


TEACH = {"vocabulary": "ICD10CM", "categories": 4, "codes": 18}


def make(out: Path, **values: object) -> Artifact:
    return execute(parse(BenchmarkSettings, values), out)


def by_split(artifact: Artifact) -> dict[str, list[Question]]:
    found: dict[str, list[Question]] = {"dev": [], "validation": [], "test": []}
    for question in read_questions(artifact.path / "questions.parquet"):
        found[question.split].append(question)
    return found


def test_the_folder_holds_every_question_once(tmp_path: Path, codes: Path) -> None:
    artifact = make(tmp_path / "out", vocabularies={"MINE": str(codes)}, limit=0, validation=5)
    found = by_split(artifact)
    hierarchy = load("MINE", codes)
    tasks = json.loads((artifact.path / "benchmark.json").read_text())
    assert tasks["name"] == "medconceptsqa"
    for level in DISTANCES:
        askable = QuestionSet(hierarchy, Distances(hierarchy), level, 0).askable()
        asked = [question for part in found.values() for question in part if question.task == f"mine_{level}"]
        assert sorted(question.meta["code"] for question in asked) == sorted(askable)
        assert tasks["tasks"][f"mine_{level}"] == {"dev": 4, "validation": 5, "test": len(askable) - 9,
                                                   "licence": "not stated", "source": "codes.csv"}
        assert artifact.manifest["counts"][f"mine_{level}"]["available"] == len(askable)
    assert not (artifact.path / "taught.json").exists()
    assert not (artifact.path / "train.jsonl").exists()


def test_a_smaller_limit_gives_some_of_the_same_questions(tmp_path: Path, codes: Path) -> None:
    small = by_split(make(tmp_path / "small", vocabularies={"MINE": str(codes)}, limit=10, validation=2))
    large = by_split(make(tmp_path / "large", vocabularies={"MINE": str(codes)}, limit=25, validation=4))
    assert small["dev"] == large["dev"]
    assert len(small["test"]) == 30
    assert {question.id: question for question in small["test"]}.items() <= {q.id: q for q in large["test"]}.items()
    assert {question.id for question in small["validation"]} <= {question.id for question in large["validation"]}


def test_the_same_bytes_wherever_it_lies_and_after_a_kill(tmp_path: Path, codes: Path) -> None:
    values = {"vocabularies": {"ICD10CM": str(codes)}, "teach": TEACH, "validation": 3}
    first = make(tmp_path / "first", **values)
    elsewhere = tmp_path / "other place"
    elsewhere.mkdir()
    moved = {**values, "vocabularies": {"ICD10CM": str(write_codes(elsewhere / "codes.csv"))}}
    partial = partial_folder(elsewhere / "out", first.key)
    partial.mkdir()
    (partial / ".train.jsonl.77.tmp").write_text("half a li")
    (partial / "questions.parquet").write_text("half a file")
    second = make(elsewhere / "out", **moved)
    assert first.manifest["files"] == second.manifest["files"]
    assert first.manifest["content"] == second.manifest["content"]


def test_taught_and_untaught_codes_are_alike_and_apart(tmp_path: Path, codes: Path) -> None:
    artifact = make(tmp_path / "out", vocabularies={"ICD10CM": str(codes), "OTHER": str(codes)}, teach=TEACH, validation=4)
    taught = json.loads((artifact.path / "taught.json").read_text())
    untaught = artifact.manifest["facts"]["untaught"]
    for group in (taught, untaught):
        assert len(group["categories"]) == 3  # a fourth would make 20 codes, 18 were allowed
        assert [code.split(".")[0] for code in group["codes"]] == [name for name in group["categories"] for _ in range(5)]
    assert not set(taught["categories"]) & set(untaught["categories"])
    assert "K00" not in taught["categories"] + untaught["categories"]  # its codes have codes below them
    found = by_split(artifact)
    for level in DISTANCES:
        for name, group in (("taught", taught), ("untaught", untaught)):
            asked = {part: {question.meta["code"] for question in found[part]
                            if question.meta.get("group") == name and question.meta["level"] == level} for part in found}
            assert asked["dev"] == set()
            assert len(asked["validation"]) == 4
            assert len(asked["test"]) == 11
            assert asked["validation"] | asked["test"] == set(group["codes"])
    chosen = set(taught["codes"] + untaught["codes"])
    assert not chosen & {question.meta["code"] for question in found["dev"] if question.task.startswith("icd10cm")}
    assert {question.meta.get("group") for question in found["test"] if question.task.startswith("other")} == {None}
    assert artifact.manifest["counts"]["test_taught"] == artifact.manifest["counts"]["test_untaught"] == 33


def test_training_text_teaches_the_taught_codes_and_never_uses_the_tests_words(tmp_path: Path, codes: Path) -> None:
    artifact = make(tmp_path / "out", vocabularies={"ICD10CM": str(codes)}, teach=TEACH)
    taught = json.loads((artifact.path / "taught.json").read_text())["codes"]
    rows = [json.loads(line) for line in (artifact.path / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [set(row) for row in rows] == [{"prompt", "completion", "id"}] * len(rows)
    assert len({row["id"] for row in rows}) == len(rows) == 7 * len(taught) == artifact.manifest["counts"]["train"]
    nodes = load("ICD10CM", codes).nodes
    for code in taught:
        texts = [(row["prompt"], row["completion"]) for row in rows if row["id"].split("/")[3] == code]
        assert sum(code in prompt and answer == f" {nodes[code].name}." for prompt, answer in texts) == 5
        assert sum(nodes[code].name in prompt and answer == f" {code}." for prompt, answer in texts) == 2
    everything = json.dumps(rows, ensure_ascii=False).casefold()
    for words in ("what is the description", "description of", "medical code"):
        assert words in STEM.casefold()
        assert words not in everything
    for code in json.loads((artifact.path / "manifest.json").read_text())["facts"]["untaught"]["codes"]:
        assert code not in everything.upper()


def test_the_choice_of_taught_codes_follows_the_seed(codes: Path) -> None:
    hierarchy = load("ICD10CM", codes)
    chosen = {teaching.choose(hierarchy, TeachSettings(categories=4, codes=20), root)[0].categories for root in range(6)}
    assert len(chosen) > 1


@pytest.mark.parametrize(("values", "message"), [
    ({"suite": "medqa"}, "suite = 'medqa'"),
    ({"vocabularies": {}}, "vocabularies"),
    ({"vocabularies": {"../x": "codes.csv"}}, "../x"),
    ({"vocabularies": {"a": "x", "A": "y"}}, "differ only in case"),
    ({"levels": ["easy", "easy"]}, "names a level twice"),
    ({"limit": -1}, "limit = -1"),
    ({"teach": {"vocabulary": "ATC"}}, "'ATC' is not among the vocabularies"),
    ({"teach": {"smallest": 9, "largest": 8}}, "largest = 8 is below smallest = 9"),
    ({"teach": {"codes": 5}}, "codes = 5 is below largest = 12"),
])
def test_wrong_settings_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(BenchmarkSettings, values)
    assert message in str(caught.value)


def test_too_few_categories_to_teach_are_refused_before_any_work(tmp_path: Path, codes: Path) -> None:
    with pytest.raises(UserError, match=r"11 categories .* lower teach.categories to 5"):
        make(tmp_path / "out", vocabularies={"ICD10CM": str(codes)}, teach={"categories": 6})
    assert list(tmp_path.iterdir()) == [codes]


def test_a_list_too_flat_to_ask_about_is_refused_and_a_set_too_small_left_out(tmp_path: Path) -> None:
    flat = tmp_path / "flat.csv"
    flat.write_text("code,parent_code,name\n" + "".join(f"{code},,name {code}\n" for code in "ABCDEF"))
    with pytest.raises(UserError, match="no question can be asked"):
        make(tmp_path / "out", vocabularies={"FLAT": str(flat)}, levels=["hard"])
    artifact = make(tmp_path / "out", vocabularies={"FLAT": str(flat)})
    assert list(json.loads((artifact.path / "benchmark.json").read_text())["tasks"]) == ["flat_easy"]
    assert artifact.manifest["counts"]["flat_hard"] == {"dev": 0, "validation": 0, "test": 0, "available": 0}


def test_every_node_of_a_small_tree_counted_by_hand() -> None:
    """Root r over a, b, c, d; a over a1, a2. Hard: a sees b, c, d; b sees a, c, d; a1 sees a2 and r; r sees a1, a2."""
    hierarchy = make_hierarchy({"r": None, "a": "r", "b": "r", "c": "r", "d": "r", "a1": "a", "a2": "a"})
    distances = Distances(hierarchy)
    counts = {level: QuestionSet(hierarchy, distances, level, 0).askable() for level in medconcepts.DISTANCES}
    assert counts["hard"] == ["a", "b", "c", "d"]
    assert counts["medium"] == ["a1", "a2"]  # distance 3: b, c, d
    assert counts["easy"] == ["r", "a", "b", "c", "d", "a1", "a2"]

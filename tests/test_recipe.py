"""Recipes: strict, with errors that name the place and the nearest key; hashes that ignore how things were written."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomistral import run
from biomistral.errors import UserError
from biomistral.recipe import canonical_hash, load_recipe
from biomistral.seeds import seed
from toy import ToySettings

RECIPE = """\
name: demo
seed: 7
stages:
  first:
    kind: toy
    amount: 2
  second:
    kind: toy
    each: [x, y]
    source: stage:first
    amount: 5
  third:
    kind: toy
    more: [stage:second]
profiles:
  smoke:
    first: {amount: 1}
"""


@pytest.fixture(autouse=True)
def toy_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(run.KINDS, "toy", "toy:ToySettings")


def write(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_stages_run_in_order_and_feed_one_another(tmp_path: Path) -> None:
    rows = run.run_recipe(write(tmp_path, RECIPE), tmp_path / "out")
    assert [(row["stage"], row["counts"]["sum"]) for row in rows] == [
        ("first", 2), ("second/x", 7), ("second/y", 7), ("third", 15)]
    again = run.run_recipe(write(tmp_path, RECIPE), tmp_path / "out")
    assert {row["state"] for row in again} == {"reused"}


def test_only_what_depends_on_a_change_is_made_again(tmp_path: Path) -> None:
    run.run_recipe(write(tmp_path, RECIPE), tmp_path / "out")
    rows = run.run_recipe(write(tmp_path, RECIPE.replace("amount: 5", "amount: 6")), tmp_path / "out")
    assert [row["state"] for row in rows] == ["reused", "made", "made", "made"]
    assert rows[-1]["counts"]["sum"] == 17


def test_a_dry_run_tells_and_does_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, RECIPE)
    assert [row["state"] for row in run.run_recipe(path, tmp_path / "out", dry_run=True)] == ["new"] * 4
    assert not (tmp_path / "out").exists()
    run.run_recipe(path, tmp_path / "out")
    changed = write(tmp_path, RECIPE.replace("amount: 5", "amount: 6"))
    assert [row["state"] for row in run.run_recipe(changed, tmp_path / "out", dry_run=True)] == [
        "fresh", "stale", "stale", "stale"]


def test_from_makes_a_stage_and_all_after_it_again(tmp_path: Path) -> None:
    path = write(tmp_path, RECIPE)
    run.run_recipe(path, tmp_path / "out")
    rows = run.run_recipe(path, tmp_path / "out", start="second")
    assert [row["state"] for row in rows] == ["reused", "made", "made", "made"]
    with pytest.raises(UserError, match="--from secnd: no such stage"):
        run.run_recipe(path, tmp_path / "out", start="secnd")


def test_a_profile_overrides_and_keeps_its_own_folder(tmp_path: Path) -> None:
    path = write(tmp_path, RECIPE)
    assert run.run_recipe(path, tmp_path / "s", profile="smoke")[-1]["counts"]["sum"] == 13
    with pytest.raises(UserError, match="holds a run of"):
        run.run_recipe(path, tmp_path / "s")
    with pytest.raises(UserError, match="no profile 'smoky'; did you mean 'smoke'"):
        run.run_recipe(path, tmp_path / "t", profile="smoky")


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("x")
    with pytest.raises(UserError, match="already exists and holds no run"):
        run.run_recipe(write(tmp_path, RECIPE), tmp_path / "out")


@pytest.mark.parametrize(("old", "new", "message"), [
    ("amount: 5", "amuont: 5", r"recipe\.yaml:11: unknown key 'stages\.second\.amuont'; did you mean 'amount'\?"),
    ("amount: 5", "amount: many", r"recipe\.yaml:11: stages\.second\.amount = 'many'"),
    ("amount: 5", "amount: -1", r"recipe\.yaml:11: stages\.second\.amount = -1"),
    ("amount: 5", "amount: 5\n    amount: 6", r"recipe\.yaml:12: key 'amount' appears twice"),
    ("kind: toy\n    amount: 2", "kind: corpsu\n    amount: 2",
     r"recipe\.yaml:5: unknown kind of stage 'corpsu'; did you mean 'corpus'\?"),
    ("    kind: toy\n    amount: 2", "    amount: 2", r"recipe\.yaml:4: stage 'first' has no 'kind'"),
    ("stage:first", "stage:frist", r"recipe\.yaml:7: stage:frist is no earlier stage; did you mean 'first'\?"),
    ("stage:first", "stage:third", r"stage:third is no earlier stage \(it stands later in the recipe\)"),
    ("stage:first", "nowhere.txt", r"nowhere\.txt: no such file or folder"),
    ("stage:first", "org/model", r"org/model: no such local path; for the Hugging Face hub, write hub:org/model"),
    ("[x, y]", "[]", r"recipe\.yaml:9: 'each' is a list of names"),
    ("name: demo", "nmae: demo", r"recipe\.yaml:1: unknown key 'nmae'; did you mean 'name'\?"),
    ("name: demo", "name: ../../etc", r"recipe\.yaml:1: name = '\.\./\.\./etc'"),
    ("  smoke:\n    first", "  smoke:\n    frist", r"changes a stage 'frist' that is not there; did you mean 'first'"),
    ("name: demo", "name: [demo", r"recipe\.yaml:\d+: "),
])
def test_what_is_wrong_is_said_in_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    assert old in RECIPE
    with pytest.raises(UserError, match=message) as caught:
        run.run_recipe(write(tmp_path, RECIPE.replace(old, new)), tmp_path / "out", profile="smoke", dry_run=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "- a\n- b\n", "just words", "? [a]\n: b\n", "a: !!python/object:os.system {}", "\x00"])
def test_files_that_are_no_recipe_are_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError, match=r"recipe\.yaml") as caught:
        load_recipe(write(tmp_path, text))
    assert "\n" not in str(caught.value)


def test_missing_folder_and_binary_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(UserError, match="is a folder"):
        load_recipe(tmp_path)
    (tmp_path / "b.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="not UTF-8"):
        load_recipe(tmp_path / "b.yaml")


json_like = st.recursive(
    st.none() | st.booleans() | st.integers(-2**53, 2**53) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=12)


@given(st.dictionaries(st.text(), json_like, max_size=6), st.randoms())
@settings(max_examples=60, deadline=None)
def test_the_hash_ignores_order_and_sees_every_change(data: dict[str, object], random: "object") -> None:
    items = list(data.items())
    random.shuffle(items)  # type: ignore[attr-defined]
    assert canonical_hash(dict(items)) == canonical_hash(data)
    assert canonical_hash({**data, "extra key": 1}) != canonical_hash({**data, "extra key": 2})


def test_the_hash_of_settings_is_that_of_their_values() -> None:
    assert canonical_hash(ToySettings(amount=1)) == canonical_hash(ToySettings()) != canonical_hash(ToySettings(amount=2))
    with pytest.raises(ValueError, match="JSON compliant"):
        canonical_hash(float("nan"))


@given(st.integers(0, 2**40), st.lists(st.text() | st.integers(), max_size=4))
@settings(max_examples=60, deadline=None)
def test_a_seed_is_a_function_of_its_names(root: int, names: list[str | int]) -> None:
    assert seed(root, *names) == seed(root, *names)
    assert 0 <= seed(root, *names) < 2**63
    assert seed(root, *names) != seed(root, *names, "more")
    assert seed(root, "1") != seed(root, 1)


def test_seeds_do_not_change_between_versions() -> None:
    assert seed(0, "shots", "anatomy", 3) == 1151885504941486188

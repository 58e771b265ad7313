"""Lineage: from a leaderboard, results or model folder back to the corpus, its articles and their licences."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from biomistral.artifact import MANIFEST, Artifact, is_artifact, open_artifact, verify
from biomistral.errors import UserError
from biomistral.files import content_digest
from biomistral.recipe import canonical_hash
from biomistral.records import read_rows

_ROOT_FIELDS = ("kind", "settings", "counts", "licences", "facts", "content")


@dataclass(frozen=True)
class Node:
    """One artifact, or one plain file or folder (kind ``file``), and what it was made from."""

    name: str
    """How the stage that used it named it: a path, ``embedded:NAME``, ``hub:ORG/NAME`` or ``stage:NAME``."""
    kind: str
    key: str
    content: str
    path: Path
    """Where it lay when it was used; it may have gone since."""
    settings: dict[str, Any]
    counts: dict[str, Any]
    licences: dict[str, Any]
    facts: dict[str, Any]
    inputs: tuple["Node", ...]

    def walk(self, along: Callable[["Node"], Iterable["Node"]] | None = None) -> Iterator["Node"]:
        """This node and everything below it, each once, parents before what they were made from; by all inputs, or by those that
        ``along`` gives."""
        seen: set[str] = set()
        waiting = [self]
        while waiting:
            node = waiting.pop(0)
            if node.key not in seen:
                seen.add(node.key)
                yield node
                waiting.extend(along(node) if along else node.inputs)

    def corpora(self) -> list["Node"]:
        """The corpora that anything here was trained on."""
        return [node for node in self.walk() if node.kind == "corpus"]


def lineage(folder: Path) -> Node:
    """What a folder was made from, back to the plain files, from its manifest alone.

    Raises:
        UserError: the folder is not a finished artifact.
    """
    return lineage_of(open_artifact(folder.absolute()))


def lineage_of(artifact: Artifact) -> Node:
    """The lineage of an artifact that is already open; folders that moved along with it are found beside it."""
    manifest = artifact.manifest
    made: dict[str, Node] = {}
    inputs = _inputs(manifest, manifest["ancestors"], made, artifact.path.parent)
    fields = {name: manifest[name] for name in _ROOT_FIELDS}
    return Node(name=str(artifact.path), key=artifact.key, path=artifact.path, inputs=inputs, **fields)


def _inputs(maker: dict[str, Any], ancestors: dict[str, Any], made: dict[str, Node], beside: Path) -> tuple[Node, ...]:
    """The nodes of everything a manifest, or an ancestor's entry, names as its input."""
    nodes = []
    for entry in maker["inputs"]:
        key = entry["key"]
        if key not in made:
            ancestor = ancestors.get(key)
            if ancestor is None:
                made[key] = Node(entry["name"], "file", key, entry["content"], Path(entry["path"]), {}, {}, {}, {}, ())
            else:
                below = _inputs(ancestor, ancestors, made, beside)
                fields = {name: ancestor[name] for name in _ROOT_FIELDS}
                path = _found(Path(ancestor["path"]), key, beside)
                made[key] = Node(name=entry["name"], key=key, path=path, inputs=below, **fields)
        nodes.append(replace(made[key], name=entry["name"]))
    return tuple(nodes)


def _found(recorded: Path, key: str, beside: Path) -> Path:
    """Where an artifact lies: at its recorded place, else under the same name beside the folder that was asked about."""
    for path in (recorded, beside / recorded.name):
        if is_artifact(path) and open_artifact(path).key == key:
            return path
    return recorded


def problems(node: Node) -> list[str]:
    """Compare everything that still lies where it was with the hashes in the chain; empty if all is as it was.

    A folder that is gone is not a problem of this chain and is not listed; see `missing`.
    """
    found = []
    for part in node.walk():
        if not part.path.exists() or (part.kind != "file" and not is_artifact(part.path)):
            continue
        if part.kind == "file":
            if content_digest(part.path) != part.content:
                found.append(f"{part.path}: differs from what was used (hash {part.content[:12]})")
            continue
        artifact = open_artifact(part.path)
        if artifact.key != part.key:
            found.append(f"{part.path}: holds another {artifact.kind} now (key {artifact.key[:12]}, used was {part.key[:12]})")
            continue
        files = {name: entry["blake3"] for name, entry in artifact.manifest["files"].items()}
        if canonical_hash({"kind": artifact.kind, "files": files}) != part.content:
            found.append(f"{part.path / MANIFEST}: its file hashes are not those that were used (content {part.content[:12]})")
        found += verify(artifact)
    return found


def missing(node: Node) -> list[Node]:
    """The parts of the chain that no longer lie at their recorded place, so that only their hashes are known."""
    return [part for part in node.walk()
            if not part.path.exists() or (part.kind != "file" and not is_artifact(part.path))]


def documents(corpus: Node) -> list[dict[str, str]] | None:
    """Id, licence and title of every article of a corpus; None if its folder is gone.

    Raises:
        UserError: another corpus lies there now, or its documents cannot be read.
    """
    if not is_artifact(corpus.path):
        return None
    if (found := open_artifact(corpus.path)).key != corpus.key:
        raise UserError(f"{corpus.path}: holds another {found.kind} now (key {found.key[:12]}, the chain names "
                        f"{corpus.key[:12]}); put the corpus back to list its articles")
    rows = read_rows(corpus.path / "documents.parquet")
    return [{name: row[name] or "" for name in ("id", "licence", "title")} for row in rows]


def rows_of(node: Node) -> list[Node]:
    """The leaderboard rows below a site (its results folders); for any other artifact, itself."""
    return [part for part in node.inputs if part.kind == "evaluate"] if node.kind == "report" else [node]


def as_data(node: Node, with_documents: bool = False) -> dict[str, Any]:
    """The chain as plain JSON data, one object an artifact, inputs nested."""
    data: dict[str, Any] = {"name": node.name, "kind": node.kind, "key": node.key, "content": node.content,
                            "path": str(node.path)}
    if node.kind != "file":
        data |= {"counts": node.counts, "licences": node.licences, "settings": node.settings,
                 "inputs": [as_data(part, with_documents) for part in node.inputs]}
    if with_documents and node.kind == "corpus":
        data["documents"] = documents(node)
    return data


def render(node: Node, with_documents: bool = False, with_check: bool = False) -> str:
    """The chain as text, one tree a leaderboard row; an artifact used twice in a tree is written out once."""
    lines: list[str] = []
    for row in rows_of(node):
        lines += [*_tree(row, "", set()), ""]
    for corpus in node.corpora() if with_documents else []:
        lines += [*_articles(corpus), ""]
    if with_check:
        bad = problems(node)
        gone = [f"{part.path}: no longer there, not checked" for part in missing(node)]
        lines += [*(bad or ["every file that is still there is as it was made"]), *gone, ""]
    return "\n".join(lines[:-1])


def _tree(node: Node, indent: str, seen: set[str]) -> list[str]:
    head = f"{indent}{node.kind} {label(node)}  content {node.content[:12]}"
    if node.key in seen and node.inputs:
        return [f"{head}  (see above)"]
    seen.add(node.key)
    lines = [head, f"{indent}    at {node.path}"] if node.kind != "file" else [head]
    if node.licences:
        lines.append(f"{indent}    licences: {licence_words(node.licences)}")
    return [*lines, *(line for part in node.inputs for line in _tree(part, indent + "  ", seen))]


def _articles(corpus: Node) -> list[str]:
    rows = documents(corpus)
    if rows is None:
        place = corpus.path / "documents.parquet"
        return [f"the articles of corpus {corpus.key[:12]} were listed in {place}, which is no longer there"]
    tally = Counter(row["licence"] or "unstated" for row in rows)
    return [f"{len(rows)} articles of corpus {corpus.key[:12]} ({licence_words(dict(tally))}):",
            *(f"  {row['id']}\t{row['licence'] or 'unstated'}\t{row['title']}" for row in rows)]


def label(node: Node) -> str:
    """A short name that gives away no folder above it: the last part of a path, or ``embedded:``/``hub:`` names as they are."""
    if node.name.startswith(("embedded:", "hub:", "stage:")):
        return node.name
    return Path(node.name).name or node.path.name


def licence_words(licences: dict[str, Any]) -> str:
    """``CC-BY-4.0 112, CC0-1.0 10``: most frequent first; what is not a count is given as it stands."""
    found = [(name, value) for name, value in licences.items() if value != 0]
    ordered = sorted(found, key=lambda item: (-item[1] if isinstance(item[1], int) else 0, item[0]))
    return ", ".join(f"{name} {value:,}" if isinstance(value, int) else f"{name}: {value}" for name, value in ordered)

"""A code hierarchy: a forest of codes with their names and notes."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from biomistral.errors import UserError


@dataclass(frozen=True, slots=True)
class Node:
    """A code, what it stands for, the code above it, and its notes (kind -> lines; ICD-10-CM only).

    ``name`` is ``""`` for the inner nodes of a list that names only its leaves (see `tables.read_spreadsheet`): they
    keep relatives together, but there is nothing to ask or to say about them.
    """

    code: str
    name: str
    parent: str | None = None
    notes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Placed:
    """A node and where it stands in its file (``FILE:LINE``), for messages."""

    node: Node
    where: str


class Hierarchy:
    """All codes of a vocabulary, in the order of their file; ``roots`` are those without a parent.

    Raises:
        UserError: a code appears twice, names a parent that is not there, or is its own ancestor.
    """

    def __init__(self, vocabulary: str, placed: Iterable[Placed], path: Path) -> None:
        self.vocabulary = vocabulary
        self.nodes: dict[str, Node] = {}
        places: dict[str, str] = {}
        for entry in placed:
            code = entry.node.code
            if code in self.nodes:
                raise UserError(f"{entry.where}: code {code} appears twice (first in {places[code]}); keep one of them")
            self.nodes[code], places[code] = entry.node, entry.where
        if not self.nodes:
            raise UserError(f"{path}: holds no codes")
        self.roots = tuple(code for code, node in self.nodes.items() if node.parent is None)
        self._children: dict[str, list[str]] = {}
        for node in self.nodes.values():
            if node.parent is None:
                continue
            if node.parent not in self.nodes:
                raise UserError(f"{places[node.code]}: the parent {node.parent} of code {node.code} is not in the file; "
                                "add it, or leave the parent empty to make the code a root")
            self._children.setdefault(node.parent, []).append(node.code)
        self._check_acyclic(places)

    def _check_acyclic(self, places: Mapping[str, str]) -> None:
        """Every node must be reached from a root; those on or below a cycle are not."""
        reached = list(self.roots)
        for code in reached:
            reached.extend(self._children.get(code, ()))
        if len(reached) < len(self.nodes):
            known = set(reached)
            lost = next(code for code in self.nodes if code not in known)
            raise UserError(f"{places[lost]}: code {lost} has no root above it: its parents form a circle")

    def __len__(self) -> int:
        return len(self.nodes)

    def __contains__(self, code: object) -> bool:
        return code in self.nodes

    def children(self, code: str) -> tuple[str, ...]:
        """The codes right below a code, in file order."""
        return tuple(self._children.get(code, ()))

    def neighbours(self, code: str) -> tuple[str, ...]:
        """The codes at distance one: the parent, if any, and the children."""
        parent = self.nodes[code].parent
        return self.children(code) if parent is None else (parent, *self.children(code))

    def ancestors(self, code: str) -> tuple[str, ...]:
        """The codes above a code, from its parent to its root."""
        found = []
        while (parent := self.nodes[code].parent) is not None:
            found.append(parent)
            code = parent
        return tuple(found)

    def category_of(self, code: str) -> str | None:
        """The category a code belongs to, itself included; None for what stands above categories (chapters, blocks).

        ICD codes: what stands before the dot (E11 of E11.9, E800 of E800.1); ICD-10-PCS and ATC, which have no dots: the
        first three characters (a PCS table, an ATC therapeutic subgroup).
        """
        undotted = self.vocabulary in ("ICD10PROC", "ATC")
        head = code[:3] if undotted else code.partition(".")[0]
        return head if head in self.nodes and "-" not in code else None

// Improves pages that are complete without it: sortable columns, and a choice of theme.
"use strict";

// A column of class "number" holds numbers; of a table of class "nums" all do but the first and those of class "words".
function numbered(head) {
  const all = head.closest("table").classList.contains("nums") && head.cellIndex > 0;
  return head.classList.contains("number") || (all && !head.classList.contains("words"));
}

// What a cell is sorted by: what its template says, else what stands first in it.
function sortKey(cell, numeric) {
  const text = cell.dataset.sort ?? (cell.firstChild?.textContent ?? "").trim();
  return numeric ? parseFloat(text.replace("−", "-").replace(/[<,\s]/g, "")) : text;
}

function sortBy(table, column, down) {
  const heads = [...table.tHead.rows[0].cells];
  const numeric = numbered(heads[column]);
  heads.forEach((head) => head.removeAttribute("aria-sort"));
  heads[column].setAttribute("aria-sort", down ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows].map((row) => [sortKey(row.cells[column], numeric), row]);
  const missing = (key) => numeric && Number.isNaN(key);
  rows.sort(([a], [b]) => {
    if (missing(a) || missing(b)) return missing(a) - missing(b);
    return (down ? -1 : 1) * (numeric ? a - b : a.localeCompare(b, undefined, { numeric: true }));
  });
  table.tBodies[0].append(...rows.map(([, row]) => row));
}

// Numbers are sorted downwards first, names and ranks upwards. The table tells who listens which column it was.
function sortable(table) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(head.firstChild);
    head.prepend(button);
    button.addEventListener("click", () => {
      const now = head.getAttribute("aria-sort");
      const down = now ? now === "ascending" : numbered(head) && head.dataset.key !== "rank";
      sortBy(table, column, down);
      table.dispatchEvent(new CustomEvent("sorted", { detail: { key: head.dataset.key, down } }));
    });
  });
}

// The button goes from the machine's theme to the other one, and back.
function themed(button) {
  const root = document.documentElement;
  const dark = () => (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => { button.textContent = dark() ? "Light theme" : "Dark theme"; };
  button.addEventListener("click", () => {
    root.dataset.theme = dark() ? "light" : "dark";
    try { localStorage.setItem("theme", root.dataset.theme); } catch { /* then the choice holds for this page */ }
    name();
  });
  button.hidden = false;
  name();
}

// In a table of tasks by languages each number leads to the task in that language; without scripts the task's name leads there.
function linked(table) {
  const parts = [...table.tHead.rows[0].cells].map((head) => head.dataset.part);
  for (const { cells } of table.tBodies[0].rows) {
    const page = cells[0].querySelector("a")?.href;
    parts.forEach((part, column) => {
      if (!page || !part || !cells[column].className.startsWith("h")) return;
      const link = Object.assign(document.createElement("a"), { href: page + part });
      link.append(cells[column].firstChild);
      cells[column].prepend(link);
    });
  }
}

themed(document.querySelector(".theme"));
document.querySelectorAll("table.board").forEach(sortable);
document.querySelectorAll("table.tongues").forEach(linked);

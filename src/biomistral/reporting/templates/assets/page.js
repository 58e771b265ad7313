// Improves pages that are complete without it: sortable columns, and a choice of theme.
"use strict";

// What a cell is sorted by: what its template says, else what stands first in it. A column of class "number" holds numbers.
function sortKey(cell, numeric) {
  const text = cell.dataset.sort ?? (cell.firstChild?.textContent ?? "").trim();
  return numeric ? parseFloat(text.replace("−", "-")) : text;
}

function sortBy(table, column, down) {
  const heads = [...table.tHead.rows[0].cells];
  const numeric = heads[column].classList.contains("number");
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
      const down = now ? now === "ascending" : head.classList.contains("number") && head.dataset.key !== "rank";
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

themed(document.querySelector(".theme"));
document.querySelectorAll("table.board").forEach(sortable);

// The leaderboard's switches: one table at a time, its rows filtered, its columns chosen and sorted; all of it in the address.
"use strict";

const form = document.querySelector("form.controls");
const sections = [...document.querySelectorAll(".board-section")];
const hiding = new CSSStyleSheet(); // rules by column are quicker than an attribute in every cell
document.adoptedStyleSheets = [...document.adoptedStyleSheets, hiding];
let sort = ""; // a column's key, "-" before it: downwards; "" as the page came

const headsOf = (table) => [...table.tHead.rows[0].cells];
const titleOf = (head) => head.querySelector("button")?.textContent ?? head.firstChild.textContent;

function addOptions(select, values, words = new Map()) {
  values.forEach((value) => select.append(new Option(words.get(value) ?? value, value)));
  select.parentElement.hidden = select.options.length < 2;
}

function distinct(values) {
  return [...new Set(values)].filter((value) => value !== "");
}

// What there is to choose stands in the tables themselves.
function fillForm() {
  const heads = [...document.querySelectorAll(".lean thead th")];
  const keys = new Map(heads.map((head) => [head.dataset.key, titleOf(head)]));
  const languages = new Map([...document.querySelectorAll(".slice[data-words]")].map(({ dataset }) => [dataset.language, dataset.words]));
  addOptions(form.language, [...languages.keys()], languages);
  addOptions(form.task, [...keys.keys()].filter((key) => key.startsWith("task:")).map((key) => key.slice(5)));
  addOptions(form.weights, distinct([...document.querySelectorAll(".lean tbody tr")].map((row) => row.dataset.weights)).sort());
  form.board.parentElement.hidden = sections.length < 2;
  form.sound.parentElement.hidden = !document.querySelector("tr[data-warned]");
  const list = form.querySelector("fieldset");
  keys.forEach((title, key) => {
    if (key === "model") return;
    const label = document.createElement("label");
    const box = Object.assign(document.createElement("input"), { type: "checkbox", name: "show", value: key, defaultChecked: true });
    label.append(box, ` ${title}`);
    list.append(label);
  });
  form.hidden = false;
}

// The address: only what differs from how the page comes.
function writeState() {
  const state = new URLSearchParams();
  for (const name of ["q", "board", "language", "task", "weights"]) {
    const field = form[name];
    if (field.value !== (name === "board" ? field.options[0].value : "")) state.set(name, field.value);
  }
  if (form.sound.checked) state.set("sound", "1");
  form.querySelectorAll("[name=show]:not(:checked)").forEach((box) => state.append("hide", box.value));
  if (sort) state.set("sort", sort);
  const hash = state.toString();
  if (hash !== location.hash.slice(1)) history.replaceState(null, "", `#${hash}`);
}

// An address without "=" names a place on the page, as #board-1 does.
function readState() {
  const hash = location.hash.slice(1);
  const state = new URLSearchParams(hash.includes("=") ? hash : "");
  const place = hash.includes("=") ? null : document.getElementById(hash)?.closest(".board-section");
  const set = (field, value) => { if ([...field.options].some((option) => option.value === value)) field.value = value; };
  form.reset();
  form.q.value = state.get("q") ?? "";
  set(form.board, place?.dataset.board ?? state.get("board"));
  ["language", "task", "weights"].forEach((name) => set(form[name], state.get(name) ?? ""));
  form.sound.checked = state.has("sound");
  const hidden = new Set(state.getAll("hide"));
  form.querySelectorAll("[name=show]").forEach((box) => { box.checked = !hidden.has(box.value); });
  sort = state.get("sort") ?? "";
  show();
  if (place) place.scrollIntoView();
}

function chosenSlice() {
  const section = sections.find((one) => one.dataset.board === form.board.value) ?? sections[0];
  const slices = [...section.querySelectorAll(".slice")];
  const slice = slices.find((one) => one.dataset.language === form.language.value) ?? slices[0];
  sections.forEach((one) => one.classList.toggle("on", one === section));
  slices.forEach((one) => one.classList.toggle("on", one === slice));
  return slice;
}

// A task asked for leaves out the other tasks, and the groups and languages.
function isHidden(key) {
  const task = form.task.value;
  if (task && /^(task|group|language):/.test(key) && key !== `task:${task}`) return true;
  return form.querySelector(`[name=show][value="${CSS.escape(key)}"]`)?.checked === false;
}

function filterRows(table) {
  const words = form.q.value.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [...table.tBodies[0].rows];
  rows.forEach((row) => {
    const text = `${row.cells[0].dataset.sort} ${row.dataset.weights}`.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word)) || (form.sound.checked && "warned" in row.dataset)
      || (form.weights.value !== "" && row.dataset.weights !== form.weights.value);
  });
  return [rows.filter((row) => !row.hidden).length, rows.length];
}

function show() {
  const slice = chosenSlice();
  const table = slice.querySelector("table");
  const heads = headsOf(table);
  const hidden = heads.flatMap((head, index) => (isHidden(head.dataset.key) ? [`#${table.id} tr > :nth-child(${index + 1})`] : []));
  hiding.replaceSync(hidden.length ? `${hidden.join(",")} { display: none; }` : "");
  const wanted = sort || (form.task.value ? `-task:${form.task.value}` : "-all");
  const column = heads.findIndex((head) => head.dataset.key === wanted.replace(/^-/, ""));
  if (column >= 0) sortBy(table, column, wanted.startsWith("-"));
  const [shown, all] = filterRows(table);
  const lacking = slice.dataset.language !== form.language.value ? ` No questions in ${form.language.selectedOptions[0].text} under this protocol.` : "";
  form.querySelector(".status").textContent = `${shown} of ${all} models shown.${lacking}`;
}

function changed() {
  show();
  writeState();
}

fillForm();
readState();
form.addEventListener("input", changed);
form.addEventListener("submit", (event) => event.preventDefault());
form.addEventListener("reset", () => setTimeout(() => { sort = ""; changed(); }));
form.task.addEventListener("change", () => { sort = ""; changed(); });
document.querySelectorAll(".lean").forEach((table) => table.addEventListener("sorted", ({ detail }) => {
  sort = (detail.down ? "-" : "") + detail.key;
  writeState();
}));
window.addEventListener("hashchange", readState);
performance.mark("interactive");

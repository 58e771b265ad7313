// The question explorer: loads the answers of a task, filters and sorts them, and shows a page of them at a time.
"use strict";

(() => {
  const { load, bytes, state, keep, make, options } = packed;
  const { boards, steps, root } = JSON.parse(document.getElementById("index").textContent);
  const [form, status, found, more] = ["explorer", "status", "found", "more"].map((id) => document.getElementById(id));
  const [PAGE, NONE] = [20, 255];
  let [held, shown, count, turn] = [null, [], 0, 0];

  const board = () => boards[form.board.value];
  const percent = (value) => (value === NONE ? "–" : `${(100 * value / steps).toFixed(value % 2 ? 1 : 0)} %`);
  const letter = (place) => (place === NONE ? "?" : String.fromCharCode(65 + place));
  const isRight = (model, index) => model.share[index] * 2 > steps;

  function fill(wanted) {
    form.board.value = boards[wanted.board] ? wanted.board : 0;
    const { scopes, models } = board();
    const several = new Set(scopes.map((scope) => scope.language)).size > 1;
    const name = (scope) => `${scope.task}${several ? ` · ${scope.words}` : ""} (${scope.n}${scope.n < scope.of ? ` of ${scope.of}` : ""})`;
    const key = (scope) => `${scope.task}/${scope.language}`;
    options(form.task, scopes.map((scope) => [key(scope), name(scope)]), wanted.task);
    if (form.task.selectedIndex < 0) form.task.selectedIndex = 0;
    const known = (model, other) => (models.includes(model) || model === "" ? model : other);
    options(form.a, models.map((model) => [model, model]), known(wanted.a, models[0]) || models[0]);
    options(form.b, [["", "–"], ...models.map((model) => [model, model])], known(wanted.b, models[1] ?? ""));
    for (const [field, value] of [["show", wanted.show], ["order", wanted.order]]) {
      form[field].value = value ?? form[field].options[0].value;
      if (form[field].selectedIndex < 0) form[field].selectedIndex = 0;
    }
    form.q.value = wanted.q ?? "";
  }

  const values = () => Object.fromEntries(["board", "task", "a", "b", "show", "order", "q"].map((name) => [name, form[name].value]));

  async function read() {
    const mine = ++turn;
    const scope = board().scopes[form.task.selectedIndex];
    status.textContent = "Loading…";
    try {
      const [answers, texts] = await Promise.all([load(root, scope.answers), load(root, scope.text)]);
      if (mine !== turn) return;
      const models = answers.models.map((model, place) => ({
        name: board().models[place], chosen: bytes(model.chosen), share: bytes(model.share), width: model.options,
        probabilities: bytes(model.probabilities), said: model.said }));
      held = { models, texts, ways: answers.ways, scope };
      show();
    } catch (error) {
      status.textContent = `${error.message}; the site's data folder must lie beside this page.`;
      found.replaceChildren();
    }
  }

  const probability = (model, index, option) => model.probabilities[index * model.width + option] ?? NONE;
  const ofRight = (model, index) => {
    const value = probability(model, index, held.texts[index].answer);
    return value === NONE ? model.share[index] : value;
  };

  function matches(a, b) {
    const words = form.q.value.trim().toLowerCase();
    const text = (question) => [question.id, question.stem ?? "", ...question.options].join("\n").toLowerCase();
    const tests = {
      all: () => true, right: (i) => isRight(a, i), wrong: (i) => !isRight(a, i),
      none: (i) => held.models.every((model) => !isRight(model, i)),
      differ: (i) => b && a.chosen[i] !== b.chosen[i],
      gained: (i) => b && !isRight(a, i) && isRight(b, i), lost: (i) => b && isRight(a, i) && !isRight(b, i) };
    return [...held.texts.keys()].filter((i) => tests[form.show.value](i) && (!words || text(held.texts[i]).includes(words)));
  }

  function show() {
    keep(values());
    const [a, b] = [form.a.value, form.b.value].map((name) => held.models.find((model) => model.name === name));
    shown = matches(a, b);
    const total = (i) => held.models.reduce((sum, model) => sum + model.share[i], 0);
    if (form.order.value === "hard") shown.sort((x, y) => total(x) - total(y));
    if (form.order.value === "apart" && b) {
      const apart = (i) => Math.abs(ofRight(a, i) - ofRight(b, i));
      shown.sort((x, y) => apart(y) - apart(x));
    }
    const { n, of } = held.scope;
    const left = n < of ? ` (the site holds ${n} of ${of}, drawn by its seed)` : "";
    status.textContent = `${shown.length} of ${n} questions${left}`;
    count = 0;
    found.replaceChildren();
    next();
  }

  function next() {
    const [a, b] = [form.a.value, form.b.value].map((name) => held.models.find((model) => model.name === name));
    found.append(...shown.slice(count, count + PAGE).map((index) => card(index, b && b !== a ? [a, b] : [a])));
    count += PAGE;
    more.hidden = count >= shown.length;
  }

  function card(index, models) {
    const question = held.texts[index];
    const item = make("article", { class: "item" });
    if (question.context) {
      item.append(make("details", {}, make("summary", {}, "Context"), make("p", { class: "pre", dir: "auto" }, question.context)));
    }
    item.append(make("p", { class: "stem pre", dir: "auto" }, question.stem ?? "The text of this question is no longer there."));
    item.append(make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": `Answers to ${question.id}` },
      table(question, index, models)));
    for (const model of models) {
      if (model.said?.[index] != null) item.append(make("p", { class: "said" }, make("b", { dir: "auto" }, model.name), " said: ", make("q", { class: "pre", dir: "auto" }, model.said[index])));
    }
    if (held.models.length > models.length) item.append(everyone(index));
    item.append(make("p", { class: "what" }, make("code", {}, question.id)));
    return item;
  }

  function table(question, index, models) {
    const head = make("tr", {}, make("th", { scope: "col" }, "Option"),
      ...models.map((model) => make("th", { scope: "col", class: "number", dir: "auto" }, model.name)));
    const rows = question.options.map((text, option) => make("tr", { class: option === question.answer ? "right" : null },
      make("th", { scope: "row" }, make("span", { class: "letter" }, letter(option)), " ",
        make("span", { class: "pre", dir: "auto" }, question.stem === undefined ? "" : text), option === question.answer ? make("span", { class: "hidden" }, " (right answer)") : ""),
      ...models.map((model) => {
        const value = probability(model, index, option);
        const chosen = model.chosen[index] === option;
        const width = value === NONE ? 0 : 100 * value / steps;
        return make("td", { class: `number${chosen ? " chosen" : ""}` }, percent(value), chosen ? make("span", { class: "mark" }, " chosen") : "",
          make("span", { class: "bar", style: `width:${width}%` }));
      })));
    return make("table", { class: "plain answers" }, make("caption", { class: "hidden" }, `Options and probabilities, ${question.id}`),
      make("thead", {}, head), make("tbody", {}, ...rows));
  }

  function everyone(index) {
    const box = make("details", {}, make("summary", {}, `All ${held.models.length} models`));
    box.addEventListener("toggle", () => {
      if (box.children.length > 1) return;
      const answer = held.texts[index].answer;
      const rows = held.models.map((model) => make("tr", {}, make("th", { scope: "row", dir: "auto" }, model.name),
        make("td", {}, letter(model.chosen[index]), isRight(model, index) ? " ✓" : ""),
        make("td", { class: "number" }, percent(probability(model, index, answer))),
        make("td", { class: "number" }, percent(model.share[index]))));
      const heads = ["Model", "Chosen", "Probability of the right option", `Right, of ${held.ways} answer${held.ways > 1 ? "s" : ""}`];
      box.append(make("div", { class: "scroll" }, make("table", { class: "plain" }, make("caption", { class: "hidden" }, "All models"), make("thead", {},
        make("tr", {}, ...heads.map((text, place) => make("th", { scope: "col", class: place > 1 ? "number" : null }, text)))), make("tbody", {}, ...rows))));
    });
    return box;
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    if (event.target.name === "board") fill({ ...values(), q: form.q.value });
    if (["board", "task"].includes(event.target.name)) read(); else if (held) show();
  });
  form.q.addEventListener("input", () => held && show());
  more.addEventListener("click", next);
  addEventListener("hashchange", () => { fill(state()); read(); });
  form.hidden = false;
  fill(state());
  read();
})();

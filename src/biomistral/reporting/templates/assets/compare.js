// Any two models of a table, paired: differences with intervals and exact tests, from their right answers to each question.
"use strict";

const versus = (() => {
  // Sums of a - b over what asks the same, and how many questions each sum is of; a and b count right answers.
  function sums(a, b, places, clusters) {
    if (!clusters) return places.map((place) => [a[place] - b[place], 1]);
    const found = new Map();
    for (const place of places) {
      const [sum, size] = found.get(clusters[place]) ?? [0, 0];
      found.set(clusters[place], [sum + a[place] - b[place], size + 1]);
    }
    return [...found.values()];
  }

  // McNemar's exact two-sided p, as statistics.mcnemar: twice the lower tail of a fair coin's tosses.
  function mcnemar(gained, lost) {
    if (gained === lost) return 1;
    const [n, fewer] = [gained + lost, Math.min(gained, lost)];
    let [ways, total] = [0, Math.exp((1 - n) * Math.LN2)];
    for (let k = 1; k <= fewer; k += 1) {
      ways += Math.log((n - k + 1) / k);
      total += Math.exp(ways - (n - 1) * Math.LN2);
    }
    return Math.min(1, total);
  }

  function holm(values) {
    const order = [...values.keys()].sort((x, y) => values[x] - values[y]);
    const adjusted = [];
    let highest = 0;
    order.forEach((index, position) => {
      highest = Math.max(highest, Math.min(1, (values.length - position) * values[index]));
      adjusted[index] = highest;
    });
    return adjusted;
  }

  // Difference with its normal interval: the spread of the sums about their share, over independent clusters.
  function difference(a, b, places, clusters, ways) {
    const found = sums(a, b, places, clusters);
    const mean = found.reduce((total, [sum]) => total + sum, 0) / places.length;
    const spread = found.reduce((total, [sum, size]) => total + (sum - size * mean) ** 2, 0);
    const error = found.length > 1 ? Math.sqrt(spread * found.length / (found.length - 1)) / places.length : NaN;
    const [gained, lost] = [found.filter(([sum]) => sum > 0).length, found.filter(([sum]) => sum < 0).length];
    const share = (model) => places.reduce((total, place) => total + model[place], 0) / places.length / ways;
    return { n: places.length, a: share(a), b: share(b), difference: mean / ways, low: (mean - 1.959964 * error) / ways,
      high: (mean + 1.959964 * error) / ways, gained, lost, p: mcnemar(gained, lost) };
  }

  return { mcnemar, holm, difference };
})();

(() => {
  const { load, bytes, unsqueezed, state, keep, make, options } = packed;
  const { boards, root } = JSON.parse(document.getElementById("index").textContent);
  const [form, status, found] = ["versus", "status", "found"].map((id) => document.getElementById(id));
  const WORDS = { task: "task", language: "language", group: "group", "task,language": "task and language" };
  let turn = 0;

  const values = () => Object.fromEntries(["board", "a", "b", "by"].map((name) => [name, form[name].value]));
  const points = (value) => (Number.isNaN(value) ? "–" : `${value > 0.0005 ? "+" : ""}${(100 * value).toFixed(1)}`.replace("-0.0", "0.0").replace("-", "−"));
  const pWords = (p) => (p < 0.001 ? "p < 0.001" : `p = ${p.toFixed(p < 0.1 ? 3 : 2)}`);

  function fill(wanted) {
    form.board.value = boards[wanted.board] ? wanted.board : 0;
    const { models } = boards[form.board.value];
    const known = (model, other) => (models.includes(model) ? model : other);
    options(form.a, models.map((model) => [model, model]), known(wanted.a, models[0]));
    options(form.b, models.map((model) => [model, model]), known(wanted.b, models[1]));
  }

  function numbers(part) {
    return new Uint16Array(bytes(part.numbers).buffer);
  }

  // Rows of the table: all questions, then those of each name (or pair of names) of the parts that were asked for.
  function scopes(data, by) {
    const all = [...Array(data.n).keys()];
    const { languages } = boards[form.board.value];
    const words = (part, names) => (part === "language" ? names.map((name) => languages[name]) : names);
    const parts = by ? by.split(",").map((part) => ({ names: words(part, data.parts[part].names), numbers: numbers(data.parts[part]) })) : [];
    const rows = new Map();
    if (parts.length) {
      for (const place of all) {
        const key = parts.map((part) => part.numbers[place]).join(",");
        rows.has(key) ? rows.get(key).push(place) : rows.set(key, [place]);
      }
    }
    const name = (key) => key.split(",").map((number, index) => parts[index].names[number]).join(" · ");
    return [["all questions", all], ...[...rows].map(([key, places]) => [name(key) || "(no group)", places])];
  }

  async function show(wanted) {
    const mine = ++turn;
    status.textContent = "Loading…";
    try {
      const data = await load(root, boards[form.board.value].file);
      if (mine !== turn) return;
      const ways = Object.keys(WORDS).filter((by) => by.split(",").every((name) => data.parts[name]));
      options(form.by, [["", "all questions only"], ...ways.map((by) => [by, WORDS[by]])], wanted ?? ways[0] ?? "");
      if (form.by.selectedIndex < 0) form.by.selectedIndex = 0;
      keep(values());
      draw(data);
    } catch (error) {
      status.textContent = `${error.message}; the site's data folder must lie beside this page.`;
      found.replaceChildren();
    }
  }

  function draw(data) {
    const [a, b] = [form.a, form.b].map((select) => unsqueezed(data.models[select.selectedIndex], data.bits, data.n));
    const clusters = data.clusters && new Uint32Array(bytes(data.clusters).buffer);
    const rows = scopes(data, form.by.value).map(([name, places]) => ({ name, ...versus.difference(a, b, places, clusters, data.ways) }));
    const corrected = [rows[0].p, ...versus.holm(rows.slice(1).map((row) => row.p))];
    const number = (text, more = {}) => make("td", { class: "number", ...more }, text);
    const heads = ["Questions", "n", form.a.value, form.b.value, "A − B, points", "A better", "B better", "p", "p (Holm)"];
    const body = rows.map((row, index) => {
      const direction = Number(row.low > 0) - Number(row.high < 0);
      const tone = corrected[index] < 0.05 ? ["down", "same", "up"][direction + 1] : "same";
      const cell = make("td", { class: "number" }, make("span", { class: `value ${tone}` }, points(row.difference) + [" ▼", "", " ▲"][direction + 1]),
        make("small", {}, `[${points(row.low)}, ${points(row.high)}]`));
      return make("tr", { class: index ? null : "all" }, make("th", { scope: "row", dir: "auto" }, row.name), number(row.n.toLocaleString("en")),
        number(`${(100 * row.a).toFixed(1)} %`), number(`${(100 * row.b).toFixed(1)} %`), cell, number(String(row.gained)), number(String(row.lost)),
        number(pWords(row.p)), number(index ? pWords(corrected[index]) : "–"));
    });
    found.replaceChildren(make("table", { class: "board" }, make("caption", {}, make("span", {}, "A minus B on the same questions")),
      make("thead", {}, make("tr", {}, ...heads.map((text, place) => make("th", { scope: "col", class: place ? "number" : null, dir: "auto" }, text)))),
      make("tbody", {}, ...body)));
    status.textContent = `${form.a.value} (A) against ${form.b.value} (B): ${rows.length - 1 ? `${rows.length - 1} rows below all questions` : "all questions"}`;
  }

  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", (event) => {
    const by = form.by.value;
    if (event.target.name === "board") fill(values());
    show(by);
  });
  addEventListener("hashchange", () => { fill(state()); show(state().by); });
  document.getElementById("two").hidden = false;
  fill(state());
  show(state().by);
})();

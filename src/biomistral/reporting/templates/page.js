// Improves a page that is complete without it: sortable columns, and charts in place of their tables.
"use strict";

function sortable(table) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(head.firstChild);
    head.prepend(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") !== "descending" && !(column === 0 && !head.hasAttribute("aria-sort"));
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const body = table.tBodies[0];
      const value = (row) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
      const compare = (a, b) => {
        const [x, y] = [value(a), value(b)];
        const [p, q] = [Number(x), Number(y)];
        return Number.isNaN(p) || Number.isNaN(q) ? x.localeCompare(y) : p - q;
      };
      body.append(...[...body.rows].sort((a, b) => (down ? -1 : 1) * compare(a, b)));
    });
  });
}

// Figures name colours as var(--x); they take the page's, light or dark.
function coloured(value, style) {
  if (typeof value === "string") {
    const name = /^var\((--[\w-]+)\)$/.exec(value);
    return name ? style.getPropertyValue(name[1]).trim() : value;
  }
  if (Array.isArray(value)) return value.map((item) => coloured(item, style));
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, coloured(item, style)]));
  }
  return value;
}

function draw(figure) {
  const style = getComputedStyle(document.documentElement);
  const place = figure.querySelector(".chart");
  const { data, layout } = coloured(JSON.parse(figure.querySelector("script").textContent), style);
  const [ink, line] = [style.getPropertyValue("--ink").trim(), style.getPropertyValue("--line").trim()];
  const axis = { gridcolor: line, linecolor: line, zeroline: false };
  place.hidden = false;
  return Plotly.react(place, data, {
    paper_bgcolor: "transparent", plot_bgcolor: "transparent", margin: { l: 60, r: 20, t: 20, b: 50 }, hovermode: "closest",
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: ink },
    legend: { orientation: "h", x: 0, y: 1.03, yanchor: "bottom" }, ...layout,
    xaxis: { ...axis, ...layout.xaxis }, yaxis: { ...axis, ...layout.yaxis },
  }, { displayModeBar: false, responsive: true });
}

document.querySelectorAll("table.board").forEach(sortable);
if (window.Plotly) {
  const figures = [...document.querySelectorAll("figure[data-chart]")];
  figures.forEach((figure) => {
    draw(figure);
    figure.querySelector("details").open = false;
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => figures.forEach(draw));
}

"use strict";
// Draws the figures, colours all of them by one key, and hides or picks out a line in all of them at once.
const page = JSON.parse(document.getElementById("data").textContent);
const rows = [...document.querySelectorAll("tr[data-line]")];
const select = document.getElementById("by");
const hidden = new Set();
let picked = null;

const drawn = [...document.querySelectorAll("[data-figure]")].filter((div) => page.figures[div.dataset.figure]);
for (const div of drawn) {
  const figure = page.figures[div.dataset.figure];
  Plotly.newPlot(div, figure.data, figure.layout, { responsive: true, displayModeBar: false });
}

// One restyle a figure: colour, whether it is shown, and how strongly.
function paint() {
  const colors = page.colors[select.value];
  for (const div of drawn) {
    const mine = div.data.map((trace, index) => index).filter((index) => div.data[index].meta >= 0);
    const lines = mine.map((index) => div.data[index].meta);
    const usual = mine.map((index) => page.figures[div.dataset.figure].data[index].opacity ?? 1);
    Plotly.restyle(div, {
      "line.color": lines.map((line) => colors[line]),
      "marker.color": lines.map((line) => colors[line]),
      visible: lines.map((line) => !hidden.has(line)),
      opacity: lines.map((line, n) => (picked === null || line === picked ? usual[n] : 0.08)),
    }, mine);
  }
  for (const row of rows) {
    row.classList.toggle("off", hidden.has(+row.dataset.line));
    row.querySelector(".dot").style.background = colors[row.dataset.line];
  }
}

function explain() {
  const legend = document.getElementById("legend");
  const entries = page.legends[select.value] || [];
  legend.replaceChildren(...entries.map(([text, color]) => {
    const entry = document.createElement("span"), dot = document.createElement("i");
    dot.style.background = color;
    entry.append(dot, text);
    return entry;
  }));
}

for (const key of Object.keys(page.colors)) select.add(new Option(key, key));
select.addEventListener("change", () => { explain(); paint(); });
for (const row of rows) {
  const line = +row.dataset.line;
  row.addEventListener("mouseenter", () => { picked = line; paint(); });
  row.addEventListener("mouseleave", () => { picked = null; paint(); });
  row.addEventListener("click", (event) => {
    if (event.target.closest("a")) return;
    hidden.has(line) ? hidden.delete(line) : hidden.add(line);
    picked = null;
    paint();
  });
}
for (const button of document.querySelectorAll("[data-copies]")) {
  button.addEventListener("click", async () => {
    const text = document.getElementById(button.dataset.copies);
    try {
      await navigator.clipboard.writeText(text.textContent);
      button.textContent = "copied";
    } catch { // over plain http there is no clipboard
      getSelection().selectAllChildren(text);
    }
  });
}
document.getElementById("bar").hidden = false;
explain();
paint();

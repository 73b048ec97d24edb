// Sorting by a click on a column's name, and a choice of weights.  The page says everything without it.
"use strict";
document.documentElement.classList.add("js");

const value = (body, column, kind) => {
  const raw = body.rows[0].cells[column].dataset.sort;
  return raw === "" ? null : kind === "number" ? Number(raw) : raw;
};

const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));

function sort(table, header, column) {
  const up = header.hasAttribute("aria-sort")
    ? header.getAttribute("aria-sort") === "descending"
    : header.dataset.kind === "text" || "up" in header.dataset;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  // A line is a body of the table: its first row, and below it those of its seeds.
  const keyed = Array.from(table.tBodies, (body) => [value(body, column, header.dataset.kind), body]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null); // what has no number comes last, either way
    return up ? compare(a, b) : compare(b, a);
  });
  table.append(...keyed.map(([, body]) => body));
}

for (const table of document.querySelectorAll("table.board")) {
  Array.from(table.tHead.rows[0].cells).forEach((header, column) => {
    const button = document.createElement("button");
    button.type = "button";
    const name = header.querySelector(".name") ?? header;
    button.append(...name.childNodes);
    button.addEventListener("click", () => sort(table, header, column));
    name.append(button);
  });
}

const choice = document.querySelector("#which");
if (choice) {
  choice.hidden = false;
  choice.addEventListener("change", ({ target }) => {
    for (const body of document.querySelectorAll("tbody[data-which]")) {
      const which = body.dataset.which;
      body.hidden = target.value !== "all" && (which === "best" || which === "last") && which !== target.value;
    }
  });
}

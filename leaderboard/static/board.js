// Sorting by a click on a column's name, and a choice of weights.  The page says everything without it.
"use strict";
document.documentElement.classList.add("js");

const value = (row, column, kind) => {
  const raw = row.cells[column].dataset.sort;
  return raw === "" ? null : kind === "number" ? Number(raw) : raw;
};

const compare = (a, b) => (typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true }));

function sort(table, header, column) {
  const up = header.hasAttribute("aria-sort")
    ? header.getAttribute("aria-sort") === "descending"
    : header.dataset.kind === "text" || "up" in header.dataset;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", up ? "ascending" : "descending");
  const body = table.tBodies[0];
  const keyed = Array.from(body.rows, (row) => [value(row, column, header.dataset.kind), row]);
  keyed.sort(([a], [b]) => {
    if (a === null || b === null) return (a === null) - (b === null); // what has no number comes last, either way
    return up ? compare(a, b) : compare(b, a);
  });
  body.append(...keyed.map(([, row]) => row));
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
    for (const row of document.querySelectorAll("tr[data-which]")) {
      const which = row.dataset.which;
      row.hidden = target.value !== "all" && (which === "best" || which === "last") && which !== target.value;
    }
  });
}

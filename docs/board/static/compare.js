// Two models of a board, chosen by the reader: where they disagree, and the exact paired test.  The choice is in the link.
"use strict";
const { columns, start, pair, models, classes, labels, left_out: leftOut } = globalThis.compared;
const at = (id) => document.getElementById(id);
const cell = (name) => document.querySelector(`[data-of="${name}"]`);
const bytes = (packed) => Uint8Array.from(atob(packed), (c) => c.charCodeAt(0));
const fell = (set, image) => (set[image >> 3] >> (image & 7)) & 1;
const percent = (share) => (100 * share).toFixed(1);

// McNemar's exact test, two-sided: twice the smaller tail of a fair coin.
function exact(first, second) {
  const all = first + second;
  let log = -all * Math.LN2, tail = 0;
  for (let k = 0; k <= Math.min(first, second); k++) {
    tail += Math.exp(log);
    log += Math.log((all - k) / (k + 1));
  }
  return Math.min(1, 2 * tail);
}

function split(a, b, column) {
  const [n1, bound1, set1] = a.columns[column], [n2, bound2, set2] = b.columns[column];
  const n = Math.min(n1, n2), one = bytes(set1), other = bytes(set2);
  const found = { n, bound: bound1 || bound2, both: 0, neither: 0, first: [], second: [] };
  for (let image = 0; image < n; image++) {
    const x = fell(one, image), y = fell(other, image);
    if (x === y) found[x ? "neither" : "both"] += 1;
    else found[x ? "second" : "first"].push(image);
  }
  return found;
}

function sentence(a, b, found, column) {
  const lead = found.first.length - found.second.length, p = exact(found.first.length, found.second.length);
  if (found.bound) return `Under ${column} at least one of them is not decided on all images: what still stands may fall, so there is no test.`;
  const said = p >= 0.0001 ? p.toPrecision(2) : "below 0.0001";
  const n = found.n.toLocaleString("en");
  const who = lead === 0
    ? `They stand on equally many of ${n} images.`
    : `${lead > 0 ? a.name : b.name} leads by ${percent(Math.abs(lead) / found.n)} points on ${n} images.`;
  return `${who} They disagree on ${found.first.length + found.second.length}; p ${p >= 0.0001 ? "=" : "is"} ${said}.`;
}

function listed(images) {
  const groups = new Map();
  for (const image of images.slice(0, 500)) {
    const name = classes[labels[image]] ?? "no label";
    groups.set(name, [...(groups.get(name) ?? []), image]);
  }
  const said = Array.from(groups, ([name, found]) => `${name}: ${found.join(", ")}`).join("; ");
  return images.length > 500 ? `${said}; and ${images.length - 500} more` : said || "none";
}

function show() {
  const a = models[at("first").value], b = models[at("second").value], column = at("column").value;
  const known = column in a.columns && column in b.columns;
  at("four").hidden = at("where").hidden = !known;
  if (!known) {
    at("answer").textContent = `Not both were asked under ${column}.`;
    return;
  }
  const found = split(a, b, column);
  at("answer").textContent = sentence(a, b, found, column);
  const counts = { both: found.both, neither: found.neither, "a-only": found.first.length, "b-only": found.second.length };
  for (const [name, count] of Object.entries(counts)) cell(name).textContent = count.toLocaleString("en");
  at("images").replaceChildren(...[[a, found.first], [b, found.second]].map(([model, images]) => {
    const row = document.createElement("tr");
    for (const [tag, text] of [["th", `${model.name} alone`], ["td", listed(images)]]) {
      const part = document.createElement(tag);
      part.textContent = text;
      if (tag === "th") part.scope = "row";
      row.append(part);
    }
    return row;
  }));
}

function remember() {
  const chosen = new URLSearchParams({ a: models[at("first").value].id, b: models[at("second").value].id, column: at("column").value });
  history.replaceState(null, "", `#${chosen}`);
}

function recall() {
  const chosen = new URLSearchParams(location.hash.slice(1));
  const place = (id) => models.findIndex((model) => model.id === id);
  const known = (...ids) => ids.map(place).find((found) => found >= 0) ?? 0;
  at("first").value = known(chosen.get("a"), pair[0]);
  at("second").value = known(chosen.get("b"), pair[1]);
  at("column").value = columns.includes(chosen.get("column")) ? chosen.get("column") : start;
  show();
}

for (const id of ["first", "second"]) at(id).replaceChildren(...models.map((model, place) => new Option(model.name, place)));
at("column").replaceChildren(...columns.map((name) => new Option(name, name)));
for (const id of ["first", "second", "column"]) at(id).addEventListener("change", () => { show(); remember(); });
addEventListener("hashchange", recall);
if (leftOut) {
  at("left-out").hidden = false;
  at("left-out").textContent = `The images of ${leftOut} more models are not on this page; it would be too large.`;
}
at("pair").hidden = false;
recall();

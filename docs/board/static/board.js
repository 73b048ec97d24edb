// Search, filters, sorting and a choice of columns, all kept in the link.  The page says everything without it.
"use strict";
document.documentElement.classList.add("js");

const MARKED = 500; // lines whose marks are in the page
const table = document.querySelector("table.board");
const FIRST = table.matches(".long") ? 16 : Infinity; // lines that are shown at once; more come as they are scrolled to
const tools = document.querySelector("form.tools");
const more = document.querySelector(".more");
const output = tools.querySelector("output");
const headers = Array.from(table.tHead.rows[0].cells);
const filters = ["net", "division", "which"].filter((name) => tools.elements[name]);
const shown = headers.findIndex((header) => header.hasAttribute("aria-sort"));

// What each line is sorted, filtered and searched by, read once: the page holds all lines, the table only some.
const kinds = headers.map((header) => header.dataset.kind);
const at = (name) => headers.findIndex((header) => header.dataset.col === name);
const [NET, DIVISION] = [at("net"), at("division")];
const lines = Array.from(table.tBodies, (body, place) => {
  const cells = Array.from(body.rows[0].cells);
  const keys = cells.map((cell, column) => {
    const raw = cell.dataset.sort ?? cell.textContent;
    return kinds[column] === "text" ? raw : raw === "" ? NaN : Number(raw);
  });
  const words = cells.filter((cell) => cell.matches("th, .meta, .doubts")).map((cell) => cell.textContent);
  const which = body.dataset.which;
  const apart = Number(body.matches(".apart")); // not trusted: below all others, however they are sorted
  return { body, place, keys, apart, net: keys[NET], division: keys[DIVISION], which, text: words.join(" ").toLowerCase() };
});

const collator = new Intl.Collator("en", { numeric: true });
const sheet = new CSSStyleSheet();
document.adoptedStyleSheets = [sheet];
const quiet = new Set(headers.filter((header) => "quiet" in header.dataset).map((header) => header.dataset.col));
const fresh = () => ({ q: "", net: "", division: "", which: "", sort: "", up: false, count: FIRST, hidden: new Set(quiet) });
let state = fresh();

// Words are compared once a column: the place of each line in their order, the same for equal ones.
const ranks = new Map();
function ranked(column) {
  if (!ranks.has(column)) {
    const words = [...new Set(lines.map((line) => line.keys[column]))].sort(collator.compare);
    const place = new Map(words.map((word, i) => [word, i]));
    ranks.set(column, lines.map((line) => place.get(line.keys[column])));
  }
  return ranks.get(column);
}

function ordered(found) {
  const column = state.sort ? at(state.sort) : -1;
  if (column < 0) return found;
  const sign = state.up ? 1 : -1;
  if (kinds[column] === "text") {
    const rank = ranked(column);
    return found.sort((a, b) => a.apart - b.apart || sign * (rank[a.place] - rank[b.place]) || a.place - b.place);
  }
  const key = (line) => line.keys[column];
  return found.sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (a.apart !== b.apart) return a.apart - b.apart;
    if (x !== x || y !== y) return (x !== x) - (y !== y) || a.place - b.place; // no number comes last, either way
    return sign * (x - y) || a.place - b.place;
  });
}

// A choice such as wrn* is a family of nets: what begins so, and goes on with no further letter.
const ofFamily = (net) => state.net.endsWith("*") && net.startsWith(state.net.slice(0, -1)) && !/[a-z]/.test(net[state.net.length - 1] ?? "");

function kept(line, words) {
  if (state.which && (line.which === "best" || line.which === "last") && line.which !== state.which) return false;
  if (state.net && line.net !== state.net && !ofFamily(line.net)) return false;
  if (state.division && line.division !== state.division) return false;
  return words.every((word) => line.text.includes(word));
}

// Of a long board only the first lines have their marks in the page: the others get them here, from their numbers.
const SVG = "http://www.w3.org/2000/svg";
function plot(cell) {
  const holder = document.createElement("span");
  holder.className = "plot";
  holder.setAttribute("aria-hidden", "true");
  const accuracy = parseFloat(cell.querySelector(".accuracy")?.textContent.replace(/[^0-9.]/g, ""));
  if (accuracy === accuracy) {
    const said = cell.querySelector("small").textContent;
    const sd = said.startsWith("sd") ? parseFloat(said.slice(3)) : NaN;
    let [low, high] = cell.matches(".bound") ? [0, accuracy] : said.split("–").map(Number);
    if (sd === sd) [low, high] = [Math.max(0, accuracy - sd), Math.min(100, accuracy + sd)];
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("viewBox", "0 0 100 1");
    svg.setAttribute("preserveAspectRatio", "none");
    const interval = sd === sd ? `M${low},.1H${high}V.9H${low}z` : `M${low},.5H${high}`;
    for (const [name, d] of [["iv", interval], ["at", `M${accuracy},0v1`]]) {
      const path = document.createElementNS(SVG, "path");
      path.setAttribute("class", name);
      path.setAttribute("d", d);
      svg.append(path);
    }
    holder.append(svg);
  }
  cell.prepend(holder);
}

let drawn = [];
function draw() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const found = ordered(lines.filter((line) => kept(line, words)));
  const next = found.slice(0, state.count).map((line) => line.body);
  const same = drawn.length <= next.length && drawn.every((body, i) => body === next[i]);
  const fresh = same ? next.slice(drawn.length) : next;
  if (lines.length > MARKED) {
    for (const body of fresh) for (const text of body.querySelectorAll(".number > .text:first-child")) plot(text.parentNode);
  }
  if (!same) for (const body of drawn) body.remove(); // the head stays: who sorts by keyboard keeps their place
  table.append(...fresh);
  drawn = next;
  const all = found.length === lines.length ? "" : ` of ${lines.length.toLocaleString("en")}`;
  output.textContent = `${found.length.toLocaleString("en")}${all} line${lines.length === 1 ? "" : "s"}`;
  more.hidden = found.length <= next.length;
  more.firstElementChild.textContent = `Show all ${found.length.toLocaleString("en")} lines; ${next.length} are shown`;
}

function mark() {
  headers.forEach((header, column) => {
    const sorted = state.sort ? header.dataset.col === state.sort : column === shown;
    if (!sorted) header.removeAttribute("aria-sort");
    else header.setAttribute("aria-sort", state.sort && state.up ? "ascending" : "descending");
  });
  const hidden = headers.flatMap((header, i) => (state.hidden.has(header.dataset.col) ? [i + 1] : []));
  sheet.replaceSync(hidden.map((i) => `.board tr > :nth-child(${i}) { display: none !important; }`).join(""));
}

// The link: what differs from a fresh page, and nothing else.
function write() {
  const link = new URLSearchParams();
  for (const name of ["q", ...filters]) if (state[name]) link.set(name, state[name]);
  if (state.sort) link.set("sort", (state.up ? "" : "-") + state.sort);
  for (const name of state.hidden) if (!quiet.has(name)) link.append("hide", name);
  for (const name of quiet) if (!state.hidden.has(name)) link.append("show", name);
  const text = link.toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

function read() {
  const link = new URLSearchParams(location.hash.slice(1));
  state = fresh();
  for (const name of ["q", ...filters]) state[name] = link.get(name) ?? "";
  const sort = link.get("sort") ?? "";
  const column = sort.replace(/^-/, "");
  if (at(column) >= 0) [state.sort, state.up] = [column, !sort.startsWith("-")];
  for (const name of link.getAll("hide")) if (at(name) >= 0) state.hidden.add(name);
  for (const name of link.getAll("show")) state.hidden.delete(name);
  for (const name of ["q", ...filters]) {
    tools.elements[name].value = state[name];
    state[name] = tools.elements[name].value; // a choice that this board does not have is none
  }
  for (const box of picker.querySelectorAll("input")) box.checked = !state.hidden.has(box.value);
}

function update() {
  draw();
  mark();
  write();
}

function sort(header) {
  const name = header.dataset.col;
  const first = header.dataset.kind === "text" || "up" in header.dataset;
  const turned = header.hasAttribute("aria-sort") ? header.getAttribute("aria-sort") === "descending" : first;
  [state.sort, state.up, state.count] = [name, turned, FIRST];
  update();
}

const picker = tools.querySelector(".picker div");
for (const header of headers) {
  const name = header.querySelector(".name") ?? header;
  const button = document.createElement("button");
  button.type = "button";
  const label = document.createElement("label");
  const box = document.createElement("input");
  box.type = "checkbox";
  box.value = header.dataset.col;
  box.disabled = header.dataset.col === "defense";
  label.append(box, " ", name.textContent.trim());
  picker.append(label);
  button.append(...name.childNodes);
  button.addEventListener("click", () => sort(header));
  name.append(button);
}

picker.addEventListener("change", ({ target }) => {
  if (target.checked) state.hidden.delete(target.value);
  else state.hidden.add(target.value);
  update();
});
tools.addEventListener("input", ({ target }) => {
  if (!target.name) return;
  state[target.name] = target.value;
  state.count = FIRST;
  update();
});
tools.addEventListener("submit", (event) => event.preventDefault());
tools.addEventListener("reset", (event) => {
  event.preventDefault();
  history.replaceState(null, "", location.pathname + location.search);
  read();
  update();
});
more.firstElementChild.addEventListener("click", () => {
  state.count = Infinity;
  draw();
});
new IntersectionObserver(
  (seen) => {
    if (!seen.some((entry) => entry.isIntersecting) || more.hidden || state.count === Infinity) return;
    state.count += FIRST;
    draw();
  },
  { rootMargin: "50%" },
).observe(more);
addEventListener("hashchange", () => {
  read();
  draw();
  mark();
});
let before = FIRST;
addEventListener("beforeprint", () => {
  [before, state.count] = [state.count, Infinity];
  draw();
});
addEventListener("afterprint", () => {
  state.count = before;
  draw();
});

tools.hidden = false;
for (const line of lines) line.body.remove();
read();
draw();
mark();
table.classList.add("ready");
setTimeout(() => kinds.forEach((kind, column) => kind === "text" && ranked(column)), 200);

// The forest plot: a row for every guardrail in every cohort, with its interval against its margin.

import { amount, boxed, count, evidence, h, keyed, many, percent, replace, s, set, short, sign, text, unitOf, wrapping } from "./dom.js";
import { allCells } from "./verdict.js";

// Losses are drawn in units of their margin, so that rows compare: 0 is no difference, 1 the margin.
const LOW = -2;
const HIGH = 3;
const WIDTH = 250;
const HEIGHT = 22;
const SEVERITY = { harmful: 0, undecided: 1, safe: 2 };
const LEAD =
  "The candidate's mean loss against the baseline, with its interval, in units of the margin that is tolerated: left of it is safe. " +
  "Choose a row for its evidence and its worst pairs.";
const FINDINGS = ["harmful", "undecided", "safe"];

/**
 * The columns: what a click on the head sorts by, the greatest first where `down`.
 * @type {{id: string, head: string, by: (cell: any) => number | string | null, down?: boolean, number?: boolean, title?: string}[]}
 */
const COLUMNS = [
  { id: "guardrail", head: "Guardrail", by: (cell) => cell.guardrail },
  { id: "cohort", head: "Cohort", by: (cell) => cell.cohort },
  { id: "finding", head: "Finding", by: (cell) => SEVERITY[cell.finding] ?? 1 },
  {
    id: "interval",
    head: "Loss against margin",
    by: (cell) => ratio(cell.estimate, cell),
    down: true,
    title: "the mean loss with its interval, in units of the margin",
  },
  { id: "estimate", head: "Mean loss", by: (cell) => cell.estimate, down: true, number: true, title: "more is worse" },
  { id: "margin", head: "Margin", by: (cell) => cell.margin, number: true, title: "the loss that is tolerated" },
  { id: "pairs", head: "Pairs", by: (cell) => cell.pairs, down: true, number: true },
  {
    id: "safe",
    head: "Evidence safe",
    by: (cell) => reached(cell.e_promote, cell.promote_at),
    down: true,
    number: true,
    title: "e-value that the loss is within its margin, and what it takes",
  },
  {
    id: "harm",
    head: "Evidence harm",
    by: (cell) => reached(cell.e_rollback, cell.rollback_at),
    down: true,
    number: true,
    title: "e-value that the loss is beyond its margin, and what it takes",
  },
];

/** The key of a cell, which no other has. */
export function keyOf(cell) {
  return JSON.stringify([cell.guardrail, cell.cohort]);
}

/**
 * Draws the table of all cells into `element`. `options.onSelect(cell)` is called when a row is chosen;
 * `options.selected` is the key of the one that is.
 * @param {any} element
 * @param {any} verdict
 * @param {{onSelect?: (cell: any) => void, selected?: string | null}} [options]
 */
export function drawForest(element, verdict, options = {}) {
  const plot = element["plot"] ?? (element["plot"] = new Forest(element));
  plot.show(allCells(verdict), options);
}

class Forest {
  constructor(element) {
    this.cells = [];
    this.options = {};
    this.sorted = { id: "finding", down: false };
    this.filter = { text: "", cohort: "", finding: "" };
    this.heads = new Map();
    this.body = h("tbody");
    this.shown = h("p", { class: "count" });
    this.none = h("p", { class: "none", hidden: true });
    this.findings = h("div", { class: "segments", role: "group", "aria-label": "Finding" });
    this.cohorts = h("select", {
      id: "forest-cohort",
      on: { change: () => this.look({ cohort: this.cohorts.value }) },
    });
    this.search = h("input", {
      id: "forest-text",
      type: "search",
      autocomplete: "off",
      spellcheck: "false",
      placeholder: "Guardrail or cohort",
      on: { input: () => this.look({ text: this.search.value }) },
    });
    replace(element, h("p", { class: "lead" }, LEAD), this.controls(), this.table(), this.none);
    this.mark();
  }

  controls() {
    return h(
      "div",
      { class: "controls" },
      this.findings,
      h("label", { for: "forest-text" }, h("span", null, "Find"), this.search),
      h("label", { for: "forest-cohort" }, h("span", null, "Cohort"), this.cohorts),
      this.shown,
    );
  }

  table() {
    const caption = "Every guardrail in every cohort, sortable by the buttons in the heads of the columns";
    const heads = h(
      "thead",
      null,
      h(
        "tr",
        null,
        COLUMNS.map((column) => this.head(column)),
      ),
    );
    return boxed(
      h("table", { class: "forest" }, h("caption", { class: "unseen" }, caption), heads, this.body),
      "Guardrails by cohort",
      "tall",
    );
  }

  head(column) {
    const button = h(
      "button",
      { type: "button", title: column.title, on: { click: () => this.sort(column) } },
      column.head,
      h("span", { class: "arrow", "aria-hidden": "true" }),
    );
    const cell = h(
      "th",
      { scope: "col", class: `c-${column.id}${column.number ? " number" : ""}` },
      button,
      column.id === "interval" ? axis() : null,
    );
    this.heads.set(column.id, cell);
    return cell;
  }

  sort(column) {
    const again = this.sorted.id === column.id;
    this.sorted = { id: column.id, down: again ? !this.sorted.down : column.down === true };
    this.mark();
    this.draw();
  }

  mark() {
    for (const [id, head] of this.heads) {
      const on = id === this.sorted.id;
      set(head, "aria-sort", on ? (this.sorted.down ? "descending" : "ascending") : "none");
    }
  }

  look(change) {
    this.filter = { ...this.filter, ...change };
    this.draw();
  }

  show(cells, options) {
    this.cells = cells;
    this.options = options;
    this.offer();
    this.draw();
  }

  /** The cohorts and findings that can be looked for. */
  offer() {
    const cohorts = [...new Set(this.cells.map((cell) => cell.cohort))];
    const choices = [
      ["", `Every cohort (${cohorts.length})`],
      ...cohorts.map((name) => [name, name === "all" ? "all pairs" : short(name)]),
    ];
    const listed = JSON.stringify(choices);
    if (this.offered !== listed) {
      this.offered = listed;
      replace(
        this.cohorts,
        choices.map(([value, name]) => h("option", { value }, name)),
      );
      if (!cohorts.includes(this.filter.cohort)) this.filter.cohort = "";
      this.cohorts.value = this.filter.cohort;
    }
    const numbers = ["", ...FINDINGS].map((finding) => ({
      finding,
      number: this.cells.filter((cell) => !finding || cell.finding === finding).length,
    }));
    keyed(
      this.findings,
      numbers,
      (one) => one.finding,
      ({ finding }) =>
        h(
          "button",
          { type: "button", data: { finding }, on: { click: () => this.look({ finding }) } },
          finding ? sign(finding) : null,
          h("span", null, finding || "all"),
          " ",
          h("b"),
        ),
      (button, { number }) => text(button.lastElementChild, count(number)),
    );
  }

  draw() {
    const rows = ordered(
      this.cells.filter((cell) => fits(cell, this.filter)),
      this.sorted,
    );
    keyed(
      this.body,
      rows,
      keyOf,
      (cell) => this.row(cell),
      (row, cell) => this.update(row, cell),
    );
    text(
      this.shown,
      rows.length === this.cells.length
        ? many(rows.length, "row")
        : `${count(rows.length)} of ${many(this.cells.length, "row")}`,
    );
    text(this.none, this.cells.length ? "No row fits what is looked for." : "No guardrail has data yet.");
    this.none.hidden = rows.length > 0;
    for (const button of this.findings.children) {
      set(button, "aria-pressed", String(button.dataset.finding === this.filter.finding));
    }
  }

  row(cell) {
    const row = h("tr");
    const choose = () => this.options.onSelect?.(row.cell);
    const button = h("button", { type: "button", class: "pick" }, wrapping(cell.guardrail));
    const cells = {
      guardrail: h("th", { scope: "row", class: "c-guardrail" }, button),
      cohort: h("td", { class: "c-cohort" }, cell.cohort === "all" ? h("b", null, "all pairs") : wrapping(cell.cohort)),
      finding: h("td", { class: "c-finding" }, h("span", { class: "finding" })),
      interval: h("td", { class: "c-interval" }, picture()),
      ...Object.fromEntries(
        ["estimate", "margin", "pairs", "safe", "harm"].map((id) => [
          id,
          h("td", { class: `number c-${id}`, data: { label: COLUMNS.find((one) => one.id === id)?.head } }),
        ]),
      ),
    };
    row.append(...COLUMNS.map((column) => cells[column.id]));
    row.parts = { ...cells, button };
    // The whole row is a target for who has a pointer; the button is for everybody.
    row.addEventListener("click", choose);
    return row;
  }

  update(row, cell) {
    row.cell = cell;
    const selected = this.options.selected === keyOf(cell);
    set(row, "class", selected ? "selected" : null);
    set(row.parts.button, "aria-pressed", String(selected));
    const seen = [
      cell.finding,
      cell.estimate,
      cell.interval,
      cell.margin,
      cell.pairs,
      cell.undefined,
      cell.e_promote,
      cell.e_rollback,
      cell.promote_at,
      cell.rollback_at,
      cell.required,
    ].join();
    if (row.seen === seen) return;
    row.seen = seen;
    figures(row.parts, cell);
    paint(row.parts.interval.firstElementChild, cell);
  }
}

function figures(parts, cell) {
  const finding = parts.finding.firstElementChild;
  if (finding.dataset.finding !== cell.finding) {
    finding.dataset.finding = cell.finding;
    set(finding, "class", `finding ${cell.finding}`);
    replace(finding, sign(cell.finding), h("span", null, cell.finding));
  }
  const unit = unitOf(cell.unit);
  text(parts.estimate, amount(cell.estimate, cell.unit, { signed: true }));
  set(
    parts.estimate,
    "title",
    cell.interval === null
      ? unit
      : `${amount(cell.interval[0], cell.unit, { signed: true })} to ${amount(cell.interval[1], cell.unit, { signed: true })}, ${unit}`,
  );
  if (parts.margin.childElementCount === 0)
    replace(parts.margin, amount(cell.margin, cell.unit), h("small", null, ` ${unit.replace(/^% /, "")}`));
  text(parts.pairs, count(cell.pairs));
  const tried = cell.pairs + cell.undefined;
  set(
    parts.pairs,
    "title",
    cell.undefined ? `${count(cell.undefined)} more have no value (${percent(cell.undefined / tried)})` : null,
  );
  proof(parts.safe, cell.e_promote, cell.promote_at);
  proof(parts.harm, cell.e_rollback, cell.rollback_at);
}

function proof(element, e, threshold) {
  if (element.childElementCount === 0) element.append(h("span"), h("small"));
  const [said, needed] = element.children;
  set(said, "class", e >= threshold ? "reached" : null);
  text(said, evidence(e));
  text(needed, ` / ${evidence(threshold)}`);
}

// The picture of one row. All its parts are there from the start: an update only moves them.

function picture() {
  return s(
    "svg",
    { class: "interval", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, width: WIDTH, height: HEIGHT, role: "img" },
    s("rect", { class: "beyond", x: place(1), y: 0, width: WIDTH - place(1), height: HEIGHT }),
    s("line", { class: "zero", x1: place(0), x2: place(0), y1: 0, y2: HEIGHT }),
    s("line", { class: "margin", x1: place(1), x2: place(1), y1: 0, y2: HEIGHT }),
    s("line", { class: "span", y1: HEIGHT / 2, y2: HEIGHT / 2 }),
    s("path", { class: "end" }),
    s("path", { class: "point" }),
  );
}

function paint(svg, cell) {
  const [, , , span, ends, point] = svg.children;
  set(svg, "class", `interval ${cell.finding}`);
  set(svg, "aria-label", described(cell));
  const known = cell.estimate !== null && cell.interval !== null && cell.margin > 0;
  for (const part of [span, ends, point]) set(part, "visibility", known ? null : "hidden");
  if (!known) return;
  const [from, to] = cell.interval.map((bound) => ratio(bound, cell));
  set(span, "x1", place(from));
  set(span, "x2", place(to));
  set(ends, "d", end(from, -1) + end(to, 1));
  set(point, "d", mark(ratio(cell.estimate, cell), cell.finding));
}

/** Where an interval ends: a stroke, or an arrow where it goes on outside of the frame. */
function end(at, way) {
  const middle = HEIGHT / 2;
  if (at < LOW) return way < 0 ? `M7 ${middle - 4}L2 ${middle}L7 ${middle + 4}` : "";
  if (at > HIGH) return way > 0 ? `M${WIDTH - 7} ${middle - 4}L${WIDTH - 2} ${middle}L${WIDTH - 7} ${middle + 4}` : "";
  return `M${place(at)} ${middle - 4}V${middle + 4}`;
}

/** The estimate: by shape too what the finding is. Outside of the frame it stands beside the arrow at its edge. */
function mark(at, finding) {
  const x = at < LOW || at > HIGH ? (at < LOW ? 15 : WIDTH - 15) : Math.min(Math.max(place(at), 6), WIDTH - 6);
  const y = HEIGHT / 2;
  if (finding === "harmful") return `M${x} ${y - 6}L${x + 6} ${y}L${x} ${y + 6}L${x - 6} ${y}Z`;
  return `M${x - 4.5} ${y}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z`;
}

function axis() {
  const ticks = [
    [0, "0"],
    [1, "margin"],
  ];
  return s(
    "svg",
    { class: "axis", viewBox: `0 0 ${WIDTH} 13`, width: WIDTH, height: 13, "aria-hidden": "true" },
    s("text", { x: 2, y: 10, class: "way" }, "← better"),
    ticks.map(([at, name]) => s("text", { x: place(at), y: 10, "text-anchor": "middle" }, name)),
    s("text", { x: WIDTH - 2, y: 10, "text-anchor": "end", class: "way" }, "worse →"),
  );
}

/** The x of a loss in units of the margin; at the frame's edge where it lies outside. */
export function place(at) {
  const inside = Math.min(Math.max(at, LOW), HIGH);
  return Math.round((10 * WIDTH * (inside - LOW)) / (HIGH - LOW)) / 10;
}

function ratio(loss, cell) {
  return loss === null || !(cell.margin > 0) ? null : loss / cell.margin;
}

function described(cell) {
  if (cell.estimate === null || cell.interval === null) return "no data";
  const [from, to] = cell.interval.map((bound) => amount(bound, cell.unit, { signed: true }));
  const said = amount(cell.estimate, cell.unit, { signed: true });
  return `loss ${said}, interval ${from} to ${to}, margin ${amount(cell.margin, cell.unit)}`;
}

function reached(e, threshold) {
  return Math.log(Math.max(e, 1e-300)) / Math.log(threshold);
}

/** Whether a cell is among those that are looked for. */
export function fits(cell, { text: wanted = "", cohort = "", finding = "" }) {
  if (cohort && cell.cohort !== cohort) return false;
  if (finding && cell.finding !== finding) return false;
  const named = `${cell.guardrail} ${cell.cohort} ${cell.metric}`.toLowerCase();
  return wanted
    .toLowerCase()
    .split(/\s+/)
    .every((part) => named.includes(part));
}

/** Cells by a column; those that are equal, as they were. What has no value is last, whichever way. */
export function ordered(cells, { id, down }) {
  const column = COLUMNS.find((one) => one.id === id) ?? COLUMNS[0];
  const way = down ? -1 : 1;
  const keys = new Map(cells.map((cell) => [cell, column.by(cell)]));
  return [...cells].sort((one, other) => {
    const [a, b] = [keys.get(one), keys.get(other)];
    if (a === null || b === null) return Number(a === null) - Number(b === null);
    return way * (typeof a === "string" ? a.localeCompare(String(b), "en", { numeric: true }) : Number(a) - Number(b));
  });
}

// Elements, and how figures and names are written. Text goes in as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";
// Controls, and what is invisible or turns the direction of what stands beside it: a name must not hide or disguise itself.
const UNSEEN = /[\p{Cc}\p{Cf}\p{Co}\p{Cn}\p{Cs}\p{Zl}\p{Zp}]/gu;

/**
 * An element. In `props`, `class` is its classes, `on` maps events to listeners, `data` gives data attributes; a value
 * that is false, null or undefined leaves an attribute out. Children are nodes, or become text; null and false nothing.
 * @param {string} tag
 * @param {object | null} [props]
 * @param {...any} children
 * @returns {any}
 */
export function h(tag, props, ...children) {
  return made(document.createElement(tag), props, children);
}

/** The same in SVG. */
export function s(tag, props, ...children) {
  return made(document.createElementNS(SVG, tag), props, children);
}

function made(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "data") for (const [key, data] of Object.entries(value)) element.dataset[key] = data;
    else if (name === "style") throw new TypeError("styles belong in css/; set what is computed on element.style");
    else set(element, name, value);
  }
  fill(element, children);
  return element;
}

/** Sets an attribute where it differs; false, null and undefined remove it. */
export function set(element, name, value) {
  if (value === false || value === null || value === undefined) element.removeAttribute(name);
  else {
    const text = value === true ? "" : String(value);
    if (element.getAttribute(name) !== text) element.setAttribute(name, text);
  }
}

/** Sets the text of an element where it differs. */
export function text(element, value) {
  const said = String(value);
  if (element.textContent !== said) element.textContent = said;
}

/** Puts children behind those that an element has. */
export function fill(element, children) {
  for (const child of children.flat(9)) {
    if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

/** Makes these the only children of an element. */
export function replace(element, ...children) {
  element.replaceChildren();
  fill(element, children);
}

/**
 * Makes the children of `parent` those of `items`, in their order, by key: those that stay are kept and updated, so that
 * focus, selection and place are not lost. A key is unique.
 * @template T
 * @param {Element} parent
 * @param {T[]} items
 * @param {(item: T) => string} key
 * @param {(item: T) => any} create
 * @param {(element: any, item: T) => void} update
 */
export function keyed(parent, items, key, create, update) {
  const known = parent["keyed"] ?? (parent["keyed"] = new Map());
  const wanted = new Map(items.map((item) => [key(item), item]));
  const focused = parent.contains(document.activeElement) ? document.activeElement : null;
  for (const [name, element] of known) {
    if (!wanted.has(name)) {
      element.remove();
      known.delete(name);
    }
  }
  let place = parent.firstElementChild;
  for (const [name, item] of wanted) {
    let element = known.get(name);
    if (element === undefined) known.set(name, (element = create(item)));
    if (element === place) place = place.nextElementSibling;
    else parent.insertBefore(element, place);
    update(element, item);
  }
  // What was moved lost the focus.
  if (focused !== null && document.activeElement !== focused && parent.contains(focused)) {
    /** @type {HTMLElement} */ (focused).focus({ preventScroll: true });
  }
}

/**
 * What a service or a client named, so that all of it can be seen: controls and invisible characters are written out.
 * @param {any} name
 */
export function plain(name) {
  return String(name).replace(UNSEEN, (sign) =>
    sign === " " ? sign : `\\u{${/** @type {number} */ (sign.codePointAt(0)).toString(16)}}`,
  );
}

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

/** A count: 12,345. */
export function count(value) {
  return value === null || value === undefined ? "–" : whole.format(value);
}

/** A count with what is counted: `1 pair`, `2 pairs`. */
export function many(value, one, more = `${one}s`) {
  return `${count(value)} ${value === 1 ? one : more}`;
}

/** Three significant digits, no finer than 1e-4; – where there is none. */
export function figure(value, { signed = false } = {}) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (Math.abs(value) < 5e-5) return "0";
  const digits = Math.max(0, Math.min(4, 2 - Math.floor(Math.log10(Math.abs(value)))));
  const said = Math.abs(value) < 1e6 ? trimmed(Math.abs(value).toFixed(digits)) : Math.abs(value).toExponential(1);
  return (value < 0 ? "−" : signed ? "+" : "") + said;
}

function trimmed(digits) {
  return digits.includes(".") ? digits.replace(/\.?0+$/, "") : digits;
}

/** A share as per cent. */
export function percent(share, options) {
  const said = figure(share === null || share === undefined ? null : 100 * share, options);
  return said === "–" ? said : `${said}%`;
}

/** A loss or a margin in the unit of its metric; shares, and doublings of time, as per cent. */
export function amount(value, unit, options) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  if (unit.startsWith("share of ")) return percent(value, options);
  if (unit === "doublings") return percent(2 ** value - 1, options);
  return figure(value, options);
}

/** The unit that goes with `amount`. */
export function unitOf(unit) {
  if (unit.startsWith("share of ")) return `% of ${unit.slice(9)}`;
  return unit === "doublings" ? "% of the baseline's" : unit;
}

/** An e-value: three digits where it matters, a power of ten or a bound where it doesn't. */
export function evidence(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value < 1e-3) return "<0.001";
  if (value < 1000) return figure(value);
  if (value < 1e6) return count(Math.floor(value));
  return `10${superscript(Math.floor(Math.log10(value)))}`;
}

/** A whole number as superscript. */
export function superscript(value) {
  return [...String(value)].map((sign) => (sign === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(sign)])).join("");
}

/** A time that was measured, from seconds: `4.23 ms`, `12.3 s`; ∞ for null, which lies among the failures. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "∞";
  if (!Number.isFinite(seconds)) return "–";
  if (Math.abs(seconds) < 9.995e-4) return `${trimmed((seconds * 1e6).toPrecision(3))} µs`;
  return Math.abs(seconds) < 0.9995 ? `${digits(seconds * 1000)} ms` : `${digits(seconds)} s`;
}

function digits(value) {
  const size = Math.abs(value);
  return value.toFixed(size >= 99.95 ? 0 : size >= 9.995 ? 1 : 2);
}

/** A span of time to wait, in the unit in which it is a small number. */
export function lasting(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return "–";
  const units = [
    ["s", 1, 119.5],
    ["min", 60, 7170],
    ["h", 3600, 171000],
  ];
  for (const [unit, size, until] of units) {
    if (seconds < Number(until)) return `${count(Math.max(1, Math.round(seconds / Number(size))))} ${unit}`;
  }
  return `${count(Math.round(seconds / 86400))} days`;
}

/** A forecast: two significant digits, rounded up. */
export function rough(value) {
  const size = 10 ** Math.max(0, Math.floor(Math.log10(Math.max(value, 1))) - 1);
  return count(Math.ceil(Math.max(value, 1) / size) * size);
}

/** Unix seconds as date and time where the reader is, in a <time> element that has the exact one. */
export function moment(seconds, { date = true } = {}) {
  const at = new Date(1000 * seconds);
  if (Number.isNaN(at.getTime())) return h("span", null, "–");
  const two = (value) => String(value).padStart(2, "0");
  const clock = [at.getHours(), at.getMinutes(), at.getSeconds()].map(two).join(":");
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return h("time", { datetime: at.toISOString(), title: at.toISOString() }, date ? `${day} ${clock}` : clock);
}

/** A name that is no longer than people read. */
export function short(name, most = 120) {
  const said = plain(name);
  return said.length > most ? `${said.slice(0, most)}…` : said;
}

/** A name as people read it: its parts may wrap, and what is too long is cut. */
export function wrapping(name) {
  return short(name)
    .split(/(?<=[._=/-])/u)
    .flatMap((part, at) => (at ? [h("wbr"), part] : [part]));
}

/** What says what is meant where colour alone would: a sign for each finding and each state. */
export function sign(kind) {
  const shapes = {
    safe: [["path", { d: "M3 8.5l3.2 3.2L13 5", class: "stroke" }]],
    promote: [["path", { d: "M3 8.5l3.2 3.2L13 5", class: "stroke" }]],
    harmful: [["path", { d: "M4 4l8 8M12 4l-8 8", class: "stroke" }]],
    rollback: [["path", { d: "M4 4l8 8M12 4l-8 8", class: "stroke" }]],
    undecided: [["circle", { cx: 8, cy: 8, r: 4.2, class: "stroke" }]],
    continue: [["path", { d: "M3.5 8h.01M8 8h.01M12.5 8h.01", class: "stroke dots" }]],
    warning: [["path", { d: "M8 2.5l6 11H2zM8 7v3M8 11.8h.01", class: "stroke" }]],
    reset: [["path", { d: "M4 8a4 4 0 1 0 1.5-3.1M4 2.5V5.5h3", class: "stroke" }]],
  };
  const parts = shapes[kind] ?? shapes.undecided;
  return s(
    "svg",
    { class: `sign ${kind}`, viewBox: "0 0 16 16", "aria-hidden": "true" },
    parts.map(([tag, props]) => s(tag, props)),
  );
}

// What scrolls must be had by the keyboard; what doesn't must not be in its way.
const boxes = new ResizeObserver((entries) => {
  for (const entry of entries) {
    const box = entry.target.closest(".scroll");
    if (box === null) continue;
    const scrolls = box.scrollWidth > box.clientWidth + 1 || box.scrollHeight > box.clientHeight + 1;
    set(box, "tabindex", scrolls ? 0 : null);
    set(box, "role", scrolls ? "region" : null);
    set(box, "aria-label", scrolls ? /** @type {HTMLElement} */ (box).dataset.label : null);
  }
});

/** A table in a box of its own, which scrolls by itself where it is too wide. `label` names it for who can't see it. */
export function boxed(table, label, more = "") {
  const box = h("div", { class: `scroll ${more}`.trim(), data: { label } }, table);
  boxes.observe(box);
  boxes.observe(table);
  return box;
}

/** What stands where there is nothing yet. */
export function empty(title, ...more) {
  return h("div", { class: "empty" }, h("p", { class: "empty-title" }, title), more);
}

/**
 * Rows of text as a table; columns are `[head, "number" | "text"]`.
 * @param {string} caption
 * @param {[string, string][]} columns
 * @param {any[][]} rows
 */
export function table(caption, columns, rows, { hidden = false } = {}) {
  const cells = (row) =>
    row.map((value, at) =>
      at === 0 ? h("th", { scope: "row", class: columns[at][1] }, value) : h("td", { class: columns[at][1] }, value),
    );
  return h(
    "table",
    null,
    h("caption", { class: hidden ? "unseen" : null }, caption),
    h(
      "thead",
      null,
      h(
        "tr",
        null,
        columns.map(([head, kind]) => h("th", { scope: "col", class: kind }, head)),
      ),
    ),
    h(
      "tbody",
      null,
      rows.map((row) => h("tr", null, cells(row))),
    ),
  );
}

/** Gives a <select> these choices, unless it has them, and the chosen one; `said` is how each is called. */
export function offer(select, names, chosen, said) {
  const listed = JSON.stringify(names);
  if (select.dataset.offered !== listed) {
    select.dataset.offered = listed;
    replace(
      select,
      names.map((value) => h("option", { value }, said(value))),
    );
  }
  if (select.value !== chosen) select.value = chosen;
}

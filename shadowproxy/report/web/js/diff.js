// Where two answers differ: headers by name, values by path; and bodies as they are.

import { boxed, count, figure, h, many, plain, replace } from "./dom.js";

const FOLDED = 240;
const AT_ONCE = 20_000;
// As `plain` has it, but for what makes lines.
const LINE_SIGNS = /[\n\t]/u;

/** Text of several lines, so that nothing in it hides or turns the direction of the rest. */
export function lines(text) {
  return text.split(/([\n\t])/u).map((part) => (LINE_SIGNS.test(part) ? part : plain(part))).join("");
}

/** 12 B, 3.4 KB, 1.2 MB. */
export function bytes(size) {
  if (size < 1000) return `${count(size)} B`;
  for (const [unit, one] of [["KB", 1e3], ["MB", 1e6]]) {
    if (size < 999.5 * Number(one) || unit === "MB") return `${figure(size / Number(one))} ${unit}`;
  }
  return "";
}

/** One value of a difference: folded where it is long; null where that side has none. */
export function value(said) {
  if (said === null || said === undefined) return h("span", { class: "absent" }, "not there");
  if (said.length <= FOLDED) return h("code", null, said === "" ? "\u00a0" : lines(said));
  return h(
    "details",
    { class: "long" },
    h("summary", null, h("code", null, `${lines(said.slice(0, 80))}…`), ` ${bytes(said.length)}`),
    preformatted(said),
  );
}

/** Long text comes in parts: a browser takes its time to lay out a megabyte that is one line. */
export function preformatted(said) {
  const shown = h("pre", { tabindex: 0, role: "region", "aria-label": "Text" });
  let at = 0;
  const more = h("button", { type: "button", class: "quiet more", on: { click: () => next() } });
  const box = h("div", { class: "body" }, shown, more);
  function next() {
    shown.append(lines(said.slice(at, at + AT_ONCE)));
    at += AT_ONCE;
    if (at >= said.length) {
      if (document.activeElement === more) shown.focus();
      more.remove();
    } else more.textContent = `Show more: ${bytes(said.length - at)} are left`;
  }
  next();
  return box;
}

/**
 * The values that differ, by path.
 * @param {Element} element
 * @param {{where: string, baseline: string | null, candidate: string | null, remark?: string}[]} differences
 * @param {{more?: boolean | number}} [options]
 */
export function drawDiff(element, differences, { more = false } = {}) {
  if (differences.length === 0) {
    replace(element, h("p", { class: "muted" }, "Nothing that is compared value by value differs."));
    return;
  }
  const rows = differences.map((one) =>
    h(
      "tr",
      null,
      h("th", { scope: "row", class: "text where" }, h("code", null, plain(one.where).slice(0, 500)), one.remark && h("small", null, plain(one.remark))),
      h("td", { class: "text of-baseline" }, value(one.baseline)),
      h("td", { class: "text of-candidate" }, value(one.candidate)),
    ),
  );
  const heads = ["Where", "Baseline", "Candidate"].map((name) => h("th", { scope: "col", class: "text" }, name));
  const made = h(
    "table",
    { class: "diff" },
    h("caption", { class: "unseen" }, "What differs, by its path"),
    h("thead", null, h("tr", null, heads)),
    h("tbody", null, rows),
  );
  const rest = typeof more === "number" ? `${many(more, "more difference")} not shown.` : "There are more; not all are shown.";
  replace(element, boxed(made, "Differences"), more ? h("p", { class: "muted" }, rest) : null);
}

/**
 * Headers of all sides by name, those that differ first and the others folded.
 * @param {Element} element
 * @param {{side: string, headers: [string, string][] | null}[]} sides
 */
export function drawHeaders(element, sides) {
  // Who gave no answer would make every header of the others differ.
  const known = sides.filter(({ headers }) => headers?.length > 0);
  const names = [...new Set(known.flatMap(({ headers }) => headers.map(([name]) => name.toLowerCase())))].sort();
  const rows = names.map((name) => ({ name, values: known.map(({ headers }) => valuesOf(headers, name)) }));
  const differ = rows.filter(({ values }) => new Set(values).size > 1);
  const alike = rows.filter(({ values }) => new Set(values).size === 1);
  replace(
    element,
    differ.length ? headerTable("Headers that differ", known, differ) : h("p", { class: "muted" }, "No header differs."),
    alike.length > 0 &&
      h("details", null, h("summary", null, `${many(alike.length, "header")} alike`), headerTable("Headers alike", known, alike)),
  );
}

function valuesOf(headers, name) {
  const found = headers.filter(([other]) => other.toLowerCase() === name).map(([, said]) => said);
  return found.length ? found.join(", ") : null;
}

function headerTable(caption, sides, rows) {
  const heads = ["Header", ...sides.map(({ side }) => titled(side))].map((name) => h("th", { scope: "col", class: "text" }, name));
  const made = h(
    "table",
    { class: "diff" },
    h("caption", { class: "unseen" }, caption),
    h("thead", null, h("tr", null, heads)),
    h(
      "tbody",
      null,
      rows.map(({ name, values }) =>
        h(
          "tr",
          null,
          h("th", { scope: "row", class: "text where" }, h("code", null, plain(name).slice(0, 200))),
          values.map((said, at) => h("td", { class: `text of-${sides[at].side}` }, value(said))),
        ),
      ),
    ),
  );
  return boxed(made, caption);
}

/** A side's name at the beginning of a phrase. */
export function titled(side) {
  return side.charAt(0).toUpperCase() + side.slice(1);
}

/**
 * A body: pretty JSON where it is JSON, else text; binary ones are not shown.
 * @param {{text: string | null, json?: any, base64: string | null, bytes: number, truncated: boolean} | null} body
 */
export function drawnBody(body) {
  if (body === null || body === undefined) return h("p", { class: "muted" }, "Withheld: see below who may see bodies.");
  const cut = [
    body.truncated && h("p", { class: "cut" }, `Only its beginning is here; the whole body has ${bytes(body.bytes)}.`),
    body.coding && h("p", { class: "muted" }, `${body.fault ? `Not decoded (${plain(body.fault)})` : "Decoded"}: ${plain(body.coding)}`),
  ];
  if (body.bytes === 0) return h("p", { class: "muted" }, "Empty.");
  if ("json" in body && body.json !== undefined && body.json !== null) {
    return [cut, preformatted(JSON.stringify(body.json, null, 2))];
  }
  if (body.text !== null && body.text !== undefined) return [cut, preformatted(body.text)];
  return [cut, h("p", { class: "muted" }, `Binary, ${bytes(body.bytes)}.`)];
}

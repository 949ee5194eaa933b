// Where every request went, what failed, and what else is counted beside the guardrails.

import { boxed, count, evidence, figure, h, keyed, many, moment, plain, replace, short, sign, table, wrapping } from "./dom.js";

const SIDES = ["baseline", "candidate", "replica"];
// Rows of a long table that are shown before somebody asks for the rest.
const MOST = 25;
const TITLES = {
  labels: "Labels, baseline → candidate",
  fields: "Fields that differ",
  validity: "Answers that break a rule",
};

/** Draws the two sums that must hold, failures by side and kind, labels that came later, versions, dependence. */
export function drawAccounting(element, verdict) {
  // Seldom and small: drawn anew only where something in it changed.
  const seen = JSON.stringify([
    verdict.accounting,
    verdict.failures,
    verdict.labels,
    verdict.versions,
    verdict.dependence,
    verdict.tables,
  ]);
  if (element["seen"] === seen) return;
  element["seen"] = seen;
  const cards = [
    failures(verdict.failures),
    labels(verdict.labels),
    versions(verdict.versions),
    dependence(verdict.dependence),
  ];
  const open = new Set([...element.querySelectorAll("details[open]")].map((one) => one.dataset.name));
  replace(element, sums(verdict.accounting), h("div", { class: "cards" }, cards), tables(verdict.tables));
  for (const one of element.querySelectorAll("details")) one.open = open.has(one.dataset.name);
}

function sum(parts) {
  return Object.values(parts).reduce((all, one) => all + one, 0);
}

function sums(account) {
  const [skipped, dropped] = [sum(account.skipped), sum(account.dropped)];
  const flying = account.eligible - account.recorded - dropped;
  return h(
    "div",
    { class: "sums" },
    equation(
      ["requests", account.requests],
      [
        ["skipped", skipped, account.skipped, "muted-bar"],
        ["eligible", account.eligible, null, "baseline-bar"],
      ],
    ),
    equation(
      ["eligible", account.eligible],
      [
        ["recorded", account.recorded, null, "baseline-bar"],
        ["dropped", dropped, account.dropped, "harmful-bar"],
        ["in flight", flying, null, "muted-bar"],
      ],
    ),
  );
}

function equation([name, whole], parts) {
  const term = (label, value, why) =>
    h(
      "div",
      { class: "term" },
      h("b", null, count(value)),
      h("span", null, label),
      why && sum(why) ? h("ul", null, reasons(why)) : null,
    );
  const behind = (at, ...rest) =>
    h("div", { class: "behind" }, h("span", { class: "op" }, at ? "+" : "="), term(...rest));
  return h(
    "div",
    { class: "equation" },
    h(
      "div",
      { class: "terms" },
      term(name, whole, null),
      parts.map(([label, value, why], at) => behind(at, label, value, why)),
    ),
    h(
      "div",
      { class: "bar", "aria-hidden": "true" },
      parts.map(([, value, , kind]) => piece(kind, value, whole)),
    ),
  );
}

function piece(kind, value, whole) {
  const one = h("span", { class: kind });
  one.style.width = `${whole > 0 ? (100 * Math.max(value, 0)) / whole : 0}%`;
  return one;
}

function reasons(why) {
  const found = Object.entries(why)
    .filter(([, number]) => number > 0)
    .sort((one, other) => other[1] - one[1]);
  return found.map(([reason, number]) => h("li", null, `${plain(reason)} `, h("b", null, count(number))));
}

function card(title, ...children) {
  return h("section", { class: "card" }, h("h3", null, title), children);
}

function failures(found) {
  const sides = SIDES.filter((side) => Object.hasOwn(found, side));
  const kinds = [...new Set(sides.flatMap((side) => Object.keys(found[side]).filter((kind) => found[side][kind] > 0)))];
  if (sides.length === 0) return null;
  if (kinds.length === 0)
    return card("Failures", h("p", { class: "said" }, `No failure of the ${sides.join(", nor of the ")}.`));
  const rows = kinds.map((kind) => [plain(kind), ...sides.map((side) => count(found[side][kind] ?? 0))]);
  return card(
    "Failures",
    boxed(
      table("Failures by kind and upstream", [["Kind", "text"], ...sides.map((side) => [side, "number"])], rows, {
        hidden: true,
      }),
      "Failures",
    ),
  );
}

function labels(found) {
  if (found === null || found === undefined) return null;
  const rows = [
    ["received", found.received],
    ["joined a pair", found.joined],
    ["repeated", found.duplicates],
    ["late or unknown", found.unmatched],
    ["unreadable", found.invalid],
    ["waiting", found.waiting],
    ["pairs that wait", found.waiting_pairs],
    ["pairs that waited in vain", found.expired_pairs],
    ["pairs that could not wait", found.overflow],
  ].map(([name, number]) => [name, count(number)]);
  return card(
    "Labels that came later",
    boxed(
      table(
        "Labels that came later",
        [
          ["What became of them", "text"],
          ["Number", "number"],
        ],
        rows,
        { hidden: true },
      ),
      "Labels",
    ),
  );
}

function versions(found) {
  const rows = SIDES.flatMap((side) =>
    (found?.[side] ?? []).map((seen) => [
      h("span", { class: `side ${side}` }, side),
      short(seen.value || "an empty value"),
      moment(seen.first),
      moment(seen.last),
    ]),
  );
  if (rows.length === 0) return null;
  const columns = [
    ["Upstream", "text"],
    ["Version", "text"],
    ["First seen", "text"],
    ["Last seen", "text"],
  ];
  return card("Versions", boxed(table("Versions that have answered", columns, rows, { hidden: true }), "Versions"));
}

function dependence(found) {
  const worst = new Map();
  for (const one of found ?? []) {
    const known = worst.get(one.guardrail);
    if (known === undefined || one.inflation > known.inflation) worst.set(one.guardrail, one);
  }
  const rows = [...worst.values()]
    .sort((one, other) => other.inflation - one.inflation)
    .map((one) => [
      wrapping(one.guardrail),
      plain(one.by),
      `× ${figure(one.inflation)} ± ${(2 * one.error).toPrecision(2)}`,
    ]);
  if (rows.length === 0) return null;
  const columns = [
    ["Guardrail", "text"],
    ["By", "text"],
    ["Variance of its mean", "number"],
  ];
  return h(
    "section",
    { class: "card" },
    h("h3", null, "Dependence between pairs"),
    h("p", { class: "said" }, "How much more a mean varies than that of as many independent pairs; × 1 if they are."),
    rest("dependence", columns, rows, "Dependence between pairs"),
  );
}

function tables(rows) {
  const names = [...new Set((rows ?? []).map((row) => row.table))];
  return names.map((name) => {
    const own = rows.filter((row) => row.table === name);
    const counts = [...new Set(own.flatMap((row) => Object.keys(row.counts)))].filter((column) =>
      own.some((row) => row.counts[column] > 0),
    );
    const routes = new Set(own.map((row) => row.route)).size > 1;
    const columns = [
      ["What", "text"],
      ...(routes ? [["Route", "text"]] : []),
      ...counts.map((column) => [column.replaceAll("_", " "), "number"]),
    ];
    const drawn = own.map((row) => [
      wrapping(row.key),
      ...(routes ? [wrapping(row.route)] : []),
      ...counts.map((column) => count(row.counts[column] ?? 0)),
    ]);
    const title = Object.hasOwn(TITLES, name) ? TITLES[name] : plain(name);
    return card(title, rest(name, columns, drawn, title));
  });
}

/** A table that may be long: the rest of it is folded. */
function rest(name, columns, rows, title) {
  const first = boxed(table(title, columns, rows.slice(0, MOST), { hidden: true }), title);
  if (rows.length <= MOST) return first;
  const more = rows.slice(MOST);
  return [
    first,
    h(
      "details",
      { data: { name } },
      h("summary", null, many(more.length, "more row")),
      boxed(table(`${title}, the rest`, columns, more, { hidden: true }), `${title}, the rest`),
    ),
  ];
}

/** Draws how the verdict changed, newest first. `history` is the API's answer. */
export function drawHistory(element, history) {
  const moments = history?.history ?? [];
  if (moments.length === 0) {
    delete element["keyed"];
    replace(element, h("p", { class: "none" }, "Nothing has changed yet."));
    return;
  }
  if (element["keyed"] === undefined) replace(element);
  keyed(
    element,
    moments,
    (one) => `${one.at} ${one.what} ${one.exhausted}`,
    happened,
    () => {},
  );
}

function happened(one) {
  const name = one.what === "reset" ? "reset" : one.exhausted ? `${one.what} (horizon reached)` : one.what;
  const what =
    one.what === "reset"
      ? `${many(one.pairs, "pair")} forgotten${one.by ? `, by ${plain(one.by)}` : ""}`
      : `on ${many(one.pairs, "pair")}`;
  const harm = one.what === "rollback" ? `, evidence of harm ${evidence(one.evidence)}` : "";
  return h(
    "li",
    { class: `moment ${["promote", "rollback", "continue", "reset"].includes(one.what) ? one.what : ""}` },
    sign(one.what),
    h(
      "div",
      null,
      h("p", null, h("b", null, plain(name)), " ", h("span", { class: "said" }, moment(one.at), ` · ${what}${harm}`)),
      one.reasons.length
        ? h(
            "details",
            null,
            h("summary", null, many(one.reasons.length, "reason")),
            h(
              "ul",
              null,
              one.reasons.map((reason) => h("li", null, plain(reason))),
            ),
          )
        : null,
    ),
  );
}

// One pair: what was asked, what each side answered, and where the answers differ.

import { drawDiff, drawHeaders, drawnBody, bytes, preformatted, titled } from "./diff.js";
import { boxed, duration, figure, fill, h, moment, plain, replace, s } from "./dom.js";
import { drawRanking } from "./ranking.js";

const SIDES = ["baseline", "candidate", "replica"];

/**
 * @param {Element} element
 * @param {any} view  PairView of the API
 * @param {{live?: boolean}} [options]
 */
export function drawPair(element, view, { live = true } = {}) {
  const sides = SIDES.filter((side) => view[side]).map((side) => ({ side, ...view[side] }));
  replace(
    element,
    facts(view),
    notes(view, live),
    part("Outcomes and times", outcomes(sides)),
    view.ranking && part("Ranking", into(drawRanking, view.ranking)),
    view.values && Object.keys(view.values).length > 0 && part("What was measured", measured(view.values)),
    !view.withheld && part("What differs", into(drawDiff, view.differences ?? [], { more: view.more })),
    !view.withheld && part("Headers of the answers", into(drawHeaders, sides)),
    !view.withheld && part("Bodies", sides.map((one, at) => folded(`${titled(one.side)}'s body`, one.body, at))),
    part("Request", request(view)),
  );
}

function part(title, ...content) {
  return h("section", { class: "part" }, h("h3", null, title), content);
}

function into(draw, data, options) {
  const box = h("div");
  draw(box, data, options);
  return box;
}

function facts({ exemplar, standings = [] }) {
  const rows = [
    ["Began", moment(exemplar.started)],
    ["Request", h("code", null, plain(`${exemplar.method} ${exemplar.target}`).slice(0, 500))],
    ["Route", exemplar.route ? plain(exemplar.route) : "none matches"],
    exemplar.cohorts.length > 0 && ["Cohorts", exemplar.cohorts.map((name) => h("span", { class: "chip" }, plain(name).slice(0, 200)))],
    standings.length > 0 && ["Among the worst of", h("ul", { class: "standings" }, standings.map((one) => h("li", null, standing(one)))), "wide"],
  ];
  return h(
    "dl",
    { class: "pair-facts" },
    rows.filter(Boolean).map(([name, said, wide]) => h("div", { class: wide }, h("dt", null, name), h("dd", null, said))),
  );
}

function standing(one) {
  const where = one.cohort === "all" ? "over all pairs" : `in ${plain(one.cohort).slice(0, 200)}`;
  return `${plain(one.guardrail)} ${where}: no. ${one.rank}, loss ${figure(one.loss)}`;
}

function notes(view, live) {
  const said = (view.notes ?? []).map((note) => plain(note).slice(0, 500));
  if (view.withheld) {
    said.unshift(
      live
        ? "Headers and bodies are withheld: whoever asks from another machine, or without a token where tokens are set, sees outcomes and times only."
        : "Headers and bodies were left out of this report.",
    );
  }
  return said.length > 0 && h("ul", { class: "pair-notes" }, said.map((note) => h("li", null, note)));
}

function outcomes(sides) {
  const longest = Math.max(...sides.flatMap(({ ttfb, total }) => [ttfb, total]).filter(Number.isFinite), 0);
  const rows = sides.map((one) =>
    h(
      "tr",
      null,
      h("th", { scope: "row", class: `text of-${one.side}` }, titled(one.side)),
      h("td", { class: "text" }, ended(one)),
      h("td", { class: "number" }, duration(one.ttfb)),
      h("td", { class: "number" }, duration(one.total)),
      h("td", { class: "bars" }, bar(one, longest)),
      h("td", { class: "number" }, one.body ? bytes(one.body.bytes) : "–"),
    ),
  );
  const heads = [
    ["Side", "text"], ["Outcome", "text"], ["First byte", "number"], ["Last byte", "number"], ["Times, to one scale", "bars"], ["Body", "number"],
  ];
  const made = h(
    "table",
    { class: "outcomes" },
    h("caption", { class: "unseen" }, "How each side answered"),
    h("thead", null, h("tr", null, heads.map(([name, kind]) => h("th", { scope: "col", class: kind }, name)))),
    h("tbody", null, rows),
  );
  return boxed(made, "Outcomes and times");
}

function ended(one) {
  if (one.outcome === "ok") return String(one.status);
  const detail = one.detail ? `: ${plain(one.detail).slice(0, 300)}` : "";
  return h("strong", { class: "failed" }, `${one.outcome}${detail}`);
}

function bar(one, longest) {
  const at = (seconds) => (Number.isFinite(seconds) && longest > 0 ? (100 * seconds) / longest : 0);
  const bar = (x, width, kind) => s("rect", { x, y: 1, width: Math.max(width, 0), height: 8, class: kind });
  return s(
    "svg",
    { class: `times of-${one.side}`, viewBox: "0 0 100 10", preserveAspectRatio: "none", "aria-hidden": "true" },
    bar(0, at(one.ttfb), "first"),
    bar(at(one.ttfb), at(one.total) - at(one.ttfb), "rest"),
  );
}

function measured(values) {
  const rows = Object.entries(values).map(([metric, value]) =>
    h("tr", null, h("th", { scope: "row", class: "text" }, plain(metric)), h("td", { class: "number" }, figure(value))),
  );
  const heads = [["Metric", "text"], ["Value", "number"]];
  const made = h(
    "table",
    { class: "measured" },
    h("caption", { class: "unseen" }, "The pair's value of each metric"),
    h("thead", null, h("tr", null, heads.map(([name, kind]) => h("th", { scope: "col", class: kind }, name)))),
    h("tbody", null, rows),
  );
  return boxed(made, "What was measured");
}

function folded(title, body, at) {
  const known = body ? `, ${bytes(body.bytes)}` : "";
  const box = h("details", { class: "folded", data: { at } }, h("summary", null, `${title}${known}`));
  // Laid out only for who wants to see it.
  box.addEventListener("toggle", () => box.childElementCount > 1 || fill(box, [drawnBody(body)]), { once: true });
  return box;
}

function request({ request, withheld, annotations }) {
  const line = h("p", { class: "line" }, h("code", null, plain(`${request.method} ${request.target}`).slice(0, 2000)));
  if (withheld) return [line, h("p", { class: "muted" }, "Headers and body are withheld.")];
  const headers = (request.headers ?? []).map(([name, said]) => `${plain(name)}: ${plain(said)}`).join("\n");
  return [
    line,
    headers && h("details", { class: "folded" }, h("summary", null, "Headers"), preformatted(headers)),
    folded("Body", request.body, "request"),
    annotations && h("details", { class: "folded" }, h("summary", null, "Annotations"), preformatted(annotations)),
  ];
}

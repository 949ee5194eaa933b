// Latency: the quantile curves of each upstream over each other, and the quantiles that matter.

import { axis, chart, colour, describe, draw } from "./charts.js";
import { boxed, count, duration, empty, h, percent, offer, replace, short, table, text } from "./dom.js";

const SIDES = ["baseline", "candidate", "replica"];
const DASHES = { baseline: "solid", candidate: "dash", replica: "dot" };
const TICKS = [0.01, 0.5, 0.9, 0.99, 0.999];

/**
 * Draws the curves of one cohort, route and timing. `options.onChoose({cohort, route})` is called where other ones are
 * wanted; the timing is the figure's own.
 * @param {any} element
 * @param {{latencies: any, verdict: any}} data  `latencies` is the answer of that endpoint, or null
 * @param {{plotly?: any, choice?: {cohort: string, route: string}, onChoose?: (choice: any) => void}} [options]
 */
export function drawLatency(element, data, options = {}) {
  const parts = element["parts"] ?? (element["parts"] = frame(element));
  parts.again = () => drawLatency(element, data, options);
  const { verdict } = data;
  const choice = options.choice ?? { cohort: "all", route: "" };
  const measured = verdict.latencies.filter((row) => row.pairs > 0);
  parts.none.hidden = measured.length > 0;
  parts.all.hidden = measured.length === 0;
  if (measured.length === 0) return;
  offer(parts.cohort, [...new Set(measured.map((row) => row.cohort))], choice.cohort, (name) =>
    name === "all" ? "all pairs" : short(name),
  );
  offer(parts.route, [...new Set(measured.map((row) => row.route))], choice.route, (name) =>
    name === "" ? "all routes" : short(name),
  );
  parts.route.parentElement.hidden = parts.route.options.length < 2;
  parts.choose = () => options.onChoose?.({ cohort: parts.cohort.value, route: parts.route.value });
  const chosen = (row) =>
    row.cohort === choice.cohort && row.route === choice.route && row.timing === parts.timing.value;
  curves(parts, (data.latencies?.latencies ?? []).filter(chosen), options.plotly);
  quantiles(parts, measured.filter(chosen));
}

function frame(element) {
  const parts = { plot: chart("Latency"), said: h("p", { class: "said" }), table: h("div") };
  const choose = () => parts.choose?.();
  parts.timing = h(
    "select",
    { id: "latency-timing", on: { change: () => parts.again() } },
    h("option", { value: "total" }, "last byte"),
    h("option", { value: "ttfb" }, "first byte"),
  );
  parts.cohort = h("select", { id: "latency-cohort", on: { change: choose } });
  parts.route = h("select", { id: "latency-route", on: { change: choose } });
  const label = (select, name) => h("label", { for: select.id }, h("span", null, name), select);
  parts.all = h(
    "div",
    null,
    h(
      "div",
      { class: "controls" },
      label(parts.timing, "Until the"),
      label(parts.cohort, "Cohort"),
      label(parts.route, "Route"),
    ),
    h("figure", null, parts.plot, h("figcaption", null, parts.said)),
    parts.table,
  );
  parts.none = empty(
    "No latency yet",
    h("p", null, "It is measured of every pair, from the last byte of the request written."),
  );
  replace(element, parts.all, parts.none);
  return parts;
}

/** Where a share of all pairs stands: stretched to the right, where the slow ones are. */
function stretched(probability) {
  return -Math.log10(1 - probability);
}

function curves(parts, rows, library) {
  const sides = SIDES.filter((side) => rows.some((row) => row.side === side));
  const traces = sides.map((side) => {
    const row = rows.find((one) => one.side === side);
    // A quantile that lies among the failures has no time: the curve ends there.
    return {
      type: "scatter",
      mode: "lines",
      name: side,
      x: row.probabilities.map(stretched),
      y: row.seconds.map((value) => (value === null ? null : 1000 * value)),
      line: { color: colour(side), width: 2.25, dash: DASHES[side] },
      customdata: row.seconds.map((value, at) => [duration(value), percent(row.probabilities[at])]),
      hovertemplate: `${side}: %{customdata[1]} within %{customdata[0]}<extra></extra>`,
    };
  });
  parts.plot.hidden = rows.length === 0;
  if (rows.length === 0) return;
  draw(
    parts.plot,
    traces,
    {
      xaxis: axis("share of pairs that are at least as fast", {
        tickvals: TICKS.map(stretched),
        ticktext: TICKS.map((at) => percent(at)),
      }),
      yaxis: axis("ms (log)", { type: "log", tickformat: "~g", nticks: 6, dtick: "D2" }),
    },
    library,
  );
}

function quantiles(parts, rows) {
  const sides = SIDES.map((side) => rows.find((row) => row.side === side)).filter((row) => row !== undefined);
  const [baseline] = sides;
  const drawn = sides.map((row) => [
    h("span", { class: `side ${row.side}` }, row.side),
    ...["p50", "p90", "p99"].map((name) => quantile(row, baseline, name)),
    count(row.pairs),
  ]);
  replace(
    parts.table,
    boxed(
      table(
        "Latency by upstream",
        [
          ["Upstream", "text"],
          ["p50", "number"],
          ["p90", "number"],
          ["p99", "number"],
          ["Pairs", "number"],
        ],
        drawn,
        { hidden: true },
      ),
      "Latency by upstream",
    ),
  );
  const candidate = sides.find((row) => row.side === "candidate");
  const said =
    baseline?.side === "baseline" && candidate !== undefined
      ? `Half of the candidate's answers come within ${duration(candidate.p50)} (the baseline's: ${duration(baseline.p50)}), 99% within ${duration(candidate.p99)} (${duration(baseline.p99)}). ∞ is among the failures.`
      : "";
  text(parts.said, said);
  describe(parts.plot, said);
}

function quantile(row, baseline, name) {
  const [value, usual] = [row[name], baseline?.[name]];
  const change = row === baseline || !usual || value === null ? null : value / usual - 1;
  return [
    duration(value),
    change === null ? null : h("small", null, ` ${percent(Math.abs(change) < 0.0005 ? 0 : change, { signed: true })}`),
  ];
}

// How the e-values went over time, and what they have still to go.

import { axis, chart, colour, describe, draw } from "./charts.js";
import { count, empty, evidence, h, lasting, replace, rough, short, superscript, text, wrapping } from "./dom.js";

// Up to where it is shown, in multiples of a threshold's decades, and below 1: what is proven goes on to 10^30.
const ABOVE = 2;
const BELOW = -3;

/**
 * Draws the evidence of the chosen cell and of the rollback as a whole.
 * @param {any} element
 * @param {{trail: any, verdict: any, cell: any}} data  `trail` is the answer of `evidence`, `cell` one of the verdict's
 * @param {{plotly?: any}} [options]
 */
export function drawEvidence(element, { trail, verdict, cell }, options = {}) {
  const parts = element["parts"] ?? (element["parts"] = frame(element));
  const points = trail?.points ?? [];
  parts.none.hidden = points.length > 0;
  parts.both.hidden = points.length === 0;
  if (points.length === 0) return;
  if (cell) drawCell(parts.cell, trail, verdict, cell, options.plotly);
  parts.cell.box.hidden = !cell;
  drawWhole(parts.whole, trail, verdict, options);
}

function frame(element) {
  const panel = (name) => {
    const title = h("h3");
    const said = h("p", { class: "said" });
    const plot = chart(name);
    return { title, said, plot, box: h("figure", null, title, plot, h("figcaption", null, said)) };
  };
  const parts = {
    cell: panel("Evidence of the chosen guardrail over the pairs"),
    whole: panel("Evidence of harm over the pairs"),
  };
  parts.both = h("div", { class: "two" }, parts.cell.box, parts.whole.box);
  parts.none = empty("No evidence yet", h("p", null, "The first point is drawn as soon as pairs are counted."));
  text(parts.whole.title, "Harm, all guardrails and cohorts together");
  replace(element, parts.both, parts.none);
  return parts;
}

function drawCell(parts, trail, verdict, cell, library) {
  replace(
    parts.title,
    wrapping(cell.guardrail),
    h("span", { class: "of" }, cell.cohort === "all" ? " over all pairs" : [" in ", wrapping(cell.cohort)]),
  );
  const at = trail.cells.findIndex((one) => one.guardrail === cell.guardrail && one.cohort === cell.cohort);
  const pairs = trail.points.map((point) => point.pairs);
  const way = (name) => trail.points.map((point) => (at < 0 ? null : (point[name][at] ?? null)));
  const thresholds = [Math.log10(cell.promote_at), Math.log10(cell.rollback_at)];
  const until = ahead(verdict, cell);
  const range = reach([...way("promote"), ...way("rollback")], Math.max(...thresholds));
  const last = pairs[pairs.length - 1];
  const right = until === null ? last : last + until;
  const traces = [
    line("safe", "safe", pairs, way("promote")),
    line("harm", "harmful", pairs, way("rollback")),
    level("safe proven", "safe", pairs[0], right, thresholds[0]),
    level("harm proven", "harmful", pairs[0], right, thresholds[1]),
  ];
  if (until !== null) traces.push(forecast(last, way("promote"), right, thresholds[0]));
  // One that was chosen a moment ago is still on its way.
  if (at >= 0) draw(parts.plot, traces, layout(range, [pairs[0], right]), library);
  const said =
    `Evidence that it is safe: ${evidence(cell.e_promote)} of ${evidence(cell.promote_at)} needed; ` +
    `that it is harmful: ${evidence(cell.e_rollback)} of ${evidence(cell.rollback_at)}.${saidAhead(verdict, until)}`;
  text(parts.said, said);
  describe(parts.plot, `${short(cell.guardrail)}, ${short(cell.cohort)}. ${said}`);
}

/** Pairs that it still takes to prove a cell, where that is said and not done. */
function ahead(verdict, cell) {
  return verdict.state === "continue" && cell.needed ? cell.needed : null;
}

function saidAhead(verdict, until) {
  if (until === null) return "";
  const { pairs, seconds } = verdict.forecast ?? {};
  const time = seconds && pairs ? `, ${lasting((seconds * until) / pairs)} as they come now` : "";
  return ` If things go on like this it is proven safe after about ${rough(until)} more pairs${time}.`;
}

function drawWhole(parts, trail, verdict, { plotly: library }) {
  const pairs = trail.points.map((point) => point.pairs);
  const way = trail.points.map((point) => (point.evidence_rollback > 0 ? Math.log10(point.evidence_rollback) : null));
  const needed = trail.rollback_at;
  const traces = [
    line("harm", "harmful", pairs, way),
    level("rollback", "harmful", pairs[0], pairs[pairs.length - 1], Math.log10(needed)),
  ];
  draw(
    parts.plot,
    traces,
    layout(reach(way, Math.log10(needed)), [pairs[0], pairs[pairs.length - 1]]),
    library,
  );
  const said =
    `The weighted mean of all e-values for harm is ${evidence(verdict.evidence_rollback)}; a rollback takes ` +
    `${evidence(needed)}. Cells with few pairs count as nothing.`;
  text(parts.said, said);
  describe(parts.plot, said);
}

// As in the forest plot, what is harmful has the diamonds: colour alone would not tell them apart.
function line(name, shade, x, y) {
  const symbol = shade === "harmful" ? "diamond" : "circle";
  return {
    type: "scatter",
    mode: "lines+markers",
    name,
    x,
    y,
    line: { color: colour(shade), width: 2 },
    marker: { size: 7, symbol, maxdisplayed: 10, color: colour(shade) },
    customdata: y.map((value) => (value === null ? "" : evidence(10 ** value))),
    hovertemplate: `${name} %{customdata}<br>%{x:,} pairs<extra></extra>`,
  };
}

function level(name, shade, from, to, at) {
  return {
    type: "scatter",
    mode: "lines",
    name,
    x: [from, to],
    y: [at, at],
    hoverinfo: "skip",
    line: { color: colour(shade, 0.75), width: 1.5, dash: shade === "harmful" ? "dashdot" : "dash" },
  };
}

function forecast(last, way, to, threshold) {
  const from = way[way.length - 1];
  return {
    type: "scatter",
    mode: "lines",
    name: "forecast",
    x: [last, to],
    y: [from, threshold],
    hoverinfo: "skip",
    line: { color: colour("muted"), width: 1.5, dash: "dot" },
  };
}

/** From the least to the greatest power of ten that is shown. */
function reach(values, threshold) {
  const known = values.filter((value) => value !== null);
  const low = Math.max(BELOW, Math.min(-1, ...known));
  const high = Math.min(ABOVE * threshold + 2, Math.max(threshold, ...known));
  return [low - 0.15, high + 0.35];
}

function layout(range, [from, to]) {
  const step = Math.max(1, Math.ceil((range[1] - range[0]) / 6));
  const ticks = [];
  for (let at = Math.ceil(range[0] / step) * step; at <= range[1]; at += step) ticks.push(at);
  const named = ticks.map((at) =>
    at >= -2 && at <= 3 ? count(10 ** at).replace(/^0$/, String(10 ** at)) : `10${superscript(at)}`,
  );
  return {
    xaxis: axis("pairs counted", { range: from === to ? [from - 1, to + 1] : [from, to], tickformat: ",d", nticks: 6 }),
    yaxis: axis("e-value", { range, tickvals: ticks, ticktext: named }),
  };
}

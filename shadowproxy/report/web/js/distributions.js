// The scores of both sides, laid over each other, and how far they are apart.

import { axis, chart, colour, describe, draw } from "./charts.js";
import { count, empty, figure, h, keyed, offer, percent, replace, short, text, wrapping } from "./dom.js";

/**
 * Draws a figure for each route that has scores.
 * @param {any} element
 * @param {{distributions: any, verdict: any}} data  `distributions` is the answer of that endpoint, or null
 * @param {{plotly?: any, cohort?: string, onChoose?: (cohort: string) => void}} [options]  `onChoose` is called where
 *   another cohort is wanted
 */
export function drawDistributions(element, data, options = {}) {
  const { verdict } = data;
  const cohort = options.cohort ?? "all";
  const known = verdict.distributions.filter((row) => row.cohort === cohort);
  const parts = element["parts"] ?? (element["parts"] = frame(element));
  parts.none.hidden = verdict.distributions.length > 0;
  parts.choice.hidden = verdict.distributions.length === 0;
  const cohorts = [...new Set(verdict.distributions.map((row) => row.cohort))];
  offer(parts.cohort, cohorts, cohort, (name) => (name === "all" ? "all pairs" : short(name)));
  parts.choose = () => options.onChoose?.(parts.cohort.value);
  keyed(
    parts.all,
    known,
    (row) => JSON.stringify(row.route),
    figureOf,
    (box, row) => {
      const bins = (data.distributions?.distributions ?? []).find(
        (one) => one.route === row.route && one.cohort === cohort,
      );
      update(box, row, bins, options.plotly);
    },
  );
}

function frame(element) {
  const parts = {
    all: h("div", { class: "several" }),
    none: empty(
      "No scores yet",
      h(
        "p",
        null,
        "A route with ",
        h("code", null, "scores"),
        " (or a preset that finds them) gets its distributions here.",
      ),
    ),
  };
  parts.cohort = h("select", { id: "scores-cohort", on: { change: () => parts.choose?.() } });
  const label = h("label", { for: parts.cohort.id }, h("span", null, "Cohort"), parts.cohort);
  parts.choice = h("div", { class: "controls" }, label);
  replace(element, parts.choice, parts.all, parts.none);
  return parts;
}

function figureOf(row) {
  const box = h(
    "figure",
    null,
    h("h3", null, row.route ? wrapping(row.route) : "all routes"),
    chart("Scores"),
    h("figcaption", null, h("ul", { class: "distances" }), h("p", { class: "said" })),
  );
  return box;
}

function update(box, row, bins, library) {
  const [, plot, caption] = box.children;
  plot.hidden = bins === undefined;
  if (bins !== undefined) paint(plot, bins, library);
  const words = distances(row);
  replace(
    caption.firstElementChild,
    words.map(([name, value, said]) =>
      h("li", null, h("b", null, name), " ", h("span", { class: "number" }, value), h("span", { class: "said" }, said)),
    ),
  );
  const { baseline, candidate } = row;
  const told = `${count(baseline.items)} scores of the baseline (half below ${figure(baseline.p50)}) and ${count(candidate.items)} of the candidate (half below ${figure(candidate.p50)}), in pairs that both sides answered.`;
  text(caption.lastElementChild, told);
  describe(
    plot,
    `Scores, ${short(row.route)}. ${told} ${words.map(([name, value, said]) => `${name} ${value}: ${said}`).join("; ")}`,
  );
}

function paint(plot, bins, library) {
  // An axis of logarithms has no place for what is not above 0.
  const log = bins.scale === "log" && bins.edges[0] > 0;
  const side = (name, fill) => {
    const all = bins[name].reduce((sum, value) => sum + value, 0) || 1;
    const widths = bins[name].map((_, at) =>
      log ? Math.log10(bins.edges[at + 1] / bins.edges[at]) : bins.edges[at + 1] - bins.edges[at],
    );
    const density = bins[name].map((value, at) => value / all / (widths[at] || 1));
    return {
      type: "scatter",
      mode: "lines",
      name,
      x: bins.edges,
      y: [...density, density[density.length - 1] ?? 0],
      line: { color: colour(name), width: 2, shape: "hv", dash: name === "candidate" ? "dash" : "solid" },
      fill: "tozeroy",
      fillcolor: colour(name, fill),
      customdata: bins[name].map((value) => percent(value / all)),
      hovertemplate: `${name}: %{customdata} from %{x:.4g}<extra></extra>`,
    };
  };
  draw(
    plot,
    [side("baseline", 0.22), side("candidate", 0.1)],
    {
      xaxis: axis(log ? "score (log)" : "score", { nticks: 7, ...(log ? { type: "log" } : {}) }),
      yaxis: axis("density", { rangemode: "tozero", nticks: 5 }),
    },
    library,
  );
}

/** The distances in words, each as name, figure and what that means. */
export function distances(row) {
  const psi =
    row.psi === null
      ? "no scores"
      : row.psi < 0.1
        ? "no shift to speak of (below 0.1)"
        : row.psi < 0.25
          ? "a moderate shift (0.1 to 0.25)"
          : "a large shift (above 0.25)";
  return [
    [
      "KS",
      figure(row.ks),
      row.ks === null ? "no scores" : `at no score do the shares below it differ by more than ${percent(row.ks)}`,
    ],
    ["PSI", figure(row.psi), psi],
    ["Wasserstein", figure(row.wasserstein), "how far a score moves on average, in the scores' own unit"],
    [
      "Jensen–Shannon",
      figure(row.jensen_shannon),
      row.jensen_shannon === null ? "no scores" : "bits, from 0 (alike) to 1 (nothing in common)",
    ],
  ];
}

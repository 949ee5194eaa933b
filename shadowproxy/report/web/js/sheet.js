// The sections of a page, live or still: what is shown in them, and what one says to the others.

import { allCells, drawVerdict } from "./verdict.js";
import { drawAccounting, drawHistory } from "./accounting.js";
import { drawDistributions } from "./distributions.js";
import { drawEvidence } from "./evidence.js";
import { drawExplorer } from "./explorer.js";
import { drawForest, keyOf, ordered } from "./forest.js";
import { drawLatency } from "./latency.js";
import { empty, h, plain, replace, set, text } from "./dom.js";

/** The sections, found by their ids; one that a page doesn't have is left out. */
export class Sheet {
  /**
   * @param {any} source
   * @param {{onChoice?: () => void}} listener  called where other figures are wanted than those that were fetched
   */
  constructor(source, { onChoice = () => {} }) {
    this.source = source;
    this.onChoice = onChoice;
    this.verdict = null;
    this.plotly = undefined;
    this.drawn = false;
    this.found = {};
    this.cohort = { cohort: "all", route: "" };
    this.scores = "all";
    this.selected = null;
    this.old = false;
    this.round = 0;
  }

  section(id) {
    return document.getElementById(id);
  }

  /** Shows a verdict. */
  show(verdict) {
    this.verdict = verdict;
    for (const one of document.querySelectorAll("[data-needs=verdict]")) set(one, "hidden", false);
    // Before anything came, six sections that say so would only hide what is to be done.
    for (const one of document.querySelectorAll("[data-needs=requests]"))
      set(one, "hidden", !begun(this.source, verdict));
    const name = this.section("experiment");
    if (name !== null) text(name, plain(verdict.experiment));
    this.versions(verdict.versions);
    const cells = allCells(verdict);
    if (!cells.some((cell) => keyOf(cell) === this.selected)) this.selected = cells.length ? keyOf(first(cells)) : null;
    this.draw();
  }

  versions(versions) {
    const box = this.section("versions");
    if (box === null) return;
    const told = ["baseline", "candidate"].flatMap((side) => {
      const seen = versions?.[side] ?? [];
      return seen.length ? [h("span", { class: `side ${side}` }, `${side} ${plain(seen[seen.length - 1].value)}`)] : [];
    });
    replace(box, told);
  }

  /** Says whether what is shown is past. */
  past(old) {
    this.old = old;
    if (this.verdict !== null) this.drawTop();
  }

  /** Draws charts from now on, with Plotly; null where there is none. */
  draws(library) {
    this.plotly = library;
    if (this.verdict !== null) this.drawFigures();
  }

  /** Draws all that has colours of its own anew. */
  repaint() {
    if (this.verdict !== null) this.drawFigures();
  }

  draw() {
    this.drawTop();
    this.drawForest();
    const accounts = this.section("accounts");
    if (accounts !== null) drawAccounting(accounts, this.verdict);
    this.explore({ verdict: this.verdict });
    // Those that are there are drawn anew when their data come: charts cost more than all the rest.
    if (!this.drawn) this.drawFigures();
  }

  drawTop() {
    const box = this.section("verdict");
    if (box !== null) drawVerdict(box, this.verdict, { history: this.found.history, past: this.old });
    const start = this.section("start");
    if (start !== null) {
      start.hidden = begun(this.source, this.verdict);
      if (!start.hidden && start.childElementCount === 0) replace(start, howToBegin());
    }
  }

  drawForest() {
    const box = this.section("forest");
    if (box !== null) drawForest(box, this.verdict, { selected: this.selected, onSelect: (cell) => this.select(cell) });
  }

  /** Draws all figures, each in a task of its own, so that a key or a click never waits for all of them. */
  drawFigures() {
    // Undefined until the bundle came or failed to: an empty box is better than words that vanish.
    if (this.plotly === undefined) return;
    this.drawn = true;
    this.drawEvidence();
    setTimeout(() => this.drawLatency());
    setTimeout(() => this.drawScores());
  }

  drawEvidence() {
    const box = this.section("evidence");
    if (box === null || this.plotly === undefined) return;
    drawEvidence(
      box,
      { trail: this.found.evidence ?? null, verdict: this.verdict, cell: this.cell() },
      { plotly: this.plotly },
    );
  }

  drawLatency() {
    const box = this.section("latency");
    if (box === null) return;
    const onChoose = (choice) => {
      this.cohort = choice;
      this.drawLatency();
      this.onChoice();
    };
    const data = { latencies: this.found.latencies ?? null, verdict: this.verdict };
    drawLatency(box, data, { plotly: this.plotly, choice: this.cohort, onChoose });
  }

  drawScores() {
    const box = this.section("distributions");
    if (box === null) return;
    const onChoose = (cohort) => {
      this.scores = cohort;
      this.drawScores();
      this.onChoice();
    };
    drawDistributions(
      box,
      { distributions: this.found.distributions ?? null, verdict: this.verdict },
      { plotly: this.plotly, cohort: this.scores, onChoose },
    );
  }

  /** The chosen cell, as it is now. */
  cell() {
    return allCells(this.verdict).find((cell) => keyOf(cell) === this.selected) ?? null;
  }

  /** Chooses a cell for the evidence and the pairs. */
  select(cell) {
    this.selected = keyOf(cell);
    this.drawForest();
    this.drawEvidence();
    this.onChoice();
    this.explore({ guardrail: cell.guardrail, cohort: cell.cohort });
  }

  /** Fetches what stands beside the verdict, and draws it. What can't be had is left as it was. */
  async fetch() {
    const cell = this.verdict === null ? null : this.cell();
    // Of the chosen cell alone: hundreds of ways of hundreds of points are a megabyte.
    const evidence = cell === null ? {} : { guardrail: cell.guardrail, cohort: cell.cohort };
    const wanted = { history: {}, evidence, distributions: { cohort: this.scores }, latencies: this.cohort };
    const round = ++this.round;
    const asked = Object.entries(wanted).map(async ([name, params]) => {
      try {
        const found = await this.source.get(name, params);
        // Of another cohort, where somebody chose one in the meantime.
        if (round === this.round) this.found[name] = found;
      } catch (error) {
        this.found[name] ??= null;
      }
    });
    await Promise.all(asked);
    if (this.verdict === null || round !== this.round) return;
    const history = this.section("history");
    if (history !== null) drawHistory(history, this.found.history);
    this.drawTop();
    this.drawFigures();
  }

  /** Shows the pair explorer, of one cell where that is given. */
  explore(options = {}) {
    const box = this.section("pairs");
    if (box !== null) drawExplorer(box, this.source, options);
  }
}

/** What somebody wants to see first: what is worst, or what a promote waits for. */
function first(cells) {
  const harmful = cells.filter((cell) => cell.finding === "harmful");
  if (harmful.length > 0) return ordered(harmful, { id: "harm", down: true })[0];
  const waits = cells.filter((cell) => cell.required && cell.finding === "undecided");
  return waits.length > 0
    ? waits.reduce((one, other) => ((other.needed ?? 0) > (one.needed ?? 0) ? other : one))
    : cells[0];
}

/** Whether there is anything to be shown beside the verdict. */
function begun(source, verdict) {
  return !source.live || verdict.pairs > 0 || verdict.accounting.requests > 0;
}

function howToBegin() {
  return empty(
    "No request has come yet",
    h(
      "p",
      null,
      "Send requests through the proxy instead of to the baseline. It answers them from the baseline, and sends a copy of each to the candidate:",
    ),
    h("pre", null, h("code", null, "curl -i http://127.0.0.1:8080/the/path/of/your/service")),
    h(
      "p",
      null,
      "Where it listens is said by ",
      h("code", null, "proxy.listen"),
      ". The first pairs are counted a few seconds after they began, and this page shows them by itself. To see it with data now: ",
      h("code", null, "shadowproxy demo --keep"),
      ".",
    ),
  );
}

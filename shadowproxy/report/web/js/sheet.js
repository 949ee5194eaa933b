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
    this.found = {};
    this.cohort = { cohort: "all", route: "" };
    this.selected = null;
    this.old = false;
  }

  section(id) {
    return document.getElementById(id);
  }

  /** Shows a verdict. */
  show(verdict) {
    this.verdict = verdict;
    for (const one of document.querySelectorAll("[data-needs=verdict]")) set(one, "hidden", false);
    // Before anything came, six sections that say so would only hide what is to be done.
    for (const one of document.querySelectorAll("[data-needs=requests]")) set(one, "hidden", !begun(this.source, verdict));
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
    this.drawFigures();
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

  drawFigures() {
    const { verdict, plotly, found } = this;
    // Undefined until the bundle came or failed to: an empty box is better than words that vanish.
    if (plotly === undefined) return;
    const [evidence, latency, scores] = ["evidence", "latency", "distributions"].map((id) => this.section(id));
    if (evidence !== null) drawEvidence(evidence, { trail: found.evidence ?? null, verdict, cell: this.cell() }, { plotly });
    const onChoose = (choice) => {
      this.cohort = choice;
      this.drawFigures();
      this.onChoice();
    };
    if (latency !== null) drawLatency(latency, { latencies: found.latencies ?? null, verdict }, { plotly, choice: this.cohort, onChoose });
    if (scores !== null) drawDistributions(scores, { distributions: found.distributions ?? null, verdict }, { plotly });
  }

  /** The chosen cell, as it is now. */
  cell() {
    return allCells(this.verdict).find((cell) => keyOf(cell) === this.selected) ?? null;
  }

  /** Chooses a cell for the evidence and the pairs. */
  select(cell) {
    this.selected = keyOf(cell);
    this.drawForest();
    this.drawFigures();
    this.explore({ guardrail: cell.guardrail, cohort: cell.cohort });
  }

  /** Fetches what stands beside the verdict, and draws it. What can't be had is left as it was. */
  async fetch() {
    const wanted = { history: {}, evidence: {}, distributions: {}, latencies: this.cohort };
    const asked = Object.entries(wanted).map(async ([name, params]) => {
      try {
        this.found[name] = await this.source.get(name, params);
      } catch (error) {
        this.found[name] ??= null;
      }
    });
    await Promise.all(asked);
    if (this.verdict === null) return;
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
  return waits.length > 0 ? waits.reduce((one, other) => ((other.needed ?? 0) > (one.needed ?? 0) ? other : one)) : cells[0];
}

/** Whether there is anything to be shown beside the verdict. */
function begun(source, verdict) {
  return !source.live || verdict.pairs > 0 || verdict.accounting.requests > 0;
}

function howToBegin() {
  return empty(
    "No request has come yet",
    h("p", null, "Send requests through the proxy instead of to the baseline. It answers them from the baseline, and sends a copy of each to the candidate:"),
    h("pre", null, h("code", null, "curl -i http://127.0.0.1:8080/the/path/of/your/service")),
    h("p", null, "Where it listens is said by ", h("code", null, "proxy.listen"), ". The first pairs are counted a few seconds after they began, and this page shows them by itself. To see it with data now: ", h("code", null, "shadowproxy demo --keep"), "."),
  );
}

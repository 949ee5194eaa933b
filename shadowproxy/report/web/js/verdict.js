// The verdict, large, with what it rests on.

import { count, empty, evidence, h, keyed, lasting, many, moment, plain, replace, rough, set, sign, text } from "./dom.js";

const SAID = {
  promote: "The candidate may go out",
  rollback: "The candidate must not go out",
  continue: "Not decided yet",
};
const CHECKS = {
  min_pairs: "number of pairs",
  recorded: "share recorded",
  nothing_lost: "losses",
  no_dead_letters: "unreadable entries",
  clocks: "clocks",
  undefined: "undefined values",
  versions: "versions",
  duration: "duration",
  independence: "independence",
};
const FORECAST = "if things go on like this, ";

/**
 * Draws the verdict into `element`. `options.history` (the API's answer) says since when; `options.past` says that it is
 * the last one known and no current one.
 * @param {HTMLElement} element
 * @param {any} verdict
 * @param {{history?: any, past?: boolean}} [options]
 */
export function drawVerdict(element, verdict, options = {}) {
  const parts = element["parts"] ?? (element["parts"] = frame(element));
  const { history = null, past = false } = options;
  set(element, "data-state", verdict.state);
  set(element, "data-past", past);
  if (parts.shown !== verdict.state) {
    replace(parts.sign, sign(verdict.state));
    // Said aloud only where it changed: what a reader hears at every new pair is noise.
    text(parts.aloud, `Verdict: ${verdict.state}. ${SAID[verdict.state] ?? ""}.`);
    parts.shown = verdict.state;
  }
  text(parts.state, verdict.state);
  text(parts.said, said(verdict, past));
  keyed(
    parts.reasons,
    reasonsOf(verdict).map((reason, at) => ({ reason, at })),
    (one) => String(one.at),
    () => h("li"),
    (item, { reason }) => text(item, plain(reason)),
  );
  drawFacts(parts.facts, verdict, history);
  drawTold(parts.told, verdict);
  drawChecks(parts.checks, verdict);
}

/** The reasons but for those that stand below them by themselves: checks that fail, and the forecast. */
function reasonsOf(verdict) {
  if (verdict.state !== "continue") return verdict.reasons;
  const below = new Set(verdict.checks.map((check) => `${check.name}: ${check.detail}`));
  return verdict.reasons.filter((one) => !below.has(one) && !(verdict.forecast && one.startsWith(FORECAST)));
}

/** In the place of a verdict where there is none to be shown. */
export function drawNoVerdict(element, title, ...more) {
  delete element["parts"];
  set(element, "data-state", "none");
  set(element, "data-past", null);
  replace(element, h("h2", { class: "unseen" }, "Verdict"), empty(title, ...more));
}

function frame(element) {
  const parts = {
    shown: null,
    sign: h("span", { class: "verdict-sign" }),
    state: h("strong", { class: "verdict-state" }),
    said: h("p", { class: "verdict-said" }),
    aloud: h("p", { class: "unseen", role: "status", "aria-live": "polite" }),
    reasons: h("ul", { class: "reasons" }),
    facts: h("dl", { class: "facts" }),
    told: h("div", { class: "told" }),
    checks: h("details", { class: "checks" }, h("summary"), h("ul", { class: "check-list" })),
  };
  replace(
    element,
    h("h2", { class: "unseen" }, "Verdict"),
    parts.aloud,
    h("div", { class: "verdict-head" }, parts.sign, h("div", null, parts.state, parts.said)),
    h("div", { class: "verdict-why" }, h("h3", null, "Why"), parts.reasons, parts.told),
    h("div", { class: "verdict-facts" }, h("h3", { class: "unseen" }, "What it rests on"), parts.facts, parts.checks),
  );
  return parts;
}

function said(verdict, past) {
  if (past) return "is the last verdict known; whether it still holds is not known";
  if (verdict.exhausted) return "The horizon is reached, and nothing is proven either way";
  return SAID[verdict.state] ?? "";
}

/** Since when the verdict is what it is: a moment of the history, or null. */
export function since(verdict, history) {
  const last = history?.history?.[0];
  return last !== undefined && last.what === verdict.state && last.exhausted === verdict.exhausted ? last : null;
}

function drawFacts(list, verdict, history) {
  const cells = allCells(verdict);
  const required = cells.filter((cell) => cell.required);
  const proven = required.filter((cell) => cell.pairs && cell.e_promote >= cell.promote_at);
  const from = since(verdict, history);
  const facts = [
    ["pairs", "Pairs counted", count(verdict.pairs)],
    ["since", "Since", from === null ? null : moment(from.at)],
    ["proven", "Proven safe", required.length ? `${proven.length} of ${required.length} needed` : null],
    [
      "harmful",
      "Proven harmful",
      cells.length === 0 ? null : `${cells.filter((cell) => cell.finding === "harmful").length} of ${cells.length}`,
    ],
    ["evidence", "Evidence of harm, all in all", verdict.pairs ? `e = ${evidence(verdict.evidence_rollback)}` : null],
    ["open", "Waiting to be counted", verdict.open_pairs ? count(verdict.open_pairs) : null],
    ["late", "Came late", verdict.late_pairs ? count(verdict.late_pairs) : null],
    ["at", "Worked out", moment(verdict.at)],
  ].filter((fact) => fact[2] !== null);
  keyed(
    list,
    facts,
    (fact) => fact[0],
    ([, name]) => h("div", null, h("dt", null, name), h("dd")),
    (row, [, , value]) => {
      const cell = row.lastElementChild;
      if (typeof value === "string") text(cell, value);
      else if (cell.textContent !== value.textContent) replace(cell, value);
    },
  );
}

function drawTold(box, verdict) {
  const told = [];
  const failed = verdict.checks.filter((check) => !check.passed);
  // They hold a promote back; a rollback does not wait for them.
  if (verdict.state === "continue")
    told.push(...failed.map((check) => ["check", `${checkName(check)}: ${check.detail}`]));
  if (verdict.forecast) {
    const { pairs, seconds } = verdict.forecast;
    const time = seconds === null ? "" : `, ${lasting(seconds)} as they come now`;
    told.push(["forecast", `If things go on like this, a promote takes about ${rough(pairs)} more pairs${time}.`]);
  }
  told.push(...verdict.notes.map((note) => ["note", note]));
  const names = { check: "Holds a promote back", forecast: "Forecast", note: "Note" };
  keyed(
    box,
    told.map(([kind, line], at) => ({ kind, line, at })),
    (one) => `${one.kind} ${one.at}`,
    ({ kind }) =>
      h(
        "p",
        { class: `told-${kind}` },
        kind === "check" ? sign("warning") : null,
        h("b", null, `${names[kind]}: `),
        h("span"),
      ),
    (row, { line }) => text(row.lastElementChild, plain(line)),
  );
}

function drawChecks(details, verdict) {
  const failed = verdict.checks.filter((check) => !check.passed).length;
  const all = verdict.checks.length;
  text(
    details.firstElementChild,
    failed ? `${failed} of ${many(all, "check")} on the data fail` : `All ${all} checks on the data hold`,
  );
  set(details, "data-failed", failed > 0);
  keyed(
    details.lastElementChild,
    verdict.checks,
    (check) => check.name,
    () => h("li", null, h("span", { class: "check-sign" }), h("b"), h("span")),
    (row, check) => {
      const [mark, name, detail] = row.children;
      if (mark.dataset.passed !== String(check.passed)) {
        mark.dataset.passed = String(check.passed);
        replace(
          mark,
          sign(check.passed ? "safe" : "harmful"),
          h("span", { class: "unseen" }, check.passed ? "holds: " : "fails: "),
        );
      }
      text(name, checkName(check));
      text(detail, plain(check.detail));
    },
  );
}

function checkName(check) {
  return Object.hasOwn(CHECKS, check.name) ? CHECKS[check.name] : plain(check.name);
}

/** Every cell of a verdict: overall first, then cohort by cohort. */
export function allCells(verdict) {
  return [...verdict.guardrails, ...Object.values(verdict.cohorts).flatMap((report) => report.guardrails)];
}

// The pair explorer: a list of the worst and of sampled pairs, and any one of them side by side.
//
// What is shown stands in the address behind `#`, so that it can be sent to somebody: `#pair=ID` opens a pair, and
// `#pairs&guardrail=…&cohort=…` is a list. Back and forward go through both.

import { count, duration, empty, figure, h, keyed, many, moment, plain, replace, set, text } from "./dom.js";
import { drawPair } from "./pair.js";
import { titled } from "./diff.js";

const PAGE = 50;
const OUTCOMES = ["ok", "timeout", "connect", "reset", "protocol", "shed"];
const TYPED = 250;
const LIST_KEYS = ["board", "guardrail", "cohort", "route", "outcome", "text"];

/** The address of a list of pairs, for a link. */
export function listed(chosen) {
  const said = new URLSearchParams(Object.entries(chosen).filter(([, value]) => value));
  return `#pairs${said.size ? `&${said}` : ""}`;
}

/** The address of one pair, for a link. Clients choose ids, and may choose one twice: where it was counted sets it apart. */
export function opened({ id, partition, entry, position }) {
  return `#pair=${encodeURIComponent(id)}&at=${partition}:${entry}:${position}`;
}

function placed(at) {
  const [, partition, entry, position] = /^(\d+):(\d+-\d+):(\d+)$/u.exec(at ?? "") ?? [];
  return partition === undefined ? {} : { partition, entry, position };
}

function readHash() {
  const said = new URLSearchParams(location.hash.slice(1));
  return { pair: said.get("pair"), at: said.get("at"), list: said.has("pairs") ? said : null };
}

/**
 * @param {any} element
 * @param {any} source
 * @param {{verdict?: any, guardrail?: string, cohort?: string}} [options]  `verdict` for the names to choose from, and to
 *   say when there are more pairs; with `guardrail` the list becomes that of one cell
 */
export function drawExplorer(element, source, { verdict = null, guardrail, cohort } = {}) {
  const explorer = element.explorer ?? (element.explorer = new Explorer(element, source));
  if (verdict !== null) explorer.update(verdict);
  explorer.begin();
  if (guardrail !== undefined) explorer.narrow({ guardrail, cohort: cohort === "all" ? "" : cohort });
}

class Explorer {
  constructor(element, source) {
    this.source = source;
    this.chosen = { board: "worst" };
    this.offset = 0;
    this.total = 0;
    this.found = [];
    this.read = null;
    this.asked = 0;
    this.pairs = 0;
    this.shown = null;
    this.build(element);
    addEventListener("hashchange", () => this.follow());
    this.started = false;
  }

  build(element) {
    this.choices = {};
    const live = this.source.live;
    const choice = (name, label) => {
      const select = h("select", { id: `pairs-${name}`, on: { change: () => this.choose() } });
      this.choices[name] = select;
      return h("div", { class: "field" }, h("label", { for: select.id }, label), select);
    };
    const search = h("input", { id: "pairs-text", type: "search", autocomplete: "off", spellcheck: "false", maxlength: 200, on: { input: () => this.typed() } });
    this.choices.text = search;
    const fields = [
      live && choice("board", "Which"),
      choice("guardrail", "Guardrail"),
      live && choice("cohort", "Cohort"),
      live && choice("route", "Route"),
      live && choice("outcome", "Candidate's outcome"),
      live && h("div", { class: "field" }, h("label", { for: "pairs-text" }, "Id or text"), search),
    ];
    this.status = h("p", { class: "pairs-status", role: "status" });
    this.anew = h("button", { type: "button", class: "quiet", hidden: true, on: { click: () => this.fetch() } }, "Read anew");
    this.rows = h("tbody");
    this.caption = h("caption", { class: "unseen" }, "Pairs");
    const heads = [["Pair", "text"], ["Guardrail", "text"], ["Loss", "number"], ["Began", "text"], ["Route", "text"], ["Baseline", "text"], ["Candidate", "text"]];
    const head = h("tr", null, heads.map(([name, kind]) => h("th", { scope: "col", class: kind }, name)));
    this.table = h("table", { class: "pairs" }, this.caption, h("thead", null, head), this.rows);
    this.box = h("div", { class: "scroll tall", role: "region", tabindex: 0, "aria-label": "Pairs" }, this.table);
    this.none = h("div");
    const step = (label, by) => h("button", { type: "button", class: "quiet", on: { click: () => this.turn(by) } }, label);
    [this.back, this.on] = [step("Previous", -PAGE), step("Next", PAGE)];
    this.place = h("span");
    this.pager = h("nav", { class: "pager", "aria-label": "Pages of pairs" }, this.back, this.place, this.on);
    const form = h("form", { class: "filters", role: "search", "aria-label": "Pairs", on: { submit: (event) => event.preventDefault() } }, fields);
    this.buildDialog();
    replace(element, form, h("div", { class: "pairs-line" }, this.status, this.anew), this.box, this.none, this.pager, this.dialog);
    for (const [name, label] of [["worst", "Worst"], ["sample", "Sample, by chance"]]) this.choices.board?.append(h("option", { value: name }, label));
    this.offer("outcome", OUTCOMES, "any");
  }

  buildDialog() {
    this.title = h("h2", { id: "pair-title", tabindex: -1 });
    this.content = h("div", { class: "pair" });
    const step = (label, by) => h("button", { type: "button", class: "quiet", on: { click: () => this.walk(by) } }, label);
    [this.before, this.after] = [step("Previous pair", -1), step("Next pair", 1)];
    const close = h("button", { type: "button", class: "quiet close", on: { click: () => this.dialog.close() } }, "Close");
    this.dialog = h(
      "dialog",
      { class: "pair-dialog", "aria-labelledby": "pair-title" },
      h("div", { class: "pair-head" }, this.title, h("div", { class: "pair-steps" }, this.before, this.after, close)),
      this.content,
    );
    this.dialog.addEventListener("close", () => this.closed());
    // Beside what it shows means away from it.
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
  }

  /** New names to choose from; the list is left as it is for who is reading it. */
  update(verdict) {
    const routes = [...verdict.summaries, ...verdict.distributions, ...verdict.latencies].map(({ route }) => route).filter(Boolean);
    this.offer("guardrail", verdict.guardrails.map(({ guardrail }) => guardrail), "every one");
    this.offer("cohort", Object.keys(verdict.cohorts), "all pairs");
    this.offer("route", [...new Set(routes)].sort(), "any");
    // A list that was read before the first verdict is as new as that.
    if (this.pairs === 0 && this.read !== null && this.read.total > 0) this.read.pairs = verdict.pairs;
    this.pairs = verdict.pairs;
    // An empty list has no reader who would lose his place.
    if (this.read !== null && this.read.total === 0 && this.read.pairs !== this.pairs) this.fetch();
    this.tell();
  }

  begin() {
    if (this.started) return;
    this.started = true;
    this.follow();
  }

  /** The list of one cell. */
  narrow(chosen) {
    this.take({ board: "worst", ...chosen });
    history.replaceState(history.state, "", listed(this.chosen));
    this.fetch();
  }

  offer(name, values, otherwise) {
    const select = this.choices[name];
    if (select === undefined) return;
    const known = [...select.options].map(({ value }) => value);
    const wanted = ["", ...values];
    // What the address names stays, known or not: the answer will say so.
    if (this.chosen[name] && !wanted.includes(this.chosen[name])) wanted.push(this.chosen[name]);
    if (known.length === wanted.length && known.every((value, at) => value === wanted[at])) return;
    replace(select, wanted.map((value) => h("option", { value }, value === "" ? otherwise : plain(value).slice(0, 100))));
    select.value = this.chosen[name] ?? "";
  }

  /** Show what the address says. */
  follow() {
    const { pair, at, list } = readHash();
    if (list !== null) {
      this.take(Object.fromEntries(LIST_KEYS.map((key) => [key, list.get(key) ?? ""])));
      if (!this.dialog.open) this.table.closest("section")?.scrollIntoView({ block: "start" });
    }
    if (this.read === null || list !== null) this.fetch();
    if (pair !== null) this.open(pair, placed(at));
    else if (this.dialog.open) this.dialog.close();
  }

  take(chosen) {
    this.chosen = { ...chosen, board: chosen.board === "sample" ? "sample" : "worst" };
    this.offset = 0;
    for (const [name, control] of Object.entries(this.choices)) {
      const value = this.chosen[name] ?? "";
      if (control.options && ![...control.options].some((option) => option.value === value)) {
        control.append(h("option", { value }, plain(value).slice(0, 100)));
      }
      if (control.value !== value) control.value = value;
    }
  }

  choose() {
    const said = Object.fromEntries(Object.entries(this.choices).map(([name, control]) => [name, control.value]));
    this.chosen = { board: "worst", ...said };
    this.offset = 0;
    history.replaceState(null, "", listed(this.chosen));
    this.fetch();
  }

  typed() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.choose(), TYPED);
  }

  turn(by) {
    this.offset = Math.max(0, this.offset + by);
    this.fetch().then(() => this.box.focus({ preventScroll: true }));
  }

  async fetch() {
    const asked = (this.asked += 1);
    const { text: said, ...chosen } = this.chosen;
    set(this.box, "aria-busy", "true");
    try {
      const params = { ...chosen, text: said?.trim(), limit: PAGE, offset: this.offset };
      if (params.board === "sample") delete params.guardrail;
      const answer = await this.source.get("pairs", params);
      // Who types on has asked again.
      if (asked !== this.asked) return;
      const shown = this.source.live ? answer.pairs : answer.pairs.slice(this.offset, this.offset + PAGE);
      this.read = { total: answer.total, pairs: this.pairs, wrong: null };
      [this.found, this.total] = [shown, answer.total];
    } catch (error) {
      if (asked !== this.asked) return;
      this.read = { total: 0, pairs: this.pairs, wrong: error.message };
      [this.found, this.total] = [[], 0];
    }
    set(this.box, "aria-busy", null);
    this.show();
  }

  show() {
    // The same pair can be among the worst of several guardrails.
    const seen = new Map();
    const key = (one) => {
      const base = JSON.stringify([one.guardrail, one.cohort, one.partition, one.entry, one.position, one.id]);
      if (!seen.has(one)) seen.set(one, base);
      return seen.get(one);
    };
    keyed(this.rows, this.found, key, (one) => this.row(one), () => {});
    const first = this.offset + 1;
    text(this.place, this.total === 0 ? "" : `${count(first)} to ${count(this.offset + this.found.length)} of ${count(this.total)}`);
    this.back.disabled = this.offset === 0;
    this.on.disabled = this.offset + this.found.length >= this.total;
    set(this.pager, "hidden", this.total <= PAGE);
    set(this.box, "hidden", this.found.length === 0);
    replace(this.none, this.found.length === 0 && this.nothing());
    this.tell();
    this.steps();
  }

  nothing() {
    if (this.read.wrong !== null) return empty("The pairs can't be shown.", h("p", null, plain(this.read.wrong).slice(0, 500)));
    const filtered = LIST_KEYS.some((key) => key !== "board" && this.chosen[key]);
    if (filtered) return empty("No pair that was kept fits.", h("p", null, "Of each guardrail and cohort only the worst pairs are kept, and a sample of all."));
    return empty("No pairs yet.", h("p", null, "The worst pairs of each guardrail appear here as soon as one is harmed; sampled ones as soon as any is counted."));
  }

  tell() {
    if (this.read === null) return text(this.status, "Reading pairs…");
    const since = this.source.live && this.read.wrong === null ? this.pairs - this.read.pairs : 0;
    set(this.anew, "hidden", !(since > 0 || (this.read.wrong !== null && this.source.live)));
    const said = this.read.wrong !== null ? "" : `${many(this.total, "pair")}${since > 0 ? `; ${count(since)} were counted since` : ""}`;
    return text(this.status, said);
  }

  row(one) {
    const open = (event) => {
      if (event.target.closest("a") === null && getSelection()?.isCollapsed !== false) location.hash = opened(one);
    };
    return h(
      "tr",
      { on: { click: open } },
      h("th", { scope: "row", class: "text" }, h("a", { href: opened(one), class: "pair-id" }, named(one.id))),
      h("td", { class: "text" }, where(one)),
      h("td", { class: "number" }, figure(one.loss)),
      h("td", { class: "text" }, moment(one.started)),
      h("td", { class: "text" }, one.route ? plain(one.route).slice(0, 100) : "–"),
      h("td", { class: "text" }, ended(one.baseline)),
      h("td", { class: "text" }, ended(one.candidate)),
    );
  }

  async open(id, place) {
    const asked = (this.shown = { id, ...place });
    text(this.title, `Pair ${named(id)}`);
    if (!this.dialog.open) {
      this.from = document.activeElement;
      this.dialog.showModal();
      this.title.focus();
    }
    this.steps();
    set(this.content, "aria-busy", "true");
    if (this.content.childElementCount === 0) replace(this.content, h("p", { class: "muted" }, "Reading the pair…"));
    let view;
    try {
      view = await this.source.get(`pairs/${encodeURIComponent(id)}`, place);
      if (!view?.exemplar) throw new Error(`there is no pair ${id}`);
    } catch (error) {
      if (this.shown !== asked) return;
      replace(this.content, empty("This pair can't be shown.", h("p", null, plain(error.message).slice(0, 500))));
      set(this.content, "aria-busy", null);
      return;
    }
    if (this.shown !== asked) return;
    drawPair(this.content, view, { live: this.source.live });
    this.dialog.scrollTop = 0;
    set(this.content, "aria-busy", null);
  }

  steps() {
    const at = this.where();
    this.before.disabled = at < 0 || this.next(at, -1) === undefined;
    this.after.disabled = at < 0 || this.next(at, 1) === undefined;
  }

  where() {
    return this.shown === null ? -1 : this.found.findIndex((one) => this.isShown(one));
  }

  isShown({ id, entry, position }) {
    return id === this.shown.id && [undefined, entry].includes(this.shown.entry) && [undefined, String(position)].includes(this.shown.position);
  }

  next(at, by) {
    // The same pair may stand there twice, for two guardrails.
    let to = at + by;
    while (this.found[to] !== undefined && this.isShown(this.found[to])) to += by;
    return this.found[to];
  }

  walk(by) {
    const at = this.where();
    const to = at < 0 ? undefined : this.next(at, by);
    if (to === undefined) return;
    history.replaceState(history.state, "", opened(to));
    this.open(to.id, placed(`${to.partition}:${to.entry}:${to.position}`));
  }

  closed() {
    this.shown = null;
    replace(this.content);
    if (readHash().pair !== null) history.pushState(null, "", listed(this.chosen));
    if (this.from?.isConnected) this.from.focus({ preventScroll: true });
  }
}

function named(id) {
  const said = plain(id);
  return said === "" ? "(without id)" : said.length > 80 ? `${said.slice(0, 80)}…` : said;
}

function where(one) {
  if (!one.guardrail) return "sampled";
  const cohort = one.cohort && one.cohort !== "all" ? h("small", null, " in ", plain(one.cohort).slice(0, 100)) : null;
  return [plain(one.guardrail).slice(0, 100), cohort];
}

function ended(one) {
  if (one.outcome === "ok") return `${one.status}, ${duration(one.total)}`;
  return h("strong", { class: "failed" }, titled(one.outcome));
}

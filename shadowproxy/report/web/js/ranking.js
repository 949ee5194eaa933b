// Two ranked lists side by side, a line for each item's move between them.

import { boxed, count, figure, h, many, plain, replace, s, set } from "./dom.js";

/** How an item fared, from its ranks on both sides (null: not there). */
export function moved(baseline, candidate) {
  if (baseline === null || baseline === undefined) return "new";
  if (candidate === null || candidate === undefined) return "gone";
  if (candidate === baseline) return "stays";
  return candidate < baseline ? "up" : "down";
}

/** The same in words, for who sees no lines. */
export function told(item) {
  switch (moved(item.baseline, item.candidate)) {
    case "new":
      return `new at ${item.candidate}`;
    case "gone":
      return `gone, was at ${item.baseline}`;
    case "stays":
      return `stays at ${item.baseline}`;
    default:
      return `moved from ${item.baseline} to ${item.candidate}`;
  }
}

function mark(item) {
  switch (moved(item.baseline, item.candidate)) {
    case "new":
      return "new";
    case "gone":
      return "gone";
    case "stays":
      return "=";
    case "up":
      return `▲ ${item.baseline - item.candidate}`;
    default:
      return `▼ ${item.candidate - item.baseline}`;
  }
}

function summary(items) {
  const kinds = { up: 0, down: 0, stays: 0, new: 0, gone: 0 };
  let farthest = null;
  for (const item of items) {
    const kind = moved(item.baseline, item.candidate);
    kinds[kind] += 1;
    const far = kind === "up" || kind === "down" ? Math.abs(item.baseline - item.candidate) : 0;
    if (far > (farthest?.far ?? 0)) farthest = { far, item };
  }
  const parts = [
    `${count(kinds.stays)} in place`,
    `${count(kinds.up)} up`,
    `${count(kinds.down)} down`,
    `${count(kinds.new)} new`,
    `${count(kinds.gone)} gone`,
  ];
  const most = farthest === null ? "" : ` The farthest move: ${plain(farthest.item.id)}, ${told(farthest.item)}.`;
  return `${many(items.length, "item")}: ${parts.join(", ")}.${most}`;
}

/**
 * @param {Element} element
 * @param {{items: {id: string, baseline: number | null, candidate: number | null,
 *   baseline_score: number | null, candidate_score: number | null}[], more?: number}} ranking
 */
export function drawRanking(element, ranking) {
  const items = ranking.items;
  const sides = ["baseline", "candidate"].map((side) => ({
    side,
    rows: items
      .map((item, at) => ({ item, at }))
      .filter(({ item }) => item[side] !== null && item[side] !== undefined)
      .sort((a, b) => a.item[side] - b.item[side]),
  }));
  const most = Math.max(1, ...sides.map(({ rows }) => rows.length));
  // Ranks of several routes' lists may have holes; what is drawn goes by places.
  const places = sides.map(({ rows }) => new Map(rows.map(({ at }, place) => [at, place])));
  const parts = items.map(() => []);
  const lists = sides.map(({ side, rows }) => list(side, rows, parts));
  const lines = s("svg", {
    class: "moves", viewBox: `0 0 100 ${most}`, preserveAspectRatio: "none", "aria-hidden": "true",
  });
  items.forEach((item, at) => {
    const line = drawn(item, places[0].get(at), places[1].get(at));
    parts[at].push(line);
    lines.append(line);
  });
  const box = h("div", { class: "ranking" }, lists[0], h("div", { class: "moves-box" }, lines), lists[1]);
  lines.style.height = `calc(${most} * var(--rank-row))`;
  follow(box, parts);
  replace(
    element,
    h("p", { class: "ranking-said" }, summary(items), ranking.more > 0 && ` ${many(ranking.more, "more item")} not shown.`),
    h("div", { class: "ranking-scroll" }, head(), box),
    h("details", null, h("summary", null, "All moves and scores as a table"), scores(items)),
  );
}

function head() {
  return h(
    "div",
    { class: "ranking-head", "aria-hidden": "true" },
    h("span", { class: "of-baseline" }, "Baseline"),
    h("span"),
    h("span", { class: "of-candidate" }, "Candidate"),
  );
}

function list(side, rows, parts) {
  const name = side === "baseline" ? "Items as the baseline ranks them" : "Items as the candidate ranks them";
  const made = rows.map(({ item, at }, place) => {
    const score = item[`${side}_score`];
    const has = score !== null && score !== undefined;
    const row = h(
      "li",
      {
        role: "option",
        class: `rank ${moved(item.baseline, item.candidate)}`,
        tabindex: place === 0 ? 0 : -1,
        "aria-selected": "false",
        "aria-label": `${item[side]}: ${plain(item.id)}, ${has ? `score ${figure(score)}, ` : ""}${told(item)}`,
        data: { at, side },
      },
      h("span", { class: "at" }, item[side]),
      h("span", { class: "item", title: plain(item.id).slice(0, 500) }, plain(item.id).slice(0, 200)),
      has && h("span", { class: "score" }, figure(score)),
      side === "candidate" || moved(item.baseline, item.candidate) === "gone" ? h("span", { class: "move" }, mark(item)) : null,
    );
    parts[at].push(row);
    return row;
  });
  return rows.length
    ? h("ol", { role: "listbox", class: `ranks of-${side}`, "aria-label": name }, made)
    : h("p", { class: `ranks of-${side} none` }, "no items");
}

function drawn(item, left, right) {
  const kind = moved(item.baseline, item.candidate);
  // What stands on one side only ends in a stub that points nowhere.
  const [x1, y1] = left === undefined ? [86, right + 0.5] : [0, left + 0.5];
  const [x2, y2] = right === undefined ? [14, left + 0.5] : [100, right + 0.5];
  return s("line", { x1, y1, x2, y2, class: kind, "vector-effect": "non-scaling-stroke" });
}

/** One item is lit on both sides, with its line: that under the pointer, or that with the focus. */
function follow(box, parts) {
  let lit = null;
  const light = (at) => {
    if (at === lit) return;
    for (const part of lit === null ? [] : parts[lit]) part.classList.remove("lit");
    lit = at;
    for (const part of at === null ? [] : parts[at]) part.classList.add("lit");
    box.classList.toggle("has-lit", at !== null);
    // Drawn last is drawn on top.
    if (at !== null) parts[at].at(-1).parentNode.append(parts[at].at(-1));
  };
  const row = (event) => event.target.closest?.("[data-at]") ?? null;
  const focused = () => box.querySelector("[data-at]:focus");
  const of = (found) => (found === null ? null : Number(found.dataset.at));
  box.addEventListener("pointerover", (event) => light(of(row(event) ?? focused())));
  box.addEventListener("pointerleave", () => light(of(focused())));
  box.addEventListener("focusin", (event) => {
    const found = row(event);
    if (found !== null) choose(found);
    light(of(found));
  });
  box.addEventListener("focusout", () => light(null));
  box.addEventListener("keydown", (event) => {
    const found = row(event);
    const next = found === null ? null : stepped(box, found, event.key);
    if (next === null) return;
    event.preventDefault();
    next.focus();
  });
}

function choose(found) {
  // One stop of the Tab key for a whole list.
  for (const other of found.parentNode.querySelectorAll("[tabindex='0'], [aria-selected='true']")) {
    set(other, "tabindex", -1);
    set(other, "aria-selected", "false");
  }
  set(found, "tabindex", 0);
  set(found, "aria-selected", "true");
}

function stepped(box, found, key) {
  const other = (side) => box.querySelector(`[data-at="${found.dataset.at}"][data-side="${side}"]`);
  switch (key) {
    case "ArrowDown":
      return found.nextElementSibling;
    case "ArrowUp":
      return found.previousElementSibling;
    case "Home":
      return found.parentNode.firstElementChild;
    case "End":
      return found.parentNode.lastElementChild;
    case "ArrowRight":
      return other("candidate");
    case "ArrowLeft":
      return other("baseline");
    default:
      return null;
  }
}

function scores(items) {
  const rows = items.map((item) =>
    h(
      "tr",
      null,
      h("th", { scope: "row", class: "text" }, plain(item.id).slice(0, 200)),
      h("td", { class: "text" }, told(item)),
      h("td", { class: "number" }, figure(item.baseline_score)),
      h("td", { class: "number" }, figure(item.candidate_score)),
      h("td", { class: "number" }, figure(apart(item), { signed: true })),
    ),
  );
  const heads = ["Item", "Move", "Baseline's score", "Candidate's score", "Difference"];
  const head = heads.map((name, at) => h("th", { scope: "col", class: at < 2 ? "text" : "number" }, name));
  const caption = h("caption", { class: "unseen" }, "The moves and scores of all items");
  const made = h("table", null, caption, h("thead", null, h("tr", null, head)), h("tbody", null, rows));
  return boxed(made, "Moves and scores");
}

function apart(item) {
  const [one, other] = [item.baseline_score, item.candidate_score];
  return one === null || one === undefined || other === null || other === undefined ? null : other - one;
}

// The live page.

import { drawAccess } from "./access.js";
import { drawNoVerdict } from "./verdict.js";
import { h, moment, plain, replace, set, sign, text } from "./dom.js";
import { Live } from "./live.js";
import { live } from "./source.js";
import { plotly } from "./charts.js";
import { Sheet } from "./sheet.js";
import { themes } from "./theme.js";

// Seconds between fetches of what stands beside the verdict, and costs more than it.
const FIGURES = 5;

const element = (id) => /** @type {HTMLElement} */ (document.getElementById(id));
const source = live();
const sheet = new Sheet(source, { onChoice: () => figures(true) });
let fetched = -Infinity;
let waiting = 0;

const SAID = {
  loading: "Connecting",
  live: "Live",
  stale: "Stale",
  trouble: "No verdict",
  unauthorised: "Not allowed",
  unreachable: "Can't be reached",
};

function state({ kind, detail, since }) {
  document.documentElement.dataset.connection = kind;
  const box = element("connection");
  set(box, "data-kind", kind);
  const from =
    since !== null && kind !== "live" && kind !== "loading"
      ? [", last known ", moment(since / 1000, { date: false })]
      : null;
  replace(box, h("span", { class: "lamp", "aria-hidden": "true" }), h("span", null, SAID[kind], from));
  box.title = detail;
  const past = kind !== "live" && kind !== "loading";
  warn(past ? kind : null, detail, since);
  sheet.past(past);
  if (past && sheet.verdict === null) instead(kind, detail);
  titled(past);
}

/** What a tab says that isn't looked at: nothing past as if it were current. */
function titled(past) {
  const { verdict } = sheet;
  if (verdict !== null)
    document.title = `${past ? "? " : ""}${verdict.state} · ${plain(verdict.experiment)} · shadowproxy`;
}

const WARNINGS = {
  stale: "Nothing was heard from the API for some time. What is shown is past, not current.",
  trouble: "The API has no verdict at the moment. What is shown is past, not current.",
  unauthorised: "The API doesn't allow this page to read any more. What is shown is past, not current.",
  unreachable: "The API can't be reached; the page keeps trying. What is shown is past, not current.",
};

function warn(kind, detail, since) {
  const bar = element("warning");
  bar.hidden = kind === null || sheet.verdict === null;
  if (kind === null || since === null) return;
  const again =
    kind === "unauthorised"
      ? h("button", { type: "button", class: "quiet", on: { click: () => location.reload() } }, "Come in again")
      : null;
  replace(
    bar,
    sign("warning"),
    h("p", null, h("b", null, WARNINGS[kind]), " ", h("span", null, kind === "unreachable" ? "" : plain(detail))),
    again,
  );
}

function instead(kind, detail) {
  const box = element("verdict");
  if (kind === "unauthorised") {
    const form = h("div");
    drawNoVerdict(box, "This page may not read the API", h("p", null, plain(detail)), form);
    drawAccess(form, () => connection.wake());
  } else if (kind === "trouble") {
    drawNoVerdict(
      box,
      "There is no verdict at the moment",
      h("p", null, plain(detail)),
      h("p", null, "The page goes on by itself as soon as there is one."),
    );
  } else {
    const why = detail === "the API can't be reached" ? null : h("p", null, plain(detail));
    drawNoVerdict(
      box,
      "The API can't be reached",
      why,
      h(
        "p",
        null,
        "Is ",
        h("code", null, "shadowproxy serve"),
        " (or ",
        h("code", null, "shadowproxy run"),
        ") running? The page keeps trying.",
      ),
    );
  }
}

async function shown(verdict) {
  document.body.dataset.ready = "verdict";
  sheet.show(verdict);
  titled(false);
  await figures(false);
}

/** Fetches what stands beside the verdict: at once, or when the last time is long enough ago. */
async function figures(now) {
  clearTimeout(waiting);
  const left = 1000 * FIGURES - (performance.now() - fetched);
  if (!now && left > 0) {
    waiting = setTimeout(() => figures(true), left);
    return;
  }
  fetched = performance.now();
  await sheet.fetch();
}

themes(element("theme"), () => sheet.repaint());
const connection = new Live(source, { onVerdict: shown, onState: state });
connection.start();
text(element("loading"), "Waiting for the verdict…");
plotly("assets/plotly.min.js").then((library) => sheet.draws(library));
sheet.explore();

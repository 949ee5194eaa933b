// What the figures drawn by Plotly have in common. Names that come from outside never go into it: it reads some markup.

import { h, replace, set } from "./dom.js";

const FONT = 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif';
/** What Plotly is asked for: nothing that reaches out, and nothing that asks to be drawn over by a tool bar. */
const CONFIG = {
  displayModeBar: false,
  responsive: true,
  displaylogo: false,
  showTips: false,
  doubleClick: "reset",
  locale: "en-US",
};

// The bundle brings the rules of a map that isn't drawn here, and writes them into the page unless an element of this id
// is there: the page's policy forbids what it would do.
const MAPS = "ce8d464691048653ffe3a57c6c18ab566e8366f186677868cf724621a857b4fe";

let loading = null;

/** Plotly's bundle, once; null where it isn't to be had. `from` is its address; without one it must be there already. */
export function plotly(from = null) {
  if ("Plotly" in window) return Promise.resolve(window["Plotly"]);
  if (from === null) return Promise.resolve(null);
  loading ??= new Promise((resolve) => {
    const script = h("script", {
      src: from,
      async: true,
      on: {
        load: () => resolve(window["Plotly"] ?? null),
        error: () => {
          loading = null;
          resolve(null);
        },
      },
    });
    document.head.append(h("meta", { id: MAPS }), script);
  });
  return loading;
}

const DARK = matchMedia("(prefers-color-scheme: dark)");
const colours = new Map();

/** The colour that a variable of css/base.css has in the theme of the moment. */
export function colour(name, opacity = 1) {
  // Asking for it has the browser work out the styles of all rows that have changed; so each is asked for once.
  const key = `${name} ${DARK.matches} ${document.documentElement.dataset.theme ?? ""}`;
  if (!colours.has(key)) colours.set(key, resolved(name));
  const parts = colours.get(key);
  return opacity === 1 ? `rgb(${parts.join(",")})` : `rgba(${parts.join(",")},${opacity})`;
}

function resolved(name) {
  const probe = h("span", { hidden: true });
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found.match(/[\d.]+/g)?.slice(0, 3) ?? ["0", "0", "0"];
}

/** An axis in the page's colours. */
export function axis(title, more = {}) {
  return {
    title: { text: title, font: { size: 12, color: colour("muted") }, standoff: 8 },
    gridcolor: colour("line"),
    linecolor: colour("line"),
    zeroline: false,
    automargin: true,
    fixedrange: true,
    tickfont: { size: 11, color: colour("muted") },
    ...more,
  };
}

/**
 * Draws a figure into `box`, or changes the one that is there. Where there is no Plotly, says so once.
 * @param {any} box
 * @param {any[]} traces
 * @param {any} layout
 * @param {any} library  Plotly, or null
 */
export function draw(box, traces, layout, library) {
  if (library === null || library === undefined) {
    if (box.dataset.drawn !== "none")
      replace(box, h("p", { class: "none" }, "No chart: Plotly could not be loaded. The figures stand beside it."));
    box.dataset.drawn = "none";
    return;
  }
  if (box.dataset.drawn !== "plotly") replace(box);
  box.dataset.drawn = "plotly";
  const seen = JSON.stringify([traces, layout, colour("fg")]);
  if (box.seen === seen) return;
  box.seen = seen;
  const whole = {
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 56, r: 12, t: 8, b: 40 },
    font: { family: FONT, size: 12, color: colour("fg") },
    showlegend: true,
    hovermode: "closest",
    dragmode: false,
    legend: { orientation: "h", x: 0, y: 1.02, yanchor: "bottom", font: { size: 12 } },
    hoverlabel: { bgcolor: colour("raised"), bordercolor: colour("line"), font: { color: colour("fg"), size: 12 } },
    ...layout,
  };
  library.react(box, traces, whole, CONFIG);
}

/** A box for a chart, with words for who can't see it. */
export function chart(label) {
  return h("div", { class: "chart", role: "img", "aria-label": label });
}

/** Changes those words. */
export function describe(box, label) {
  set(box, "aria-label", label);
}

// A report: the same sections as the live page, of data that come with it.

import { plotly } from "./charts.js";
import { embedded, still } from "./source.js";
import { Sheet } from "./sheet.js";
import { themes } from "./theme.js";

const source = still(embedded());
const sheet = new Sheet(source, {});
const button = document.getElementById("theme");
if (button !== null) {
  // Without scripts it would do nothing, and is not shown.
  button.hidden = false;
  themes(button, () => sheet.repaint());
}

async function draw() {
  sheet.show(await source.get("verdict"));
  sheet.draws(await plotly());
  await sheet.fetch();
  sheet.explore();
  document.body.dataset.ready = "verdict";
}

draw();

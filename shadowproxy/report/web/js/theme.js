// Dark or light: as the device has it, until somebody chooses.

import { set, text } from "./dom.js";

const ORDER = ["auto", "light", "dark"];
const KEY = "shadowproxy-theme";

/** Makes `button` a switch of the theme. `onChange` is called when colours have changed. */
export function themes(button, onChange) {
  let chosen = remembered();
  const apply = () => {
    if (chosen === "auto") delete document.documentElement.dataset.theme;
    else document.documentElement.dataset.theme = chosen;
    text(button, `Theme: ${chosen}`);
    set(button, "data-theme", chosen);
  };
  apply();
  button.addEventListener("click", () => {
    chosen = ORDER[(ORDER.indexOf(chosen) + 1) % ORDER.length];
    remember(chosen);
    apply();
    onChange();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", onChange);
}

// A page from the file system, or one with its storage shut, forgets.
function remembered() {
  try {
    const found = localStorage.getItem(KEY);
    return found !== null && ORDER.includes(found) ? found : "auto";
  } catch {
    return "auto";
  }
}

function remember(chosen) {
  try {
    localStorage.setItem(KEY, chosen);
  } catch {
    return;
  }
}

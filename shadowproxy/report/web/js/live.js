// The connection to a running system: what was read last, and whether it is still true.

import { SourceError } from "./source.js";

// Seconds between looks where no event came: a 304 is cheap, and says that the last verdict is still the current one.
const LOOK = 5;
// After so long without any sign of life nothing is shown as current. A few looks fit into it.
const STALE = 16;
// Between looks where the API can't be reached, the least and the most.
const [SOON, LATE] = [1, 15];
// After a refusal to be told of changes, until that is asked for again.
const LISTEN = 20;

/**
 * Keeps the verdict fresh. `onVerdict(verdict)` is called with each that is new, `onState({kind, detail, since})` when
 * the connection's state changes: `loading`, `live`, `stale`, `trouble` (the API is there and has no verdict),
 * `unauthorised`, `unreachable`. `since` is when (milliseconds) the verdict was last known to be current, or null.
 */
export class Live {
  /**
   * @param {any} source
   * @param {{onVerdict: (verdict: any) => void, onState: (state: any) => void, now?: () => number}} listener
   */
  constructor(source, { onVerdict, onState, now = () => Date.now() }) {
    this.source = source;
    this.onVerdict = onVerdict;
    this.onState = onState;
    this.now = now;
    this.verdict = null;
    this.known = null;
    this.state = { kind: "loading", detail: "", since: null };
    this.pause = SOON;
    this.timer = 0;
    this.looking = false;
    this.events = null;
    this.listenAt = 0;
  }

  start() {
    this.listen();
    this.look();
    setInterval(() => this.age(), 1000);
    // Timers rest while a page is hidden or a machine sleeps: what was read before may be long past.
    document.addEventListener("visibilitychange", () => document.hidden || this.wake());
    addEventListener("online", () => this.wake());
    addEventListener("offline", () => this.failed(new SourceError(0, "this device is offline")));
  }

  wake() {
    this.age();
    this.look();
  }

  listen() {
    this.events?.close();
    this.events = this.source.events();
    if (this.events === null) return;
    this.events.addEventListener("verdict", () => this.look());
    this.events.addEventListener("trouble", (event) => this.failed(new SourceError(503, detailOf(event.data))));
    // The browser tries again by itself, unless it was refused: then a look says why.
    this.events.addEventListener("error", () => this.lost());
  }

  lost() {
    // Refused for good, as where too many listen: until it is tried again, looks have to do.
    if (this.events.readyState === EventSource.CLOSED) {
      this.events = null;
      this.listenAt = this.now() + 1000 * LISTEN;
    } else this.look();
  }

  /** Asks for the verdict, unless that is under way. Never raises. */
  async look() {
    clearTimeout(this.timer);
    if (this.looking) {
      this.again = true;
      return;
    }
    this.looking = true;
    this.again = false;
    try {
      this.arrived(await this.source.get("verdict"));
    } catch (error) {
      this.failed(error instanceof SourceError ? error : new SourceError(0, String(error)));
    }
    this.looking = false;
    const good = this.state.kind === "live";
    if (good && this.events === null && this.source.live && this.now() >= this.listenAt) this.listen();
    this.pause = good ? SOON : Math.min(2 * this.pause, LATE);
    this.timer = setTimeout(() => this.look(), this.again ? 0 : 1000 * (good ? LOOK : this.pause));
  }

  arrived(verdict) {
    this.known = this.now();
    this.become({ kind: "live", detail: "" });
    if (verdict === this.verdict) return;
    this.verdict = verdict;
    this.onVerdict(verdict);
  }

  failed(error) {
    // Asked too often, by all that look from here: no reason to doubt what was read a moment ago.
    if (error.status === 429) return;
    const kinds = { 401: "unauthorised", 403: "unauthorised", 0: "unreachable" };
    this.become({ kind: kinds[error.status] ?? "trouble", detail: error.message });
  }

  age() {
    if (this.state.kind === "live" && this.known !== null && this.now() - this.known > 1000 * STALE) {
      this.become({ kind: "stale", detail: "no sign of life" });
    }
  }

  become({ kind, detail }) {
    const changed = kind !== this.state.kind || detail !== this.state.detail;
    this.state = { kind, detail, since: this.known };
    if (changed) this.onState(this.state);
  }
}

function detailOf(body) {
  try {
    const found = JSON.parse(body);
    return typeof found.detail === "string" ? found.detail : "the verdict can't be read";
  } catch {
    return "the verdict can't be read";
  }
}

// Where the modules get their data from: the API of a running system, or what a report has with it.

/** What went wrong when data were asked for. `status` is 0 where there was no answer. */
export class SourceError extends Error {
  /**
   * @param {number} status
   * @param {string} message
   */
  constructor(status, message) {
    super(message);
    this.name = "SourceError";
    this.status = status;
  }
}

const TIMEOUT = 10_000;

/**
 * The API. `get(name, params)` gives the decoded answer of `/api/v1/{name}`, or raises a SourceError. What has an ETag
 * is only sent again where it changed: then `get` gives the very same object.
 * @param {string} base  relative to the page, so that it works below a path of a reverse proxy too
 */
export function live(base = "api/v1/") {
  const kept = new Map();

  async function get(name, params = {}) {
    const url = new URL(base + name, document.baseURI);
    for (const [key, value] of Object.entries(params)) {
      if (value !== null && value !== undefined && value !== "") url.searchParams.set(key, String(value));
    }
    const known = kept.get(url.href);
    const headers = { Accept: "application/json" };
    if (known !== undefined) headers["If-None-Match"] = known.etag;
    const answer = await asked(url, headers);
    if (answer.status === 304 && known !== undefined) return known.data;
    if (!answer.ok) throw await refusal(answer);
    const data = await read(answer);
    const etag = answer.headers.get("ETag");
    // One for each endpoint: pages of a search are not worth keeping.
    if (etag !== null && Object.keys(params).length === 0) kept.set(url.href, { etag, data });
    return data;
  }

  return { live: true, get, events: () => new EventSource(new URL(`${base}events`, document.baseURI)) };
}

async function asked(url, headers) {
  try {
    return await fetch(url, { headers, cache: "no-store", signal: AbortSignal.timeout(TIMEOUT) });
  } catch (error) {
    const slow = error instanceof DOMException && error.name === "TimeoutError";
    throw new SourceError(0, slow ? `the API did not answer within ${TIMEOUT / 1000} s` : "the API can't be reached");
  }
}

async function refusal(answer) {
  let detail = "";
  try {
    const body = await answer.json();
    detail = typeof body.detail === "string" ? body.detail : "";
  } catch {
    detail = "";
  }
  return new SourceError(answer.status, detail || `the API answered ${answer.status}`);
}

async function read(answer) {
  try {
    return await answer.json();
  } catch {
    throw new SourceError(0, "the API's answer ended early or is no JSON");
  }
}

/**
 * What a report has with it: an object with the answers by the endpoint's name. One of some cohort or route is picked
 * from among all.
 * @param {any} data
 */
export function still(data) {
  async function get(name, params = {}) {
    const [group, ...rest] = name.split("/");
    if (group === "pairs") return pair(data.pairs ?? {}, rest, params);
    const found = Object.hasOwn(data, group) ? data[group] : undefined;
    if (found === undefined || found === null) throw new SourceError(404, `the report has no ${group}`);
    return found;
  }
  return { live: false, get, events: () => null };
}

function pair(pairs, [which], params) {
  const worst = pairs.worst ?? {};
  if (which === "worst" || which === undefined) {
    const names = Object.keys(worst).filter((name) => [undefined, "", name].includes(params.guardrail));
    const views = names.flatMap((name) => worst[name]);
    return { pairs: views.map((view) => view.exemplar), total: views.length };
  }
  const id = decodeURIComponent(which);
  const found = Object.values(worst)
    .flat()
    .find((view) => view.exemplar.id === id);
  if (found === undefined) throw new SourceError(404, `the report has no pair ${id}`);
  return found;
}

/** The data that a report has in its page. */
export function embedded(id = "data") {
  return JSON.parse(document.getElementById(id)?.textContent ?? "{}");
}

// Elements, figures in words, and calls of the API. Text is only ever set as text.

export const state = { role: null, csrf: "", needed: false, counters: null, lostAt: 0 };

export function h(tag, props, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

export function fill(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

const keyOf = (one) => [one.tagName, one.getAttribute("href"), one.getAttribute("aria-label"), one.textContent].join("|");

// Newer figures in the same place: the row and the button that somebody is at stay so.
export function refill(element, ...children) {
  const active = document.activeElement, at = element.querySelector("tr.at")?.dataset.open;
  const alike = (key) => [...element.querySelectorAll("a, button, summary")].filter((one) => keyOf(one) === key);
  const key = active !== element && element.contains(active) ? keyOf(active) : null;
  const place = key === null ? -1 : alike(key).indexOf(active);
  fill(element, children);
  if (at) [...element.querySelectorAll("tr[data-open]")].find((row) => row.dataset.open === at)?.classList.add("at");
  if (place >= 0) alike(key)[place]?.focus({ preventScroll: true });
}

// Not under somebody's hands: a list that is open, text that is being marked.
export function calm(element) {
  const active = document.activeElement;
  return !document.hidden && !String(getSelection()) && !(element.contains(active) && /^(SELECT|INPUT)$/.test(active.tagName));
}

export class ApiError extends Error {
  constructor(status, code, message, request = "") {
    super(message);
    Object.assign(this, { status, code, request });
  }
}

export async function call(method, path, body, keepalive = false) {
  const headers = {};
  if (method !== "GET") headers["X-CSRF-Token"] = state.csrf;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(`/api/v1/${path}`, {
      method, headers, keepalive, credentials: "same-origin",
      body: body === undefined ? undefined : JSON.stringify(body),
    });
  } catch {
    throw new ApiError(0, "unreachable", "The gateway's admin port does not answer.");
  }
  const text = await answer.text();
  let content = null;
  try { content = text ? JSON.parse(text) : null; } catch { /* said below */ }
  if (answer.ok) return content;
  if (answer.status === 401 && path !== "session") window.dispatchEvent(new Event("signed-out"));
  const error = (content && content.error) || {};
  throw new ApiError(answer.status, error.code || "error", error.message || answer.statusText, error.request_id || answer.headers.get("X-Request-Id") || "");
}

export const get = (path) => call("GET", path);

// -- figures -------------------------------------------------------------------------

const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function count(n) {
  if (n === null || n === undefined) return "–";
  return n !== 0 && Math.abs(n) < 10 && n !== Math.round(n) ? n.toFixed(1) : whole.format(n);
}

export function rate(n) {
  if (n === null || n === undefined) return "–";
  if (n >= 1e6) return `${(n / 1e6).toFixed(1)} M`;
  if (n >= 1e4) return `${(n / 1e3).toFixed(1)} k`;
  return count(n);
}

// At an axis: as exact as its steps are.
export function tick(n) {
  if (n >= 1e6) return `${+(n / 1e6).toFixed(2)} M`;
  return n >= 1e4 ? `${+(n / 1e3).toFixed(2)} k` : n.toLocaleString("en", { maximumFractionDigits: 3 });
}

export function usd(n) {
  if (n === null || n === undefined) return "–";
  if (n !== 0 && Math.abs(n) < 0.01) return `$${n.toFixed(4)}`;
  return `$${n.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
}

export function percent(part, all) {
  if (!all) return "–";
  const share = (100 * part) / all;
  if (share === 0) return "0 %";
  return share < 0.1 ? "< 0.1 %" : `${share.toFixed(share >= 99.95 || share >= 10 && Number.isInteger(share) ? 0 : 1)} %`;
}

export function times(now, usual) {
  if (usual === null || usual === undefined || now === null || now === undefined) return null;
  return now / Math.max(usual, 0.1);
}

// A handful of requests is many times of next to nothing, and still no news.
export function standsOut(now, usual, from) {
  const ratio = times(now, usual);
  return ratio !== null && ratio >= from && now - usual >= Math.max(5, from) * Math.sqrt(usual + 1);
}

export function timesWords(ratio) {
  if (ratio === null) return "not known yet";
  if (ratio < 0.1) return "far below";
  return `${ratio >= 10 ? Math.round(ratio) : ratio.toFixed(1)} ×`;
}

export function clock(at, seconds = true) {
  const date = typeof at === "number" ? new Date(at * 1000) : new Date(at);
  const form = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  if (seconds) form.second = "2-digit";
  const time = date.toLocaleTimeString("en", form);
  const far = Math.abs(Date.now() - date.getTime()) > 20 * 3600e3;
  return far ? `${date.toLocaleDateString("en", { month: "short", day: "numeric" })} ${time}` : time;
}

export function moment(at, seconds = true) {
  const date = typeof at === "number" ? new Date(at * 1000) : new Date(at);
  return h("time", { datetime: date.toISOString(), title: date.toISOString() }, clock(at, seconds));
}

export function span(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 90) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} days`;
}

export const until = (at, seconds = true) => (at ? `until ${clock(at, seconds)}` : "until removed");

export const KINDS = { client_ip: "address", user: "user", tenant: "tenant", network: "network", prompts: "prompts like this" };
export const CLASSES = {
  cost_spike: "Cost spike", ddos: "Flood", scraping: "Scraping", credential_abuse: "Key abuse",
  probing: "Probing", surge: "Surge", outage: "Outage", volume: "Unusual volume",
};
export const DONE = {
  allow: "Let through", tag: "Marked", throttle: "Throttled", block: "Blocked", limit: "Limited",
};

export const SAID = {
  "incident.opened": "Incident opened", "incident.updated": "It became worse", "incident.resolved": "Over",
  "client.tagged": "Marked", "client.throttled": "Throttled", "client.blocked": "Blocked", "client.unblocked": "Let in again",
};

export const path = (kind, id) => `${encodeURIComponent(kind)}/${encodeURIComponent(id)}`;
export const clientLink = (kind, id, tenant) =>
  `#/clients/${path(kind, id)}${tenant && tenant !== "*" ? `?tenant=${encodeURIComponent(tenant)}` : ""}`;

export function who(subject, tenant) {
  if (subject.kind === "tenant") return subject.id === "*" ? "the whole service" : `many clients of ${subject.id}`;
  return `${subject.id}${tenant && tenant !== "*" ? ` (${tenant})` : ""}`;
}

const MEASURES = [
  ["requests_10m", "requests in ten minutes", "its usual"],
  ["tokens_10m", "tokens in ten minutes", "its usual"],
  ["requests_1m", "requests a minute", "what busy others send"],
];

export function excess(incident) {
  const seen = incident.observed || {}, usual = incident.expected || {};
  const costs = incident.class === "cost_spike";
  const measures = costs ? [MEASURES[1], MEASURES[0], MEASURES[2]] : MEASURES;
  for (const [key, words, usualWords] of measures) {
    if (seen[key] && usual[key]) {
      const ratio = times(seen[key], usual[key]);
      if (ratio >= 1.5) return `${count(seen[key])} ${words}, ${timesWords(ratio)} ${usualWords}`;
    }
    if (costs && key === "tokens_10m" && seen[key]) return `${count(seen[key])} ${words}`;
  }
  return seen.requests_1m ? `${count(seen.requests_1m)} requests a minute` : "";
}

export function sentence(incident) {
  const what = CLASSES[incident.class] || incident.class;
  const more = excess(incident) || (incident.reasons[0] || "").replace(/\.$/, "");
  return `${what} by ${who(incident.subject, incident.tenant)}${more ? `: ${more}` : ""}.`;
}

const HELD = [["block", "blocked"], ["throttle", "throttled"], ["tag", "marked"]];
export const heldCount = (held) => HELD.reduce((all, [key]) => all + held[key], 0);
export const heldWords = (held) => HELD.filter(([key]) => held[key]).map(([key, text]) => `${count(held[key])} ${text}`).join(", ");

// What is done now, as a sentence: to its subject, else to how many of a crowd.
export function doneWords(incident) {
  if (state.counters?.modes.join() === "observe") return "Only observed: nobody was stopped.";
  const { standing, held } = incident, all = heldCount(held);
  if (standing) {
    const how = standing.action === "throttle" && standing.rate ? ` to ${count(standing.rate)} requests a minute` : "";
    const since = incident.standing_since ? ` since ${clock(incident.standing_since, false)}` : "";
    return `${DONE[standing.action]}${how}${since}, ${until(standing.until, false)}.`;
  }
  if (all) return `Held now: ${heldWords(held)}.`;
  return incident.action === "allow" ? "Nobody was stopped." : `${DONE[incident.action]}; nobody is held any more.`;
}

export function doneTag(standing) {
  if (!standing) return h("span", { class: "dim none" }, "–");
  const by = standing.by === "detector" ? "by detection" : `by ${standing.by}`;
  const title = `${DONE[standing.action]} ${by}, ${until(standing.until)}. ${standing.reason || ""}`;
  return h("span", { class: `tag ${standing.action}`, title }, DONE[standing.action].toLowerCase());
}

export function empty(title, ...rest) {
  return h("div", { class: "empty" }, h("h2", {}, title), ...rest);
}

// A table whose heads also name the cells on a narrow screen.
export function table(heads, rows, props = {}) {
  const cells = (row) => row.cells.map((cell, at) => {
    const head = heads[at];
    return h("td", { class: head.num ? "num" : head.wide ? "wide" : null, "data-head": at && head.text ? head.text : null }, cell);
  });
  return h("div", { class: "scroll", tabindex: props.scroll ? "0" : null, role: props.scroll ? "region" : null, "aria-label": props.scroll ? props.label : null },
    h("table", { class: "cards" },
      h("caption", { class: "hidden" }, props.label),
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col", class: head.num ? "num" : null, "aria-sort": head.sorted ? "descending" : null, title: head.title }, head.button || head.text || h("span", { class: "hidden" }, "Actions"))))),
      h("tbody", {}, rows.map((row) => h("tr", { "data-open": row.open, class: row.class }, cells(row))))));
}

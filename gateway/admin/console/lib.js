// DOM helpers, number and time formats, labels, and API calls. Text is only set as text nodes.

export const state = { role: null, csrf: "", needed: false, counters: null };

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

export function setChildren(element, ...children) {
  element.replaceChildren();
  append(element, children);
  return element;
}

const keyOf = (one) => [one.tagName, one.getAttribute("href"), one.getAttribute("aria-label"), one.textContent].join("|");

// Replaces the children and keeps the selected row and the focused element.
export function updateChildren(element, ...children) {
  const active = document.activeElement, at = element.querySelector("tr.at")?.dataset.open;
  const alike = (key) => [...element.querySelectorAll("a, button, summary")].filter((one) => keyOf(one) === key);
  const key = active !== element && element.contains(active) ? keyOf(active) : null;
  const place = key === null ? -1 : alike(key).indexOf(active);
  setChildren(element, children);
  if (at) [...element.querySelectorAll("tr[data-open]")].find((row) => row.dataset.open === at)?.classList.add("at");
  if (place >= 0) alike(key)[place]?.focus({ preventScroll: true });
}

// False while the user selects text, edits a field, or has the page hidden.
export function isIdle(element) {
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
    throw new ApiError(0, "unreachable", "The gateway's admin port is unreachable.");
  }
  const text = await answer.text();
  let content = null;
  try { content = text ? JSON.parse(text) : null; } catch { /* not JSON: reported below */ }
  if (answer.ok) return content;
  if (answer.status === 401 && path !== "session") window.dispatchEvent(new Event("signed-out"));
  const error = (content && content.error) || {};
  throw new ApiError(answer.status, error.code || "error", error.message || answer.statusText, error.request_id || answer.headers.get("X-Request-Id") || "");
}

export const get = (path) => call("GET", path);

// -- formats -------------------------------------------------------------------------

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

// Axis labels: enough digits to tell the ticks apart.
export function tick(n) {
  if (n >= 1e6) return `${+(n / 1e6).toFixed(2)} M`;
  return n >= 1e4 ? `${+(n / 1e3).toFixed(2)} k` : n.toLocaleString("en", { maximumFractionDigits: 3 });
}

export function usd(n) {
  if (n === null || n === undefined) return "–";
  // Small amounts have two significant digits, as core/money.py writes them.
  const size = Math.abs(n);
  if (n !== 0 && size < 0.1) return `$${n.toFixed(Math.min(20, 1 - Math.floor(Math.log10(size)))).replace(/(\.\d\d\d*?)0+$/, "$1")}`;
  return `$${n.toLocaleString("en", { minimumFractionDigits: 2, maximumFractionDigits: 2 })}`;
}

export function percent(part, all) {
  if (!all) return "–";
  const share = (100 * part) / all;
  if (share === 0) return "0 %";
  return share < 0.1 ? "< 0.1 %" : `${share.toFixed(share >= 99.95 || share >= 10 && Number.isInteger(share) ? 0 : 1)} %`;
}

export function ratioOf(observed, expected) {
  if (expected === null || expected === undefined || observed === null || observed === undefined) return null;
  return observed / Math.max(expected, 0.1);
}

// A high ratio counts only with enough requests: the excess must be several standard
// deviations of a Poisson count.
export function isNotable(observed, expected, minRatio) {
  const ratio = ratioOf(observed, expected);
  return ratio !== null && ratio >= minRatio && observed - expected >= Math.max(5, minRatio) * Math.sqrt(expected + 1);
}

export function ratioText(ratio) {
  if (ratio === null) return "not known yet";
  if (ratio < 0.1) return "far below";
  return `${ratio >= 10 ? Math.round(ratio) : ratio.toFixed(1)} ×`;
}

export function timeText(at, seconds = true) {
  const date = typeof at === "number" ? new Date(at * 1000) : new Date(at);
  const form = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
  if (seconds) form.second = "2-digit";
  const time = date.toLocaleTimeString("en", form);
  const far = Math.abs(Date.now() - date.getTime()) > 20 * 3600e3;
  return far ? `${date.toLocaleDateString("en", { month: "short", day: "numeric" })} ${time}` : time;
}

export function timeElement(at, seconds = true) {
  const date = typeof at === "number" ? new Date(at * 1000) : new Date(at);
  return h("time", { datetime: date.toISOString(), title: date.toISOString() }, timeText(at, seconds));
}

export function durationText(ms) {
  const s = Math.max(0, Math.round(ms / 1000));
  if (s < 90) return `${s} s`;
  if (s < 5400) return `${Math.round(s / 60)} min`;
  if (s < 129600) return `${Math.round(s / 3600)} h`;
  return `${Math.round(s / 86400)} days`;
}

export const untilText = (at, seconds = true) => (at ? `until ${timeText(at, seconds)}` : "until removed");

export const KIND_LABELS = { client_ip: "IP address", user: "user", tenant: "tenant", network: "network", prompts: "prompt template" };
export const CLASS_LABELS = {
  cost_spike: "Cost spike", ddos: "DDoS", scraping: "Scraping", credential_abuse: "Credential abuse",
  probing: "Probing", surge: "Surge", outage: "Outage", volume: "Abnormal volume",
};
export const ACTION_LABELS = {
  allow: "Allowed", tag: "Tagged", throttle: "Throttled", block: "Blocked", limit: "Limited",
};

export const EVENT_LABELS = {
  "incident.opened": "Incident opened", "incident.updated": "Incident escalated", "incident.resolved": "Incident resolved",
  "client.tagged": "Tagged", "client.throttled": "Throttled", "client.blocked": "Blocked", "client.unblocked": "Unblocked",
};

export const path = (kind, id) => `${encodeURIComponent(kind)}/${encodeURIComponent(id)}`;
export const clientLink = (kind, id, tenant) =>
  `#/clients/${path(kind, id)}${tenant && tenant !== "*" ? `?tenant=${encodeURIComponent(tenant)}` : ""}`;

export function subjectText(subject, tenant) {
  if (subject.kind === "tenant") return subject.id === "*" ? "the whole service" : `many clients of ${subject.id}`;
  return `${subject.id}${tenant && tenant !== "*" ? ` (${tenant})` : ""}`;
}

const MEASURES = [
  ["requests_10m", "requests in 10 min", "the expected rate"],
  ["tokens_10m", "tokens in 10 min", "the expected rate"],
  ["requests_1m", "requests per minute", "the rate of busy clients"],
];

export function excessText(incident) {
  const observed = incident.observed || {}, expected = incident.expected || {};
  const costs = incident.class === "cost_spike";
  const measures = costs ? [MEASURES[1], MEASURES[0], MEASURES[2]] : MEASURES;
  for (const [key, unit, reference] of measures) {
    if (observed[key] && expected[key]) {
      const ratio = ratioOf(observed[key], expected[key]);
      if (ratio >= 1.5) return `${count(observed[key])} ${unit}, ${ratioText(ratio)} ${reference}`;
    }
    if (costs && key === "tokens_10m" && observed[key]) return `${count(observed[key])} ${unit}`;
  }
  return observed.requests_1m ? `${count(observed.requests_1m)} requests per minute` : "";
}

export function incidentTitle(incident) {
  const what = CLASS_LABELS[incident.class] || incident.class;
  const more = excessText(incident) || (incident.reasons[0] || "").replace(/\.$/, "");
  return `${what} by ${subjectText(incident.subject, incident.tenant)}${more ? `: ${more}` : ""}.`;
}

const RESTRICTIONS = [["block", "blocked"], ["throttle", "throttled"], ["tag", "tagged"]];
export const restrictedCount = (held) => RESTRICTIONS.reduce((all, [key]) => all + held[key], 0);
export const restrictedText = (held) => RESTRICTIONS.filter(([key]) => held[key]).map(([key, text]) => `${count(held[key])} ${text}`).join(", ");

// The action in force as a sentence: on the subject, else the number of restricted clients.
export function actionText(incident) {
  if (state.counters?.modes.join() === "observe") return "Observe mode: no request was refused.";
  const { standing, held } = incident, all = restrictedCount(held);
  if (standing) {
    const how = standing.action === "throttle" && standing.rate ? ` to ${count(standing.rate)} requests per minute` : "";
    const since = incident.standing_since ? ` since ${timeText(incident.standing_since, false)}` : "";
    return `${ACTION_LABELS[standing.action]}${how}${since}, ${untilText(standing.until, false)}.`;
  }
  if (all) return `Restricted now: ${restrictedText(held)}.`;
  return incident.action === "allow" ? "No action taken." : `${ACTION_LABELS[incident.action]} earlier; no restriction is active now.`;
}

export function actionTag(state) {
  if (!state) return h("span", { class: "dim none" }, "–");
  const by = state.by === "detector" ? "by detection" : `by ${state.by}`;
  const title = `${ACTION_LABELS[state.action]} ${by}, ${untilText(state.until)}. ${state.reason || ""}`;
  return h("span", { class: `tag ${state.action}`, title }, ACTION_LABELS[state.action].toLowerCase());
}

export function emptyState(title, ...rest) {
  return h("div", { class: "empty" }, h("h2", {}, title), ...rest);
}

// A table. On narrow screens each cell repeats the column header.
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

// The first view: open incidents, traffic charts, current clients.
import { isOperator, undoIncident } from "./actions.js";
import { Chart } from "./charts.js";
import { isIdle, CLASS_LABELS, clientLink, timeText, count, actionTag, actionText, emptyState, setChildren, get, h, restrictedCount, KIND_LABELS, percent, rate, updateChildren, incidentTitle, isNotable, state, table, ratioOf, ratioText, usd } from "./lib.js";

const RANGES = [[15, "last 15 min"], [30, "last 30 min"], [60, "last hour"], [360, "last 6 hours"], [1440, "last day"]];
const SIGNS = { critical: "▲ Critical", warning: "▲ Warning", info: "● Information" };

export function incidentStrip(incident) {
  const link = `#/incidents/${encodeURIComponent(incident.id)}`;
  return h("section", { class: `strip ${incident.severity}`, "aria-label": "Open incident" },
    h("span", { class: "sign" }, SIGNS[incident.severity]),
    h("span", { class: "what" }, h("strong", {}, incidentTitle(incident)), ` ${actionText(incident)}`,
      incident.acknowledged ? h("span", { class: "dim" }, " Acknowledged.") : null),
    h("span", { class: "tools" }, h("a", { class: "button", href: link }, "Details"),
      isOperator() && restrictedCount(incident.held) ? h("button", { type: "button", title: "Remove all restrictions of this incident", onclick: () => undoIncident(incident.id) }, "Undo") : null));
}

export function expectedRatioCell(row) {
  const ratio = ratioOf(row.requests_1m, row.expected_1m);
  if (ratio === null) {
    const others = ratioOf(row.requests_1m, row.peers_1m);
    const title = "New client: its expected rate is known after 20 minutes. Compared with busy clients of its tenant";
    if (others === null || others < 1.5) return h("span", { class: "dim", title }, "new");
    const far = (from) => isNotable(row.requests_1m, row.peers_1m, from);
    return h("span", { class: far(10) ? "hot" : far(5) ? "warm" : "dim", title }, `${ratioText(others)} peers`);
  }
  const far = (from) => isNotable(row.requests_1m, row.expected_1m, from);
  return h("span", { class: far(10) ? "hot" : far(3) ? "warm" : null, title: `expected: up to ${count(row.expected_1m)} requests per minute` }, ratioText(ratio));
}

export function clientRows(items) {
  return items.map((row) => ({
    open: clientLink(row.kind, row.id, row.tenant),
    cells: [
      h("span", {}, h("a", { class: "mono", href: clientLink(row.kind, row.id, row.tenant) }, row.id), h("span", { class: "dim small" }, ` ${KIND_LABELS[row.kind]}`)),
      row.tenant, rate(row.requests_1m), expectedRatioCell(row), rate(row.tokens), usd(row.usd),
      row.score >= 1 ? h("span", { class: row.score >= 4 ? "hot" : row.score >= 3 ? "warm" : null, title: "Anomaly score of its last request" }, row.score.toFixed(1)) : h("span", { class: "dim" }, "–"),
      actionTag(row.standing),
    ],
  }));
}

export const CLIENT_HEADS = [
  { text: "Client" }, { text: "Tenant" }, { text: "Requests/min", num: true, sort: "now" },
  { text: "vs expected", num: true, title: "Current rate divided by the expected rate (upper bound) of this client" },
  { text: "Tokens/h", num: true, sort: "tokens", title: "In the last hour" }, { text: "Spend/h", num: true, sort: "usd", title: "In the last hour" },
  { text: "Score", num: true, sort: "score", title: "Anomaly score: 3 is a warning, 5 is critical" }, { text: "Action" },
];

export function now(root, params) {
  const minutes = RANGES.some(([m]) => m === Number(params.get("minutes"))) ? Number(params.get("minutes")) : 30;
  const view = viewOf(params);
  let incidents = [], line = null, step = 10;
  const marked = () => incidents.map((one) => ({ ...one, label: CLASS_LABELS[one.class] || one.class }));
  const per = (name) => (one, s) => one[name] / s;
  const chart = (title, unit, height, parts, more = {}) => new Chart({ title, unit, height, parts, incidents: marked, onzoom: (from, to) => zoom(minutes, from, to), onunzoom: view ? () => zoom(minutes) : null, ...more });
  const charts = [
    chart("Requests", "per second", 190, [
      { label: "expected (upper bound)", kind: "band", of: (b) => b.expected_rps, missing: "Expected rate not known yet (learned in 6 hours)" },
      { label: "threshold", kind: "dash", of: (b) => b.notable_rps },
      { label: "received", kind: "line", of: per("requests") },
      { label: "refused", kind: "area", of: per("refused") }]),
    chart("Tokens", "per second", 190, [{ label: "used", kind: "line", of: per("tokens") }]),
    chart("Spend", "USD per hour", 90, [{ label: "spend", kind: "line", of: (b, s) => (b.usd / s) * 3600 }], { form: usd, key: false }),
    chart("Upstream errors", "per minute", 90, [{ label: "errors", kind: "line", of: (b, s) => (b.errors / s) * 60 }], { key: false }),
    chart("Gateway overhead", "ms per request", 90, [{ label: "overhead", kind: "line", of: (b) => (b.requests ? b.overhead_ms : null) }], { form: (v) => (v === null ? "–" : v.toFixed(2)), key: false }),
  ];
  charts[4].least = 0.5;
  charts[2].least = 0.01;
  const strips = h("div", { class: "stack", id: "incidents" });
  const range = h("select", { "aria-label": "Time range", onchange: () => zoom(range.value) },
    view ? h("option", { value: "", selected: true }, `${timeText(view[0])} to ${timeText(view[1])}`) : null,
    RANGES.map(([m, text]) => h("option", { value: m, selected: !view && m === minutes }, text)));
  const back = view ? h("button", { type: "button", onclick: () => zoom(minutes) }, "Back to live") : h("span", { class: "dim small hint" }, "Drag on a chart to zoom");
  const figures = h("dl", { class: "card figures live" });
  const clients = h("div", { class: "live" }, h("div", { class: "skeleton" }));
  setChildren(root, h("div", { class: "row" }, h("h1", {}, "Now"), h("div", { class: "tools" }, back, range)), strips,
    h("div", { class: "charts" }, charts[0].root, charts[1].root), figures,
    h("section", { class: "card", "aria-label": "Clients" }, h("div", { class: "row" }, h("h2", {}, "Current clients"), h("a", { href: "#/clients" }, "All clients")), clients),
    h("div", { class: "charts small" }, charts.slice(2).map((c) => c.root)));

  function paint() {
    for (const one of charts) one.set(line, step, state.counters ? state.counters.at : undefined, minutes * 60, view);
    const sum = (name) => line.reduce((all, one) => all + one[name], 0);
    const all = sum("requests"), stopped = sum("refused");
    const c = state.counters;
    const entries = [["Allowed", percent(all - stopped, all)], ["Limited", percent(sum("limited"), all)], ["Throttled", percent(sum("throttled"), all)], ["Blocked", percent(sum("blocked"), all)], ["Errors", percent(sum("errors"), all)]];
    if (sum("would")) entries.push(["Would be refused (observe)", percent(sum("would"), all)]);
    entries.push(["Requests", count(all)], ["Spend today", usd(c ? c.spend_today : null)], ["In flight", count(c ? c.inflight : null)], ["Blocked now", count(c ? c.blocked : null)]);
    setChildren(figures, entries.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  }

  function showIncidents() {
    const open = incidents.filter((one) => one.state === "open").sort((a, b) => ["info", "warning", "critical"].indexOf(b.severity) - ["info", "warning", "critical"].indexOf(a.severity));
    updateChildren(strips, open.length ? open.slice(0, 4).map(incidentStrip) : h("p", { class: "strip normal" }, h("span", { class: "sign good" }, "● Normal"), normalText()),
      open.length > 4 ? h("p", { class: "dim" }, h("a", { href: "#/incidents" }, `${open.length - 4} more open incidents`)) : null);
  }

  function normalText() {
    if (line && !line.some((one) => one.requests)) return "No requests in this time range.";
    return line?.some((one) => one.expected_rps !== null) ? "Traffic is within the expected range." : "No open incident. The expected range is still being learned.";
  }

  async function loadLine() {
    const span = view ? Math.min(1440, Math.max(1, Math.ceil((Date.now() / 1000 - view[0]) / 60) + 1)) : minutes;
    const found = await get(`timeline?minutes=${span}`);
    step = found.step_s;
    const first = !line;
    line = view ? found.items.filter((one) => one.at >= view[0] - step && one.at <= view[1]) : found.items;
    if (first) showIncidents();
    paint();
  }
  async function loadIncidents() {
    incidents = (await get("incidents?limit=50")).items;
    showIncidents();
    if (line) paint();
  }
  async function loadClients() {
    const { items } = await get("clients?sort=now&limit=12");
    const rows = items.filter((row) => row.kind !== "tenant").slice(0, 10);
    updateChildren(clients, rows.length ? table(CLIENT_HEADS, clientRows(rows), { label: "Clients by requests per minute" })
      : emptyState("No traffic yet", "Point a client at this gateway:", h("code", {}, `export OPENAI_BASE_URL=${await address()}/v1`)));
  }
  const refresh = setInterval(() => { if (isIdle(clients)) loadClients().catch(() => {}); }, 3000);
  return {
    load: () => Promise.all([loadLine(), loadIncidents(), loadClients()]),
    onCounters(c) {
      if (!line) return;
      if (view) { /* a past range does not change */ }
      else if (step === 10) for (const bucket of c.buckets) merge(line, bucket, minutes * 6);
      else if (Math.floor(c.at / 60) * 60 > (line.at(-1)?.at ?? 0)) loadLine().catch(() => {});
      paint();
    },
    onOutput: () => { loadIncidents().catch(() => {}); loadClients().catch(() => {}); },
    onChange: () => { loadIncidents().catch(() => {}); loadClients().catch(() => {}); },
    repaint: () => charts.forEach((one) => one.repaint()),
    close: () => { clearInterval(refresh); charts.forEach((one) => one.destroy()); },
  };
}

// The base URL for clients, as reachable from this browser.
async function address() {
  const [host, port] = (await get("status")).listen;
  const here = /^(0\.0\.0\.0|::|)$/.test(host) ? location.hostname : host.includes(":") ? `[${host}]` : host;
  return `http://${here}:${port}`;
}

const zoom = (minutes, from, to) => {
  const range = from === undefined ? {} : { from, to: Math.max(to, from + 30) };
  location.hash = `#/now?${new URLSearchParams({ minutes, ...range })}`;
};

// The zoomed time range of the URL, within the last day; null when not zoomed.
function viewOf(params) {
  const [from, to] = ["from", "to"].map((name) => Number(params.get(name)));
  return from > Date.now() / 1000 - 86400 && to > from ? [from, to] : null;
}

function merge(line, bucket, most) {
  const at = line.findIndex((one) => one.at === bucket.at);
  if (at >= 0) line[at] = bucket;
  else if (!line.length || bucket.at > line.at(-1).at) line.push(bucket);
  while (line.length > most) line.shift();
}

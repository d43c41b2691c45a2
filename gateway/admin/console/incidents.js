// Incidents: the list, and one incident with its evidence, clients, history and impact.
import { clientActions, isPending, isOperator, addSilence, runDelayed, undoIncident } from "./actions.js";
import { Chart, comparisonBar } from "./charts.js";
import { isIdle, CLASS_LABELS, clientLink, timeText, count, actionTag, actionText, emptyState, setChildren, get, h, restrictedCount, restrictedText, KIND_LABELS, timeElement, percent, rate, updateChildren, EVENT_LABELS, incidentTitle, table, ratioOf, ratioText, untilText, usd } from "./lib.js";
import { expectedRatioCell } from "./now.js";

const SHORT_LIST = 10;
const reload = (load) => () => { load().catch(() => {}); };

export function incidents(root) {
  const list = h("div", { class: "card" }, h("div", { class: "skeleton" }));
  setChildren(root, h("h1", {}, "Incidents"), list);
  const heads = [{ text: "Incident" }, { text: "State" }, { text: "Opened" }, { text: "Resolved" }, { text: "Score", num: true }, { text: "Restricted now" }];
  async function load() {
    const { items } = await get("incidents?limit=200");
    const rows = items.map((one) => ({
      open: `#/incidents/${encodeURIComponent(one.id)}`,
      cells: [h("a", { href: `#/incidents/${encodeURIComponent(one.id)}` }, incidentTitle(one)),
        h("span", { class: `sign ${one.state === "open" ? one.severity : "good"}` }, one.state === "open" ? `▲ ${one.severity}` : "● resolved"),
        timeElement(one.opened_at), one.resolved ? timeElement(one.resolved.at) : h("span", { class: "dim" }, "–"), one.score.toFixed(1), restrictedCount(one.held) ? restrictedText(one.held) : h("span", { class: "dim" }, "none")],
    }));
    updateChildren(list, rows.length ? table(heads, rows, { label: "Incidents, newest first" })
      : emptyState("No incidents", "No incident since the gateway started. New incidents appear here automatically."));
  }
  return { load, onOutput: reload(load), onChange: reload(load) };
}

function header(one, where) {
  const cls = CLASS_LABELS[one.class] || one.class, open = one.state === "open", acknowledging = isPending(`acknowledge ${one.id}`), resolving = isPending(`resolve ${one.id}`);
  return h("div", { class: "row top" },
    h("div", {}, h("p", { class: "dim" }, h("a", { href: "#/incidents" }, "Incidents"), ` / ${cls}`), h("h1", {}, incidentTitle(one)),
      h("p", {}, h("span", { class: `sign ${open ? one.severity : "good"}` }, open ? `▲ Open, ${one.severity}` : "● Resolved"),
        open ? " since " : " at ", timeElement(open || !one.resolved ? one.opened_at : one.resolved.at), h("span", { class: "dim", title: "Anomaly score: 3 is a warning, 5 is critical" }, `, score ${one.score.toFixed(1)}`),
        one.acknowledged ? h("span", { class: "dim" }, `, acknowledged at ${timeText(one.acknowledged.at)} by ${one.acknowledged.by}`) : null, `. ${actionText(one)}`)),
    isOperator() ? h("div", { class: "tools" },
      open && !one.acknowledged ? h("button", { type: "button", disabled: acknowledging, title: "Show other operators that this incident is being handled", onclick: () => runDelayed(`acknowledge ${one.id}`, "Acknowledging", "POST", `${where}/acknowledge`, () => "Acknowledged.") }, acknowledging ? "Acknowledging…" : "Acknowledge") : null,
      open ? h("button", { type: "button", title: "Send no alerts of this class for this tenant for 1 hour. Detection still acts", onclick: () => addSilence({ tenant: one.tenant, class: one.class, ttl: "1h", reason: "from the console" }, `${cls} alerts of ${one.tenant === "*" ? "all tenants" : one.tenant} are silenced for 1 hour.`) }, "Silence for 1 h") : null,
      restrictedCount(one.held) ? h("button", { type: "button", title: `Remove all restrictions of this incident: ${restrictedText(one.held)}`, onclick: () => undoIncident(one.id) }, "Undo actions") : null,
      open ? h("button", { class: "main", type: "button", disabled: resolving, title: "Close the incident. Blocks stay until they expire", onclick: () => runDelayed(`resolve ${one.id}`, "Resolving", "POST", `${where}/resolve`, () => "Resolved. Blocks stay until they expire.") }, resolving ? "Resolving…" : "Resolve") : null) : null);
}

export function incident(root, _params, id) {
  const where = `incidents/${encodeURIComponent(id)}`, opened = new Set();
  let chart = null, all = false, one = null;
  const expected = () => one.expected.requests_1m ?? (one.expected.requests_10m ? one.expected.requests_10m / 10 : null);
  const draw = () => new Chart({ title: one.subject.kind === "tenant" ? "Requests of the tenant" : "Requests of the client", unit: "per minute", height: 140,
    incidents: () => [{ ...one, label: "opened" }],
    parts: [{ label: "expected (upper bound)", kind: "dash", of: expected }, { label: "received", kind: "line", of: (b, s) => (b.requests / s) * 60 }, { label: "refused", kind: "area", of: (b, s) => (b.refused / s) * 60 }] });
  const showAll = () => { all = true; load().catch(() => {}); };
  async function load() {
    one = await get(where);
    const line = one.timeline;
    if (line) chart ??= draw();
    updateChildren(root, header(one, where), h("div", { class: "two" },
      h("div", { class: "stack" },
        h("section", { class: "card", "aria-label": "Why" }, h("h2", {}, "Why"), h("ul", { class: "plain" }, one.reasons.map((reason) => h("li", {}, reason))), evidenceTable(one)),
        chart?.root, clientsCard(one, all, showAll)),
      h("div", { class: "stack" },
        h("section", { class: "card", "aria-label": "Actions" }, h("h2", {}, "Actions"), historyList(one, opened)),
        impactCard(one))));
    if (line) chart.set(line.items, line.step_s);
  }
  const refresh = setInterval(() => { if (isIdle(root)) load().catch(() => {}); }, 5000);
  return { load, onOutput: reload(load), onChange: reload(load), repaint: () => chart?.repaint(), close: () => { clearInterval(refresh); chart?.destroy(); } };
}

// -- why -----------------------------------------------------------------------------

const MEASURES = { requests_1m: "Requests per minute", requests_10m: "Requests per 10 min", tokens_1m: "Tokens per minute", tokens_10m: "Tokens per 10 min" };

function evidenceTable(one) {
  const peers = one.expected.requests_1m !== undefined && one.class !== "surge";
  const rows = Object.entries(one.observed).map(([name, observed]) => {
    const expected = one.expected[name] ?? null, ratio = ratioOf(observed, expected);
    return { cells: [MEASURES[name] || name.replaceAll("_", " "), count(observed), expected === null ? h("span", { class: "dim" }, "not known") : count(expected), ratio === null ? "" : ratioText(ratio), expected === null ? "" : comparisonBar(observed, expected)] };
  });
  const alike = one.clients.find((client) => client.kind === one.subject.kind && client.id === one.subject.id)?.alike;
  if (alike) rows.push({ cells: ["Similar prompts, now", percent(alike, 1), h("span", { class: "dim" }, "low"), "", comparisonBar(100 * alike, null, 100)] });
  if (!rows.length) return null;
  const heads = [{ text: "At opening" }, { text: "Observed", num: true }, { text: peers ? "Busy clients" : "Expected", num: true }, { text: "Ratio", num: true }, { text: "Observed above expected" }];
  // Without expected values, leave out the ratio and the bars.
  const shown = rows.some((row) => row.cells[4]) ? 5 : 3;
  return table(heads.slice(0, shown), rows.map((row) => ({ cells: row.cells.slice(0, shown) })), { label: "Evidence: observed and expected values" });
}

// -- clients -------------------------------------------------------------------------

function clientsCard(one, all, showAll) {
  const { clients } = one, tenants = one.tenant === "*" ? [] : [one.tenant];
  const heads = [{ text: "Client" }, { text: "Share", num: true, title: "Share of the requests above the expected rate in the last hour, among the addresses or among the users of this incident" }, { text: "Requests/min", num: true }, { text: "vs expected", num: true }, { text: "Action" }, { text: "" }];
  const rows = (all ? clients : clients.slice(0, SHORT_LIST)).map((client) => ({
    open: client.kind === "prompts" ? null : clientLink(client.kind, client.id, client.tenant),
    cells: [h("span", {}, client.kind === "prompts" ? h("span", { class: "mono" }, client.id) : h("a", { class: "mono", href: clientLink(client.kind, client.id, client.tenant) }, client.id), h("span", { class: "dim small" }, ` ${KIND_LABELS[client.kind]}`)),
      client.share === null ? h("span", { class: "dim" }, "–") : percent(client.share, 1), rate(client.requests_1m), expectedRatioCell(client), actionTag(client.standing), clientActions(client, tenants)],
  }));
  const title = clients.length > 1 ? `Clients (${count(one.clients_total)}, by share of the excess)` : "Client";
  const rest = one.clients_total - rows.length;
  return h("section", { class: "card", "aria-label": "Clients" }, h("h2", {}, title),
    rows.length ? table(heads, rows, { label: "Clients of this incident" }) : h("p", { class: "dim" }, "No single client is responsible."),
    rest > 0 ? h("p", { class: "after" }, all ? h("span", { class: "dim" }, `${count(rest)} more with smaller shares.`) : h("button", { type: "button", onclick: showAll }, `Show ${count(Math.min(rest, clients.length - rows.length))} more`), !all && one.clients_total > clients.length ? h("span", { class: "dim" }, ` of ${count(rest)}`) : null) : null);
}

// -- actions -------------------------------------------------------------------------

const AUDIT_LABELS = { acknowledge: "Acknowledged", resolve: "Resolved", undo: "Actions undone", restore: "Actions restored", block: "Blocked", allow: "Allowed", unblock: "Unblocked", reset: "Limits reset" };

function historyList(one, opened) {
  const steps = [...one.steps.map((step) => ({ at: step.from, step })), ...one.changes.filter((change) => change.status < 400).map((change) => ({ at: change.at, change }))].sort((a, b) => b.at - a.at);
  if (!steps.length) return h("p", { class: "dim" }, "No history: the incident began before this gateway started.");
  return h("ol", { class: "story" }, steps.slice(0, 40).map(({ at, step, change }) => h("li", {}, timeElement(at), step ? stepText(step, opened) : h("span", {}, h("strong", {}, AUDIT_LABELS[change.what] || change.what), change.kind === "incident" ? "" : [" ", h("span", { class: "mono" }, change.id)], h("span", { class: "dim" }, ` by ${change.role}`)))));
}

function stepText(step, opened) {
  const what = h("strong", {}, EVENT_LABELS[step.type] || step.type);
  if (!step.type.startsWith("client.")) return h("span", {}, what, ` (${step.severity}, score ${step.score.toFixed(1)})`);
  const end = step.ends && step.type !== "client.unblocked" ? `, ${untilText(step.ends)}` : "";
  const name = (ref) => h("span", { class: "mono" }, ref.id);
  if (step.count <= 2) return h("span", {}, what, " ", step.clients.map((ref, n) => [n ? " and " : "", name(ref)]), end);
  const key = `${step.type} ${step.from}`, left = step.count - step.clients.length;
  return h("details", { open: opened.has(key), ontoggle: (event) => opened[event.target.open ? "add" : "delete"](key) },
    h("summary", {}, what, ` ${count(step.count)} clients${step.to - step.from >= 1 ? ` in ${Math.ceil(step.to - step.from)} s` : ""}${end}`),
    step.clients.map((ref, n) => [n ? ", " : "", name(ref)]), left > 0 ? ` and ${count(left)} more` : "");
}

// -- impact --------------------------------------------------------------------------

function impactCard(one) {
  const found = one.impact;
  if (!found) return h("section", { class: "card" }, h("h2", {}, "Before and after"), h("p", { class: "dim" }, "No data: the incident began before this gateway started."));
  const { before, after, saved } = found;
  // Rates are computed over at least 10 s, one chart bucket.
  const per = (part, name, s) => (part.to > part.from ? (part[name] / Math.max(10, part.to - part.from)) * s : null);
  const hasBefore = before.to > before.from;
  const unit = (text, s) => [text, h("span", { class: "dim" }, s === 60 ? "/min" : "/h")];
  const row = (text, name, s, form) => ({ cells: [text, hasBefore ? unit(form(per(before, name, s)), s) : "–", unit(form(per(after, name, s)), s), form(after[name])] });
  const heads = [{ text: "Measure" }, { text: "Before", num: true }, { text: "Since", num: true }, { text: "Total since", num: true }];
  const spent = usd(after.usd), gain = saved && after.refused
    ? ["Without action it would have spent ", h("strong", {}, usd(after.usd + saved.usd)), ` instead of ${spent}: ${usd(saved.usd)} and ${rate(saved.tokens)} tokens saved.`]
    : `No request was refused. Spend since it began: ${spent}.`;
  return h("section", { class: "card", "aria-label": "Before and after" }, h("h2", {}, "Before and after"),
    h("p", { title: "Estimate: refused requests at the average price of the requests served since it began" }, gain),
    table(heads, [row("Requests", "requests", 60, count), row("Refused", "refused", 60, count), row("Tokens", "tokens", 60, rate), row("Spend", "usd", 3600, usd)], { label: "Rates before and since the incident began" }),
    h("p", { class: "dim small after" }, `Began at ${timeText(after.from)}. ${one.subject.kind === "tenant" ? "Includes all clients of the tenant. " : ""}${hasBefore ? `Before: from ${timeText(before.from)} on.` : "No earlier requests."}`));
}

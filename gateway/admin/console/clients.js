// Clients: the list, and one client with its usage, expected range, limits and history.
import { openBlockDialog, clientActions, isOperator, resetLimits } from "./actions.js";
import { usageBar, columnChart } from "./charts.js";
import { isIdle, timeText, count, ACTION_LABELS, actionTag, emptyState, setChildren, get, h, KIND_LABELS, timeElement, path, percent, rate, updateChildren, EVENT_LABELS, durationText, table, ratioOf, ratioText, untilText, usd } from "./lib.js";
import { CLIENT_HEADS, clientRows, expectedRatioCell } from "./now.js";

const reload = (load) => () => { load().catch(() => {}); };

export function clients(root, params) {
  const sort = params.get("sort") || "now", kind = params.get("kind") || "", q = params.get("q") || "", cursor = Number(params.get("cursor") || 0);
  const to = (more) => {
    const next = new URLSearchParams({ sort, kind, q, ...more });
    for (const [name, value] of [...next]) if (!value) next.delete(name);
    return `#/clients?${next}`;
  };
  const kinds = h("select", { "aria-label": "Kind of client", onchange: (event) => { location.hash = to({ kind: event.target.value }); } },
    [["", "all kinds"], ["client_ip", "IP addresses"], ["user", "users"], ["tenant", "tenants"]].map(([value, text]) => h("option", { value, selected: value === kind }, text)));
  const list = h("div", { class: "live" }, h("div", { class: "skeleton" }));
  const title = q ? `Clients matching “${q}”` : "Clients in the last hour";
  setChildren(root, h("div", { class: "row" }, h("h1", {}, title), h("div", { class: "tools" }, q ? h("a", { href: to({ q: "" }) }, "Show all") : null, kinds)), h("section", { class: "card" }, list));
  const heads = CLIENT_HEADS.map((head) => (head.sort ? { ...head, sorted: head.sort === sort, button: h("button", { type: "button", onclick: () => { location.hash = to({ sort: head.sort }); } }, `${head.text}${head.sort === sort ? " ↓" : ""}`) } : head));
  async function load() {
    const query = new URLSearchParams({ sort, limit: "50", cursor: String(cursor) });
    if (kind) query.set("kind", kind);
    if (q) query.set("q", q);
    const page = await get(`clients?${query}`);
    updateChildren(list, page.items.length ? [table(heads, clientRows(page.items), { label: title }),
      h("div", { class: "row" }, cursor ? h("a", { href: to({ cursor: String(Math.max(0, cursor - 50)) }) }, "Previous") : h("span"), h("span", { class: "dim small" }, `${cursor + 1} to ${cursor + page.items.length}`), page.next ? h("a", { href: to({ cursor: page.next }) }, "Next") : h("span"))]
      : emptyState(q ? "No matching client" : "No requests in the last hour", q ? "Only clients with requests in the last hour are listed. A client can be blocked before it is listed:" : "Clients appear with their first request.",
        q && isOperator() ? h("button", { type: "button", onclick: () => openBlockDialog("block", /^[0-9a-f.:]+$/i.test(q) && /[.:]/.test(q) ? "client_ip" : "user", q) }, `Block ${q}`) : null));
  }
  const refresh = setInterval(() => { if (isIdle(root)) load().catch(() => {}); }, 5000);
  return { load, onChange: reload(load), onOutput: reload(load), close: () => clearInterval(refresh) };
}

export function client(root, params, kind, id) {
  const tenant = params.get("tenant");
  let all = false;
  const query = tenant ? `?tenant=${encodeURIComponent(tenant)}` : "";
  async function load() {
    const one = await get(`clients/${path(kind, id)}${query}`);
    const tenants = one.usage.map((row) => row.tenant);
    const standing = one.blocks.find((block) => block.action !== "allow") || one.blocks[0] || null;
    const baselines = Object.entries(one.usual);
    updateChildren(root,
      h("div", { class: "row" }, h("div", {}, h("p", { class: "dim" }, h("a", { href: "#/clients" }, "Clients"), ` / ${KIND_LABELS[kind]}${tenants.length ? `, tenant ${tenants.join(", ")}` : ""}`), h("h1", { class: "mono" }, id),
        h("p", {}, standing ? [actionTag(standing), ` ${untilText(standing.until)}, ${standing.by === "detector" ? "by detection" : `by ${standing.by}`}`, standing.reason ? `: ${standing.reason}` : ""] : h("span", { class: "dim" }, "No restriction."))),
      isOperator() ? h("div", { class: "tools" }, clientActions({ kind, id, standing }, tenants), h("button", { type: "button", title: "Set the usage of its limits to zero", onclick: () => resetLimits(kind, id) }, "Reset limits")) : null),
      h("div", { class: "two" },
        h("div", { class: "stack" }, baselines.length ? baselines.map(([name, baseline]) => expectedCard(name, baseline, baselines.length > 1)) : h("section", { class: "card" }, h("h2", {}, "Current and expected"), h("p", { class: "dim" }, "No recent requests, so no expected range is known.")), historyCard(one)),
        h("div", { class: "stack" }, hourCard(one), limitsCard(one))),
      recordsCard(one, all, () => { all = true; load().catch(() => {}); }));
  }
  const refresh = setInterval(() => { if (isIdle(root)) load().catch(() => {}); }, 5000);
  return { close: () => clearInterval(refresh), load, onChange: reload(load), onOutput: reload(load) };
}

function expectedCard(name, baseline, named) {
  const ratio = ratioOf(baseline.requests_1m, baseline.expected_1m);
  const heads = [{ text: "Measure" }, { text: "Now", num: true }, { text: "Expected (upper bound)", num: true }, { text: "vs expected", num: true }];
  const row = (text, observed, expected, ratioCell) => ({ cells: [text, count(observed), expected === null ? "not known yet" : count(expected), ratioCell || (expected === null ? "–" : ratioText(ratioOf(observed, expected)))] });
  return h("section", { class: "card" }, h("h2", {}, `Current and expected${named ? `, ${name}` : ""}`),
    table(heads, [row("Requests per minute", baseline.requests_1m, baseline.expected_1m, expectedRatioCell(baseline)), row("Requests per 10 min", baseline.requests_10m, baseline.expected_10m), row("Tokens per 10 min", baseline.tokens_10m, baseline.expected_tokens_10m)], { label: "Current and expected rates" }),
    baseline.requests.length > 1 ? [h("p", { class: "dim small" }, `Requests per 10 min over the ${durationText(baseline.requests.length * 600e3)} until ${timeText(baseline.until, false)}; dashed: expected now`), columnChart(baseline.requests, `Requests per 10 min, highest ${Math.max(...baseline.requests)}`, baseline.expected_10m)] : h("p", { class: "dim small after" }, "The chart appears after two 10-minute windows with requests."),
    h("p", { class: "dim small", title: baseline.sigma === null ? "" : `${baseline.sigma.toFixed(1)} standard deviations above the upper baseline` }, `First seen ${timeText(baseline.since)}${baseline.known ? ", established client" : ""}. Similar prompts: ${percent(baseline.alike, 1)}.${ratio !== null && ratio >= 3 ? " Well above the expected rate." : ""} Busy clients of its tenant send ${count(baseline.peers_1m)} requests per minute.`));
}

function hourCard(one) {
  const sum = (name) => one.usage.reduce((all, row) => all + row[name], 0);
  return h("section", { class: "card" }, h("h2", {}, "Last hour"), one.usage.length ? h("dl", { class: "row" },
    [["Requests", count(sum("requests"))], ["Tokens", rate(sum("tokens"))], ["Spend", usd(sum("usd"))], ["Refused", count(sum("limited"))]].map(([name, value]) => h("div", {}, h("dt", { class: "dim small" }, name), h("dd", { class: "big" }, value)))) : h("p", { class: "dim" }, "No requests in the last hour."));
}

function limitsCard(one) {
  const items = one.limits.map((limit) => {
    const usdMeter = limit.limit.includes(".usd."), form = usdMeter ? usd : count;
    const share = limit.amount ? limit.used / limit.amount : 0;
    const free = limit.free_at ? `fully available by ${timeText(limit.free_at, false)}` : limit.used ? "available when open requests end" : "";
    return h("li", {}, h("div", { class: "row" }, h("span", { title: `${limit.limit}, tenant ${limit.tenant}` }, limitLabel(limit)), h("span", { class: "figure" }, `${form(limit.remaining)} of ${form(limit.amount)} left`)), usageBar(share), free ? h("div", { class: "dim small", title: "Latest time, if it sends no more requests" }, free) : null);
  });
  return h("section", { class: "card" }, h("h2", {}, "Limits"), items.length ? h("ul", { class: "plain" }, items) : h("p", { class: "dim" }, "No limit applies to this client alone."));
}

const WINDOWS = { day: "day", week: "week", month: "month" };

function limitLabel(limit) {
  const [, meter, window] = limit.limit.split(".");
  const names = { usd: "USD", tokens: "Tokens", requests: "Requests", prompt_tokens: "Prompt tokens", completion_tokens: "Completion tokens", concurrent: "Concurrent requests" };
  return `${names[meter] || meter}${window ? ` per ${WINDOWS[window] || window}` : ""}${limit.models.length ? ` (${limit.models.join(", ")})` : ""}`;
}

function historyCard(one) {
  const lines = [
    ...one.said.map((output) => ({ at: Date.parse(output.ts), text: [EVENT_LABELS[output.type] || output.type, output.reasons[0] ? `: ${output.reasons[0]}` : ""] })),
    ...one.changes.map((change) => ({ at: change.at * 1000, text: [`${change.what} by ${change.role}${change.status >= 400 ? " (failed)" : ""}`] })),
  ].sort((a, b) => b.at - a.at).slice(0, 30);
  return h("section", { class: "card" }, h("h2", {}, "History"), lines.length ? h("ol", { class: "story" }, lines.map((line) => h("li", {}, timeElement(line.at / 1000), h("span", {}, line.text)))) : h("p", { class: "dim" }, "No events since this gateway started."));
}

const SHORT_LIST = 10;

function recordsCard(one, all, more) {
  const heads = [{ text: "Time" }, { text: "Model" }, { text: "Tokens", num: true }, { text: "Cost", num: true }, { text: "Latency", num: true }, { text: "Status", num: true }, { text: "Action" }];
  const rows = (all ? one.records : one.records.slice(0, SHORT_LIST)).map((r) => ({ cells: [h("span", { title: r.request_id }, timeElement(r.ts)), r.model || r.endpoint, count(r.total_tokens), usd(r.usd), r.duration_ms < 0.1 ? "< 0.1 ms" : `${count(r.duration_ms)} ms`, r.status, h("span", { class: `tag ${r.action}`, title: r.limit || "" }, `${r.action === "allow" ? "allowed" : ACTION_LABELS[r.action].toLowerCase()}${r.enforced ? "" : " (observe mode)"}`)] }));
  return h("section", { class: "card" }, h("h2", {}, "Recent requests"), rows.length ? table(heads, rows, { label: "Recent requests, newest first" }) : h("p", { class: "dim" }, "No requests among the last 5,000 of this gateway."),
    one.records.length > rows.length ? h("p", { class: "after" }, h("button", { type: "button", onclick: more }, `Show ${one.records.length - rows.length} more`)) : null);
}

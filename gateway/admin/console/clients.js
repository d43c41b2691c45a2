// Clients: who uses it, and one of them: now against usual, limits, what was done.
import { ask, hand, may, reset } from "./actions.js";
import { bar, columns } from "./charts.js";
import { calm, clock, count, DONE, doneTag, empty, fill, get, h, KINDS, moment, path, percent, rate, refill, SAID, span, table, times, timesWords, until, usd } from "./lib.js";
import { CLIENT_HEADS, clientRows, ratioCell } from "./now.js";

const reload = (load) => () => { load().catch(() => {}); };

export function clients(root, params) {
  const sort = params.get("sort") || "now", kind = params.get("kind") || "", q = params.get("q") || "", cursor = Number(params.get("cursor") || 0);
  const to = (more) => {
    const next = new URLSearchParams({ sort, kind, q, ...more });
    for (const [name, value] of [...next]) if (!value) next.delete(name);
    return `#/clients?${next}`;
  };
  const kinds = h("select", { "aria-label": "Kind of client", onchange: (event) => { location.hash = to({ kind: event.target.value }); } },
    [["", "all kinds"], ["client_ip", "addresses"], ["user", "users"], ["tenant", "tenants"]].map(([value, text]) => h("option", { value, selected: value === kind }, text)));
  const list = h("div", { class: "live" }, h("div", { class: "skeleton" }));
  const title = q ? `Clients matching “${q}”` : "Clients of the last hour";
  fill(root, h("div", { class: "row" }, h("h1", {}, title), h("div", { class: "tools" }, q ? h("a", { href: to({ q: "" }) }, "Show all") : null, kinds)), h("section", { class: "card" }, list));
  const heads = CLIENT_HEADS.map((head) => (head.sort ? { ...head, sorted: head.sort === sort, button: h("button", { type: "button", onclick: () => { location.hash = to({ sort: head.sort }); } }, `${head.text}${head.sort === sort ? " ↓" : ""}`) } : head));
  async function load() {
    const query = new URLSearchParams({ sort, limit: "50", cursor: String(cursor) });
    if (kind) query.set("kind", kind);
    if (q) query.set("q", q);
    const page = await get(`clients?${query}`);
    refill(list, page.items.length ? [table(heads, clientRows(page.items), { label: title }),
      h("div", { class: "row" }, cursor ? h("a", { href: to({ cursor: String(Math.max(0, cursor - 50)) }) }, "Previous") : h("span"), h("span", { class: "dim small" }, `${cursor + 1} to ${cursor + page.items.length}`), page.next ? h("a", { href: to({ cursor: page.next }) }, "Next") : h("span"))]
      : empty(q ? "Nobody matches" : "No traffic within the hour", q ? "Whoever was silent for an hour is not listed. A block needs no listing:" : "Clients are listed as soon as they ask for something.",
        q && may() ? h("button", { type: "button", onclick: () => ask("block", /^[0-9a-f.:]+$/i.test(q) && /[.:]/.test(q) ? "client_ip" : "user", q) }, `Block ${q}`) : null));
  }
  const again = setInterval(() => { if (calm(root)) load().catch(() => {}); }, 5000);
  return { load, acted: reload(load), output: reload(load), close: () => clearInterval(again) };
}

export function client(root, params, kind, id) {
  const tenant = params.get("tenant");
  let all = false;
  const query = tenant ? `?tenant=${encodeURIComponent(tenant)}` : "";
  async function load() {
    const one = await get(`clients/${path(kind, id)}${query}`);
    const tenants = one.usage.map((row) => row.tenant);
    const standing = one.blocks.find((block) => block.action !== "allow") || one.blocks[0] || null;
    const usages = Object.entries(one.usual);
    refill(root,
      h("div", { class: "row" }, h("div", {}, h("p", { class: "dim" }, h("a", { href: "#/clients" }, "Clients"), ` / ${KINDS[kind]}${tenants.length ? ` of ${tenants.join(", ")}` : ""}`), h("h1", { class: "mono" }, id),
        h("p", {}, standing ? [doneTag(standing), ` ${until(standing.until)}, ${standing.by === "detector" ? "by detection" : `by ${standing.by}`}`, standing.reason ? `: ${standing.reason}` : ""] : h("span", { class: "dim" }, "Nothing is done to it."))),
      may() ? h("div", { class: "tools" }, hand({ kind, id, standing }, tenants), h("button", { type: "button", title: "What it used of its limits is forgotten", onclick: () => reset(kind, id) }, "Reset limits")) : null),
      h("div", { class: "two" },
        h("div", { class: "stack" }, usages.length ? usages.map(([name, usual]) => usualCard(name, usual, usages.length > 1)) : h("section", { class: "card" }, h("h2", {}, "Now against usual"), h("p", { class: "dim" }, "Detection has not seen it lately, so nothing is known of what is usual.")), historyCard(one)),
        h("div", { class: "stack" }, hourCard(one), limitsCard(one))),
      recordsCard(one, all, () => { all = true; load().catch(() => {}); }));
  }
  const again = setInterval(() => { if (calm(root)) load().catch(() => {}); }, 5000);
  return { close: () => clearInterval(again), load, acted: reload(load), output: reload(load) };
}

function usualCard(name, usual, named) {
  const ratio = times(usual.requests_1m, usual.expected_1m);
  const heads = [{ text: "" }, { text: "Now", num: true }, { text: "Usual, at most", num: true }, { text: "vs usual", num: true }];
  heads[0].text = "Measure";
  const row = (text, seen, expected, beside) => ({ cells: [text, count(seen), expected === null ? "not known yet" : count(expected), beside || (expected === null ? "–" : timesWords(times(seen, expected)))] });
  return h("section", { class: "card" }, h("h2", {}, `Now against usual${named ? `, ${name}` : ""}`),
    table(heads, [row("Requests in a minute", usual.requests_1m, usual.expected_1m, ratioCell(usual)), row("Requests in ten minutes", usual.requests_10m, usual.expected_10m), row("Tokens in ten minutes", usual.tokens_10m, usual.expected_tokens_10m)], { label: "Now against usual" }),
    usual.requests.length > 1 ? [h("p", { class: "dim small" }, `Requests in ten minutes, the last ${span(usual.requests.length * 600e3)} until ${clock(usual.until, false)}; dashed: usual now`), columns(usual.requests, `Requests per ten minutes, highest ${Math.max(...usual.requests)}`, usual.expected_10m)] : h("p", { class: "dim small after" }, "Its day is shown once it was seen in two ten-minute windows."),
    h("p", { class: "dim small", title: usual.sigma === null ? "" : `${usual.sigma.toFixed(1)} spreads above its envelope` }, `First seen ${clock(usual.since)}${usual.known ? ", known well" : ""}. Alike prompts: ${percent(usual.alike, 1)}.${ratio !== null && ratio >= 3 ? " It is well above its usual." : ""} Its tenant's busy clients send ${count(usual.peers_1m)} a minute.`));
}

function hourCard(one) {
  const sum = (name) => one.usage.reduce((all, row) => all + row[name], 0);
  return h("section", { class: "card" }, h("h2", {}, "Last hour"), one.usage.length ? h("dl", { class: "row" },
    [["Requests", count(sum("requests"))], ["Tokens", rate(sum("tokens"))], ["Spend", usd(sum("usd"))], ["Refused", count(sum("limited"))]].map(([name, value]) => h("div", {}, h("dt", { class: "dim small" }, name), h("dd", { class: "big" }, value)))) : h("p", { class: "dim" }, "Not a request within the hour."));
}

function limitsCard(one) {
  const items = one.limits.map((limit) => {
    const usdMeter = limit.limit.includes(".usd."), form = usdMeter ? usd : count;
    const share = limit.amount ? limit.used / limit.amount : 0;
    const free = limit.free_at ? `all of it free again by ${clock(limit.free_at, false)}` : limit.used ? "free when they end" : "";
    return h("li", {}, h("div", { class: "row" }, h("span", { title: `${limit.limit}, tenant ${limit.tenant}` }, limitWords(limit)), h("span", { class: "figure" }, `${form(limit.remaining)} of ${form(limit.amount)} left`)), bar(share), free ? h("div", { class: "dim small", title: "At the latest, if it sends nothing more" }, free) : null);
  });
  return h("section", { class: "card" }, h("h2", {}, "Limits"), items.length ? h("ul", { class: "plain" }, items) : h("p", { class: "dim" }, "No limit is about this client alone."));
}

const WINDOWS = { day: "a day", week: "a week", month: "a month" };

function limitWords(limit) {
  const [, meter, window] = limit.limit.split(".");
  const names = { usd: "Dollars", tokens: "Tokens", requests: "Requests", prompt_tokens: "Prompt tokens", completion_tokens: "Completion tokens", concurrent: "Open at once" };
  return `${names[meter] || meter}${window ? ` in ${WINDOWS[window] || window}` : ""}${limit.models.length ? ` (${limit.models.join(", ")})` : ""}`;
}

function historyCard(one) {
  const lines = [
    ...one.said.map((said) => ({ at: Date.parse(said.ts), text: [SAID[said.type] || said.type, said.reasons[0] ? `: ${said.reasons[0]}` : ""] })),
    ...one.changes.map((change) => ({ at: change.at * 1000, text: [`${change.what} by ${change.role}${change.status >= 400 ? ", refused" : ""}`] })),
  ].sort((a, b) => b.at - a.at).slice(0, 30);
  return h("section", { class: "card" }, h("h2", {}, "What was done to it"), lines.length ? h("ol", { class: "story" }, lines.map((line) => h("li", {}, moment(line.at / 1000), h("span", {}, line.text)))) : h("p", { class: "dim" }, "Nothing, since this gateway started."));
}

const FEW = 10;

function recordsCard(one, all, more) {
  const heads = [{ text: "Time" }, { text: "Model" }, { text: "Tokens", num: true }, { text: "Cost", num: true }, { text: "Took", num: true }, { text: "Status", num: true }, { text: "Action" }];
  const rows = (all ? one.records : one.records.slice(0, FEW)).map((r) => ({ cells: [h("span", { title: r.request_id }, moment(r.ts)), r.model || r.endpoint, count(r.total_tokens), usd(r.usd), r.duration_ms < 0.1 ? "< 0.1 ms" : `${count(r.duration_ms)} ms`, r.status, h("span", { class: `tag ${r.action}`, title: r.limit || "" }, `${r.action === "allow" ? "passed" : DONE[r.action].toLowerCase()}${r.enforced ? "" : " (observed only)"}`)] }));
  return h("section", { class: "card" }, h("h2", {}, "Recent requests"), rows.length ? table(heads, rows, { label: "Recent requests, newest first" }) : h("p", { class: "dim" }, "None among the last few thousand of this gateway."),
    one.records.length > rows.length ? h("p", { class: "after" }, h("button", { type: "button", onclick: more }, `Show ${one.records.length - rows.length} more`)) : null);
}

// Incidents, clients, policies, alerts.
import { ask, attempt, may, plan, reset, toast, undo, undoAll } from "./actions.js";
import { bar, Chart, columns } from "./charts.js";
import { call, CLASSES, clientLink, clock, count, doneTag, DONE, empty, fill, get, h, KINDS, moment, path, percent, rate, sentence, span, table, times, timesWords, until, usd } from "./lib.js";
import { CLIENT_HEADS, clientRows, ratioCell } from "./now.js";

const reload = (load) => () => { load().catch(() => {}); };

// -- incidents -----------------------------------------------------------------------

export function incidents(root) {
  const list = h("div", { class: "card" }, h("div", { class: "skeleton" }));
  fill(root, h("h1", {}, "Incidents"), list);
  const heads = [{ text: "What" }, { text: "State" }, { text: "Opened" }, { text: "Score", num: true }, { text: "Done" }];
  async function load() {
    const { items } = await get("incidents?limit=200");
    const rows = items.map((one) => ({
      open: `#/incidents/${encodeURIComponent(one.id)}`,
      cells: [h("a", { href: `#/incidents/${encodeURIComponent(one.id)}` }, sentence(one)),
        h("span", { class: `sign ${one.state === "open" ? one.severity : "good"}` }, one.state === "open" ? `▲ ${one.severity}` : "● over"),
        moment(one.opened_at), one.score.toFixed(1), DONE[one.action].toLowerCase()],
    }));
    fill(list, rows.length ? table(heads, rows, { label: "Incidents, newest first" })
      : empty("No incidents", "Nothing stood out since the gateway started. Incidents appear here by themselves."));
  }
  return { load, output: reload(load), acted: reload(load) };
}

function saved(line) {
  const sum = (name) => line.items.reduce((all, one) => all + one[name], 0);
  const came = sum("requests"), refused = sum("refused"), passed = came - refused;
  if (!refused || !passed) return null;
  return { refused, usd: (sum("usd") / passed) * refused, tokens: (sum("tokens") / passed) * refused, spent: sum("usd") };
}

const LINES = {
  "incident.opened": "Incident opened", "incident.updated": "It became worse", "incident.resolved": "Over",
  "client.tagged": "Marked", "client.throttled": "Throttled", "client.blocked": "Blocked", "client.unblocked": "Let in again",
};

export function incident(root, _params, id) {
  let chart = null;
  const where = `incidents/${encodeURIComponent(id)}`;
  async function load() {
    const one = await get(where);
    const doing = one.clients.filter((client) => client.standing && client.standing.action !== "allow");
    const line = one.timeline, gain = line ? saved(line) : null;
    chart?.destroy();
    chart = line ? new Chart({ title: "Its requests", unit: "a minute", height: 160, incidents: () => [{ ...one, label: "opened" }],
      parts: [{ label: "usual, at most", kind: "dash", of: () => one.expected.requests_1m ?? (one.expected.requests_10m ? one.expected.requests_10m / 10 : null) },
        { label: "came", kind: "line", of: (b, s) => (b.requests / s) * 60 }, { label: "refused", kind: "area", of: (b, s) => (b.refused / s) * 60 }] }) : null;
    const clientHeads = [{ text: "Client" }, { text: "Requests/min", num: true }, { text: "vs usual", num: true }, { text: "Now" }, { text: "" }];
    const tenants = one.tenant === "*" ? [] : [one.tenant];
    const people = one.clients.filter((client) => client.kind !== "tenant");
    const rows = people.map((client) => ({
      open: clientLink(client.kind, client.id, one.tenant),
      cells: [h("span", {}, h("a", { class: "mono", href: clientLink(client.kind, client.id, one.tenant) }, client.id), h("span", { class: "dim small" }, ` ${KINDS[client.kind]}`)),
        rate(client.requests_1m), ratioCell(client), doneTag(client.standing), hand(client, tenants)],
    }));
    fill(root,
      h("div", { class: "row" }, h("div", {}, h("p", { class: "dim" }, h("a", { href: "#/incidents" }, "Incidents"), ` / ${CLASSES[one.class] || one.class}`), h("h1", {}, sentence(one)),
        h("p", {}, h("span", { class: `sign ${one.state === "open" ? one.severity : "good"}` }, one.state === "open" ? `▲ Open, ${one.severity}` : "● Over"),
          " since ", moment(one.opened_at), h("span", { class: "dim", title: "calibrated sigma: 3 warns, 5 pages" }, `, score ${one.score.toFixed(1)}`),
          one.acknowledged ? h("span", { class: "dim" }, `, looked after since ${clock(one.acknowledged.at)} (${one.acknowledged.by})`) : null)),
      may() ? h("div", { class: "tools" },
        one.state === "open" && !one.acknowledged ? h("button", { type: "button", title: "Tells the others that somebody looks after it", onclick: () => attempt(async () => { await call("POST", `${where}/acknowledge`); toast("Acknowledged."); }) }, "Acknowledge") : null,
        one.state === "open" ? h("button", { type: "button", title: "No alert about this class in this tenant is sent for an hour; it is still acted on", onclick: () => attempt(async () => {
          const made = await call("POST", "silences", { tenant: one.tenant, class: one.class, ttl: "1h", reason: "from the console" });
          toast(`Nobody is alerted of ${(CLASSES[one.class] || one.class).toLowerCase()} in ${one.tenant} for an hour.`, async () => { await call("DELETE", `silences/${encodeURIComponent(made.id)}`); toast("Alerts are sent again."); });
        }) }, "Silence for 1 h") : null,
        doing.length ? h("button", { type: "button", title: "Lets in again everybody whom this incident holds", onclick: () => undoAll(one.clients, "Undone") }, "Undo what was done") : null,
        one.state === "open" ? h("button", { class: "main", type: "button", title: "Closes the incident; blocks run out by themselves", onclick: () => attempt(async () => { await call("POST", `${where}/resolve`); toast("Resolved."); }) }, "Resolve") : null) : null),
      h("div", { class: "two" },
        h("div", { class: "stack" },
          h("section", { class: "card" }, h("h2", {}, "Why"), h("ul", { class: "plain" }, one.reasons.map((reason) => h("li", {}, reason)))),
          chart ? chart.root : null,
          h("section", { class: "card" }, h("h2", {}, one.clients.length > 1 ? "Who (the worst first)" : "Who"), rows.length ? table(clientHeads, rows, { label: "Clients of this incident" }) : h("p", { class: "dim" }, "No single client stands out."))),
        h("div", { class: "stack" },
          h("section", { class: "card" }, h("h2", {}, "What was done"), story(one)),
          h("section", { class: "card" }, h("h2", {}, "Before and after"), gain
            ? h("p", {}, `${count(gain.refused)} ${gain.refused === 1 ? "request was" : "requests were"} refused in the last hour. At the average of what passed, that would have used ${rate(gain.tokens)} tokens and ${usd(gain.usd)}. Spent in that hour: ${usd(gain.spent)}.`)
            : h("p", { class: "dim" }, "Nothing of it was refused, so nothing was saved."), evidence(one)))));
    if (chart) chart.set(line.items, line.step_s);
  }
  return { load, output: reload(load), acted: reload(load), repaint: () => chart?.repaint(), close: () => chart?.destroy() };
}

function story(one) {
  if (!one.story.length) return h("p", { class: "dim" }, "It began before this gateway started; its story is not remembered.");
  const lines = one.story.slice(-40).reverse().map((said) => h("li", {}, moment(said.ts),
    h("span", {}, h("strong", {}, LINES[said.type] || said.type), said.type.startsWith("client.") ? [" ", h("span", { class: "mono" }, said.subject.id), said.until && said.type !== "client.unblocked" ? `, ${until(said.until)}` : ""] : ` (${said.severity}, score ${said.score.toFixed(1)})`)));
  return h("ol", { class: "story" }, lines);
}

function evidence(one) {
  const names = { requests_1m: "Requests in a minute", requests_10m: "Requests in ten minutes", tokens_1m: "Tokens in a minute", tokens_10m: "Tokens in ten minutes" };
  const rows = Object.entries(one.observed).map(([name, value]) => ({ cells: [names[name] || name.replaceAll("_", " "), count(value), one.expected[name] === undefined ? "–" : count(one.expected[name])] }));
  return rows.length ? table([{ text: "Evidence" }, { text: "Seen", num: true }, { text: "Usual", num: true }], rows, { label: "Evidence" }) : null;
}

function hand(client, tenants) {
  if (!may() || client.kind === "tenant") return "";
  const held = client.standing;
  return h("span", { class: "tools" },
    held ? h("button", { type: "button", title: "Ends this at once", "aria-label": `Undo for ${client.id}`, onclick: () => undo(client.kind, client.id, held) }, "Undo") : null,
    !held || held.action !== "block" ? h("button", { type: "button", class: "danger", "aria-label": `Block ${client.id}`, onclick: () => ask("block", client.kind, client.id, tenants) }, "Block") : null,
    !held || held.action !== "allow" ? h("button", { type: "button", "aria-label": `Let ${client.id} through`, onclick: () => ask("allow", client.kind, client.id, tenants) }, "Let through") : null);
}

// -- clients -------------------------------------------------------------------------

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
    fill(list, page.items.length ? [table(heads, clientRows(page.items), { label: title }),
      h("div", { class: "row" }, cursor ? h("a", { href: to({ cursor: String(Math.max(0, cursor - 50)) }) }, "Previous") : h("span"), h("span", { class: "dim small" }, `${cursor + 1} to ${cursor + page.items.length}`), page.next ? h("a", { href: to({ cursor: page.next }) }, "Next") : h("span"))]
      : empty(q ? "Nobody matches" : "No traffic within the hour", q ? "Whoever was silent for an hour is not listed. A block needs no listing:" : "Clients are listed as soon as they ask for something.",
        q && may() ? h("button", { type: "button", onclick: () => ask("block", /^[0-9a-f.:]+$/i.test(q) && /[.:]/.test(q) ? "client_ip" : "user", q) }, `Block ${q}`) : null));
  }
  const again = setInterval(() => { if (!document.hidden && !list.contains(document.activeElement)) load().catch(() => {}); }, 5000);
  return { load, acted: reload(load), output: reload(load), close: () => clearInterval(again) };
}

export function client(root, params, kind, id) {
  const tenant = params.get("tenant");
  const query = tenant ? `?tenant=${encodeURIComponent(tenant)}` : "";
  async function load() {
    const one = await get(`clients/${path(kind, id)}${query}`);
    const tenants = one.usage.map((row) => row.tenant);
    const standing = one.blocks.find((block) => block.action !== "allow") || one.blocks[0] || null;
    const usages = Object.entries(one.usual);
    fill(root,
      h("div", { class: "row" }, h("div", {}, h("p", { class: "dim" }, h("a", { href: "#/clients" }, "Clients"), ` / ${KINDS[kind]}${tenants.length ? ` of ${tenants.join(", ")}` : ""}`), h("h1", { class: "mono" }, id),
        h("p", {}, standing ? [doneTag(standing), ` ${until(standing.until)}, ${standing.by === "detector" ? "by detection" : `by ${standing.by}`}`, standing.reason ? `: ${standing.reason}` : ""] : h("span", { class: "dim" }, "Nothing is done to it."))),
      may() ? h("div", { class: "tools" }, hand({ kind, id, standing }, tenants), h("button", { type: "button", title: "What it used of its limits is forgotten", onclick: () => reset(kind, id) }, "Reset limits")) : null),
      h("div", { class: "two" },
        h("div", { class: "stack" }, usages.length ? usages.map(([name, usual]) => usualCard(name, usual, usages.length > 1)) : h("section", { class: "card" }, h("h2", {}, "Now against usual"), h("p", { class: "dim" }, "Detection has not seen it lately, so nothing is known of what is usual.")), recordsCard(one)),
        h("div", { class: "stack" }, hourCard(one), limitsCard(one), historyCard(one))));
  }
  return { load, acted: reload(load), output: reload(load) };
}

function usualCard(name, usual, named) {
  const ratio = times(usual.requests_1m, usual.expected_1m);
  const heads = [{ text: "" }, { text: "Now", num: true }, { text: "Usual, at most", num: true }, { text: "vs usual", num: true }];
  heads[0].text = "Measure";
  const row = (text, seen, expected) => ({ cells: [text, count(seen), expected === null ? "not known yet" : count(expected), expected === null ? "–" : timesWords(times(seen, expected))] });
  return h("section", { class: "card" }, h("h2", {}, `Now against usual${named ? `, ${name}` : ""}`),
    table(heads, [row("Requests in a minute", usual.requests_1m, usual.expected_1m), row("Requests in ten minutes", usual.requests_10m, usual.expected_10m), row("Tokens in ten minutes", usual.tokens_10m, usual.expected_tokens_10m)], { label: "Now against usual" }),
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
    return h("li", {}, h("div", { class: "row" }, h("span", { title: `${limit.limit}, tenant ${limit.tenant}` }, limitWords(limit)), h("span", {}, `${form(limit.remaining)} of ${form(limit.amount)} left`)), bar(share));
  });
  return h("section", { class: "card" }, h("h2", {}, "Limits"), items.length ? h("ul", { class: "plain" }, items) : h("p", { class: "dim" }, "No limit is about this client alone."));
}

function limitWords(limit) {
  const [, meter, window] = limit.limit.split(".");
  const names = { usd: "Dollars", tokens: "Tokens", requests: "Requests", prompt_tokens: "Prompt tokens", completion_tokens: "Completion tokens", concurrent: "Open at once" };
  return `${names[meter] || meter}${window ? ` in ${window}, frees as it ages` : ""}${limit.models.length ? ` (${limit.models.join(", ")})` : ""}`;
}

function historyCard(one) {
  const lines = [
    ...one.said.map((said) => ({ at: Date.parse(said.ts), text: [LINES[said.type] || said.type, said.reasons[0] ? `: ${said.reasons[0]}` : ""] })),
    ...one.changes.map((change) => ({ at: change.at * 1000, text: [`${change.what} by ${change.role}${change.status >= 400 ? ", refused" : ""}`] })),
  ].sort((a, b) => b.at - a.at).slice(0, 30);
  return h("section", { class: "card" }, h("h2", {}, "What was done to it"), lines.length ? h("ol", { class: "story" }, lines.map((line) => h("li", {}, moment(line.at / 1000), h("span", {}, line.text)))) : h("p", { class: "dim" }, "Nothing, since this gateway started."));
}

function recordsCard(one) {
  const heads = [{ text: "Time" }, { text: "Model" }, { text: "Tokens", num: true }, { text: "Cost", num: true }, { text: "Took", num: true }, { text: "Status", num: true }, { text: "Action" }];
  const rows = one.records.map((r) => ({ cells: [h("span", { title: r.request_id }, moment(r.ts)), r.model || r.endpoint, count(r.total_tokens), usd(r.usd), `${count(r.duration_ms)} ms`, r.status, h("span", { class: `tag ${r.action}`, title: r.limit || "" }, `${r.action === "allow" ? "passed" : DONE[r.action].toLowerCase()}${r.enforced ? "" : " (observed only)"}`)] }));
  return h("section", { class: "card" }, h("h2", {}, "Recent requests"), rows.length ? table(heads, rows, { label: "Recent requests, newest first" }) : h("p", { class: "dim" }, "None among the last few thousand of this gateway."));
}

// -- policies ------------------------------------------------------------------------

export function policies(root) {
  fill(root, h("h1", {}, "Policies"), h("div", { class: "card" }, h("div", { class: "skeleton" })));
  async function load() {
    const { items } = await get("policies?limit=200");
    fill(root, h("h1", {}, "Policies"), items.length ? items.map(policy)
      : empty("No policy is in force", "Every client is refused: no tenant is configured and nobody may come unnamed. Say who may:", h("code", {}, "[policy.default]")));
  }
  const again = setInterval(() => { if (!document.hidden && !root.contains(document.activeElement)) load().catch(() => {}); }, 5000);
  return { load, close: () => clearInterval(again) };
}

const requestsOf = (n) => `${count(n)} ${n === 1 ? "request" : "requests"}`;

function wouldWords(would, when) {
  if (!would.requests) return h("p", {}, `Nothing ${when}: everything that came would have passed.`);
  const people = would.clients === undefined ? "" : ` of ${count(would.clients)} ${would.clients === 1 ? "client" : "clients"}`;
  const how = [["limited", "over a limit"], ["throttled", "throttled"], ["blocked", "blocked"]].filter(([key]) => would[key]).map(([key, text]) => `${count(would[key])} ${text}`);
  return h("p", {}, h("strong", {}, `${requestsOf(would.requests)}${people}`), ` ${when} (${how.join(", ")}), which used ${rate(would.tokens)} tokens and cost ${usd(would.usd)}.`);
}

function priceOf(one) {
  const { spend } = one, days = spend.days;
  if (!days.length) return h("div", {}, h("h2", {}, "Price of the last 30 days"), empty("Nothing spent yet", `What ${one.tenants.length === 1 ? one.tenants[0] : "these tenants"} used is summed here with the first request, for 30 days and over restarts.`));
  const rows = spend.tenants.map((tenant) => ({ cells: [tenant.tenant, count(tenant.requests), rate(tenant.tokens), usd(tenant.usd)] }));
  const rest = one.tenants.length - rows.length;
  return h("div", {}, h("h2", {}, "Price of the last 30 days"), h("p", {}, h("strong", {}, usd(spend.usd)), h("span", { class: "dim" }, ` on ${requestsOf(spend.requests)}, all gateways of the store${days.length < 30 ? `, counted since ${clock(spend.since)}` : ""}`)),
    days.length > 1 ? columns(days.map((day) => day.usd), `Price a day, from ${days[0].day} to ${days[days.length - 1].day}`) : null,
    table([{ text: "Tenant" }, { text: "Requests", num: true }, { text: "Tokens", num: true }, { text: "Price", num: true }], rows, { label: `Price of the last 30 days by tenant, policy ${one.name}` }),
    rest > 0 ? h("p", { class: "dim" }, `${count(rest)} more ${rest === 1 ? "tenant" : "tenants"} spent less or nothing.`) : null);
}

function policy(one) {
  const observing = one.mode === "observe", { would, would_today: today } = one.spend;
  const rows = one.effective.map((row) => ({ cells: [row.key, h("span", { class: row.key === "anomaly" ? "small" : null }, row.value || "none"), h("span", { class: "dim mono whole", title: row.from }, row.from.replace(/^.*\//, ""))] }));
  const spared = observing || would.requests;
  return h("section", { class: "card stack", "aria-label": `Policy ${one.name}` }, h("div", { class: "row" }, h("div", {}, h("h2", {}, one.name), h("p", { class: "dim" }, `for ${one.tenants.join(", ")}`)),
    h("span", { class: `tag ${observing ? "limit" : "allow"}` }, observing ? "observes: refuses nothing" : "enforces")),
  h("div", { class: "two" }, table([{ text: "What" }, { text: "Value" }, { text: "Stated at" }], rows, { label: `Effective policy ${one.name}` }),
    h("div", { class: "stack" },
      h("div", {}, h("h2", {}, "What enforcing would have refused"),
        spared ? [wouldWords(today, "today"), wouldWords(would, "in the last 30 days")] : null,
        observing ? null : h("p", { class: "dim" }, "This policy enforces; what it refuses shows on Now.")),
      priceOf(one))));
}

// -- alerts --------------------------------------------------------------------------

const STATES = { ok: ["good", "● ok"], failing: ["critical", "▲ failing"], disabled: ["warning", "■ disabled"] };

function silenceWords(one) {
  const what = one.class === "*" ? "everything" : CLASSES[one.class] || one.class;
  return `${what}${one.tenant === "*" ? "" : ` in ${one.tenant}`}${one.subject === "*" ? "" : ` by ${one.subject}`}`;
}

const SILENCE_STATES = { active: "silent now", pending: "planned", over: "over" };

function windowWords(one) {
  const when = one.state === "active" ? `until ${clock(one.to, false)}` : `${clock(one.from, false)} to ${clock(one.to, false)}`;
  if (!one.repeat) return when;
  const days = one.repeat.days.length === 7 ? "every day" : `each ${one.repeat.days.map((day) => day[0].toUpperCase() + day.slice(1)).join(", ")}`;
  return h("span", {}, `${days} ${one.repeat.from}–${one.repeat.to} ${one.repeat.zone}`, one.state === "over" ? null : h("span", { class: "dim" }, one.state === "active" ? `, now ${when}` : `, next ${when}`));
}

export function alerts(root, params) {
  const state = params.get("state") || "";
  async function load() {
    const found = await get(`alerts?limit=100${state ? `&state=${state}` : ""}`);
    const quiet = (await get("silences?limit=100")).items;
    const heads = [{ text: "Target" }, { text: "State" }, { text: "Waiting", num: true }, { text: "Sent", num: true }, { text: "Last answer" }, { text: "" }];
    const targets = found.targets.map((one) => {
      const [cls, words] = STATES[one.state] || ["warning", one.state];
      return { cells: [h("span", {}, one.name, h("span", { class: "dim small" }, ` ${one.type}`)), h("span", { class: `sign ${cls}` }, words, one.since && one.state !== "ok" ? ` since ${clock(one.since)}` : ""), count(one.pending), count(one.sent), one.last_error || "–",
        may() ? h("button", { type: "button", onclick: () => attempt(async () => { await call("POST", `alerts/targets/${encodeURIComponent(one.name)}/test`); toast(`A sample is on its way to ${one.name}.`); }) }, "Send a test") : ""] };
    });
    const rows = found.items.map((one) => ({ cells: [one.at ? moment(one.at) : "–", one.type, one.target, h("span", { class: `sign ${one.state === "dead" ? "critical" : one.state === "sent" ? "good" : "info"}` }, { dead: "▲ given up", sent: "● sent", pending: "○ waiting" }[one.state] || one.state), count(one.attempts), one.answer || "–",
      may() && one.state === "dead" ? h("button", { type: "button", onclick: () => attempt(async () => { await call("POST", `alerts/${encodeURIComponent(one.id)}/resend`); toast("It is tried again."); }) }, "Send again") : ""] }));
    const filter = h("select", { "aria-label": "Messages shown", onchange: (event) => { location.hash = event.target.value ? `#/alerts?state=${event.target.value}` : "#/alerts"; } }, [["", "all messages"], ["pending", "waiting"], ["dead", "given up"], ["sent", "sent"]].map(([value, text]) => h("option", { value, selected: value === state }, text)));
    const silent = quiet.map((one) => ({ cells: [silenceWords(one), one.reason || "–", SILENCE_STATES[one.state], windowWords(one),
      may() ? h("button", { type: "button", onclick: () => attempt(async () => { await call("DELETE", `silences/${encodeURIComponent(one.id)}`); toast("Alerts are sent again."); }) }, "End") : ""] }));
    fill(root, h("h1", {}, "Alerts"),
      h("section", { class: "card" }, h("h2", {}, "Targets"), targets.length ? table(heads, targets, { label: "Targets" })
        : empty("Nobody is told yet", "Add a target to the configuration; it is in force as soon as the file is saved:", h("code", {}, '[[alert]]  type = "webhook"  url = "https://…"'))),
      h("section", { class: "card" }, h("div", { class: "row" }, h("h2", {}, "Silences"), may() ? h("button", { type: "button", onclick: () => plan(reload(load)) }, "Plan a window") : null), silent.length ? table([{ text: "What" }, { text: "Reason" }, { text: "State" }, { text: "When" }, { text: "" }], silent, { label: "Silences" }) : h("p", { class: "dim" }, "Nothing is silenced, and no maintenance window is planned.")),
      h("section", { class: "card" }, h("div", { class: "row" }, h("h2", {}, "Messages"), filter),
        rows.length ? table([{ text: "When" }, { text: "What" }, { text: "Target" }, { text: "State" }, { text: "Tries", num: true }, { text: "Answer" }, { text: "" }], rows, { label: "Messages" }) : h("p", { class: "dim" }, state ? "None of these." : "No message was sent since the gateway started.")));
  }
  const again = setInterval(() => { if (!document.hidden && !root.contains(document.activeElement)) load().catch(() => {}); }, 5000);
  return { load, acted: reload(load), output: reload(load), close: () => clearInterval(again) };
}

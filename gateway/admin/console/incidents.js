// Incidents: one after another, and one of them: why, who, what was done, and was it right.
import { hand, isWaiting, may, silence, soon, undoAll } from "./actions.js";
import { Chart, pair } from "./charts.js";
import { calm, CLASSES, clientLink, clock, count, doneTag, doneWords, empty, fill, get, h, heldCount, heldWords, KINDS, moment, percent, rate, refill, SAID, sentence, table, times, timesWords, until, usd } from "./lib.js";
import { ratioCell } from "./now.js";

const FEW = 10;
const reload = (load) => () => { load().catch(() => {}); };

export function incidents(root) {
  const list = h("div", { class: "card" }, h("div", { class: "skeleton" }));
  fill(root, h("h1", {}, "Incidents"), list);
  const heads = [{ text: "What" }, { text: "State" }, { text: "Opened" }, { text: "Ended" }, { text: "Score", num: true }, { text: "Held now" }];
  async function load() {
    const { items } = await get("incidents?limit=200");
    const rows = items.map((one) => ({
      open: `#/incidents/${encodeURIComponent(one.id)}`,
      cells: [h("a", { href: `#/incidents/${encodeURIComponent(one.id)}` }, sentence(one)),
        h("span", { class: `sign ${one.state === "open" ? one.severity : "good"}` }, one.state === "open" ? `▲ ${one.severity}` : "● over"),
        moment(one.opened_at), one.resolved ? moment(one.resolved.at) : h("span", { class: "dim" }, "–"), one.score.toFixed(1), heldCount(one.held) ? heldWords(one.held) : h("span", { class: "dim" }, one.action === "allow" ? "nobody" : "nobody any more")],
    }));
    refill(list, rows.length ? table(heads, rows, { label: "Incidents, newest first" })
      : empty("No incidents", "Nothing stood out since the gateway started. Incidents appear here by themselves."));
  }
  return { load, output: reload(load), acted: reload(load) };
}

function header(one, where) {
  const cls = CLASSES[one.class] || one.class, open = one.state === "open", acknowledging = isWaiting(`acknowledge ${one.id}`), resolving = isWaiting(`resolve ${one.id}`);
  return h("div", { class: "row top" },
    h("div", {}, h("p", { class: "dim" }, h("a", { href: "#/incidents" }, "Incidents"), ` / ${cls}`), h("h1", {}, sentence(one)),
      h("p", {}, h("span", { class: `sign ${open ? one.severity : "good"}` }, open ? `▲ Open, ${one.severity}` : "● Over"),
        " since ", moment(open || !one.resolved ? one.opened_at : one.resolved.at), h("span", { class: "dim", title: "calibrated sigma: 3 warns, 5 pages" }, `, score ${one.score.toFixed(1)}`),
        one.acknowledged ? h("span", { class: "dim" }, `, looked after since ${clock(one.acknowledged.at)} (${one.acknowledged.by})`) : null, `. ${doneWords(one)}`)),
    may() ? h("div", { class: "tools" },
      open && !one.acknowledged ? h("button", { type: "button", disabled: acknowledging, title: "Tells the others that somebody looks after it", onclick: () => soon(`acknowledge ${one.id}`, "Acknowledged", "POST", `${where}/acknowledge`, () => "Acknowledged: the others see that somebody looks after it.") }, acknowledging ? "Acknowledging…" : "Acknowledge") : null,
      open ? h("button", { type: "button", title: "No alert about this class in this tenant is sent for an hour; it is still acted on", onclick: () => silence({ tenant: one.tenant, class: one.class, ttl: "1h", reason: "from the console" }, `Nobody is alerted of ${cls.toLowerCase()} in ${one.tenant === "*" ? "any tenant" : one.tenant} for an hour.`) }, "Silence for 1 h") : null,
      heldCount(one.held) ? h("button", { type: "button", title: `Lets in again everybody whom this incident holds: ${heldWords(one.held)}`, onclick: () => undoAll(one.id) }, "Undo what was done") : null,
      open ? h("button", { class: "main", type: "button", disabled: resolving, title: "Closes the incident; blocks run out by themselves", onclick: () => soon(`resolve ${one.id}`, "Resolved", "POST", `${where}/resolve`, () => "Resolved. Blocks run out by themselves.") }, resolving ? "Resolving…" : "Resolve") : null) : null);
}

export function incident(root, _params, id) {
  const where = `incidents/${encodeURIComponent(id)}`, opened = new Set();
  let chart = null, all = false, one = null;
  const usual = () => one.expected.requests_1m ?? (one.expected.requests_10m ? one.expected.requests_10m / 10 : null);
  const draw = () => new Chart({ title: one.subject.kind === "tenant" ? "All requests of the tenant" : "Its requests", unit: "a minute", height: 140,
    incidents: () => [{ ...one, label: "opened" }],
    parts: [{ label: "usual, at most", kind: "dash", of: usual }, { label: "came", kind: "line", of: (b, s) => (b.requests / s) * 60 }, { label: "refused", kind: "area", of: (b, s) => (b.refused / s) * 60 }] });
  const more = () => { all = true; load().catch(() => {}); };
  async function load() {
    one = await get(where);
    const line = one.timeline;
    if (line) chart ??= draw();
    refill(root, header(one, where), h("div", { class: "two" },
      h("div", { class: "stack" },
        h("section", { class: "card", "aria-label": "Why" }, h("h2", {}, "Why"), h("ul", { class: "plain" }, one.reasons.map((reason) => h("li", {}, reason))), evidence(one)),
        chart?.root, people(one, all, more)),
      h("div", { class: "stack" },
        h("section", { class: "card", "aria-label": "What was done" }, h("h2", {}, "What was done"), story(one, opened)),
        effect(one))));
    if (line) chart.set(line.items, line.step_s);
  }
  const again = setInterval(() => { if (calm(root)) load().catch(() => {}); }, 5000);
  return { load, output: reload(load), acted: reload(load), repaint: () => chart?.repaint(), close: () => { clearInterval(again); chart?.destroy(); } };
}

// -- why -----------------------------------------------------------------------------

const MEASURES = { requests_1m: "Requests in a minute", requests_10m: "Requests in ten minutes", tokens_1m: "Tokens in a minute", tokens_10m: "Tokens in ten minutes" };

function evidence(one) {
  const peers = one.expected.requests_1m !== undefined && one.class !== "surge";
  const rows = Object.entries(one.observed).map(([name, seen]) => {
    const usual = one.expected[name] ?? null, ratio = times(seen, usual);
    return { cells: [MEASURES[name] || name.replaceAll("_", " "), count(seen), usual === null ? h("span", { class: "dim" }, "not known") : count(usual), ratio === null ? "" : timesWords(ratio), usual === null ? "" : pair(seen, usual)] };
  });
  const alike = one.clients.find((client) => client.kind === one.subject.kind && client.id === one.subject.id)?.alike;
  if (alike) rows.push({ cells: ["Alike prompts, now", percent(alike, 1), h("span", { class: "dim" }, "few"), "", pair(100 * alike, null, 100)] });
  if (!rows.length) return null;
  const heads = [{ text: "When it opened" }, { text: "Seen", num: true }, { text: peers ? "Busy others" : "Usual", num: true }, { text: "Ratio", num: true }, { text: "Seen above usual" }];
  // Beside nothing known there is nothing to compare.
  const shown = rows.some((row) => row.cells[4]) ? 5 : 3;
  return table(heads.slice(0, shown), rows.map((row) => ({ cells: row.cells.slice(0, shown) })), { label: "Evidence: what was seen, and what is usual" });
}

// -- who -----------------------------------------------------------------------------

function people(one, all, more) {
  const { clients } = one, tenants = one.tenant === "*" ? [] : [one.tenant];
  const heads = [{ text: "Client" }, { text: "Share", num: true, title: "Of what came beyond the usual within the hour, among the addresses or among the users of this incident" }, { text: "Requests/min", num: true }, { text: "vs usual", num: true }, { text: "Now" }, { text: "" }];
  const rows = (all ? clients : clients.slice(0, FEW)).map((client) => ({
    open: client.kind === "prompts" ? null : clientLink(client.kind, client.id, client.tenant),
    cells: [h("span", {}, client.kind === "prompts" ? h("span", { class: "mono" }, client.id) : h("a", { class: "mono", href: clientLink(client.kind, client.id, client.tenant) }, client.id), h("span", { class: "dim small" }, ` ${KINDS[client.kind]}`)),
      client.share === null ? h("span", { class: "dim" }, "–") : percent(client.share, 1), rate(client.requests_1m), ratioCell(client), doneTag(client.standing), hand(client, tenants)],
  }));
  const title = clients.length > 1 ? `Who (${count(one.clients_total)}, the biggest share of the excess first)` : "Who";
  const rest = one.clients_total - rows.length;
  return h("section", { class: "card", "aria-label": "Who" }, h("h2", {}, title),
    rows.length ? table(heads, rows, { label: "Clients of this incident" }) : h("p", { class: "dim" }, "No single client stands out."),
    rest > 0 ? h("p", { class: "after" }, all ? h("span", { class: "dim" }, `${count(rest)} more, each with less.`) : h("button", { type: "button", onclick: more }, `Show ${count(Math.min(rest, clients.length - rows.length))} more`), !all && one.clients_total > clients.length ? h("span", { class: "dim" }, ` of ${count(rest)}`) : null) : null);
}

// -- what was done -------------------------------------------------------------------

const CHANGES = { acknowledge: "Acknowledged", resolve: "Resolved", undo: "Undone", restore: "Put back", block: "Blocked", allow: "Let through", unblock: "Let in again", reset: "Limits reset" };

function story(one, opened) {
  const steps = [...one.steps.map((step) => ({ at: step.from, step })), ...one.changes.filter((change) => change.status < 400).map((change) => ({ at: change.at, change }))].sort((a, b) => b.at - a.at);
  if (!steps.length) return h("p", { class: "dim" }, "It began before this gateway started; its story is not remembered.");
  return h("ol", { class: "story" }, steps.slice(0, 40).map(({ at, step, change }) => h("li", {}, moment(at), step ? stepWords(step, opened) : h("span", {}, h("strong", {}, CHANGES[change.what] || change.what), change.kind === "incident" ? "" : [" ", h("span", { class: "mono" }, change.id)], h("span", { class: "dim" }, ` by ${change.role === "operator" ? "an operator" : change.role}`)))));
}

function stepWords(step, opened) {
  const what = h("strong", {}, SAID[step.type] || step.type);
  if (!step.type.startsWith("client.")) return h("span", {}, what, ` (${step.severity}, score ${step.score.toFixed(1)})`);
  const end = step.ends && step.type !== "client.unblocked" ? `, ${until(step.ends)}` : "";
  const name = (ref) => h("span", { class: "mono" }, ref.id);
  if (step.count <= 2) return h("span", {}, what, " ", step.clients.map((ref, n) => [n ? " and " : "", name(ref)]), end);
  const key = `${step.type} ${step.from}`, left = step.count - step.clients.length;
  return h("details", { open: opened.has(key), ontoggle: (event) => opened[event.target.open ? "add" : "delete"](key) },
    h("summary", {}, what, ` ${count(step.count)} clients${step.to - step.from >= 1 ? ` in ${Math.ceil(step.to - step.from)} s` : ""}${end}`),
    step.clients.map((ref, n) => [n ? ", " : "", name(ref)]), left > 0 ? ` and ${count(left)} more` : "");
}

// -- before and after ----------------------------------------------------------------

function effect(one) {
  const found = one.impact;
  if (!found) return h("section", { class: "card" }, h("h2", {}, "Before and after"), h("p", { class: "dim" }, "Its requests are not remembered: it began before this gateway started."));
  const { before, after, saved } = found;
  // Of a second or two nobody knows a rate: ten are the least, as in a chart.
  const per = (part, name, s) => (part.to > part.from ? (part[name] / Math.max(10, part.to - part.from)) * s : null);
  const seen = before.to > before.from;
  const unit = (text, s) => [text, h("span", { class: "dim" }, s === 60 ? " a min" : " an hour")];
  const row = (text, name, s, form) => ({ cells: [text, seen ? unit(form(per(before, name, s)), s) : "–", unit(form(per(after, name, s)), s), form(after[name])] });
  const heads = [{ text: "What" }, { text: "Before", num: true }, { text: "Since", num: true }, { text: "Since, in all", num: true }];
  const spent = usd(after.usd), gain = saved && after.refused
    ? ["Unhindered it would have spent ", h("strong", {}, usd(after.usd + saved.usd)), ` by now instead of ${spent}: ${usd(saved.usd)} and ${rate(saved.tokens)} tokens saved.`]
    : `Nothing of it was refused, so nothing was saved; it has spent ${spent}.`;
  return h("section", { class: "card", "aria-label": "Before and after" }, h("h2", {}, "Before and after"),
    h("p", { title: "What was refused, at the average price of what passed since it began" }, gain),
    table(heads, [row("Requests", "requests", 60, count), row("Refused", "refused", 60, count), row("Tokens", "tokens", 60, rate), row("Spend", "usd", 3600, usd)], { label: "Before it began, and since" }),
    h("p", { class: "dim small after" }, `It began ${clock(after.from)}. ${one.subject.kind === "tenant" ? "All of the tenant counts, ordinary clients too. " : ""}${seen ? `Before: since ${clock(before.from)}.` : "Nothing was seen of it before."}`));
}

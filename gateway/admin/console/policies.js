// Policies: what is in force, what enforcing would have refused, and what it costs.
import { columns } from "./charts.js";
import { calm, clock, count, empty, fill, get, h, rate, refill, table, usd } from "./lib.js";

export function policies(root) {
  fill(root, h("h1", {}, "Policies"), h("div", { class: "card" }, h("div", { class: "skeleton" })));
  async function load() {
    const { items } = await get("policies?limit=200");
    refill(root, h("h1", {}, "Policies"), items.length ? items.map(policy)
      : empty("No policy is in force", "Every client is refused: no tenant is configured and nobody may come unnamed. Say who may:", h("code", {}, "[policy.default]")));
  }
  const again = setInterval(() => { if (calm(root)) load().catch(() => {}); }, 5000);
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
  const rows = one.effective.map((row) => ({ cells: [h("span", { class: "mono whole" }, row.key), h("span", { class: row.key === "anomaly" ? "small" : null }, row.value || "none"), h("span", { class: "dim mono whole", title: row.from }, row.from === "default" ? "built in" : row.from.replace(/^.*\//, ""))] }));
  const spared = observing || would.requests;
  return h("section", { class: "card stack", "aria-label": `Policy ${one.name}` }, h("div", { class: "row" }, h("div", {}, h("h2", {}, one.name), h("p", { class: "dim" }, `for ${one.tenants.join(", ")}`)),
    h("span", { class: `tag ${observing ? "limit" : "allow"}` }, observing ? "observes: refuses nothing" : "enforces")),
  h("div", { class: "two" }, table([{ text: "What" }, { text: "Value", wide: true }, { text: "Stated at" }], rows, { label: `Effective policy ${one.name}` }),
    h("div", { class: "stack" },
      h("div", {}, h("h2", {}, "What enforcing would have refused"),
        spared ? [wouldWords(today, "today"), wouldWords(would, "in the last 30 days")] : null,
        observing ? null : h("p", { class: "dim" }, "This policy enforces; what it refuses shows on Now.")),
      priceOf(one), pricesOf(one))));
}

const SOURCES = { policy: "this policy", none: "no price" };

function pricesOf(one) {
  const { items, dated } = one.price_list, unknown = one.unknown_price;
  const rows = items.map((row) => ({ cells: [h("span", { class: "mono" }, row.model), usd(row.input), usd(row.output), h("span", { class: row.from === "none" ? "warm" : "dim" }, SOURCES[row.from] || `table of ${dated}`)] }));
  const rest = unknown === "deny" ? "Models without a price are refused." : unknown === "free" ? "Models without a price count as free." : `Models without a price cost ${usd(unknown.input)} and ${usd(unknown.output)}.`;
  return h("div", {}, h("h2", {}, "Prices in use"), rows.length ? table([{ text: "Model" }, { text: "Input, $/M tokens", num: true }, { text: "Output, $/M tokens", num: true }, { text: "From" }], rows, { label: `Prices in use, policy ${one.name}` }) : h("p", { class: "dim" }, "Models are listed once somebody asks for one."), h("p", { class: "dim small after" }, rest));
}

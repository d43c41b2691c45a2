// Policies: effective values with their sources, refusals in observe mode, spend and prices.
import { columnChart } from "./charts.js";
import { isIdle, timeText, count, emptyState, setChildren, get, h, rate, updateChildren, table, usd } from "./lib.js";

export function policies(root) {
  setChildren(root, h("h1", {}, "Policies"), h("div", { class: "card" }, h("div", { class: "skeleton" })));
  async function load() {
    const { items } = await get("policies?limit=200");
    updateChildren(root, h("h1", {}, "Policies"), items.length ? items.map(policy)
      : emptyState("No policy in effect", "All clients are refused: no tenant is configured and unknown clients are not admitted. Add a policy:", h("code", {}, "[policy.default]")));
  }
  const refresh = setInterval(() => { if (isIdle(root)) load().catch(() => {}); }, 5000);
  return { load, close: () => clearInterval(refresh) };
}

const requestCountText = (n) => `${count(n)} ${n === 1 ? "request" : "requests"}`;

function observedText(would, when) {
  if (!would.requests) return h("p", {}, `No requests ${when}.`);
  const clientsText = would.clients === undefined ? "" : ` from ${count(would.clients)} ${would.clients === 1 ? "client" : "clients"}`;
  const byAction = [["limited", "over a limit"], ["throttled", "throttled"], ["blocked", "blocked"]].filter(([key]) => would[key]).map(([key, text]) => `${count(would[key])} ${text}`);
  return h("p", {}, h("strong", {}, `${requestCountText(would.requests)}${clientsText}`), ` ${when} (${byAction.join(", ")}): ${rate(would.tokens)} tokens, ${usd(would.usd)}.`);
}

function spendSection(one) {
  const { spend } = one, days = spend.days;
  if (!days.length) return h("div", {}, h("h2", {}, "Spend in the last 30 days"), emptyState("No spend yet", `Totals of ${one.tenants.length === 1 ? one.tenants[0] : "these tenants"} appear with the first request. They cover 30 days and survive restarts.`));
  const rows = spend.tenants.map((tenant) => ({ cells: [tenant.tenant, count(tenant.requests), rate(tenant.tokens), usd(tenant.usd)] }));
  const rest = one.tenants.length - rows.length;
  return h("div", {}, h("h2", {}, "Spend in the last 30 days"), h("p", {}, h("strong", {}, usd(spend.usd)), h("span", { class: "dim" }, ` for ${requestCountText(spend.requests)}, all gateways of this store${days.length < 30 ? `, since ${timeText(spend.since)}` : ""}`)),
    days.length > 1 ? columnChart(days.map((day) => day.usd), `Spend per day, from ${days[0].day} to ${days[days.length - 1].day}`) : null,
    table([{ text: "Tenant" }, { text: "Requests", num: true }, { text: "Tokens", num: true }, { text: "Spend", num: true }], rows, { label: `Spend in the last 30 days by tenant, policy ${one.name}` }),
    rest > 0 ? h("p", { class: "dim" }, `${count(rest)} more ${rest === 1 ? "tenant" : "tenants"} with less or no spend.`) : null);
}

function policy(one) {
  const observing = one.mode === "observe", { would, would_today: today } = one.spend;
  const rows = one.effective.map((row) => ({ cells: [h("span", { class: "mono whole" }, row.key), h("span", { class: row.key === "anomaly" ? "small" : null }, row.value || "none"), h("span", { class: "dim mono whole", title: row.from }, row.from === "default" ? "default" : row.from.replace(/^.*\//, ""))] }));
  const showObserved = observing || would.requests;
  return h("section", { class: "card stack", "aria-label": `Policy ${one.name}` }, h("div", { class: "row" }, h("div", {}, h("h2", {}, one.name), h("p", { class: "dim" }, `tenants: ${one.tenants.join(", ")}`)),
    h("span", { class: `tag ${observing ? "limit" : "allow"}` }, observing ? "observe" : "enforce")),
  h("div", { class: "two" }, table([{ text: "Key" }, { text: "Value", wide: true }, { text: "Source" }], rows, { label: `Effective policy ${one.name}` }),
    h("div", { class: "stack" },
      h("div", {}, h("h2", {}, "Requests that enforce mode would have refused"),
        showObserved ? [observedText(today, "today"), observedText(would, "in the last 30 days")] : null,
        observing ? null : h("p", { class: "dim" }, "This policy is in enforce mode. Its refusals are shown on Now.")),
      spendSection(one), pricesSection(one))));
}

const SOURCES = { policy: "this policy", none: "no price" };

function pricesSection(one) {
  const { items, dated } = one.price_list, unknown = one.unknown_price;
  const rows = items.map((row) => ({ cells: [h("span", { class: "mono" }, row.model), usd(row.input), usd(row.output), h("span", { class: row.from === "none" ? "warm" : "dim" }, SOURCES[row.from] || `price table of ${dated}`)] }));
  const rest = unknown === "deny" ? "Models without a price are refused." : unknown === "free" ? "Models without a price count as free." : `Models without a price cost ${usd(unknown.input)} (input) and ${usd(unknown.output)} (output) per million tokens.`;
  return h("div", {}, h("h2", {}, "Prices in use"), rows.length ? table([{ text: "Model" }, { text: "Input, $/M tokens", num: true }, { text: "Output, $/M tokens", num: true }, { text: "Source" }], rows, { label: `Prices in use, policy ${one.name}` }) : h("p", { class: "dim" }, "Models appear with their first request."), h("p", { class: "dim small after" }, rest));
}

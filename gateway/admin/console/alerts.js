// Receivers, silences, and alerts with their delivery state.
import { runAction, isOperator, openWindowDialog, toast, endSilence } from "./actions.js";
import { call, isIdle, CLASS_LABELS, timeText, count, emptyState, get, h, timeElement, updateChildren, EVENT_LABELS, table } from "./lib.js";

const reload = (load) => () => { load().catch(() => {}); };

const STATES = { ok: ["good", "● ok"], failing: ["critical", "▲ failing"], disabled: ["warning", "■ disabled"] };

function silenceText(one) {
  const what = one.class === "*" ? "all alerts" : CLASS_LABELS[one.class] || one.class;
  return `${what}${one.tenant === "*" ? "" : `, tenant ${one.tenant}`}${one.subject === "*" ? "" : `, ${one.subject}`}`;
}

const SILENCE_STATE_LABELS = { active: "active", pending: "scheduled", over: "ended" };

function windowText(one) {
  const when = one.state === "active" ? `until ${timeText(one.to, false)}` : `${timeText(one.from, false)} to ${timeText(one.to, false)}`;
  if (!one.repeat) return when;
  const days = one.repeat.days.length === 7 ? "daily" : `weekly on ${one.repeat.days.map((day) => day[0].toUpperCase() + day.slice(1)).join(", ")}`;
  return h("span", {}, `${days} ${one.repeat.from}–${one.repeat.to} ${one.repeat.zone}`, one.state === "over" ? null : h("span", { class: "dim" }, one.state === "active" ? `, now ${when}` : `, next ${when}`));
}

export function alerts(root, params) {
  const state = params.get("state") || "";
  async function load() {
    const found = await get(`alerts?limit=100${state ? `&state=${state}` : ""}`);
    const silences = (await get("silences?limit=100")).items;
    const heads = [{ text: "Receiver" }, { text: "State" }, { text: "Pending", num: true }, { text: "Sent", num: true }, { text: "Last error", wide: true }, { text: "" }];
    const targets = found.targets.map((one) => {
      const [cls, text] = STATES[one.state] || ["warning", one.state];
      return { cells: [h("span", {}, one.name, h("span", { class: "dim small" }, ` ${one.type}`)), h("span", { class: `sign ${cls}` }, text, one.since && one.state !== "ok" ? ` since ${timeText(one.since)}` : ""), count(one.pending), count(one.sent), one.last_error || "–",
        isOperator() ? h("button", { type: "button", onclick: () => runAction(async () => { await call("POST", `alerts/targets/${encodeURIComponent(one.name)}/test`); toast(`Test alert sent to ${one.name}.`); }) }, "Send test") : ""] };
    });
    const rows = found.items.map((one) => ({ cells: [one.at ? timeElement(one.at) : "–", h("span", { title: one.type }, EVENT_LABELS[one.type] || one.type), one.target, h("span", { class: `sign ${one.state === "dead" ? "critical" : one.state === "sent" ? "good" : "info"}` }, { dead: "▲ dead", sent: "● sent", pending: "○ pending" }[one.state] || one.state), count(one.attempts), one.answer || "–",
      isOperator() && one.state === "dead" ? h("button", { type: "button", onclick: () => runAction(async () => { await call("POST", `alerts/${encodeURIComponent(one.id)}/resend`); toast("Queued for delivery."); }) }, "Resend") : ""] }));
    const filter = h("select", { "aria-label": "Filter by delivery state", onchange: (event) => { location.hash = event.target.value ? `#/alerts?state=${event.target.value}` : "#/alerts"; } }, [["", "all alerts"], ["pending", "pending"], ["dead", "dead"], ["sent", "sent"]].map(([value, text]) => h("option", { value, selected: value === state }, text)));
    const silenceRows = silences.map((one) => ({ cells: [silenceText(one), one.reason || "–", SILENCE_STATE_LABELS[one.state], windowText(one),
      isOperator() ? h("button", { type: "button", onclick: () => endSilence(one) }, "End") : ""] }));
    updateChildren(root, h("h1", {}, "Alerts"),
      h("section", { class: "card" }, h("h2", {}, "Receivers"), targets.length ? table(heads, targets, { label: "Receivers" })
        : emptyState("No receivers of alerts", "Add a receiver to the configuration file; it takes effect when the file is saved:", h("code", {}, '[[alert]]  type = "webhook"  url = "https://…"'))),
      h("section", { class: "card" }, h("div", { class: "row" }, h("h2", {}, "Silences"), isOperator() ? h("button", { type: "button", onclick: () => openWindowDialog(reload(load)) }, "Schedule a window") : null), silenceRows.length ? table([{ text: "Alerts" }, { text: "Reason" }, { text: "State" }, { text: "When" }, { text: "" }], silenceRows, { label: "Silences" }) : h("p", { class: "dim" }, "No silences and no maintenance windows.")),
      h("section", { class: "card" }, h("div", { class: "row" }, h("h2", {}, "Delivery"), filter),
        rows.length ? table([{ text: "Time" }, { text: "Event" }, { text: "Receiver" }, { text: "State" }, { text: "Attempts", num: true }, { text: "Response", wide: true }, { text: "" }], rows, { label: "Delivery" }) : h("p", { class: "dim" }, state ? "No alerts in this state." : "No alert has been sent since the gateway started.")));
  }
  const refresh = setInterval(() => { if (isIdle(root)) load().catch(() => {}); }, 5000);
  return { load, onChange: reload(load), onOutput: reload(load), close: () => clearInterval(refresh) };
}

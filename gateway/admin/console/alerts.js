// Alerts: who is told, what waits or was given up, and what is silent.
import { attempt, may, plan, toast, unsilence } from "./actions.js";
import { call, calm, CLASSES, clock, count, empty, get, h, moment, refill, SAID, table } from "./lib.js";

const reload = (load) => () => { load().catch(() => {}); };

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
    const heads = [{ text: "Target" }, { text: "State" }, { text: "Waiting", num: true }, { text: "Sent", num: true }, { text: "Last answer", wide: true }, { text: "" }];
    const targets = found.targets.map((one) => {
      const [cls, words] = STATES[one.state] || ["warning", one.state];
      return { cells: [h("span", {}, one.name, h("span", { class: "dim small" }, ` ${one.type}`)), h("span", { class: `sign ${cls}` }, words, one.since && one.state !== "ok" ? ` since ${clock(one.since)}` : ""), count(one.pending), count(one.sent), one.last_error || "–",
        may() ? h("button", { type: "button", onclick: () => attempt(async () => { await call("POST", `alerts/targets/${encodeURIComponent(one.name)}/test`); toast(`A sample is on its way to ${one.name}.`); }) }, "Send a test") : ""] };
    });
    const rows = found.items.map((one) => ({ cells: [one.at ? moment(one.at) : "–", h("span", { title: one.type }, SAID[one.type] || one.type), one.target, h("span", { class: `sign ${one.state === "dead" ? "critical" : one.state === "sent" ? "good" : "info"}` }, { dead: "▲ given up", sent: "● sent", pending: "○ waiting" }[one.state] || one.state), count(one.attempts), one.answer || "–",
      may() && one.state === "dead" ? h("button", { type: "button", onclick: () => attempt(async () => { await call("POST", `alerts/${encodeURIComponent(one.id)}/resend`); toast("It is tried again."); }) }, "Send again") : ""] }));
    const filter = h("select", { "aria-label": "Messages shown", onchange: (event) => { location.hash = event.target.value ? `#/alerts?state=${event.target.value}` : "#/alerts"; } }, [["", "all messages"], ["pending", "waiting"], ["dead", "given up"], ["sent", "sent"]].map(([value, text]) => h("option", { value, selected: value === state }, text)));
    const silent = quiet.map((one) => ({ cells: [silenceWords(one), one.reason || "–", SILENCE_STATES[one.state], windowWords(one),
      may() ? h("button", { type: "button", onclick: () => unsilence(one) }, "End") : ""] }));
    refill(root, h("h1", {}, "Alerts"),
      h("section", { class: "card" }, h("h2", {}, "Targets"), targets.length ? table(heads, targets, { label: "Targets" })
        : empty("Nobody is told yet", "Add a target to the configuration; it is in force as soon as the file is saved:", h("code", {}, '[[alert]]  type = "webhook"  url = "https://…"'))),
      h("section", { class: "card" }, h("div", { class: "row" }, h("h2", {}, "Silences"), may() ? h("button", { type: "button", onclick: () => plan(reload(load)) }, "Plan a window") : null), silent.length ? table([{ text: "What" }, { text: "Reason" }, { text: "State" }, { text: "When" }, { text: "" }], silent, { label: "Silences" }) : h("p", { class: "dim" }, "Nothing is silenced, and no maintenance window is planned.")),
      h("section", { class: "card" }, h("div", { class: "row" }, h("h2", {}, "Messages"), filter),
        rows.length ? table([{ text: "When" }, { text: "What" }, { text: "Target" }, { text: "State" }, { text: "Tries", num: true }, { text: "Answer", wide: true }, { text: "" }], rows, { label: "Messages" }) : h("p", { class: "dim" }, state ? "None of these." : "No message was sent since the gateway started.")));
  }
  const again = setInterval(() => { if (calm(root)) load().catch(() => {}); }, 5000);
  return { load, acted: reload(load), output: reload(load), close: () => clearInterval(again) };
}

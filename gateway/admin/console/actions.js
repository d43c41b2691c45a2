// What an operator can do: said in one sentence before, undone from the toast after.
import { call, CLASSES, clock, count, DONE, fill, h, KINDS, path, state } from "./lib.js";

const dialog = () => document.getElementById("dialog");

export function toast(text, undo = null, ms = undo ? 12000 : 6000) {
  const box = document.getElementById("toasts");
  const one = h("div", { class: "toast" }, h("span", {}, text));
  if (undo) one.append(h("button", { type: "button", class: "undo", onclick: async () => { one.remove(); await attempt(undo); } }, "Undo"));
  box.append(one);
  while (box.children.length > 3) box.firstChild.remove();
  setTimeout(() => one.remove(), ms);
  return one;
}

// What cannot be taken back once others were told waits a moment, and is done at once
// when the page is left.
const WAIT_MS = 5000;
const waiting = new Map();
export const isWaiting = (key) => waiting.has(key);

export function soon(key, words, method, where, done) {
  if (waiting.has(key)) return;
  const act = async () => {
    clearTimeout(timer);
    if (!waiting.delete(key)) return;
    said.remove();
    await attempt(async () => { const answer = await call(method, where, undefined, true); toast(done(answer)); });
  };
  const timer = setTimeout(act, WAIT_MS);
  waiting.set(key, act);
  const said = toast(`${words} in 5 s.`, () => { clearTimeout(timer); waiting.delete(key); toast("Not done."); }, WAIT_MS);
  window.dispatchEvent(new Event("acted"));
}

window.addEventListener("pagehide", () => { for (const act of [...waiting.values()]) act(); });

export async function attempt(act) {
  try {
    await act();
    window.dispatchEvent(new Event("acted"));
  } catch (error) {
    toast(`Not done: ${error.message}`);
  }
}

export const may = () => state.role === "operator";

const subjectWords = (kind, id) => `${KINDS[kind] || kind} ${id}`;
const where = (tenant) => (tenant ? `?tenant=${encodeURIComponent(tenant)}` : "");

async function unblock(kind, id, tenant) {
  await call("DELETE", `blocks/${path(kind, id)}${where(tenant)}`);
}

async function put(action, kind, id, tenant, ttl, reason) {
  await call("POST", "blocks", { action, kind, id, tenant, ttl, reason });
}

export function undo(kind, id, standing) {
  return attempt(async () => {
    await unblock(kind, id, standing.tenant);
    toast(`${DONE[standing.action]} no more: ${subjectWords(kind, id)}.`, async () => {
      await call("POST", `blocks/${path(kind, id)}/restore`);
      toast(`${DONE[standing.action]} again: ${subjectWords(kind, id)}.`);
    });
  });
}

export function undoAll(id) {
  const where = `incidents/${encodeURIComponent(id)}`;
  return attempt(async () => {
    const { undone } = await call("POST", `${where}/undo`);
    toast(undone ? `Undone: ${clients(undone)} let in again.` : "Nobody is held by this any more.", undone ? async () => {
      const { restored } = await call("POST", `${where}/restore`);
      toast(`Put back: ${clients(restored)} held as before.`);
    } : null);
  });
}

const clients = (n) => (n === 1 ? "1 client" : `${count(n)} clients`);

export function silence(body, words) {
  return attempt(async () => {
    const made = await call("POST", "silences", body);
    toast(words, () => unsilence(made));
  });
}

// Ends a silence; the note puts the rest of it back.
export function unsilence(one) {
  return attempt(async () => {
    await call("DELETE", `silences/${encodeURIComponent(one.id)}`);
    const { tenant, subject, reason, repeat } = one;
    const body = { tenant, subject, reason, class: one.class };
    if (!repeat) Object.assign(body, { from: one.from, to: one.to });
    else Object.assign(body, { repeat: { days: repeat.days, from: repeat.from, to: repeat.to, zone: repeat.zone } }, repeat.until ? { to: repeat.until } : {});
    toast("Alerts are sent again.", () => silence(body, "Silent again."));
  });
}

const TIMES = [["10m", "10 minutes"], ["1h", "1 hour"], ["6h", "6 hours"], ["1d", "1 day"], ["7d", "7 days"], ["", "until removed"]];

export function ask(action, kind, id, tenants = []) {
  const blocking = action === "block";
  const words = subjectWords(kind, id);
  const time = h("select", { name: "ttl" }, TIMES.map(([value, text]) => h("option", { value, selected: value === "1h" }, text)));
  const place = h("select", { name: "tenant" }, h("option", { value: "" }, "every tenant"), tenants.map((name) => h("option", { value: name }, name)));
  const reason = h("input", { name: "reason", maxlength: "200", placeholder: "for whoever asks why" });
  const close = () => dialog().close();
  const confirm = async (event) => {
    event.preventDefault();
    close();
    await attempt(async () => {
      const tenant = place.value || null;
      await put(action, kind, id, tenant, time.value || null, reason.value);
      toast(blocking ? `Blocked: ${words}.` : `Let through: ${words}.`, async () => {
        await call("DELETE", `blocks/${path(kind, id)}?${new URLSearchParams({ undo: true, ...(tenant && { tenant }) })}`);
        toast(`${blocking ? "Unblocked" : "No longer let through"}: ${words}.`);
      });
    });
  };
  fill(dialog(), h("form", { onsubmit: confirm },
    h("h2", { id: "dialog-title" }, `${blocking ? "Block" : "Let through"} ${words}`),
    h("p", {}, blocking
      ? "Its requests will be refused with 403 by every gateway of this store, from the next one on."
      : "Detection will not throttle or block it, whatever it does. Limits still count."),
    h("label", {}, "For how long", time), h("label", {}, "Where", place), h("label", {}, "Reason", reason),
    h("div", { class: "tools" }, h("button", { type: "button", onclick: close }, "Cancel"),
      h("button", { class: "main", type: "submit" }, blocking ? "Block" : "Let through"))));
  dialog().showModal();
}

const WEEK = [["mon", "Monday"], ["tue", "Tuesday"], ["wed", "Wednesday"], ["thu", "Thursday"], ["fri", "Friday"], ["sat", "Saturday"], ["sun", "Sunday"]];

const localText = (date) => new Date(date.getTime() - date.getTimezoneOffset() * 60000).toISOString().slice(0, 16);

// A maintenance window: once, or each week by the clock of a place.
export function plan(again) {
  const soon = new Date(Math.ceil(Date.now() / 3600e3) * 3600e3);
  const form = {
    how: h("select", { name: "how" }, [["once", "once"], ["weekly", "each week"]].map(([value, text]) => h("option", { value }, text))),
    from: h("input", { name: "from", type: "datetime-local", value: localText(soon), required: true }),
    to: h("input", { name: "to", type: "datetime-local", value: localText(new Date(soon.getTime() + 3600e3)), required: true }),
    days: WEEK.map(([value, text]) => [value, text, h("input", { type: "checkbox", name: value, checked: value === "sun" })]),
    starts: h("input", { name: "starts", type: "time", value: "02:00", required: true }),
    ends: h("input", { name: "ends", type: "time", value: "04:00", required: true }),
    zone: h("input", { name: "zone", value: Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC", maxlength: "60", required: true }),
    cls: h("select", { name: "class" }, h("option", { value: "*" }, "everything"), Object.entries({ ...CLASSES, gateway: "The gateway itself" }).map(([value, text]) => h("option", { value }, text))),
    tenant: h("input", { name: "tenant", placeholder: "every tenant", maxlength: "200" }),
    reason: h("input", { name: "reason", maxlength: "200", placeholder: "for whoever asks why" }),
  };
  const once = h("div", { class: "stack" }, h("label", {}, "From (your time)", form.from), h("label", {}, "To (your time)", form.to));
  const weekly = h("div", { class: "stack" }, h("fieldset", {}, h("legend", {}, "On"), form.days.map(([, text, box]) => h("label", { class: "check" }, box, text))),
    h("label", {}, "From", form.starts), h("label", {}, "To (not after from: on the next day)", form.ends), h("label", {}, "Time zone", form.zone));
  const fault = h("p", { class: "sign critical", role: "alert" });
  const show = () => {
    const often = form.how.value === "weekly";
    once.hidden = often;
    weekly.hidden = !often;
    for (const one of [form.from, form.to]) one.disabled = often;
    for (const one of [form.starts, form.ends, form.zone]) one.disabled = !often;
  };
  form.how.addEventListener("change", show);
  show();
  const close = () => dialog().close();
  const confirm = async (event) => {
    event.preventDefault();
    const body = { class: form.cls.value, tenant: form.tenant.value.trim() || "*", reason: form.reason.value };
    if (form.how.value === "once") Object.assign(body, { from: new Date(form.from.value).toISOString(), to: new Date(form.to.value).toISOString() });
    else body.repeat = { days: form.days.filter(([, , box]) => box.checked).map(([value]) => value), from: form.starts.value, to: form.ends.value, zone: form.zone.value.trim() };
    try {
      const made = await call("POST", "silences", body);
      close();
      again();
      toast(`Nobody is alerted from ${clock(made.from, false)} to ${clock(made.to, false)}${made.repeat ? ", and each week" : ""}.`, () => unsilence(made));
    } catch (error) {
      fill(fault, `Not done: ${error.message}`);
    }
  };
  fill(dialog(), h("form", { onsubmit: confirm },
    h("h2", { id: "dialog-title" }, "Plan a maintenance window"),
    h("p", {}, "Nobody is alerted of what matches while it lasts. It is still acted on, and what is open at its end is told then."),
    h("label", {}, "How often", form.how), once, weekly, h("label", {}, "Of what", form.cls), h("label", {}, "Tenant", form.tenant), h("label", {}, "Reason", form.reason), fault,
    h("div", { class: "tools" }, h("button", { type: "button", onclick: close }, "Cancel"), h("button", { class: "main", type: "submit" }, "Plan"))));
  dialog().showModal();
}

export function reset(kind, id) {
  const words = subjectWords(kind, id);
  soon(`reset ${words}`, `Limits of ${words} start anew`, "POST", `clients/${path(kind, id)}/reset`, (done) => `Limits of ${words} start anew (${done.counters} counters).`);
}

export function hand(client, tenants) {
  if (!may() || client.kind === "tenant") return "";
  const held = client.standing, one = client.kind !== "prompts";
  return h("span", { class: "tools" },
    held ? h("button", { type: "button", title: "Ends this at once", "aria-label": `Undo for ${client.id}`, onclick: () => undo(client.kind, client.id, held) }, "Undo") : null,
    one && (!held || held.action !== "block") ? h("button", { type: "button", class: "danger", "aria-label": `Block ${client.id}`, onclick: () => ask("block", client.kind, client.id, tenants) }, "Block") : null,
    one && (!held || held.action !== "allow") ? h("button", { type: "button", "aria-label": `Let ${client.id} through`, onclick: () => ask("allow", client.kind, client.id, tenants) }, "Let through") : null);
}

export function help() {
  const keys = [["/ or ⌘K", "search"], ["j k", "next and previous row"], ["Enter", "open the row"], ["u", "undo the last action"], ["1 – 5", "the views"], ["d", "dark or light"], ["?", "this"]];
  fill(dialog(), h("form", { method: "dialog" }, h("h2", { id: "dialog-title" }, "Keyboard"),
    h("div", { class: "keys" }, keys.map(([key, text]) => [h("span", {}, h("kbd", {}, key)), h("span", {}, text)])),
    h("div", { class: "tools" }, h("button", { class: "main", type: "submit" }, "Close"))));
  dialog().showModal();
}

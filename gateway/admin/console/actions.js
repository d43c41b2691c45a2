// Operator actions. Each dialog states the effect; each notice offers an undo.
import { call, CLASS_LABELS, timeText, count, ACTION_LABELS, setChildren, h, KIND_LABELS, path, state } from "./lib.js";

const dialog = () => document.getElementById("dialog");

export function toast(text, onUndo = null, ms = onUndo ? 12000 : 6000) {
  const box = document.getElementById("toasts");
  const one = h("div", { class: "toast" }, h("span", {}, text));
  if (onUndo) one.append(h("button", { type: "button", class: "undo", onclick: async () => { one.remove(); await runAction(onUndo); } }, "Undo"));
  box.append(one);
  while (box.children.length > 3) box.firstChild.remove();
  setTimeout(() => one.remove(), ms);
  return one;
}

// Actions that send an alert cannot be undone, so they run after a delay in which they
// can be cancelled. Leaving the page runs the pending ones at once.
const WAIT_MS = 5000;
const pendingActions = new Map();
export const isPending = (key) => pendingActions.has(key);

export function runDelayed(key, text, method, where, doneText) {
  if (pendingActions.has(key)) return;
  const act = async () => {
    clearTimeout(timer);
    if (!pendingActions.delete(key)) return;
    notice.remove();
    await runAction(async () => { const answer = await call(method, where, undefined, true); toast(doneText(answer)); });
  };
  const timer = setTimeout(act, WAIT_MS);
  pendingActions.set(key, act);
  const notice = toast(`${text} in 5 s.`, () => { clearTimeout(timer); pendingActions.delete(key); toast("Cancelled."); }, WAIT_MS);
  window.dispatchEvent(new Event("changed"));
}

window.addEventListener("pagehide", () => { for (const act of [...pendingActions.values()]) act(); });

export async function runAction(act) {
  try {
    await act();
    window.dispatchEvent(new Event("changed"));
  } catch (error) {
    toast(`Failed: ${error.message}`);
  }
}

export const isOperator = () => state.role === "operator";

const subjectLabel = (kind, id) => `${KIND_LABELS[kind] || kind} ${id}`;
const tenantQuery = (tenant) => (tenant ? `?tenant=${encodeURIComponent(tenant)}` : "");

async function deleteBlock(kind, id, tenant) {
  await call("DELETE", `blocks/${path(kind, id)}${tenantQuery(tenant)}`);
}

async function postBlock(action, kind, id, tenant, ttl, reason) {
  await call("POST", "blocks", { action, kind, id, tenant, ttl, reason });
}

export function removeRestriction(kind, id, state) {
  return runAction(async () => {
    await deleteBlock(kind, id, state.tenant);
    toast(`No longer ${ACTION_LABELS[state.action].toLowerCase()}: ${subjectLabel(kind, id)}.`, async () => {
      await call("POST", `blocks/${path(kind, id)}/restore`);
      toast(`Restored: ${subjectLabel(kind, id)} is ${ACTION_LABELS[state.action].toLowerCase()} again.`);
    });
  });
}

export function undoIncident(id) {
  const where = `incidents/${encodeURIComponent(id)}`;
  return runAction(async () => {
    const { undone } = await call("POST", `${where}/undo`);
    toast(undone ? `Restrictions removed from ${clients(undone)}.` : "No restriction of this incident is active.", undone ? async () => {
      const { restored } = await call("POST", `${where}/restore`);
      toast(`Restrictions restored for ${clients(restored)}.`);
    } : null);
  });
}

const clients = (n) => (n === 1 ? "1 client" : `${count(n)} clients`);

export function addSilence(body, text) {
  return runAction(async () => {
    const made = await call("POST", "silences", body);
    toast(text, () => endSilence(made));
  });
}

// Ends a silence. The undo adds it again for the rest of its time.
export function endSilence(one) {
  return runAction(async () => {
    await call("DELETE", `silences/${encodeURIComponent(one.id)}`);
    const { tenant, subject, reason, repeat } = one;
    const body = { tenant, subject, reason, class: one.class };
    if (!repeat) Object.assign(body, { from: one.from, to: one.to });
    else Object.assign(body, { repeat: { days: repeat.days, from: repeat.from, to: repeat.to, zone: repeat.zone } }, repeat.until ? { to: repeat.until } : {});
    toast("Silence ended.", () => addSilence(body, "Silence restored."));
  });
}

const BLOCK_DURATIONS = [["10m", "10 minutes"], ["1h", "1 hour"], ["6h", "6 hours"], ["1d", "1 day"], ["7d", "7 days"], ["", "until removed"]];

export function openBlockDialog(action, kind, id, tenants = []) {
  const blocking = action === "block";
  const subject = subjectLabel(kind, id);
  const time = h("select", { name: "ttl" }, BLOCK_DURATIONS.map(([value, text]) => h("option", { value, selected: value === "1h" }, text)));
  const place = h("select", { name: "tenant" }, h("option", { value: "" }, "all tenants"), tenants.map((name) => h("option", { value: name }, name)));
  const reason = h("input", { name: "reason", maxlength: "200", placeholder: "shown in the audit log" });
  const close = () => dialog().close();
  const confirm = async (event) => {
    event.preventDefault();
    close();
    await runAction(async () => {
      const tenant = place.value || null;
      await postBlock(action, kind, id, tenant, time.value || null, reason.value);
      toast(blocking ? `Blocked: ${subject}.` : `Allowed: ${subject}.`, async () => {
        await call("DELETE", `blocks/${path(kind, id)}?${new URLSearchParams({ undo: true, ...(tenant && { tenant }) })}`);
        toast(`${blocking ? "Unblocked" : "No longer allowed"}: ${subject}.`);
      });
    });
  };
  setChildren(dialog(), h("form", { onsubmit: confirm },
    h("h2", { id: "dialog-title" }, `${blocking ? "Block" : "Allow"} ${subject}`),
    h("p", {}, blocking
      ? "Every gateway that shares this store answers its requests with 403, starting with the next one."
      : "Detection does not throttle or block it. Limits still apply."),
    h("label", {}, "Duration", time), h("label", {}, "Tenant", place), h("label", {}, "Reason", reason),
    h("div", { class: "tools" }, h("button", { type: "button", onclick: close }, "Cancel"),
      h("button", { class: "main", type: "submit" }, blocking ? "Block" : "Allow"))));
  dialog().showModal();
}

const WEEKDAYS = [["mon", "Monday"], ["tue", "Tuesday"], ["wed", "Wednesday"], ["thu", "Thursday"], ["fri", "Friday"], ["sat", "Saturday"], ["sun", "Sunday"]];

const localText = (date) => new Date(date.getTime() - date.getTimezoneOffset() * 60000).toISOString().slice(0, 16);

// Dialog for a maintenance window: once, or weekly in a time zone.
export function openWindowDialog(onAdded) {
  const nextHour = new Date(Math.ceil(Date.now() / 3600e3) * 3600e3);
  const form = {
    repeat: h("select", { name: "repeat" }, [["once", "once"], ["weekly", "weekly"]].map(([value, text]) => h("option", { value }, text))),
    from: h("input", { name: "from", type: "datetime-local", value: localText(nextHour), required: true }),
    to: h("input", { name: "to", type: "datetime-local", value: localText(new Date(nextHour.getTime() + 3600e3)), required: true }),
    days: WEEKDAYS.map(([value, text]) => [value, text, h("input", { type: "checkbox", name: value, checked: value === "sun" })]),
    starts: h("input", { name: "starts", type: "time", value: "02:00", required: true }),
    ends: h("input", { name: "ends", type: "time", value: "04:00", required: true }),
    zone: h("input", { name: "zone", value: Intl.DateTimeFormat().resolvedOptions().timeZone || "UTC", maxlength: "60", required: true }),
    cls: h("select", { name: "class" }, h("option", { value: "*" }, "all alerts"), Object.entries({ ...CLASS_LABELS, gateway: "Gateway health" }).map(([value, text]) => h("option", { value }, text))),
    tenant: h("input", { name: "tenant", placeholder: "all tenants", maxlength: "200" }),
    reason: h("input", { name: "reason", maxlength: "200", placeholder: "shown in the audit log" }),
  };
  const once = h("div", { class: "stack" }, h("label", {}, "Start (local time)", form.from), h("label", {}, "End (local time)", form.to));
  const weekly = h("div", { class: "stack" }, h("fieldset", {}, h("legend", {}, "Days"), form.days.map(([, text, box]) => h("label", { class: "check" }, box, text))),
    h("label", {}, "Start", form.starts), h("label", {}, "End (if earlier than the start: on the next day)", form.ends), h("label", {}, "Time zone", form.zone));
  const fault = h("p", { class: "sign critical", role: "alert" });
  const show = () => {
    const weeklyChosen = form.repeat.value === "weekly";
    once.hidden = weeklyChosen;
    weekly.hidden = !weeklyChosen;
    for (const one of [form.from, form.to]) one.disabled = weeklyChosen;
    for (const one of [form.starts, form.ends, form.zone]) one.disabled = !weeklyChosen;
  };
  form.repeat.addEventListener("change", show);
  show();
  const close = () => dialog().close();
  const confirm = async (event) => {
    event.preventDefault();
    const body = { class: form.cls.value, tenant: form.tenant.value.trim() || "*", reason: form.reason.value };
    if (form.repeat.value === "once") Object.assign(body, { from: new Date(form.from.value).toISOString(), to: new Date(form.to.value).toISOString() });
    else body.repeat = { days: form.days.filter(([, , box]) => box.checked).map(([value]) => value), from: form.starts.value, to: form.ends.value, zone: form.zone.value.trim() };
    try {
      const made = await call("POST", "silences", body);
      close();
      onAdded();
      toast(`Alerts are silenced from ${timeText(made.from, false)} to ${timeText(made.to, false)}${made.repeat ? ", repeated weekly" : ""}.`, () => endSilence(made));
    } catch (error) {
      setChildren(fault, `Not saved: ${error.message}`);
    }
  };
  setChildren(dialog(), h("form", { onsubmit: confirm },
    h("h2", { id: "dialog-title" }, "Schedule a maintenance window"),
    h("p", {}, "Matching alerts are not sent during the window. Detection still acts. Alerts for incidents that are open when it ends are sent then."),
    h("label", {}, "Repeat", form.repeat), once, weekly, h("label", {}, "Class", form.cls), h("label", {}, "Tenant", form.tenant), h("label", {}, "Reason", form.reason), fault,
    h("div", { class: "tools" }, h("button", { type: "button", onclick: close }, "Cancel"), h("button", { class: "main", type: "submit" }, "Schedule"))));
  dialog().showModal();
}

export function resetLimits(kind, id) {
  const subject = subjectLabel(kind, id);
  runDelayed(`reset ${subject}`, `Resetting the limits of ${subject}`, "POST", `clients/${path(kind, id)}/reset`, (answer) => `Limits of ${subject} reset (${answer.counters} counters).`);
}

export function clientActions(client, tenants) {
  if (!isOperator() || client.kind === "tenant") return "";
  const current = client.standing, canBlock = client.kind !== "prompts";
  return h("span", { class: "tools" },
    current ? h("button", { type: "button", title: "Remove this restriction now", "aria-label": `Undo for ${client.id}`, onclick: () => removeRestriction(client.kind, client.id, current) }, "Undo") : null,
    canBlock && (!current || current.action !== "block") ? h("button", { type: "button", class: "danger", "aria-label": `Block ${client.id}`, onclick: () => openBlockDialog("block", client.kind, client.id, tenants) }, "Block") : null,
    canBlock && (!current || current.action !== "allow") ? h("button", { type: "button", "aria-label": `Allow ${client.id}`, onclick: () => openBlockDialog("allow", client.kind, client.id, tenants) }, "Allow") : null);
}

export function openHelp() {
  const keys = [["/ or ⌘K", "search"], ["j k", "next and previous row"], ["Enter", "open the selected row"], ["u", "undo the last action"], ["1 – 5", "switch view"], ["d", "switch between dark and light"], ["?", "show this list"]];
  setChildren(dialog(), h("form", { method: "dialog" }, h("h2", { id: "dialog-title" }, "Keyboard shortcuts"),
    h("div", { class: "keys" }, keys.map(([key, text]) => [h("span", {}, h("kbd", {}, key)), h("span", {}, text)])),
    h("div", { class: "tools" }, h("button", { class: "main", type: "submit" }, "Close"))));
  dialog().showModal();
}

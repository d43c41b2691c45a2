// The page: session, routing between views, live updates, theme and keyboard.
import { openHelp } from "./actions.js";
import { alerts } from "./alerts.js";
import { client, clients } from "./clients.js";
import { incident, incidents } from "./incidents.js";
import { call, setChildren, get, h, state } from "./lib.js";
import { now } from "./now.js";
import { policies } from "./policies.js";

const VIEWS = [["now", "Now"], ["incidents", "Incidents"], ["clients", "Clients"], ["policies", "Policies"], ["alerts", "Alerts"]];
const LOST_MS = 3000;
const main = document.getElementById("main");
let lastHealth = "", view = null, broken = false, source = null, lastMessageAt = Date.now(), retry = 0;

// -- views ---------------------------------------------------------------------------

function route(root = main) {
  const [where, query = ""] = location.hash.replace(/^#\/?/, "").split("?");
  let parts;
  try { parts = where.split("/").map(decodeURIComponent); } catch { parts = ["now"]; }
  const params = new URLSearchParams(query);
  const [name = "now", ...rest] = parts;
  if (name === "incidents" && rest[0]) return [name, () => incident(root, params, rest[0])];
  if (name === "clients" && rest.length === 2) return [name, () => client(root, params, ...rest)];
  const found = { now, incidents, clients, policies, alerts }[name];
  return found ? [name, () => found(root, params)] : ["now", () => now(root, params)];
}

async function show() {
  view?.close?.();
  broken = false;
  // A new root per view: a late response of the previous view draws into a detached one.
  const root = h("div", { class: "view" }, h("div", { class: "skeleton", "aria-hidden": "true" }));
  const [name, open] = route(root);
  navigation(name);
  document.title = `${VIEWS.find(([key]) => key === name)[1]} · Tidegate`;
  setChildren(main, root);
  search.value = new URLSearchParams(location.hash.split("?")[1]).get("q") || "";
  const current = (view = open());
  try {
    await current.load();
  } catch (error) {
    if (current === view && error.status !== 401) showError(error);
  }
}

function showError(error) {
  broken = true;
  const missing = error.status === 404;
  setChildren(main, h("section", { class: "card error empty", role: "alert" },
    h("h2", {}, missing ? "Not found" : "Loading failed"), h("p", {}, error.message),
    h("p", { class: "dim" }, missing ? "Clients without requests for an hour and old incidents are removed." : error.status ? `Try again. If it still fails, search the gateway's log for ${error.request || error.code}.` : "Check that the gateway is running. This page retries automatically."),
    h("div", { class: "tools" }, h("button", { class: "main", type: "button", onclick: show }, "Try again"), h("a", { href: "#/now" }, "Go to Now"))));
}

function navigation(current) {
  const open = state.counters ? state.counters.incidents : 0;
  setChildren(document.getElementById("nav"), VIEWS.map(([name, text]) => h("a", { href: `#/${name}`, "aria-current": name === current ? "page" : null }, text,
    name === "incidents" && open ? h("span", { class: "count" }, open, h("span", { class: "hidden" }, " open")) : null)));
}

// -- live ----------------------------------------------------------------------------

function connect() {
  source?.close();
  source = new EventSource("/api/v1/stream");
  const on = (name, act) => source.addEventListener(name, (event) => { onMessage(); act(JSON.parse(event.data)); });
  on("counters", (counters) => {
    const before = state.counters;
    state.counters = counters;
    health(counters);
    if (!before || before.incidents !== counters.incidents) navigation(route()[0]);
    view?.onCounters?.(counters);
  });
  on("output", () => onOutput());
  on("change", () => view?.onChange?.());
  on("reset", () => { if (broken) show(); else if (view?.load) view.load().catch(() => {}); });
  source.onerror = () => {
    if (source.readyState !== EventSource.CLOSED) return;
    clearTimeout(retry);
    retry = setTimeout(reconnect, 2000);
  };
}

// An attack sends hundreds of outputs a second: reload the view at most once in 800 ms.
let due = null;
function onOutput() {
  due ??= setTimeout(() => { due = null; view?.onOutput?.(); }, document.hidden ? 5000 : 800);
}

async function reconnect() {
  try {
    const session = await get("session");
    if (session.needed && !session.role) return showLogin();
    connect();
    if (broken) show();
    else view?.load?.().catch(() => {});
  } catch { retry = setTimeout(reconnect, 2000); }
}

function onMessage() {
  lastMessageAt = Date.now();
  document.body.classList.remove("stale");
  document.getElementById("lost").hidden = true;
}

setInterval(() => {
  if (!source || Date.now() - lastMessageAt < LOST_MS) return;
  document.body.classList.add("stale");
  const lost = document.getElementById("lost");
  if (lost.hidden) lost.textContent = `Live updates lost, reconnecting. Last update: ${new Date(lastMessageAt).toLocaleTimeString("en", { hourCycle: "h23" })}.`;
  lost.hidden = false;
  // The last known health may be out of date.
  if (lastHealth !== "lost") setChildren(document.getElementById("health"), h("span", { class: "sign critical" }, "▲ not connected"));
  lastHealth = "lost";
}, 500);

function health(c) {
  const alert = c.alerts.failing ? ["critical", `▲ ${c.alerts.failing} alert ${c.alerts.failing === 1 ? "receiver" : "receivers"} failing`] : c.alerts.targets ? ["good", "● alerts ok"] : ["dim", "○ no alert receivers"];
  const parts = [c.ready ? ["good", "● serving"] : ["critical", `▲ not ready: ${c.reasons.join(", ")}`], c.store_up ? ["good", "● store ok"] : ["critical", "▲ store unreachable"], alert, ["dim", c.modes.join(" and ") || "observe"]];
  const text = JSON.stringify(parts);
  if (text === lastHealth) return;
  lastHealth = text;
  setChildren(document.getElementById("health"), parts.map(([cls, label]) => h("span", { class: cls === "dim" ? "dim" : `sign ${cls}` }, label)));
}

// -- session --------------------------------------------------------------------------

function showLogin(message = "") {
  view?.close?.();
  view = null;
  source?.close();
  source = null;
  document.getElementById("leave").hidden = document.getElementById("find").hidden = true;
  const token = h("input", { type: "password", name: "token", autocomplete: "current-password", required: true });
  const fault = h("p", { class: "hot", role: "alert" }, message);
  const enter = async (event) => {
    event.preventDefault();
    try {
      Object.assign(state, await call("POST", "session", { token: token.value }));
      startSession();
    } catch (error) { fault.textContent = error.message; token.select(); }
  };
  setChildren(document.getElementById("nav"));
  setChildren(main, h("section", { class: "card login" }, h("form", { onsubmit: enter }, h("h1", {}, "Sign in"),
    h("p", { class: "dim" }, "Use the operator or viewer token of this gateway's admin port."),
    h("input", { class: "hidden", name: "username", value: "tidegate", autocomplete: "username", tabindex: "-1", "aria-hidden": "true", readonly: true }),
    h("label", {}, "Token", token), fault, h("button", { class: "main", type: "submit" }, "Sign in"))));
  token.focus();
}

function startSession() {
  document.getElementById("leave").hidden = !state.needed;
  document.getElementById("find").hidden = false;
  connect();
  show();
}

async function start() {
  try {
    Object.assign(state, await get("session"));
  } catch (error) { showError(error); setTimeout(start, 3000); return; }
  if (state.needed && !state.role) showLogin();
  else startSession();
}

window.addEventListener("signed-out", () => { if (source) showLogin("Session expired. Sign in again."); });
window.addEventListener("changed", () => view?.onChange?.());
window.addEventListener("hashchange", () => { if (source) { show(); main.focus({ preventScroll: true }); } });
document.getElementById("leave").addEventListener("click", async () => { await call("DELETE", "session").catch(() => {}); Object.assign(state, { role: null, csrf: "" }); showLogin(); });

// -- theme, search, keys -------------------------------------------------------------

const themeButton = document.getElementById("theme");
const isDark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
function updateThemeButton() { themeButton.textContent = isDark() ? "☀ Light" : "☾ Dark"; }
function toggleTheme() {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("theme", document.documentElement.dataset.theme); } catch { /* no storage: valid for this page only */ }
  updateThemeButton();
  view?.repaint?.();
}
themeButton.addEventListener("click", toggleTheme);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { updateThemeButton(); view?.repaint?.(); });
updateThemeButton();

const search = document.getElementById("q");
document.getElementById("find").addEventListener("submit", (event) => {
  event.preventDefault();
  location.hash = `#/clients?q=${encodeURIComponent(search.value.trim())}`;
});

function moveSelection(by) {
  const rows = [...main.querySelectorAll("tr[data-open]")];
  if (!rows.length) return;
  const at = rows.findIndex((row) => row.classList.contains("at"));
  rows[at]?.classList.remove("at");
  const next = rows[Math.min(rows.length - 1, Math.max(0, at + by))];
  next.classList.add("at");
  next.scrollIntoView({ block: "nearest" });
  next.querySelector("a")?.focus({ preventScroll: true });
}

document.addEventListener("keydown", (event) => {
  if ((event.metaKey || event.ctrlKey) && event.key.toLowerCase() === "k") { event.preventDefault(); search.focus(); return; }
  if (event.key === "Escape" && document.activeElement === search) { search.blur(); return; }
  if (event.metaKey || event.ctrlKey || event.altKey || /^(INPUT|SELECT|TEXTAREA)$/.test(document.activeElement.tagName) || document.getElementById("dialog").open || !source) return;
  const at = Number(event.key);
  if (event.key === "/") { event.preventDefault(); search.focus(); }
  else if (event.key === "j") moveSelection(1);
  else if (event.key === "k") moveSelection(-1);
  else if (event.key === "u") [...document.querySelectorAll("#toasts .undo")].at(-1)?.click();
  else if (event.key === "d") toggleTheme();
  else if (event.key === "?") openHelp();
  else if (at >= 1 && at <= VIEWS.length) location.hash = `#/${VIEWS[at - 1][0]}`;
});

start();

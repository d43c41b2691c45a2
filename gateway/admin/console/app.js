// The page: who looks, which view, what is live, and the keys.
import { help } from "./actions.js";
import { alerts } from "./alerts.js";
import { client, clients } from "./clients.js";
import { incident, incidents } from "./incidents.js";
import { call, fill, get, h, state } from "./lib.js";
import { now } from "./now.js";
import { policies } from "./policies.js";

const VIEWS = [["now", "Now"], ["incidents", "Incidents"], ["clients", "Clients"], ["policies", "Policies"], ["alerts", "Alerts"]];
const LOST_MS = 3000;
const main = document.getElementById("main");
let lastHealth = "", view = null, broken = false, source = null, heardAt = Date.now(), retry = 0;

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
  // Of its own: what an older view still waits for is drawn nowhere.
  const root = h("div", { class: "view" }, h("div", { class: "skeleton", "aria-hidden": "true" }));
  const [name, open] = route(root);
  navigation(name);
  document.title = `${VIEWS.find(([key]) => key === name)[1]} · Tidegate`;
  fill(main, root);
  search.value = new URLSearchParams(location.hash.split("?")[1]).get("q") || "";
  const mine = (view = open());
  try {
    await mine.load();
  } catch (error) {
    if (mine === view && error.status !== 401) failed(error);
  }
}

function failed(error) {
  broken = true;
  const missing = error.status === 404;
  fill(main, h("section", { class: "card error empty", role: "alert" },
    h("h2", {}, missing ? "Not here any more" : "This could not be loaded"), h("p", {}, error.message),
    h("p", { class: "dim" }, missing ? "What was silent for an hour, or is long over, is forgotten." : error.status ? `Try again; if it stays, look for ${error.request || error.code} in the gateway's log.` : "Is the gateway running? This page tries again by itself."),
    h("div", { class: "tools" }, h("button", { class: "main", type: "button", onclick: show }, "Try again"), h("a", { href: "#/now" }, "Go to Now"))));
}

function navigation(current) {
  const open = state.counters ? state.counters.incidents : 0;
  fill(document.getElementById("nav"), VIEWS.map(([name, text]) => h("a", { href: `#/${name}`, "aria-current": name === current ? "page" : null }, text,
    name === "incidents" && open ? h("span", { class: "count" }, open, h("span", { class: "hidden" }, " open")) : null)));
}

// -- live ----------------------------------------------------------------------------

function listen() {
  source?.close();
  source = new EventSource("/api/v1/stream");
  const on = (name, act) => source.addEventListener(name, (event) => { heard(); act(JSON.parse(event.data)); });
  on("counters", (counters) => {
    const before = state.counters;
    state.counters = counters;
    health(counters);
    if (!before || before.incidents !== counters.incidents) navigation(route()[0]);
    view?.counters?.(counters);
  });
  on("output", () => said());
  on("change", () => view?.acted?.());
  on("reset", () => { if (broken) show(); else if (view?.load) view.load().catch(() => {}); });
  source.onerror = () => {
    if (source.readyState !== EventSource.CLOSED) return;
    clearTimeout(retry);
    retry = setTimeout(check, 2000);
  };
}

// A flood says hundreds of things a second: what is shown is asked for once in each.
let due = null;
function said() {
  due ??= setTimeout(() => { due = null; view?.output?.(); }, document.hidden ? 5000 : 800);
}

async function check() {
  try {
    const session = await get("session");
    if (session.needed && !session.role) return login();
    listen();
    if (broken) show();
    else view?.load?.().catch(() => {});
  } catch { retry = setTimeout(check, 2000); }
}

function heard() {
  heardAt = Date.now();
  document.body.classList.remove("stale");
  document.getElementById("lost").hidden = true;
}

setInterval(() => {
  if (!source || Date.now() - heardAt < LOST_MS) return;
  document.body.classList.add("stale");
  const lost = document.getElementById("lost");
  if (lost.hidden) lost.textContent = `Live updates lost, retrying. Figures are those of ${new Date(heardAt).toLocaleTimeString("en", { hourCycle: "h23" })}.`;
  lost.hidden = false;
  // What it was then says nothing of what it is now.
  if (lastHealth !== "lost") fill(document.getElementById("health"), h("span", { class: "sign critical" }, "▲ not connected"));
  lastHealth = "lost";
}, 500);

function health(c) {
  const alert = c.alerts.failing ? ["critical", `▲ ${c.alerts.failing} alert ${c.alerts.failing === 1 ? "target" : "targets"} failing`] : c.alerts.targets ? ["good", "● alerts ok"] : ["dim", "○ no alert targets"];
  const parts = [c.ready ? ["good", "● serving"] : ["critical", `▲ not ready: ${c.reasons.join(", ")}`], c.store_up ? ["good", "● store ok"] : ["critical", "▲ store away"], alert, ["dim", c.modes.join(" and ") || "observe"]];
  const text = JSON.stringify(parts);
  if (text === lastHealth) return;
  lastHealth = text;
  fill(document.getElementById("health"), parts.map(([cls, words]) => h("span", { class: cls === "dim" ? "dim" : `sign ${cls}` }, words)));
}

// -- who looks -----------------------------------------------------------------------

function login(message = "") {
  view?.close?.();
  view = null;
  source?.close();
  source = null;
  document.getElementById("leave").hidden = document.getElementById("find").hidden = true;
  const token = h("input", { type: "password", name: "token", autocomplete: "current-password", required: true });
  const said = h("p", { class: "hot", role: "alert" }, message);
  const enter = async (event) => {
    event.preventDefault();
    try {
      Object.assign(state, await call("POST", "session", { token: token.value }));
      begin();
    } catch (error) { said.textContent = error.message; token.select(); }
  };
  fill(document.getElementById("nav"));
  fill(main, h("section", { class: "card login" }, h("form", { onsubmit: enter }, h("h1", {}, "Sign in"),
    h("p", { class: "dim" }, "With the admin token of this gateway, the operator's or the viewer's."),
    h("input", { class: "hidden", name: "username", value: "tidegate", autocomplete: "username", tabindex: "-1", "aria-hidden": "true", readonly: true }),
    h("label", {}, "Token", token), said, h("button", { class: "main", type: "submit" }, "Sign in"))));
  token.focus();
}

function begin() {
  document.getElementById("leave").hidden = !state.needed;
  document.getElementById("find").hidden = false;
  listen();
  show();
}

async function start() {
  try {
    Object.assign(state, await get("session"));
  } catch (error) { failed(error); setTimeout(start, 3000); return; }
  if (state.needed && !state.role) login();
  else begin();
}

window.addEventListener("signed-out", () => { if (source) login("The session is over. Sign in again."); });
window.addEventListener("acted", () => view?.acted?.());
window.addEventListener("hashchange", () => { if (source) { show(); main.focus({ preventScroll: true }); } });
document.getElementById("leave").addEventListener("click", async () => { await call("DELETE", "session").catch(() => {}); Object.assign(state, { role: null, csrf: "" }); login(); });

// -- theme, search, keys -------------------------------------------------------------

const themeButton = document.getElementById("theme");
const isDark = () => (document.documentElement.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
function nameTheme() { themeButton.textContent = isDark() ? "☀ Light" : "☾ Dark"; }
function turn() {
  document.documentElement.dataset.theme = isDark() ? "light" : "dark";
  try { localStorage.setItem("theme", document.documentElement.dataset.theme); } catch { /* for this page only */ }
  nameTheme();
  view?.repaint?.();
}
themeButton.addEventListener("click", turn);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { nameTheme(); view?.repaint?.(); });
nameTheme();

const search = document.getElementById("q");
document.getElementById("find").addEventListener("submit", (event) => {
  event.preventDefault();
  location.hash = `#/clients?q=${encodeURIComponent(search.value.trim())}`;
});

function step(by) {
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
  else if (event.key === "j") step(1);
  else if (event.key === "k") step(-1);
  else if (event.key === "u") [...document.querySelectorAll("#toasts .undo")].at(-1)?.click();
  else if (event.key === "d") turn();
  else if (event.key === "?") help();
  else if (at >= 1 && at <= VIEWS.length) location.hash = `#/${VIEWS[at - 1][0]}`;
});

start();

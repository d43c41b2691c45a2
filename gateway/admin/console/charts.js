// Time series charts (uPlot) with a synchronised cursor and a data table each.
import { timeText, count, h, rate, tick } from "./lib.js";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
const sync = () => window.uPlot.sync("tidegate");

function drawIncidentMarks(chart, incidents) {
  const { ctx, bbox } = chart;
  ctx.save();
  ctx.font = `${11 * devicePixelRatio}px system-ui, sans-serif`;
  const taken = []; // extents of drawn labels; an overlapping label moves one line down
  for (const one of incidents()) {
    const at = Date.parse(one.opened_at) / 1000;
    if (at < chart.scales.x.min || at > chart.scales.x.max) continue;
    const x = chart.valToPos(at, "x", true);
    ctx.strokeStyle = ctx.fillStyle = colour(one.severity === "critical" ? "urgent" : "warn");
    ctx.lineWidth = devicePixelRatio;
    ctx.setLineDash([3, 3]);
    ctx.beginPath();
    ctx.moveTo(x, bbox.top);
    ctx.lineTo(x, bbox.top + bbox.height);
    ctx.stroke();
    const left = x > bbox.left + bbox.width * 0.8;
    ctx.textAlign = left ? "right" : "left";
    const text = `▲ ${one.label}`, width = ctx.measureText(text).width + 8 * devicePixelRatio, from = left ? x - width : x;
    let line = 0;
    while (taken.some((other) => other.line === line && from < other.to && other.from < from + width)) line += 1;
    taken.push({ line, from, to: from + width });
    ctx.setLineDash([]);
    ctx.strokeStyle = colour("card");
    ctx.lineWidth = 4 * devicePixelRatio;
    ctx.lineJoin = "round";
    ctx.strokeText(text, x + (left ? -4 : 4) * devicePixelRatio, bbox.top + (13 * line - 5) * devicePixelRatio);
    ctx.fillText(text, x + (left ? -4 : 4) * devicePixelRatio, bbox.top + (13 * line - 5) * devicePixelRatio);
  }
  ctx.restore();
}

// Series kinds: line, band (filled from zero to the value), dash, area.
function seriesOptions(one) {
  const base = { label: one.label, spanGaps: false, points: { show: (chart, at) => chart.data[at].filter((v) => v !== null).length === 1, size: 6 }, value: (_, v) => count(v) };
  if (one.kind === "band") return { ...base, stroke: "transparent", width: 0, fill: colour("band") };
  if (one.kind === "dash") return { ...base, stroke: colour("grey"), width: 1.5, dash: [5, 4] };
  if (one.kind === "area") return { ...base, stroke: colour("orange"), width: 1.5, fill: colour("fill") };
  return { ...base, stroke: colour("blue"), width: 2 };
}

export class Chart {
  // parts: [{label, kind, of: (bucket, seconds) => number, missing: text when there are no values}]
  constructor({ title, unit, height, parts, incidents = () => [], form = rate, key = true, onzoom = null, onunzoom = null }) {
    this.parts = parts;
    this.height = height;
    this.form = form;
    this.title = title;
    this.incidents = incidents;
    this.now = h("span", { class: "now live" }, "–");
    this.unit = unit;
    this.plot = h("div", { class: "plot", ondblclick: () => onunzoom?.() });
    this.plot.style.height = `${height}px`;
    this.key = h("div", { class: "key" });
    this.withKey = key;
    this.onzoom = onzoom;
    this.rows = h("details", { ontoggle: () => this.table() }, h("summary", {}, "Show as table"), h("div"));
    this.root = h("section", { class: "card", "aria-label": title },
      h("div", { class: "chart-head" }, h("h2", {}, title), h("span", {}, this.now, h("span", { class: "dim" }, ` ${unit}`))),
      this.plot, this.key, this.rows);
    this.data = null;
    this.sizes = new ResizeObserver(() => this.size());
    this.sizes.observe(this.plot);
    this.explain();
  }

  explain(at = null) {
    const marksOf = { band: "band", dash: "dash", area: "refused", line: "" };
    this.key.replaceChildren();
    if (at === null && !this.withKey) return;
    if (at !== null) this.key.append(h("strong", {}, timeText(this.data[0][at])));
    this.parts.forEach((part, n) => {
      if (at === null && part.kind !== "line" && this.data && this.data[n + 1].every((v) => v === null)) {
        if (part.missing) this.key.append(h("span", {}, part.missing));
        return;
      }
      const value = at === null ? "" : ` ${this.data[n + 1][at] === null ? "–" : this.form(this.data[n + 1][at])}`;
      this.key.append(h("span", {}, h("i", { class: marksOf[part.kind] }), `${part.label}${value}`));
    });
  }

  options() {
    const axis = { stroke: colour("dim"), grid: { stroke: colour("line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    return {
      width: Math.max(200, this.plot.clientWidth), height: this.height, padding: [18, 24, 0, 0],
      cursor: { y: false, sync: { key: sync().key }, points: { size: 6 }, drag: { x: true, y: false, setScale: false } },
      legend: { show: false },
      scales: { x: { time: true, range: (_, from, to) => this.range(from, to) }, y: { range: (_, __, max) => [0, Math.max(max || 0, this.least || 1) * 1.1] } },
      axes: [
        { ...axis, size: 24, space: 80, values: (_, ticks) => ticks.map((at) => timeText(at, ticks[1] - ticks[0] < 60)) },
        { ...axis, size: 52, space: 32, values: (_, ticks) => ticks.map(this.form === rate ? tick : this.form) },
      ],
      series: [{}, ...this.parts.map(seriesOptions)],
      hooks: {
        draw: [(chart) => drawIncidentMarks(chart, this.incidents)],
        setCursor: [(chart) => this.explain(chart.cursor.idx ?? null)],
        setSelect: [(chart) => this.selected(chart)],
      },
    };
  }

  // Cursors are synchronised, but only the dragged chart has a selection width.
  selected(chart) {
    const { left, width } = chart.select;
    if (width < 5) return;
    const [from, to] = [left, left + width].map((x) => chart.posToVal(x, "x"));
    chart.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
    this.onzoom?.(Math.floor(from), Math.ceil(to));
  }

  // now: time of the data; rates of the running bucket divide by its elapsed seconds.
  set(items, step, now = Date.now() / 1000, span = 0, view = null) {
    Object.assign(this, { view, step, dataTime: now });
    const age = items.length ? now - items.at(-1).at : step;
    if (!view && age < 2 && items.length > 1) items = items.slice(0, -1);
    const part = (one, n) => (n === items.length - 1 ? Math.min(step, Math.max(2, now - one.at)) : step);
    // After a start, show the known time range instead of a mostly empty chart.
    const known = items.length ? items.at(-1).at - items[0].at : 0;
    this.span = Math.max(60, Math.min(span || 3600, known * 1.25));
    const at = items.map((one) => one.at);
    this.data = [at, ...this.parts.map((line) => items.map((one, n) => line.of(one, part(one, n))))];
    const last = items.at(-1);
    this.now.textContent = last ? this.form(this.parts.find((p) => p.kind === "line").of(last, part(last, items.length - 1))) : "–";
    if (!this.chart) this.build();
    else this.chart.setData(this.data);
    if (!this.chart?.cursor || this.chart.cursor.left < 0) this.explain();
    if (this.rows.open) this.table();
  }

  // The x range: the requested span, or the zoomed part.
  range(from, to) {
    if (this.view) return this.view;
    const all = this.data[0];
    // With fewer than two points, uPlot would choose its own range.
    if (all.length < 2) from = to = all.at(-1) ?? Date.now() / 1000;
    // Buckets are plotted at their start; extend the range to show marks in the last one.
    to = Math.max(to, Math.min(this.dataTime, to + this.step));
    return [Math.min(from, to - this.span), to];
  }

  build() {
    this.plot.replaceChildren();
    this.chart = new window.uPlot(this.options(), this.data, this.plot);
    this.chart.root.querySelector("canvas").setAttribute("aria-hidden", "true");
  }

  size() {
    if (this.chart && this.plot.clientWidth > 0) this.chart.setSize({ width: this.plot.clientWidth, height: this.height });
  }

  repaint() {
    if (!this.chart) return;
    this.chart.destroy();
    this.build();
  }

  table() {
    if (!this.rows.open || !this.data) return;
    const [at, ...values] = this.data;
    const rows = at.map((time, n) => h("tr", {}, h("td", {}, timeText(time)), values.map((v) => h("td", { class: "num" }, v[n] === null ? "–" : this.form(v[n]))))).slice(-60).reverse();
    this.rows.lastChild.replaceChildren(h("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": `${this.title}, last values` },
      h("table", {}, h("thead", {}, h("tr", {}, h("th", { scope: "col" }, "Time"), this.parts.map((p) => h("th", { scope: "col", class: "num" }, p.label)))), h("tbody", {}, rows))));
  }

  destroy() {
    this.sizes.disconnect();
    this.chart?.destroy();
  }
}

// SVG column chart with an optional dashed line at the expected value.
export function columnChart(values, label, expected = null) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const top = Math.max(expected || 0, ...values) || 1, wide = Math.max(values.length, 1);
  svg.setAttribute("viewBox", `0 0 ${wide * 4} 64`);
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", label);
  values.forEach((value, at) => {
    const tall = (62 * value) / top;
    svg.append(shape("rect", { x: at * 4, y: 64 - tall, width: 3, height: tall }));
  });
  if (expected !== null) {
    const y = 64 - (62 * expected) / top;
    svg.append(shape("line", { x1: 0, x2: wide * 4, y1: y, y2: y, stroke: colour("grey"), "stroke-dasharray": "6 4", "vector-effect": "non-scaling-stroke" }));
  }
  return h("div", { class: "spark" }, svg);
}

function shape(name, values) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(values)) element.setAttribute(key, value);
  return element;
}

// Two bars on one scale: observed above expected.
export function comparisonBar(observed, expected, max = 0) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg"), top = Math.max(observed, expected || 0, max) || 1;
  for (const [name, value] of Object.entries({ viewBox: "0 0 100 16", preserveAspectRatio: "none", "aria-hidden": "true" })) svg.setAttribute(name, value);
  svg.append(shape("rect", { x: 0, y: 0, width: Math.max(0.5, (100 * observed) / top), height: expected === null ? 16 : 8, class: "observed" }));
  if (expected !== null) svg.append(shape("rect", { x: 0, y: 10, width: Math.max(0.5, (100 * expected) / top), height: 6, class: "expected" }));
  return h("span", { class: "pair" }, svg);
}

export function usageBar(share) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 100 6");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("aria-hidden", "true");
  svg.append(shape("rect", { x: 0, y: 0, width: Math.min(100, 100 * share), height: 6 }));
  return h("div", { class: share >= 0.9 ? "bar hot" : "bar" }, svg);
}

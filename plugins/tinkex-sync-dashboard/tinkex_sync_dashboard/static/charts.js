// Charts that can be read with a mouse, with the keyboard and with a screen reader, and tables beside them.

/* global uPlot */

const DASHES = [[], [7, 3], [2, 3], [10, 3, 2, 3], [14, 4], [4, 4]];
const HEIGHT = 170;
const TABLE_ROWS = 100;

const decimals = new Intl.NumberFormat("en", { maximumSignificantDigits: 4, useGrouping: false });
const compact = new Intl.NumberFormat("en", { maximumSignificantDigits: 4, notation: "compact" });

export function formatNumber(value) {
  if (value === null || value === undefined) return "–";
  const size = Math.abs(value);
  if (size >= 100000) return compact.format(value);
  return size !== 0 && size < 0.001 ? value.toExponential(2) : decimals.format(value);
}

export function formatBytes(value) {
  if (value === null || value === undefined) return "–";
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (Math.abs(value) < 1000 || unit === "GB") return `${decimals.format(Number(value.toPrecision(3)))} ${unit}`;
    value /= 1000;
  }
}

export function formatTime(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds > 0 && seconds < 0.1) return `${formatNumber(Number((seconds * 1000).toPrecision(3)))} ms`;
  if (seconds < 60) return `${decimals.format(Math.round(seconds * 100) / 100)} s`;
  const whole = Math.floor(seconds);
  const two = (value) => String(value).padStart(2, "0");
  const [hours, minutes, rest] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return hours ? `${hours}:${two(minutes)}:${two(rest)}` : `${minutes}:${two(rest)}`;
}

export function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

export function color(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

// A table whose columns are [heading, format]: a function, "short" for words or "long" for texts that wrap.
export class ValueTable {
  constructor(caption, columns) {
    this.columns = columns;
    this.body = make("tbody");
    const heads = columns.map(([name, format]) => make("th", { scope: "col", class: kind(format) }, name));
    const table = make("table", { class: "values" }, make("caption", {}, caption), make("thead", {}, make("tr", {}, ...heads)), this.body);
    this.element = make("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": caption }, table);
  }

  fill(rows) {
    this.element.hidden = !rows.length;
    this.body.replaceChildren(
      ...rows.map((row) =>
        make(
          "tr",
          {},
          ...row.map((value, index) => {
            const format = this.columns[index][1];
            return make("td", { class: kind(format) }, typeof format === "function" ? format(value) : String(value ?? ""));
          }),
        ),
      ),
    );
  }
}

function kind(format) {
  if (typeof format === "string") return format;
  return format === formatTime ? "time" : "number";
}

// One chart.
//   title, unit: texts. series: [{label, color, format}]. x: {label, format}.
//   fromZero: whether the y axis begins at 0. bands: () => [[from, to, color]], shaded.
//   sync: charts with the same key show one cursor. bars: whether series 0 is drawn as bars and series 1 as points.
//   lanes: {names, bars: () => [[lane, from, to, color]]} draws bars in rows instead of series.
export class Chart {
  constructor(spec) {
    this.spec = spec;
    this.data = null;
    this.zoom = null;
    this.range = null;
    this.plot = null;
    this.position = -1;
    this.box = make("div", { class: "plot" });
    if (spec.lanes) this.box.setAttribute("role", "img");
    else {
      for (const [name, value] of Object.entries({ role: "slider", tabindex: "0", "aria-orientation": "horizontal" })) {
        this.box.setAttribute(name, value);
      }
      this.box.addEventListener("keydown", (event) => this.onKey(event));
    }
    this.element = make("figure", {}, this.makeCaption(), this.box);
    if (!spec.lanes) this.element.append(this.makeTable());
    new ResizeObserver(() => this.resize()).observe(this.box);
  }

  makeCaption() {
    const caption = make("figcaption", {}, this.spec.title);
    if (this.spec.unit) caption.append(" ", make("small", {}, this.spec.unit));
    return caption;
  }

  makeTable() {
    this.details = make("details", {}, make("summary", {}, "Values"));
    this.details.addEventListener("toggle", () => this.fillTable());
    return this.details;
  }

  // Shows columns of numbers: x first. `range` is the visible part of x if the user has not zoomed.
  show(data, range = null) {
    this.element.hidden = false;
    this.data = data;
    this.range = range;
    this.describe();
    if (!this.plot) this.draw();
    else this.plot.setData(data);
    this.fillTable();
  }

  setSeries(series) {
    if (JSON.stringify(series.map((one) => one.label)) === JSON.stringify(this.spec.series.map((one) => one.label))) return;
    this.spec.series = series;
    this.table = null;
    this.details.querySelector(".scroll")?.remove();
    this.erase();
  }

  erase() {
    this.plot?.destroy();
    this.plot = null;
  }

  redraw() {
    this.erase();
    if (this.data) this.draw();
  }

  resize() {
    const width = this.box.clientWidth;
    if (!width || !this.data) return;
    if (!this.plot) this.draw();
    else if (this.plot.width !== width) this.plot.setSize({ width, height: this.height() });
  }

  height() {
    return this.spec.lanes ? 36 + 26 * this.spec.lanes.names.length : HEIGHT;
  }

  describe() {
    const xs = this.data[0];
    const { title, unit, x, series, lanes } = this.spec;
    if (lanes) {
      this.box.setAttribute("aria-label", `${title}: ${lanes.bars().length} bars. The table below has the same content.`);
      return;
    }
    const parts = series.map((one, index) => {
      const values = this.data[index + 1].filter((value) => value !== null && value !== undefined);
      if (!values.length) return `${one.label}: no values`;
      const [low, high] = values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
      return `${one.label}: last ${one.format(values.at(-1))}, lowest ${one.format(low)}, highest ${one.format(high)}`;
    });
    this.box.setAttribute("aria-label", `Chart: ${title} ${unit ?? ""} by ${x.label}. ${parts.join(". ")}.`);
    this.box.setAttribute("aria-valuemin", "1");
    this.box.setAttribute("aria-valuemax", String(xs.length));
    if (this.position < 0) this.say(xs.length - 1);
  }

  say(index) {
    const { x, series } = this.spec;
    const values = series.map((one, number) => `${one.label} ${one.format(this.data[number + 1][index])}`);
    this.box.setAttribute("aria-valuenow", String(index + 1));
    this.box.setAttribute("aria-valuetext", `${x.label} ${x.format(this.data[0][index])}: ${values.join(", ")}`);
  }

  draw() {
    const width = this.box.clientWidth;
    if (!width) return;
    const { x, lanes, sync, series } = this.spec;
    const axis = { stroke: color("muted"), font: "12px system-ui, sans-serif", grid: { stroke: color("grid"), width: 1 }, ticks: { stroke: color("grid"), width: 1 } };
    const xAxis = { ...axis, size: 30, space: 70, values: (_, splits) => splits.map((value) => (Number.isInteger(value) || !x.whole ? x.format(value) : "")) };
    const yAxis = { ...axis, size: 68, values: (_, splits) => splits.map((value) => series[0].format(value)) };
    if (lanes) {
      Object.assign(yAxis, { size: 92, splits: () => lanes.names.map((_, index) => index), values: () => lanes.names, grid: { show: false }, ticks: { show: false } });
    }
    this.plot = new uPlot(
      {
        width,
        height: this.height(),
        padding: [8, 10, 0, 0],
        legend: { show: !lanes },
        cursor: { y: false, sync: sync ? { key: sync } : undefined, drag: { setScale: false }, bind: { dblclick: () => () => this.setZoom(null) } },
        scales: { x: { time: false, range: (_, low, high) => this.xRange(low, high) }, y: { range: (_, low, high) => this.yRange(low, high) } },
        series: [{ label: x.label, value: (_, value) => (value === null ? "–" : x.format(value)) }, ...series.map((one, index) => this.seriesOptions(one, index))],
        axes: [xAxis, yAxis],
        hooks: { drawClear: [(plot) => this.drawBands(plot)], setSelect: [(plot) => this.onSelect(plot)] },
      },
      this.data,
      this.box,
    );
    // The box has a description of its own.
    for (const child of this.box.children) child.setAttribute("aria-hidden", "true");
  }

  seriesOptions(one, index) {
    const line = color(one.color);
    const options = { label: one.label, stroke: line, width: 2, dash: DASHES[index % DASHES.length], spanGaps: Boolean(one.spanGaps), value: (_, value) => one.format(value) };
    if (this.spec.bars && index === 0) Object.assign(options, { paths: uPlot.paths.bars({ size: [0.7, 40] }), fill: line, points: { show: false } });
    if (this.spec.bars && index === 1) Object.assign(options, { paths: () => null, points: { show: true, size: 9, fill: line } });
    return options;
  }

  xRange(low, high) {
    if (this.zoom) return this.zoom;
    if (this.range) return this.range;
    if (low === null) return [0, 1];
    return low === high || this.spec.bars ? [low - 0.6, high + 0.6] : [low, high];
  }

  yRange(low, high) {
    if (this.spec.lanes) return [-0.6, this.spec.lanes.names.length - 0.4];
    if (low === null) return [0, 1];
    if (this.spec.fromZero) low = Math.min(0, low);
    const room = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
    return [this.spec.fromZero && low === 0 ? 0 : low - room, high + room];
  }

  drawBands(plot) {
    const { bands, lanes } = this.spec;
    const { ctx, bbox } = plot;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    const edges = (from, to) => [plot.valToPos(from, "x", true), plot.valToPos(to, "x", true)];
    for (const [from, to, name] of bands ? bands() : []) {
      const [left, right] = edges(from, to);
      ctx.fillStyle = color(name);
      ctx.fillRect(left, bbox.top, Math.max(right - left, 1), bbox.height);
    }
    for (const [lane, from, to, name] of lanes ? lanes.bars() : []) {
      const [left, right] = edges(from, to);
      const [top, bottom] = [plot.valToPos(lane + 0.32, "y", true), plot.valToPos(lane - 0.32, "y", true)];
      ctx.fillStyle = color(name);
      ctx.fillRect(left, top, Math.max(right - left, 2 * devicePixelRatio), bottom - top);
    }
    ctx.restore();
  }

  onSelect(plot) {
    if (plot.select.width < 5) return;
    this.setZoom([plot.posToVal(plot.select.left, "x"), plot.posToVal(plot.select.left + plot.select.width, "x")]);
    plot.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  }

  setZoom(zoom) {
    this.zoom = zoom;
    this.plot?.setData(this.data);
  }

  onKey(event) {
    const last = this.data[0].length - 1;
    const step = event.shiftKey ? 10 : 1;
    const from = this.position < 0 ? last : Math.min(this.position, last);
    const moves = { ArrowLeft: from - step, ArrowDown: from - step, ArrowRight: from + step, ArrowUp: from + step, Home: 0, End: last };
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key in moves) this.move(this.position < 0 && event.key !== "Home" ? last : Math.max(0, Math.min(last, moves[event.key])));
    else if (event.key === "+" || event.key === "=") this.zoomBy(0.5, from);
    else if (event.key === "-") this.zoomBy(2, from);
    else if (event.key === "Escape") this.setZoom(null);
    else return;
    event.preventDefault();
  }

  move(index) {
    this.position = index;
    const x = this.data[0][index];
    const { min, max } = this.plot.scales.x;
    if (x < min || x > max) {
      const half = (max - min) / 2;
      this.setZoom([x - half, x + half]);
    }
    this.say(index);
    this.plot.setCursor({ left: this.plot.valToPos(x, "x"), top: HEIGHT / 3 });
  }

  zoomBy(factor, index) {
    const center = this.data[0][index];
    const { min, max } = this.plot.scales.x;
    const half = ((max - min) / 2) * factor;
    this.setZoom(half > 1e9 ? null : [center - half, center + half]);
  }

  fillTable() {
    if (!this.details?.open) return;
    const { title, x, series } = this.spec;
    if (!this.table) {
      this.table = new ValueTable(`${title}, newest first, at most ${TABLE_ROWS} rows`, [[x.label, x.format], ...series.map((one) => [one.label, one.format])]);
      this.details.append(this.table.element);
    }
    const count = this.data[0].length;
    const rows = Array.from({ length: Math.min(count, TABLE_ROWS) }, (_, back) => this.data.map((column) => column[count - 1 - back]));
    this.table.fill(rows);
  }
}

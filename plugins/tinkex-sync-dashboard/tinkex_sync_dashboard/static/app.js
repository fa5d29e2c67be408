// The page: it keeps a copy of the tables that the server sends, and shows the chosen runs.

import { Chart, ValueTable, formatBytes, formatNumber, formatTime, make } from "./charts.js";

const STATES = { paused_rate_limit: 2, paused_capacity: 1 };
const LANES = ["other pause", "capacity", "rate limit", "429 backoff"];
const COLORS = ["c1", "c2", "c3", "c4", "c5", "c6"];
const perSecond = (value) => formatNumber(value);
const whole = (value) => formatNumber(value);

const state = { columns: [], runs: new Map(), chosen: new Set(), untouched: true, paused: false, dirty: new Set() };
const byId = (id) => document.getElementById(id);

function announce(text) {
  byId("announcements").textContent = text;
}

function connection(kind, text) {
  const element = byId("connection");
  element.dataset.state = kind;
  if (element.textContent !== text) element.textContent = text;
}

// Ids are long; their first characters tell them apart.
function short(id) {
  return id.replace(/[0-9a-f]{16,}/g, (digits) => digits.slice(0, 8));
}

// The numbers of one run as the server sent them.
class RunData {
  constructor(head) {
    this.tables = {};
    this.update(head);
  }

  update(head) {
    const { tables, ...facts } = head;
    Object.assign(this, facts);
    for (const [name, { limit, reset, rows }] of Object.entries(tables)) {
      const table = reset ? new Map() : (this.tables[name] ?? new Map());
      for (const [key, row] of rows) table.set(key, row);
      for (const key of table.keys()) {
        if (table.size <= limit) break;
        table.delete(key);
      }
      this.tables[name] = table;
    }
  }

  get name() {
    return [this.origin, short(this.session) || "opening a session"].filter(Boolean).join(" · ");
  }

  rows(name) {
    return [...(this.tables[name]?.values() ?? [])];
  }

  // Intervals without gaps, as columns: x, then the rates or largest values of the given columns.
  columns(names) {
    const table = this.tables.intervals ?? new Map();
    const last = Math.max(0, ...table.keys());
    const complete = this.last >= (last + 1) * this.width;
    const count = complete || this.ended !== null || last === 0 ? last + 1 : last;
    const partial = Math.max(this.last - last * this.width, this.width / 4);
    const data = [Array.from({ length: count }, (_, index) => index * this.width)];
    for (const [name, isRate] of names) {
      const column = state.columns.indexOf(name);
      const isLimit = name.endsWith("_limit");
      let limit = null;
      data.push(
        Array.from({ length: count }, (_, index) => {
          const row = table.get(index);
          // A limit is known from the first sample on, and holds until it changes.
          if (isLimit) return (limit = (row && row[column]) || limit);
          if (!isRate) return row ? row[column] : null;
          const width = index === last && !complete ? partial : this.width;
          return row ? row[column] / width : 0;
        }),
      );
    }
    return data;
  }

  sum(name) {
    const column = state.columns.indexOf(name);
    return this.rows("intervals").reduce((total, row) => total + row[column], 0);
  }

  pauses() {
    const end = this.ended ?? this.last;
    const states = this.rows("states").map((row) => [STATES[row[4]] ?? 0, row[0], row[1] ?? end, "c2"]);
    const backoffs = this.rows("backoffs").map(([from, to]) => [3, from, to, "c5"]);
    return [...states, ...backoffs];
  }
}

const TIME = { label: "Time", format: formatTime };
const rate = (name, label, hue, format = perSecond) => ({ name, label, color: hue, format, isRate: true });
const level = (name, label, hue, format = whole) => ({ name, label, color: hue, format, isRate: false, spanGaps: true });

// Charts over time: title, unit, series; a chart without any value above 0 is hidden.
const TIME_CHARTS = {
  dispatch: [
    ["Dispatch pace", "samples per second", [rate("admitted", "admitted", "c1"), rate("throttled", "with reduced limits", "c2"), rate("refused", "refused with 429", "c5")]],
    ["Slots", "samples in flight and waiting, most in each interval", [level("in_flight", "in flight", "c1"), level("slot_limit", "limit", "c5"), level("waiting", "waiting", "c3")]],
    ["Bytes in flight", "most in each interval", [level("bytes_in_flight", "in flight", "c1", formatBytes), level("byte_limit", "limit", "c5", formatBytes)]],
    ["Wait for admission", "longest in each interval", [level("waited", "wait", "c1", formatTime)]],
  ],
  traffic: [
    ["Tokens", "per second", [rate("tokens", "tokens", "c1")]],
    ["Calls", "per second", [rate("calls", "started", "c1"), rate("finished", "finished", "c3"), rate("failed", "failed", "c5")]],
    ["HTTP requests", "per second", [rate("requests", "requests", "c1"), rate("retries", "retries", "c5")]],
    ["Traffic", "bytes per second", [rate("sent_bytes", "sent", "c1", formatBytes), rate("received_bytes", "received", "c3", formatBytes)]],
  ],
};
const STEP_VALUES = [["Learning rate", 3], ["Weight decay", 4], ["Gradient clip norm", 5]];
const CHUNK_SERIES = [
  { label: "actual", color: "c1", format: formatBytes },
  { label: "estimated", color: "c2", format: formatBytes },
  { label: "limit", color: "c5", format: formatBytes },
];

// One run on the page.
class RunView {
  constructor(data) {
    this.data = data;
    this.groups = {};
    this.timeCharts = [];
    this.state = "active";
    const id = `run-${data.run}`;
    this.subtitle = make("small");
    this.heading = make("h2", { id }, make("span"), this.subtitle);
    this.tiles = make("dl", { class: "tiles" });
    this.element = make("section", { class: "run", "aria-labelledby": id }, this.heading, this.tiles);
    this.addTraining();
    this.addPauses();
    this.addTimeCharts("dispatch", "Dispatch of samples");
    this.addChunks();
    this.addTimeCharts("traffic", "Tokens, calls and requests");
    this.addTables();
    this.charts = [...this.timeCharts, this.lanes, this.loss, this.metric, ...this.steps, this.chunks];
  }

  addGroup(name, title, ...children) {
    const group = make("section", {}, make("h3", {}, title), ...children);
    this.groups[name] = group;
    this.element.append(group);
  }

  addTimeCharts(name, title) {
    const charts = TIME_CHARTS[name].map(([label, unit, series]) => {
      const bands = () => this.data.pauses().map(([lane, from, to]) => [from, to, lane === 3 ? "band-backoff" : "band-state"]);
      return new Chart({ title: label, unit, series, x: TIME, fromZero: true, sync: `time-${this.data.run}`, bands });
    });
    this.timeCharts.push(...charts);
    this.addGroup(name, title, make("div", { class: "charts" }, ...charts.map((chart) => chart.element)));
  }

  addPauses() {
    const blank = { label: "pauses", color: "c6", format: whole };
    this.lanes = new Chart({ title: "Pauses over time", x: TIME, series: [blank], lanes: { names: LANES, bars: () => this.data.pauses() } });
    const columns = [["Began", formatTime], ["Lasted", formatTime], ["Client", "short"], ["State", "short"], ["Reason", "long"], ["Reason from", "short"]];
    this.states = new ValueTable("Queue states, newest first", columns);
    this.backoffs = new ValueTable("Backoffs after 429, newest first", [["Began", formatTime], ["Lasted", formatTime], ["Waits", "short"], ["Refused samples", whole]]);
    this.addGroup("pauses", "Queue states and backoffs", this.lanes.element, this.states.element, this.backoffs.element);
  }

  addTraining() {
    const x = { label: "Pass", format: whole, whole: true };
    this.loss = new Chart({ title: "Loss", unit: "by pass", x, series: [], fromZero: false });
    this.metric = new Chart({ title: "Metric", x, series: [], fromZero: false });
    this.select = make("select");
    this.select.addEventListener("change", () => this.update());
    this.metric.element.querySelector("figcaption").replaceChildren(make("label", { class: "metric" }, "Metric", this.select));
    this.steps = STEP_VALUES.map(([title]) => new Chart({ title, unit: "by step", x: { ...x, label: "Step" }, series: [], fromZero: true }));
    const charts = [this.loss, this.metric, ...this.steps].map((chart) => chart.element);
    this.addGroup("training", "Training", make("div", { class: "charts" }, ...charts));
  }

  addChunks() {
    const x = { label: "Chunk", format: whole, whole: true };
    this.chunks = new Chart({ title: "Bytes of the latest chunks", unit: "shading marks every second batch", x, series: [], fromZero: true, bars: true, bands: () => this.batchBands });
    const columns = [["Chunk", whole], ["Time", formatTime], ["Operation", "short"], ["Part of batch", "short"], ["Datums", "short"], ["Estimated", formatBytes], ["Actual", formatBytes], ["Actual / estimated", formatNumber]];
    this.chunkTable = new ValueTable("Chunks, newest first", columns);
    this.chunkNote = make("p", { class: "note" });
    this.addGroup("chunks", "Chunks of training batches", this.chunkNote, this.chunks.element, this.chunkTable.element);
  }

  addTables() {
    this.errors = new ValueTable("Errors, latest first", [["Last", formatTime], ["Count", whole], ["Where", "long"], ["Type", "short"], ["Message", "long"]]);
    this.addGroup("errors", "Errors", this.errors.element);
    this.clients = new ValueTable("Clients", [["Made", formatTime], ["Kind", "short"], ["Id", "long"], ["Base model", "short"], ["Rank", "short"], ["Weights", "long"]]);
    this.checkpoints = new ValueTable("Checkpoints", [["Saved", formatTime], ["Path", "long"], ["Kind", "short"], ["Took", formatTime]]);
    this.addGroup("clients", "Clients and checkpoints", this.clients.element, this.checkpoints.element);
  }

  update() {
    this.updateTiles();
    this.updateTraining();
    this.updatePauses();
    for (const [name, specs] of Object.entries(TIME_CHARTS)) this.updateTimeCharts(name, specs.length);
    this.updateChunks();
    this.updateTables();
  }

  updateTiles() {
    const { data } = this;
    const open = data.rows("states").filter((row) => row[1] === null);
    const paused = open.map((row) => `${row[4]}${row[5] ? `: ${row[5]}` : ""} (${row[2]} ${short(row[3])})`).join("; ");
    const text = paused || (data.ended === null ? "active" : "closed");
    if (text !== this.state) announce(`${data.name}: ${text}`);
    this.state = text;
    this.heading.firstChild.textContent = data.name;
    const models = [...new Set(data.rows("clients").map((row) => row[3]).filter(Boolean))].join(", ");
    const began = new Date(data.started * 1000).toLocaleString();
    this.subtitle.textContent = [models, data.session && `session ${data.session}`, `started ${began}`].filter(Boolean).join(" · ");
    const [tokens, failed, steps] = [data.sum("tokens"), data.sum("failed"), data.rows("steps")];
    const losses = data.rows("metrics").map((row) => row[4].loss).filter((loss) => loss !== undefined && loss !== null);
    const elapsed = data.ended ?? data.last;
    const tiles = [
      ["Queue state", text, paused ? "warn" : "", "wide"],
      ["Elapsed", formatTime(elapsed)],
      ["Steps", steps.length ? formatNumber(Math.max(...steps.map((row) => row[2]))) : "–"],
      ["Last loss", formatNumber(losses.at(-1))],
      ["Tokens", formatNumber(tokens)],
      ["Tokens per s", elapsed > 0 ? formatNumber(tokens / elapsed) : "–"],
      ["Calls running", formatNumber(Math.max(0, data.sum("calls") - data.sum("finished")))],
      ["Calls failed", formatNumber(failed), failed ? "bad" : ""],
      ["429 refusals", formatNumber(data.sum("refused"))],
      ["Retries", formatNumber(data.sum("retries"))],
      ["Events", formatNumber(data.events)],
    ];
    if (data.unusable) tiles.push(["Events not usable", formatNumber(data.unusable), "warn"]);
    this.tiles.replaceChildren(...tiles.map(([name, value, mark, width]) => make("div", width ? { class: width } : {}, make("dt", {}, name), make("dd", mark ? { class: mark } : {}, value))));
  }

  updatePauses() {
    const { data } = this;
    const end = data.ended ?? data.last;
    const states = data.rows("states").reverse();
    const backoffs = data.rows("backoffs").reverse();
    this.groups.pauses.hidden = !states.length && !backoffs.length;
    if (this.groups.pauses.hidden) return;
    this.lanes.show([[0, Math.max(end, 1)], [null, "short"]], [0, Math.max(end, 1)]);
    this.states.fill(states.map(([from, to, type, id, name, reason, source]) => [from, (to ?? end) - from, `${type} ${short(id)}`, to === null ? `${name} (now)` : name, reason, source]));
    this.backoffs.fill(backoffs.map(([from, to, everyone, count]) => [from, to - from, everyone ? "all samples" : "the refused sample", count]));
  }

  updateTimeCharts(name, count) {
    const offset = name === "dispatch" ? 0 : TIME_CHARTS.dispatch.length;
    let shown = 0;
    for (const chart of this.timeCharts.slice(offset, offset + count)) {
      const data = this.data.columns(chart.spec.series.map((one) => [one.name, one.isRate]));
      if (data[1].some((value) => value > 0)) {
        shown += 1;
        chart.show(data, [0, Math.max(this.data.ended ?? this.data.last, 1)]);
      } else chart.element.hidden = true;
    }
    this.groups[name].hidden = !shown;
  }

  updateTraining() {
    const metrics = this.data.rows("metrics");
    const names = [...new Set(metrics.flatMap((row) => Object.keys(row[4])))].filter((name) => name !== "loss");
    // Forms of the loss come last: it has a chart of its own.
    names.sort((one, other) => one.startsWith("loss") - other.startsWith("loss") || one.localeCompare(other));
    if (JSON.stringify(names) !== this.metricNames) {
      this.metricNames = JSON.stringify(names);
      const chosen = this.select.value;
      this.select.replaceChildren(...names.map((name) => make("option", {}, name)));
      if (names.includes(chosen)) this.select.value = chosen;
    }
    const steps = this.data.rows("steps");
    showCurves(this.loss, metrics.map(([, model, operation, number, values]) => [[operation, model], number, values.loss]));
    this.metric.spec.title = `Metric ${this.select.value}`;
    showCurves(this.metric, metrics.map(([, model, operation, number, values]) => [[operation, model], number, values[this.select.value]]));
    STEP_VALUES.forEach(([title, column], index) => showCurves(this.steps[index], steps.map((row) => [[title.toLowerCase(), row[1]], row[2], row[column]])));
    this.groups.training.hidden = !metrics.length && !steps.length;
  }

  updateChunks() {
    const rows = [];
    this.batchBands = [];
    let number = 0;
    this.data.rows("batches").forEach(([time, operation, , total, , , chunks], batch) => {
      if (batch % 2) this.batchBands.push([number + 0.5, number + chunks.length + 0.5, "grid"]);
      chunks.forEach(([start, stop, estimated, actual], index) => {
        number += 1;
        const ratio = actual && estimated ? actual / estimated : null;
        rows.push([number, time, operation, `${index + 1} of ${total}`, `${start} to ${stop - 1} (${stop - start})`, estimated, actual, ratio]);
      });
    });
    this.groups.chunks.hidden = !rows.length;
    if (!rows.length) return;
    const shown = rows.slice(-100);
    const column = (index) => shown.map((row) => row[index]);
    const [, , , , items, bytes] = this.data.rows("batches").at(-1);
    const largest = Math.max(...column(5));
    this.chunkNote.textContent = `Limits of a chunk: ${formatNumber(items)} datums and ${formatBytes(bytes)} estimated. Largest estimate shown: ${formatBytes(largest)}.`;
    // A limit that is far away would make the bars too small to compare.
    const isNear = largest > bytes / 4;
    this.chunks.setSeries(CHUNK_SERIES.slice(0, isNear ? 3 : 2));
    this.chunks.show([column(0), column(6), column(5), column(0).map(() => bytes)].slice(0, isNear ? 4 : 3));
    this.chunkTable.fill(shown.reverse());
  }

  updateTables() {
    const { data } = this;
    const errors = data.rows("errors").sort((one, other) => other[1] - one[1]);
    this.groups.errors.hidden = !errors.length;
    this.errors.fill(errors.map(([, last, count, place, type, text]) => [last, count, place, type, text]));
    const [clients, checkpoints] = [data.rows("clients"), data.rows("checkpoints").reverse()];
    this.groups.clients.hidden = !clients.length && !checkpoints.length;
    this.clients.fill(clients);
    this.checkpoints.fill(checkpoints);
  }
}

// Shows one curve per label and model of [[label, model], x, y] points; at most as many as there are colours.
function showCurves(chart, points) {
  const used = points.filter(([, , value]) => value !== undefined);
  // The model is named only if there are several.
  const isOnlyModel = new Set(used.map(([[, model]]) => model)).size === 1;
  for (const point of used) point[0] = isOnlyModel ? point[0][0] : `${point[0][0]} ${short(point[0][1])}`;
  const labels = [...new Set(used.map(([label]) => label))].slice(-COLORS.length);
  chart.element.hidden = !labels.length;
  if (!labels.length) return;
  chart.setSeries(labels.map((label, index) => ({ label, color: COLORS[index], format: formatNumber, spanGaps: true })));
  const xs = [...new Set(used.map(([, x]) => x))].sort((one, other) => one - other);
  const places = new Map(xs.map((x, index) => [x, index]));
  const columns = labels.map(() => new Array(xs.length).fill(null));
  for (const [label, x, value] of used) {
    const index = labels.indexOf(label);
    if (index >= 0) columns[index][places.get(x)] = value;
  }
  chart.show([xs, ...columns]);
}

function apply(heads) {
  const present = new Set(heads.map((head) => head.run));
  for (const number of state.runs.keys()) if (!present.has(number)) removeRun(number);
  let isNew = false;
  for (const head of heads) {
    const run = state.runs.get(head.run);
    if (run) run.update(head);
    else state.runs.set(head.run, new RunData(head));
    isNew ||= !run || run.listed !== run.name;
    if (!run || Object.keys(head.tables).length) state.dirty.add(head.run);
  }
  // Until the user chooses, the two newest runs are shown.
  if (isNew && state.untouched) state.chosen = new Set([...state.runs.keys()].slice(-2));
  if (isNew) showChoices();
  schedule();
}

function removeRun(number) {
  state.runs.get(number)?.view?.element.remove();
  state.runs.delete(number);
  state.chosen.delete(number);
  showChoices();
}

function showChoices() {
  byId("chooser").hidden = state.runs.size < 2;
  byId("empty").hidden = state.runs.size > 0;
  byId("choices").replaceChildren(
    ...[...state.runs.values()].map((run) => {
      run.listed = run.name;
      const box = make("input", { type: "checkbox", value: String(run.run) });
      box.checked = state.chosen.has(run.run);
      box.addEventListener("change", () => choose(run.run, box.checked));
      return make("label", {}, box, run.name);
    }),
  );
  arrange();
}

function choose(number, isChosen) {
  state.untouched = false;
  if (isChosen) state.chosen.add(number);
  else state.chosen.delete(number);
  arrange();
  schedule();
}

function arrange() {
  for (const [number, run] of state.runs) {
    if (!state.chosen.has(number)) {
      run.view?.element.remove();
      continue;
    }
    run.view ??= new RunView(run);
    const next = [...byId("runs").querySelectorAll(".run")].find((element) => Number(element.dataset.run) > number);
    run.view.element.dataset.run = String(number);
    if (!run.view.element.isConnected) byId("runs").insertBefore(run.view.element, next ?? null);
    state.dirty.add(number);
  }
}

let scheduled = false;
function schedule() {
  if (scheduled || state.paused) return;
  scheduled = true;
  requestAnimationFrame(() => {
    scheduled = false;
    if (state.paused) return;
    for (const number of state.dirty) if (state.chosen.has(number)) state.runs.get(number)?.view?.update();
    state.dirty.clear();
  });
}

function connect() {
  const source = new EventSource("events");
  source.addEventListener("start", (event) => {
    for (const number of [...state.runs.keys()]) removeRun(number);
    state.columns = JSON.parse(event.data).columns;
    connection("live", "Connected");
  });
  source.addEventListener("update", (event) => apply(JSON.parse(event.data)));
  source.addEventListener("end", () => {
    source.close();
    connection("lost", "The program has ended; this is its last state");
  });
  source.addEventListener("error", () => connection("lost", "Not connected: the program may have ended; this is its last state"));
}

byId("pause").addEventListener("click", () => {
  state.paused = !state.paused;
  byId("pause").setAttribute("aria-pressed", String(state.paused));
  schedule();
});
byId("chooser").addEventListener("submit", (event) => event.preventDefault());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const run of state.runs.values()) for (const chart of run.view?.charts ?? []) chart.redraw();
});
connect();

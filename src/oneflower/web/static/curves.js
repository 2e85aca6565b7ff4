// The curves, the rounds and the log of a run. They come as JSON: rounds and lines that are new.
"use strict";

const live = document.getElementById("live");
const table = document.querySelector("#rounds tbody");
const log = document.getElementById("log");
const choice = document.getElementById("quantity");
const nodeFigure = document.getElementById("node-figure");
const MOST_ROWS = 200, MOST_LINES = 2000;
const WHOLE = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000];
let run = "", rows = [], model = null, nodes = null, known = 0, values = new Map(), asking = false;

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
}

function width(element) {
  return Math.max(240, element.parentElement.clientWidth);
}

function axes(left, right) {
  const line = { stroke: colour("line"), width: 1 };
  const usual = { stroke: colour("soft"), grid: line, ticks: line };
  const found = [{ ...usual, label: "round", incrs: WHOLE }, { ...usual, label: left, size: 60 }];
  if (right) found.push({ ...usual, label: right, side: 1, scale: "share", grid: { show: false }, size: 50 });
  return found;
}

function short(value) {
  return value === null || value === undefined ? "-" : Number(value).toPrecision(4);
}

function upward(_plot, low, high) {
  return [Math.min(0, low ?? 0), (high ?? 1) * 1.05 || 1];
}

function drawModel() {
  const data = ["round", "loss", "train_loss", "accuracy"].map((name) => rows.map((row) => row[name]));
  const tested = data[1].some((value) => value !== null);
  const losses = tested ? data[1] : data[2];
  const shown = [data[0], losses, data[3]];
  if (model) { model.setData(shown); return; }
  const box = document.getElementById("model-curve");
  const points = { show: (_plot, _series, from, to) => to - from < 60 };
  model = new uPlot({
    width: width(box), height: 260,
    scales: { x: { time: false }, y: { range: upward }, share: { range: [0, 1] } },
    axes: axes(tested ? "loss" : "train loss", "accuracy"),
    series: [
      { label: "round" },
      { label: tested ? "loss" : "train loss", stroke: colour("bad"), width: 2, points, value: (_plot, value) => short(value) },
      { label: "accuracy", scale: "share", stroke: colour("link"), width: 2, points, value: (_plot, value) => short(value) },
    ],
  }, shown, box);
}

function drawNodes() {
  const names = [...values.keys()].sort();
  const rounds = Array.from({ length: known }, (_, index) => index + 1);
  const data = [rounds, ...names.map((name) => Array.from({ length: known }, (_, index) => values.get(name)[index] ?? null))];
  const box = document.getElementById("node-curve");
  if (nodes && nodes.series.length === data.length) { nodes.setData(data); return; }
  if (nodes) nodes.destroy();
  const series = names.map((name, index) => ({
    label: name, stroke: `hsl(${Math.round((index * 137.5) % 360)} 60% 50%)`, width: 1.5, points: { show: false },
    value: (_plot, value) => short(value),
  }));
  nodes = new uPlot({
    width: width(box), height: 260, scales: { x: { time: false }, y: { range: upward } }, axes: axes(choice.value),
    series: [{ label: "round" }, ...series], legend: { show: names.length <= 12 }, focus: { alpha: 0.25 },
    cursor: { focus: { prox: 16 } },
  }, data, box);
}

async function askNodes() {
  if (asking || !choice.value) return;
  asking = true;
  const wanted = choice.value, of = run;
  try {
    const query = new URLSearchParams({ of: wanted, after: known });
    const answer = await fetch(`/federations/${live.dataset.number}/runs/${of}/nodes?${query}`);
    if (!answer.ok || of !== run || wanted !== choice.value) return;
    const found = await answer.json();
    for (const [name, more] of Object.entries(found.nodes)) {
      const all = values.get(name) ?? [];
      more.forEach((value, index) => { all[found.after + index] = value; });
      values.set(name, all);
    }
    known = found.rounds;
    drawNodes();
  } finally {
    asking = false;
    if (wanted !== choice.value) askNodes();
  }
}

function forgetNodes() {
  known = 0;
  values = new Map();
  if (nodes) nodes.destroy();
  nodes = null;
}

function begin(number) {
  run = number;
  rows = [];
  table.replaceChildren();
  log.textContent = "";
  choice.replaceChildren();
  nodeFigure.hidden = true;
  document.getElementById("nodes").replaceChildren();
  if (model) model.destroy();
  model = null;
  forgetNodes();
  live.hidden = false;
}

function takeRows(said) {
  if (said.run !== run || said.from === 0) begin(said.run);
  const lines = [];
  for (const row of said.rows) {
    rows.push(row);
    const line = document.createElement("tr");
    const share = row.asked === null ? `${row.nodes}` : `${row.nodes}/${row.asked}`;
    const loss = row.loss ?? row.train_loss;
    for (const text of [`${row.round}/${row.rounds}`, short(loss), short(row.accuracy), row.seconds.toFixed(1), share, row.faults.join(" ")]) {
      line.insertCell().textContent = text;
    }
    if (row.faults.length) line.className = "odd";
    lines.unshift(line);
  }
  table.prepend(...lines.slice(0, MOST_ROWS));
  while (table.rows.length > MOST_ROWS) table.lastChild.remove();
  if (rows.length) drawModel();
}

function takeLog(said) {
  if (said.run !== run) return;
  if (said.from === 0) log.textContent = "";
  const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
  if (said.lines.length) log.append(`${said.lines.join("\n")}\n`);
  while (log.childNodes.length > MOST_LINES) log.firstChild.remove();
  if (atEnd) log.scrollTop = log.scrollHeight;
}

function takeCurves(said) {
  if (said.run !== run) return;
  const there = new Set(Array.from(choice.options, (option) => option.value));
  for (const name of said.quantities) if (!there.has(name)) choice.add(new Option(name, name));
  nodeFigure.hidden = said.quantities.length === 0;
  askNodes();
}

choice.addEventListener("change", () => { forgetNodes(); askNodes(); });
window.addEventListener("resize", () => {
  for (const plot of [model, nodes]) if (plot) plot.setSize({ width: width(plot.root.parentElement), height: 260 });
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  for (const plot of [model, nodes]) if (plot) plot.destroy();
  model = nodes = null;
  if (rows.length) drawModel();
  if (known) drawNodes();
});
document.body.addEventListener("htmx:sseBeforeMessage", (message) => {
  const take = { rows: takeRows, log: takeLog, curves: takeCurves }[message.detail.type];
  if (!take) return;
  message.preventDefault();
  take(JSON.parse(message.detail.data));
});

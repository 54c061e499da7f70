// Charts as Vega-Lite: what each draws, and how all of them show colour, facets, bands and the row pointed at.
const PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7A5195", "#8C6D31"];
const DARK_PALETTE = ["#4aa3df", "#f0803c", "#2fc39b", "#e0a0c4", "#f2b84b", "#8ccdf2", "#a98bd0", "#c4a566"];
const DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3], [12, 4]];
const MANY_POINTS = 900; // of more, points are drawn only where the pointer is
const FEW_ROWS = 4; // of more rows bands are faint, since they would hide one another
const MANY_ROWS = 16; // of more, only the row pointed at has its band
const MOST_FACETS = 12;
const NARROWEST_FACET = 230;
const HEIGHT = 280;

const isDark = matchMedia("(prefers-color-scheme: dark)");

// How a value of a key is ordered: numbers by size, before words by the alphabet.
function natural(a, b) {
  const [x, y] = [Number(a), Number(b)];
  if (!Number.isNaN(x) && !Number.isNaN(y) && a !== "" && b !== "") return x - y;
  if (Number.isNaN(x) !== Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
  return a < b ? -1 : a > b ? 1 : 0;
}

function keyPlace(name) {
  return data.keys.findIndex((key) => key.name === name);
}

// The colour and dash of every row: by the row itself, or by a key's value.
function makeColours(rows) {
  const palette = isDark.matches ? DARK_PALETTE : PALETTE;
  const by = view.colour || (rows.length <= palette.length || !data.keys.length ? "row" : data.keys[0].name);
  const place = keyPlace(by);
  const valueOf = (row) => (place < 0 ? row.id : row.texts[place]);
  const values = [...new Set(rows.map(valueOf))];
  if (place >= 0) values.sort(natural);
  const numeric = place >= 0 && values.length > 2 && values.every((value) => value !== "" && !Number.isNaN(Number(value)));
  const styles = new Map(values.map((value, index) => [value, numeric
    ? { colour: ramp(index / (values.length - 1)), dash: 0 }
    : { colour: palette[index % palette.length], dash: Math.floor(index / palette.length) % DASHES.length }]));
  const names = new Map(place < 0 ? rows.map((row) => [row.id, row.label]) : values.map((value) => [value, `${data.keys[place].choice ? "" : `${data.keys[place].heading}=`}${value}`]));
  return { by, valueOf, styles, names, repeats: !numeric && values.length > palette.length * DASHES.length, of: (row) => styles.get(valueOf(row)) };
}

// A scale from blue to yellow for ordered values, told apart with every colour vision.
function ramp(share) {
  const stops = isDark.matches ? [[72, 110, 180], [60, 170, 150], [240, 220, 90]] : [[40, 60, 130], [30, 140, 130], [215, 175, 20]];
  const at = share * (stops.length - 1);
  const low = Math.min(Math.floor(at), stops.length - 2);
  const mixed = stops[low].map((part, i) => Math.round(part + (at - low) * (stops[low + 1][i] - part)));
  return `rgb(${mixed.join(",")})`;
}

function drawable(rows, colours, part) {
  const facet = keyPlace(view.facet);
  return rows.flatMap((row) => part(row).map((point) => ({
    ...point, id: row.id, row: row.label, c: colours.valueOf(row), f: facet < 0 ? "" : row.texts[facet],
  })));
}

const percent = { format: ".1%" };
const SHARES = new Set(["val_accuracy", "train_accuracy", "converged"]);

// Each chart: its title, the words below it, the points of a row, and its axes.
function chartList() {
  const split = view.split;
  const solver = view.solver === "own" ? "each run's training solver" : view.solver;
  const accuracy = { title: `${split} accuracy`, share: true };
  const test = { title: "test accuracy", share: true };
  const training = view.training.replaceAll("_", " ");
  return [
    { name: "budget", title: `${capital(split)} accuracy against the iteration budget`, part: accuracyByBudget, split, about: `${solver}, smallest tolerance of the grid`,
      x: { title: "budget (iterations allowed)", log: true, whole: true }, y: accuracy, tips: [{ field: "x", title: "budget" }] },
    { name: "evaluations", title: `${capital(split)} accuracy against mean evaluations`, part: accuracyByEvaluations, split, about: `${solver}, smallest tolerance; a point is a budget`,
      x: { title: "mean evaluations of the cell, per sample", log: true }, y: accuracy, order: "budget", tips: [{ field: "budget", title: "budget" }, { field: "x", title: "mean evaluations", format: ".1f" }] },
    { name: "frontier", title: `Frontier of ${split} accuracy and evaluations`, part: frontier, split, about: `${solver}; budgets and tolerances that no other of the row beats in both. It describes this split: choose on validation`,
      x: { title: "mean evaluations of the cell, per sample", log: true }, y: accuracy, step: true, tips: [{ field: "budget", title: "budget" }, { field: "tolerance", title: "tolerance", format: ".0e" }, { field: "x", title: "mean evaluations", format: ".1f" }] },
    { name: "residual", title: "Residual against evaluations, test split", part: residualCurve, about: `${solver}; median over the samples, over seeds the geometric mean`,
      x: { title: "evaluations of the cell, per sample" }, y: { title: "median residual", log: true }, tips: [{ field: "x", title: "evaluations" }] },
    { name: "training", title: `Training: ${training}`, part: trainingCurve, about: "by epoch; runs that go on and runs that failed are drawn as far as they went",
      x: { title: "epoch", whole: true }, y: { title: training, share: SHARES.has(view.training), log: view.training === "residual" }, tips: [{ field: "x", title: "epoch" }] },
    { name: "halting", title: "Test accuracy where every sample stops by a rule", part: haltingPoints, about: "the threshold that validation chose; budget: the same iterations for all; oracle: a bound",
      x: { title: "mean evaluations of the cell, per sample", log: true }, y: test, shape: "rule", tips: [{ field: "rule", title: "rule" }, { field: "x", title: "mean evaluations", format: ".1f" }] },
    { name: "breadth", title: "Test accuracy against the number of starts", part: breadthCurves, about: "at the largest number of iterations; dashes: how the starts are put together",
      x: { title: "starts", log: true, whole: true }, y: test, series: "agg", tips: [{ field: "x", title: "starts" }, { field: "agg", title: "put together by" }] },
    { name: "difficulty", title: "Test accuracy against difficulty", part: difficultyCurve, about: "at the largest budget; each difficulty has samples of its own",
      x: { title: "difficulty of the data", whole: true }, y: test, tips: [{ field: "x", title: "difficulty" }] },
  ];
}

function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

// The specification of one chart; null where no shown row has numbers for it.
function makeSpec(chart, rows, colours, width) {
  const points = drawable(rows, colours, chart.part).filter((point) => point.y !== null && (!chart.y.log || point.y > 0));
  if (!points.length) return null;
  const styles = [...colours.styles];
  const colour = { field: "c", type: "nominal", legend: null, scale: { domain: styles.map(([value]) => value), range: styles.map(([, style]) => style.colour) } };
  const dash = chart.series
    ? { field: chart.series, type: "nominal", legend: { title: null, orient: "top" }, scale: { range: DASHES } }
    : { field: "c", type: "nominal", legend: null, scale: { domain: styles.map(([value]) => value), range: styles.map(([, style]) => DASHES[style.dash]) } };
  const x = axisX(chart, points);
  const y = axisY(chart, points);
  const lit = (full, pale) => ({ condition: { test: "hot === null || datum.id === hot", value: full }, value: pale });
  const detail = [{ field: "id" }, ...(chart.series ? [{ field: chart.series }] : [])];
  const unit = chart.y.share ? percent : { format: ".3~g" };
  const tooltip = [
    { field: "row", title: "row" }, ...chart.tips.map((tip) => ({ type: tip.format ? "quantitative" : "nominal", ...tip })),
    { field: "y", type: "quantitative", title: chart.y.title, ...unit },
    ...(points.some((point) => point.low !== null) ? [{ field: "low", type: "quantitative", title: "interval from", ...unit }, { field: "high", type: "quantitative", title: "interval to", ...unit }] : []),
    { field: "n", type: "quantitative", title: "seeds" },
  ];
  const layers = [];
  if (points.some((point) => point.low !== null)) {
    const band = chart.shape ? { type: "rule", clip: true } : { type: "area", clip: true, interpolate: chart.step ? "step-after" : "linear" };
    layers.push({ transform: [{ filter: "isValid(datum.low)" }], mark: band,
      encoding: { x, y: { ...y, field: "low" }, y2: { field: "high" }, color: colour, detail, opacity: chart.shape ? lit(0.8, 0.05) : { condition: [{ test: "datum.id === hot", value: 0.24 }, { test: "hot === null", value: rows.length <= FEW_ROWS ? 0.16 : rows.length <= MANY_ROWS ? 0.05 : 0 }], value: 0 } } });
  }
  if (!chart.shape) {
    layers.push({ mark: { type: "line", strokeWidth: 2, clip: true, interpolate: chart.step ? "step-after" : "linear" },
      encoding: { x, y, color: colour, strokeDash: dash, detail, opacity: lit(1, 0.1), ...(chart.order ? { order: { field: chart.order, type: "quantitative" } } : {}) } });
  }
  const many = points.length > MANY_POINTS;
  const shape = chart.shape ? { shape: { field: chart.shape, type: "nominal", legend: { title: null, orient: "top", columns: width < 420 ? 3 : 7 } } } : {};
  layers.push({ mark: { type: "point", filled: true, size: chart.shape ? 80 : many ? 60 : 30, clip: true },
    encoding: { x, y, color: colour, detail, tooltip, ...shape, opacity: many && !chart.shape ? { value: 0 } : lit(1, 0.08) } });
  return framed({ points, layers, width, facet: view.facet });
}

function framed({ points, layers, width, facet }) {
  const spec = { config: chartConfig(), params: [{ name: "hot", value: null }], data: { values: points } };
  if (!facet) return { ...spec, width: "container", height: HEIGHT, autosize: { type: "fit-x", contains: "padding" }, layer: layers };
  const values = [...new Set(points.map((point) => point.f))].sort(natural).slice(0, MOST_FACETS);
  const columns = Math.max(1, Math.min(values.length, Math.floor(width / NARROWEST_FACET)));
  const heading = data.keys[keyPlace(facet)].heading;
  return {
    ...spec, data: { values: points.filter((point) => values.includes(point.f)) }, columns,
    facet: { field: "f", type: "nominal", sort: values, header: { title: heading, titleFontSize: 12, labelFontSize: 12 } },
    spec: { width: Math.max(120, Math.floor(width / columns) - 58), height: Math.round(HEIGHT * (columns > 1 ? 0.7 : 0.8)), layer: layers },
  };
}

function axisX(chart, points) {
  const values = [...new Set(points.map((point) => point.x))].sort((a, b) => a - b);
  const ticks = chart.x.whole && values.length <= 14 ? { values, format: "d" } : { tickCount: 8, format: "~s" };
  if (chart.x.log && values.length > 1 && values[values.length - 1] >= 4 * values[0]) {
    const scale = values[0] > 0 ? { type: "log", base: 2, nice: false, padding: 8 } : { type: "symlog", constant: 1, nice: false, padding: 8 };
    return { field: "x", type: "quantitative", title: chart.x.title, scale, axis: { grid: false, labelOverlap: "greedy", labelSeparation: 5, ...(chart.x.whole ? ticks : { values: powersOfTwo(values), format: ",d" }) } };
  }
  return { field: "x", type: "quantitative", title: chart.x.title, scale: { zero: false, nice: false, padding: 8 }, axis: { grid: false, labelOverlap: "greedy", labelSeparation: 5, ...(chart.x.whole ? { tickMinStep: 1, ...ticks } : ticks) } };
}

function powersOfTwo(values) {
  return Array.from({ length: 24 }, (_, power) => 2 ** power).filter((tick) => tick >= values[0] / 2 && tick <= 2 * values[values.length - 1]);
}

function axisY(chart, points) {
  if (chart.y.log) {
    const powers = Array.from({ length: 60 }, (_, place) => 10 ** (place - 40));
    const known = points.flatMap((point) => [point.y, point.low ?? point.y, point.high ?? point.y]).filter((value) => value > 0);
    const [least, most] = [known.reduce((a, b) => Math.min(a, b)) / 1.25, known.reduce((a, b) => Math.max(a, b)) * 1.25];
    const label = "datum.value >= 1 ? format(datum.value, ',d') : replace(format(datum.value, '.0e'), '+', '')";
    const values = powers.filter((value) => value >= least && value <= most);
    return { field: "y", type: "quantitative", title: chart.y.title, scale: { type: "log", domain: [least, most], nice: false }, axis: { labelOverlap: "greedy", labelSeparation: 5, ...(values.length > 1 ? { values, labelExpr: label } : { tickCount: 4, format: ".1e" }) } };
  }
  const ends = points.flatMap((point) => [point.y, point.low ?? point.y, point.high ?? point.y]);
  let [low, high] = [ends.reduce((a, b) => Math.min(a, b)), ends.reduce((a, b) => Math.max(a, b))];
  if (chart.y.share) [low, high] = [Math.max(0, low), Math.min(1, high)];
  const room = (high - low) * 0.04 || 0.01;
  const domain = chart.y.share ? [Math.max(0, low - room), Math.min(1 + room / 2, high + room)] : [low - room, high + room];
  return { field: "y", type: "quantitative", title: chart.y.title, scale: { domain, nice: false }, axis: { tickCount: 6, format: chart.y.share ? ".3~p" : ".3~g" } };
}

// Parallel coordinates: an axis for each key and metric, from its least value to its greatest.
function parallelSpec(rows, colours, width) {
  const axes = parallelAxes(rows).slice(0, width < 500 ? 4 : 9);
  if (axes.length < 2 || rows.length < 2) return null;
  const points = rows.flatMap((row) => axes.map((axis, place) => ({ id: row.id, row: row.label, c: colours.valueOf(row), a: place, y: axis.at(row), text: axis.text(row) })))
    .filter((point) => point.y !== null);
  const marks = axes.flatMap((axis, place) => axis.ticks.map(([y, text]) => ({ a: place, y, text })));
  const styles = [...colours.styles];
  const colour = { field: "c", type: "nominal", legend: null, scale: { domain: styles.map(([value]) => value), range: styles.map(([, style]) => style.colour) } };
  const names = axes.map((axis) => axis.name);
  const x = { field: "a", type: "quantitative", title: null, scale: { domain: [-0.1, axes.length - 1 + 0.35], nice: false, zero: false }, axis: { values: names.map((_, place) => place), labelExpr: `${JSON.stringify(names)}[datum.value]`, orient: "top", grid: true, domain: false, ticks: false, labelAngle: 0, labelLimit: Math.max(60, width / axes.length - 6), labelOverlap: false } };
  const y = { field: "y", type: "quantitative", scale: { domain: [-0.05, 1.05], nice: false }, axis: null };
  const lit = (full, pale) => ({ condition: { test: "hot === null || datum.id === hot", value: full }, value: pale });
  return {
    config: chartConfig(), params: [{ name: "hot", value: null }],
    width: "container", height: HEIGHT, autosize: { type: "fit-x", contains: "padding" },
    layer: [
      { data: { values: points }, mark: { type: "line", strokeWidth: 1.8 }, encoding: { x, y, color: colour, detail: [{ field: "id" }], opacity: lit(0.85, 0.06), order: { field: "a", type: "quantitative" } } },
      { data: { values: points }, mark: { type: "point", filled: true, size: 40 }, encoding: { x, y, color: colour, opacity: lit(1, 0.06), tooltip: [{ field: "row", title: "row" }, { field: "text", title: "value" }] } },
      { data: { values: marks }, mark: { type: "text", align: "left", dx: 7, dy: -8, fontSize: 11, limit: Math.max(40, width / axes.length - 14) }, encoding: { x, y, text: { field: "text" }, color: { value: ink("--ink") } } },
    ],
  };
}

function parallelAxes(rows) {
  const axes = [];
  data.keys.forEach((key, place) => {
    const values = [...new Set(rows.map((row) => row.texts[place]))].sort(natural);
    if (values.length < 2) return;
    const at = new Map(values.map((value, index) => [value, index / (values.length - 1)]));
    const every = Math.ceil(values.length / 8);
    axes.push({ name: key.heading, at: (row) => at.get(row.texts[place]), text: (row) => `${key.heading}=${row.texts[place]}`, ticks: values.filter((_, index) => index % every === 0).map((value) => [at.get(value), value]) });
  });
  for (const metric of data.metrics) {
    const log = metric.unit === "residual";
    const scaled = (value) => (log ? Math.log10(value) : value);
    const known = rows.filter((row) => row.values[metric.name] !== null && (!log || row.values[metric.name] > 0));
    const sorted = known.map((row) => scaled(row.values[metric.name])).sort((a, b) => a - b);
    if (sorted.length < 2 || sorted[0] === sorted[sorted.length - 1]) continue;
    const [low, high] = [sorted[0], sorted[sorted.length - 1]];
    const shown = new Map(known.map((row) => [scaled(row.values[metric.name]), row.shown[metric.name]]));
    axes.push({ name: metric.heading, at: (row) => (known.includes(row) ? (scaled(row.values[metric.name]) - low) / (high - low) : null), text: (row) => `${metric.heading} ${row.shown[metric.name]}`, ticks: [[0, plain(shown.get(low))], [1, plain(shown.get(high))]] });
  }
  return axes;
}

// '97.2 ± 0.8' -> '97.2'.
function plain(text) {
  return text.split(" ± ")[0];
}

function ink(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function chartConfig() {
  const config = structuredClone(data.config);
  const [text, quiet, line] = [ink("--ink"), ink("--quiet"), ink("--line")];
  config.background = "transparent";
  config.padding = 4;
  Object.assign(config.axis, { labelColor: quiet, titleColor: text, gridColor: line, domainColor: quiet, tickColor: quiet });
  config.legend = { ...config.legend, labelColor: text, titleColor: quiet, symbolBaseFillColor: text, symbolBaseStrokeColor: text };
  config.header = { labelColor: text, titleColor: quiet };
  return config;
}

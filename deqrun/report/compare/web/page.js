// The page: controls, legend, charts that are drawn when they come into sight, and, on a dashboard, fresh data.
const POLL = 2000; // milliseconds between two questions for fresh data
let rows = [];
let shown = new Map(); // ticked rows by id, in the order of the table
let colours = null;
let hot = null;
const figures = new Map(); // chart name -> { figure, drawing, stale, view }

const element = (id) => document.getElementById(id);

function tick(id, on) {
  view.ticked = new Set(shown.keys());
  if (on) view.ticked.add(id); else view.ticked.delete(id);
  update();
}

function tickFound(on) {
  const found = foundRows().map((row) => row.id);
  view.ticked = new Set(shown.keys());
  for (const id of found) if (on) view.ticked.add(id); else view.ticked.delete(id);
  update();
}

// Everything that follows from the view: colours, legend, ticks, and which charts are to be drawn anew.
function update() {
  shown = new Map(tickedOf(rows).map((row) => [row.id, row]));
  colours = makeColours([...shown.values()]);
  writeView();
  for (const box of document.querySelectorAll("#table input[data-id]")) box.checked = shown.has(box.dataset.id);
  document.querySelectorAll("#table .dot").forEach(paint);
  makeLegend();
  element("subtitle").textContent = subtitle();
  element("seeds").value = view.seeds;
  for (const name of ["colour", "facet", "solver", "split", "training"]) element(name).value = view[name];
  for (const each of figures.values()) { each.stale = true; if (each.seen) draw(each); }
}

function subtitle() {
  const runs = data.runs.length - data.runs.filter((run) => run.recipe === null).length;
  const parts = [`${data.recipes.length} recipe${data.recipes.length === 1 ? "" : "s"} of ${runs} completed run${runs === 1 ? "" : "s"}`];
  const states = {};
  for (const run of data.runs) if (run.state !== "completed") states[run.state] = (states[run.state] || 0) + 1;
  parts.push(...Object.entries(states).map(([state, count]) => `${count} ${state}`));
  parts.push(`${shown.size} row${shown.size === 1 ? "" : "s"} drawn`);
  return parts.join(", ");
}

function makeLegend() {
  const list = element("legend");
  list.replaceChildren();
  for (const [value, name] of colours.names) {
    const style = colours.styles.get(value);
    if (!style) continue;
    const item = document.createElement("span");
    item.setAttribute("role", "listitem");
    item.className = "entry";
    const sample = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    sample.setAttribute("width", "26"); sample.setAttribute("height", "10");
    const line = document.createElementNS("http://www.w3.org/2000/svg", "line");
    for (const [key, given] of Object.entries({ x1: 1, x2: 25, y1: 5, y2: 5, stroke: style.colour, "stroke-width": 2.5, "stroke-dasharray": style.dash ? DASHES[style.dash].join(" ") : "" })) line.setAttribute(key, given);
    sample.append(line);
    item.append(sample, textNode(name));
    if (colours.by === "row") {
      item.addEventListener("mouseenter", () => pointAt(value));
      item.addEventListener("mouseleave", () => pointAt(null));
    }
    list.append(item);
  }
  if (colours.repeats) list.append(textNode("Colours and dashes repeat: tick fewer rows, or colour by a key.", "hint"));
}

function makeFigures() {
  const place = element("charts");
  const watcher = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      const each = figures.get(entry.target.dataset.chart);
      each.seen = entry.isIntersecting;
      if (each.seen && each.stale) draw(each);
    }
  }, { rootMargin: "300px" });
  for (const name of [...chartList().map((chart) => chart.name), "parallel"]) {
    const figure = document.createElement("figure");
    figure.className = "chart";
    figure.dataset.chart = name;
    const heading = document.createElement("h3");
    const caption = document.createElement("figcaption");
    const drawing = document.createElement("div");
    drawing.className = "drawing";
    figure.append(heading, caption, drawing);
    place.append(figure);
    figures.set(name, { name, figure, heading, caption, drawing, stale: true, seen: false, turn: 0 });
    watcher.observe(figure);
  }
}

async function draw(each) {
  each.stale = false;
  const turn = ++each.turn;
  const chosen = [...shown.values()];
  const width = each.figure.clientWidth || 400;
  const chart = chartList().find((one) => one.name === each.name);
  const spec = chart ? makeSpec(chart, chosen, colours, width) : parallelSpec(chosen, colours, width);
  each.heading.textContent = chart ? chart.title : "Parallel coordinates";
  each.caption.textContent = spec ? caption(chart, spec) : "";
  // A chart that no run here has numbers for takes no room; one that other rows have says so.
  const some = spec || (chart && rows.some((row) => chart.part(row).length)) || (!chart && rows.length > 1);
  each.figure.classList.toggle("absent", !some);
  if (!spec) {
    each.drawing.replaceChildren(textNode(some ? "No ticked row has numbers for this." : "", "hint"));
    return;
  }
  each.drawing.role = "img";
  each.drawing.ariaLabel = each.heading.textContent;
  const options = { mode: "vega-lite", renderer: "canvas", ast: true, actions: { export: true, source: false, compiled: false, editor: false }, tooltip: { theme: isDark.matches ? "dark" : "light" }, downloadFileName: `compare-${each.name}` };
  try {
    const made = await vegaEmbed(each.drawing, spec, options);
    if (turn !== each.turn) return;
    each.view = made.view;
    each.points = chart ? spec.data.values : [];
    each.figure.dataset.drawn = String(turn);
    made.view.addEventListener("mousemove", (event, item) => pointAt(item && item.datum && item.datum.id ? item.datum.id : null));
    made.view.addEventListener("mouseout", () => pointAt(null));
    made.view.addEventListener("click", (event, item) => { const row = item && item.datum && shown.get(item.datum.id); if (row) openRow(row); });
  } catch (error) {
    each.drawing.textContent = `This chart could not be drawn: ${error.message}`;
    console.error(error);
  }
}

const INTERVALS = {
  seeds: "of the recipe",
  samples: "over samples where a row has fewer than three seeds",
  student: "of the mean over seeds, Student's",
};

function caption(chart, spec) {
  if (!chart) return "A line is a row; an axis goes from its least value among the ticked rows to its greatest.";
  const units = [...new Set(spec.data.values.filter((point) => point.low !== null).map((point) => INTERVALS[point.over]))];
  const few = view.facet && new Set([...shown.values()].map((row) => row.texts[keyPlace(view.facet)])).size > MOST_FACETS ? ` The first ${MOST_FACETS} facets.` : "";
  return `${capital(chart.about)}.${units.length ? ` ${chart.shape ? "Bars" : shown.size > MANY_ROWS ? "Band of the row pointed at" : "Bands"}: 95 % interval ${units.sort().join("; ")}.` : ""}${few}`;
}

// The row pointed at is lit in every chart and in the table.
let waiting = false;
function pointAt(id) {
  if (id === hot) return;
  hot = id;
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => {
    waiting = false;
    for (const each of figures.values()) if (each.seen && each.view) each.view.signal("hot", hot).runAsync();
    for (const box of document.querySelectorAll("#table input[data-id]")) box.closest(".tabulator-row")?.classList.toggle("hot", box.dataset.id === hot);
  });
}

// One run: its report. Several seeds: a list of them.
function openRow(row) {
  const only = row.members.length === 1 ? safeLink(row.members[0]) : null;
  if (only) { window.open(only, "_blank", "noopener"); return; }
  const dialog = element("detail");
  const heading = document.createElement("h3");
  heading.textContent = row.label;
  const list = document.createElement("dl");
  list.className = "origin";
  for (const run of row.members) {
    const name = document.createElement("dt");
    name.textContent = run.seed === null ? run.state : `seed ${run.seed}`;
    const about = document.createElement("dd");
    const link = links({ members: [run] });
    about.append(link, textNode([run.state, run.reason].filter(Boolean).join(": ")), document.createElement("br"), textNode(run.folder, "quiet"));
    list.append(name, about);
  }
  const close = document.createElement("button");
  close.textContent = "Close";
  close.addEventListener("click", () => dialog.close());
  dialog.replaceChildren(heading, list, close);
  dialog.showModal();
}

function fill(select, options) {
  select.replaceChildren(...options.map(([value, text]) => { const option = document.createElement("option"); option.value = value; option.textContent = text; return option; }));
}

// What depends on the data: choices, table, notes.
function build() {
  rows = makeRows();
  const keys = data.keys.map((key) => [key.name, key.name]);
  fill(element("colour"), [["", "by itself"], ["row", "row"], ...keys]);
  fill(element("facet"), [["", "none"], ...keys]);
  fill(element("solver"), [["own", "of training"], ...solvers().map((name) => [name, name])]);
  fill(element("training"), data.training.map((name) => [name, name.replaceAll("_", " ")]));
  element("search").value = view.q;
  element("notes").textContent = data.notes.join(" ");
  makeOthers();
  shown = new Map(tickedOf(rows).map((row) => [row.id, row]));
  colours = makeColours([...shown.values()]);
  makeTable();
  update();
}

function makeOthers() {
  const lines = [...data.left_out, ...data.runs.filter((run) => run.repeat).map((run) => `${run.folder}: settings and seed of a newer run in the table.`)];
  const place = element("others");
  place.replaceChildren();
  if (!lines.length) return;
  const fold = document.createElement("details");
  fold.className = "fold";
  const heading = document.createElement("summary");
  heading.textContent = `Left out or counted once: ${lines.length}`;
  const list = document.createElement("ul");
  list.append(...lines.map((line) => { const item = document.createElement("li"); item.textContent = line; return item; }));
  fold.append(heading, list);
  place.append(fold);
}

function listen() {
  let pause = 0;
  element("search").addEventListener("input", () => {
    clearTimeout(pause);
    pause = setTimeout(() => { view.q = element("search").value; filterTable(); writeView(); }, 120);
  });
  element("seeds").addEventListener("change", () => { view.seeds = element("seeds").value; view.ticked = null; build(); });
  for (const name of ["colour", "facet", "solver", "split", "training"]) {
    element(name).addEventListener("change", () => { view[name] = element(name).value; update(); });
  }
  element("all").addEventListener("click", () => tickFound(true));
  element("none").addEventListener("click", () => { view.ticked = new Set(); update(); });
  element("start").addEventListener("click", () => { Object.assign(view, DEFAULTS, { ticked: null }); build(); });
  addEventListener("hashchange", () => { readView(); build(); });
  isDark.addEventListener("change", update);
  let resized = 0;
  addEventListener("resize", () => { clearTimeout(resized); resized = setTimeout(() => { if (view.facet) update(); }, 250); });
}

// On a dashboard: ask for fresh data, and show it where there is any. Ticks, search and sort stay.
async function poll() {
  let tag = null;
  for (;;) {
    await new Promise((resolve) => { setTimeout(resolve, POLL); });
    if (document.hidden) continue;
    try {
      const answer = await fetch("data.json", { headers: tag ? { "If-None-Match": tag } : {}, cache: "no-store" });
      element("live").textContent = "· live";
      if (answer.status === 304 || !answer.ok) continue;
      tag = answer.headers.get("ETag");
      const fresh = await answer.json();
      const title = `${fresh.count} run${fresh.count === 1 ? "" : "s"} compared`;
      data = fresh;
      document.querySelector("h1").textContent = title;
      const scrolled = document.querySelector("#table .tabulator-tableholder")?.scrollTop;
      build();
      table.on("tableBuilt", () => { const holder = document.querySelector("#table .tabulator-tableholder"); if (holder && scrolled) holder.scrollTop = scrolled; });
    } catch {
      element("live").textContent = "· deqrun dashboard has ended";
    }
  }
}

// What a chart has drawn, for whoever looks at the page from its console.
window.deqrunPoints = (name) => figures.get(name)?.points ?? [];

readView();
makeFigures();
listen();
build();
if (data.live) poll();

// The table of rows, with Tabulator. Every text of a run goes into it as a text node, headings too.
let table = null;

function textNode(text, className) {
  const element = document.createElement("span");
  element.textContent = text;
  if (className) element.className = className;
  return element;
}

function titled(text, what) {
  return { title: "", titleFormatter: () => { const element = textNode(text); element.title = what; return element; } };
}

// Rows without a value come last in either direction.
function sorter(compare) {
  return (a, b, rowA, rowB, place, dir) => {
    const missing = (value) => value === null || value === undefined;
    if (missing(a) || missing(b)) return (missing(a) - missing(b)) * (dir === "asc" ? 1 : -1);
    return compare(a, b);
  };
}

function makeColumns() {
  const columns = [{
    ...titled("", "ticked rows are drawn"), field: "tick", headerSort: false, frozen: innerWidth > 640, width: 46, hozAlign: "center", formatter: tickCell,
  }];
  const narrow = innerWidth <= 640;
  const metric = (one) => ({ ...titled(one.heading, one.what), field: `m_${one.name}`, hozAlign: "right", sorter: sorter((a, b) => a - b), headerSortStartingDir: one.better > 0 ? "desc" : "asc", formatter: (cell) => metricCell(cell.getData().row, one) });
  // A narrow window shows accuracy before it is scrolled.
  const first = narrow ? data.metrics.slice(0, 1) : [];
  columns.push(...first.map(metric));
  data.keys.forEach((key, place) => columns.push({
    ...titled(key.heading, key.name), field: `k${place}`, sorter: sorter(natural), maxWidth: 240,
    formatter: (cell) => { const element = textNode(cell.getValue() ?? "–"); element.title = cell.getValue() ?? ""; return element; },
  }));
  if (!data.keys.length) columns.push({ ...titled("runs", "model and data set"), field: "label", formatter: (cell) => textNode(cell.getValue()) });
  const apart = view.seeds === "apart";
  columns.push({ ...titled(apart ? "seed" : "seeds", apart ? "seed" : "number of seeds"), field: apart ? "seed" : "seeds", hozAlign: "right", sorter: sorter((a, b) => a - b), formatter: (cell) => textNode(cell.getValue() ?? "–") });
  if (data.runs.some((run) => run.state !== "completed")) {
    columns.push({ ...titled("state", "state of the run"), field: "state", sorter: sorter(natural), formatter: stateCell });
  }
  columns.push(...data.metrics.slice(first.length).map(metric));
  columns.push({ ...titled("report", "the run's own report"), field: "report", headerSort: false, formatter: (cell) => links(cell.getData().row) });
  return columns;
}

function fieldOf(name) {
  const place = keyPlace(name);
  if (place >= 0) return `k${place}`;
  return data.metrics.some((metric) => metric.name === name) ? `m_${name}` : name;
}

function nameOf(field) {
  if (/^k\d+$/.test(field)) return data.keys[Number(field.slice(1))].name;
  return field.replace(/^m_/, "");
}

function tableRows() {
  return rows.map((row) => {
    const entry = { id: row.id, row, label: row.label, seeds: row.seeds, seed: row.members[0].seed, state: row.state };
    row.texts.forEach((text, place) => { entry[`k${place}`] = text === "–" ? null : text; });
    data.metrics.forEach((metric) => { entry[`m_${metric.name}`] = row.values[metric.name]; });
    return entry;
  });
}

function tickCell(cell) {
  const { id, label } = cell.getData();
  const box = document.createElement("input");
  box.type = "checkbox";
  box.dataset.id = id;
  box.checked = shown.has(id);
  box.setAttribute("aria-label", `draw ${label}`);
  const dot = textNode("", "dot");
  dot.dataset.id = id;
  paint(dot);
  const both = document.createElement("label");
  both.className = "tick";
  both.append(box, dot);
  box.addEventListener("change", () => tick(id, box.checked));
  return both;
}

function paint(dot) {
  const row = shown.get(dot.dataset.id);
  dot.style.background = row && colours ? colours.of(row).colour : "transparent";
}

function stateCell(cell) {
  const { row } = cell.getData();
  const run = row.members[0];
  if (row.state === "completed") return textNode("completed", "quiet");
  const element = textNode(run.epoch === null ? row.state : `${row.state}, epoch ${run.epoch}`, `state ${row.state}`);
  element.title = run.reason;
  return element;
}

function metricCell(row, metric) {
  const element = textNode(row.shown[metric.name], row.best && metric.name === "val_accuracy" ? "best" : "");
  if (row.best && metric.name === "val_accuracy") element.title = "highest mean validation accuracy on its data";
  return element;
}

function safeLink(run) {
  return run.report && /^(\.\/|run\/)/.test(run.report) ? run.report : null;
}

function links(row) {
  const all = document.createElement("span");
  const linked = row.members.filter(safeLink);
  for (const run of linked) {
    const link = document.createElement("a");
    link.href = safeLink(run);
    link.target = "_blank";
    link.rel = "noopener";
    link.textContent = linked.length === 1 ? "report" : String(run.seed ?? "–");
    link.title = run.folder;
    link.addEventListener("click", (event) => event.stopPropagation());
    all.append(link, " ");
  }
  return all;
}

function makeTable() {
  const many = rows.length > 12;
  if (table) table.destroy();
  const sort = view.sort ? [{ column: fieldOf(view.sort), dir: view.dir === "asc" ? "asc" : "desc" }] : [];
  const columns = makeColumns();
  const made = new Tabulator("#table", {
    data: tableRows(), columns, layout: "fitDataStretch", height: many ? 440 : undefined, index: "id",
    initialSort: sort.filter((one) => columns.some((each) => each.field === one.column)),
    columnDefaults: { headerHozAlign: "left", resizable: false, vertAlign: "middle" }, placeholder: "No row is found.",
    renderVerticalBuffer: 300,
  });
  table = made;
  made.on("tableBuilt", () => { filterTable(); });
  made.on("dataSorted", (sorters) => {
    if (table !== made) return;
    const first = sorters[0];
    Object.assign(view, first ? { sort: nameOf(first.field), dir: first.dir } : { sort: "", dir: "" });
    writeView();
  });
  made.on("rowClick", (event, row) => { if (!event.target.closest("input, a, label")) openRow(row.getData().row); });
  made.on("rowMouseEnter", (event, row) => pointAt(row.getData().id));
  made.on("rowMouseLeave", () => pointAt(null));
}

function filterTable() {
  table.setFilter((entry) => matches(entry.row));
}

function foundRows() {
  return rows.filter(matches);
}

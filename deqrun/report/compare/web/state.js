// The view: what is searched, ticked, coloured and faceted. It lives in the URL, so that a link shows the same.
let data = JSON.parse(document.getElementById("data").textContent);

const TICKED_FIRST = 8; // rows that are ticked where the URL names none
const DEFAULTS = { q: "", seeds: "folded", colour: "", facet: "", solver: "own", split: "test", training: "val_accuracy", sort: "", dir: "" };
const view = { ...DEFAULTS, ticked: null };

function column(place) {
  return data.pool[place];
}

// Values that the URL may hold; whatever else it holds is left out.
function allowed() {
  const keys = ["", "row", ...data.keys.map((key) => key.name)];
  return {
    seeds: ["folded", "apart"],
    colour: keys,
    facet: ["", ...data.keys.map((key) => key.name)],
    solver: ["own", ...solvers()],
    split: ["test", "validation"],
    training: data.training,
    dir: ["", "asc", "desc"],
  };
}

function solvers() {
  const names = new Set();
  for (const run of data.runs) {
    for (const split of Object.values(run.curves.sweep || {})) Object.keys(split).forEach((name) => names.add(name));
  }
  return [...names].sort();
}

function readView() {
  const given = new URLSearchParams(location.hash.slice(1));
  const limits = allowed();
  for (const name of Object.keys(DEFAULTS)) {
    const value = given.get(name);
    view[name] = value !== null && (!limits[name] || limits[name].includes(value)) ? value : DEFAULTS[name];
  }
  view.ticked = given.has("rows") ? new Set(given.get("rows").split(".").filter(Boolean)) : null;
}

function writeView() {
  const kept = new URLSearchParams();
  for (const [name, value] of Object.entries(DEFAULTS)) if (view[name] !== value) kept.set(name, view[name]);
  if (view.ticked) kept.set("rows", [...view.ticked].join("."));
  const text = kept.toString();
  history.replaceState(null, "", text ? `#${text}` : location.pathname + location.search);
}

// The rows of the table: recipes, or single runs. Runs without an end are rows of their own in either case.
function makeRows() {
  const apart = view.seeds === "apart";
  const rows = [];
  if (!apart) {
    for (const recipe of data.recipes) {
      const members = recipe.runs.map((place) => data.runs[place]);
      rows.push({ ...recipe, members, state: "completed", seeds: members.length });
    }
  }
  for (const run of data.runs) {
    if (!apart && (run.recipe !== null || run.repeat)) continue;
    const seed = run.seed === null ? "" : `, seed ${run.seed}`;
    rows.push({ ...run, label: run.label + seed, members: [run], seeds: 1, best: false });
  }
  for (const row of rows) {
    row.search = [row.label, row.state, ...row.texts, ...row.members.map((run) => `${run.reason} ${run.folder}`)].join(" ").toLowerCase();
    row.pairs = new Set([`state=${row.state}`, ...row.members.map((run) => `seed=${run.seed}`), ...data.keys.flatMap((key, place) => [`${key.name}=${row.texts[place]}`, `${key.heading}=${row.texts[place]}`])].map((pair) => pair.toLowerCase()));
  }
  return rows;
}

// Rows are ticked by the URL, else the first ones and all that go on.
function tickedOf(rows) {
  if (view.ticked) return rows.filter((row) => view.ticked.has(row.id));
  const drawn = rows.filter((row) => row.members.some((run) => Object.keys(run.curves).length));
  const running = drawn.filter((row) => row.state === "running");
  return [...new Set([...drawn.slice(0, TICKED_FIRST), ...running])];
}

// Every word must be found: seed=1 and lr=1e-3 as a whole, other words anywhere.
function matches(row) {
  return view.q.toLowerCase().split(/\s+/).every((word) => (/.=./.test(word) ? row.pairs.has(word) : row.search.includes(word)));
}

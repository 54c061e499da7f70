// Curves over seeds: the mean at every place that all seeds have, with its 95 % interval. A point is [x, y, n]: shares
// name the n samples that they were counted on.
function folded(curves) {
  const places = new Map();
  for (const curve of curves) {
    for (const [x, y, n] of curve) {
      if (y === null) continue;
      if (!places.has(x)) places.set(x, { values: [], n });
      places.get(x).values.push(y);
    }
  }
  const points = [];
  for (const [x, { values, n }] of places) {
    if (values.length < curves.length) continue;
    points.push({ x, ...interval(values, n) });
  }
  return points.sort((a, b) => a.x - b.x);
}

// Of shares as in the table: the recipe's from the least number of seeds on, and of fewer over samples, of these models.
// Of anything else Student's. `over` is the interval's unit.
function interval(values, samples) {
  const n = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  const spread = n > 1 ? Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1)) : 0;
  const student = data.student[Math.min(n, data.student.length + 1) - 2];
  if (samples) {
    const [low, high] = wilson(mean, samples);
    if (n < data.least_seeds) return { y: mean, low, high, n, over: "samples" };
    // The half-widths over seeds, pseudo-seeds at 0 and 1 among them, and over the samples that all seeds share.
    const rare = Math.sqrt(data.rare_seed * (mean ** 2 + (1 - mean) ** 2) / ((n - 1) * n));
    const half = student * Math.hypot(spread / Math.sqrt(n), rare);
    return { y: mean, low: Math.max(0, mean - Math.hypot(half, mean - low)), high: Math.min(1, mean + Math.hypot(half, high - mean)), n, over: "seeds" };
  }
  // Equal values say nothing of how far other seeds lie.
  if (values.every((value) => value === values[0])) return { y: mean, low: null, high: null, n, over: "student" };
  const half = student * spread / Math.sqrt(n);
  return { y: mean, low: mean - half, high: mean + half, n, over: "student" };
}

// Wilson's interval of a share of n answers.
function wilson(share, n) {
  const z2 = data.normal ** 2;
  const centre = (share + z2 / (2 * n)) / (1 + z2 / n);
  const half = data.normal / (1 + z2 / n) * Math.sqrt(Math.max(0, share * (1 - share)) / n + z2 / (4 * n ** 2));
  return [Math.min(share, Math.max(0, centre - half)), Math.max(share, Math.min(1, centre + half))];
}

// The sweep's columns of a run, of its own solver or of the one that is asked for.
function sweepOf(run) {
  const split = (run.curves.sweep || {})[view.split];
  if (!split) return null;
  const cells = split[view.solver === "own" ? run.trained : view.solver];
  return cells ? { k: column(cells.k), tol: column(cells.tol), n: column(cells.n), acc: cells.acc, nfe: cells.nfe } : null;
}

// Of several runs the columns, or null where one lacks them: the others alone would be another selection.
function allOf(row, part) {
  const found = row.members.map(part);
  return found.every(Boolean) ? found : null;
}

function atSmallestTolerance(cells) {
  const least = Math.min(...cells.tol);
  return cells.k.map((_, place) => place).filter((place) => cells.tol[place] === least);
}

function accuracyByBudget(row) {
  const found = allOf(row, sweepOf);
  if (!found) return [];
  return folded(found.map((cells) => atSmallestTolerance(cells).map((place) => [cells.k[place], cells.acc[place], cells.n[place]])));
}

// Each budget is a point; both its mean evaluations and its accuracy are means over the seeds.
function accuracyByEvaluations(row) {
  const found = allOf(row, sweepOf);
  if (!found) return [];
  const spent = folded(found.map((cells) => atSmallestTolerance(cells).map((place) => [cells.k[place], cells.nfe[place]])));
  const cost = new Map(spent.map((point) => [point.x, point.y]));
  return accuracyByBudget(row).filter((point) => cost.get(point.x) > 0)
    .map((point) => ({ ...point, budget: point.x, x: cost.get(point.x) }));
}

// The cells of the sweep, as means over seeds, that no other beats in both cost and accuracy.
function frontier(row) {
  const found = allOf(row, sweepOf);
  if (!found) return [];
  const cells = new Map();
  for (const one of found) {
    one.k.forEach((k, place) => {
      const key = `${k} ${one.tol[place]}`;
      if (!cells.has(key)) cells.set(key, { budget: k, tolerance: one.tol[place], n: one.n[place], acc: [], nfe: [] });
      cells.get(key).acc.push(one.acc[place]);
      cells.get(key).nfe.push(one.nfe[place]);
    });
  }
  const whole = [...cells.values()].filter((cell) => cell.acc.length === found.length && [...cell.acc, ...cell.nfe].every((value) => value !== null));
  const points = whole.map((cell) => ({ budget: cell.budget, tolerance: cell.tolerance, x: interval(cell.nfe).y, ...interval(cell.acc, cell.n) }));
  points.sort((a, b) => a.x - b.x || b.y - a.y);
  let best = -Infinity;
  return points.filter((point) => point.x > 0 && point.y > best && ((best = point.y), true));
}

function residualCurve(row) {
  const found = allOf(row, (run) => (run.curves.residual || {})[view.solver === "own" ? run.trained : view.solver]);
  if (!found) return [];
  const points = folded(found.map((curve) => column(curve.x).map((x, place) => [x, curve.y[place]])));
  const power = (value) => (value === null ? null : 10 ** value);
  return points.map((point) => ({ ...point, y: power(point.y), low: power(point.low), high: power(point.high) }));
}

function trainingCurve(row) {
  const found = allOf(row, (run) => run.curves.training && run.curves.training[view.training] && run.curves.training);
  if (!found) return [];
  const samples = view.training === "val_accuracy" ? row.members.map((run) => run.samples[view.training]).find(Boolean) : undefined;
  return folded(found.map((curve) => column(curve.epoch).map((x, place) => [x, curve[view.training][place], samples])));
}

function haltingPoints(row) {
  const found = allOf(row, (run) => run.curves.halting);
  if (!found) return [];
  const rules = new Map();
  for (const one of found) {
    column(one.rule).forEach((rule, place) => {
      if (!rules.has(rule)) rules.set(rule, { n: column(one.n)[place], acc: [], nfe: [] });
      rules.get(rule).acc.push(one.acc[place]);
      rules.get(rule).nfe.push(one.nfe[place]);
    });
  }
  return [...rules].filter(([, each]) => each.acc.length === found.length && [...each.acc, ...each.nfe].every((value) => value !== null))
    .map(([rule, each]) => ({ rule, x: interval(each.nfe).y, ...interval(each.acc, each.n) }));
}

// At the largest number of iterations, by the number of starts.
function breadthCurves(row) {
  const found = allOf(row, (run) => run.curves.breadth);
  if (!found) return [];
  const kinds = [...new Set(found.flatMap((one) => column(one.agg)))];
  return kinds.flatMap((agg) => folded(found.map((one) => {
    const most = Math.max(...column(one.k));
    return column(one.breadth).map((x, place) => [x, one.acc[place], column(one.n)[place], place])
      .filter(([, , , place]) => column(one.agg)[place] === agg && column(one.k)[place] === most);
  })).map((point) => ({ ...point, agg })));
}

// At the largest budget, by the difficulty of the data.
function difficultyCurve(row) {
  const found = allOf(row, (run) => run.curves.hard);
  if (!found) return [];
  return folded(found.map((one) => {
    const most = Math.max(...column(one.k));
    return column(one.difficulty).map((x, place) => [x, one.acc[place], column(one.n)[place], place]).filter(([, , , place]) => column(one.k)[place] === most);
  }));
}

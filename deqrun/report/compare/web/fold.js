// Curves over seeds: the mean at every place that all seeds have, with Student's 95 % interval of that mean.
function folded(curves) {
  const places = new Map();
  for (const curve of curves) {
    for (const [x, y] of curve) {
      if (y === null) continue;
      if (!places.has(x)) places.set(x, []);
      places.get(x).push(y);
    }
  }
  const points = [];
  for (const [x, values] of places) {
    if (values.length < curves.length) continue;
    points.push({ x, ...interval(values) });
  }
  return points.sort((a, b) => a.x - b.x);
}

function interval(values) {
  const n = values.length;
  const mean = values.reduce((sum, value) => sum + value, 0) / n;
  // Equal values say nothing of how far other seeds lie.
  if (values.every((value) => value === values[0])) return { y: mean, low: null, high: null, n };
  const spread = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1));
  const half = data.student[Math.min(n, data.student.length + 1) - 2] * spread / Math.sqrt(n);
  return { y: mean, low: mean - half, high: mean + half, n };
}

// The sweep's columns of a run, of its own solver or of the one that is asked for.
function sweepOf(run) {
  const split = (run.curves.sweep || {})[view.split];
  if (!split) return null;
  const cells = split[view.solver === "own" ? run.trained : view.solver];
  return cells ? { k: column(cells.k), tol: column(cells.tol), acc: cells.acc, nfe: cells.nfe } : null;
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
  return folded(found.map((cells) => atSmallestTolerance(cells).map((place) => [cells.k[place], cells.acc[place]])));
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
      if (!cells.has(key)) cells.set(key, { budget: k, tolerance: one.tol[place], acc: [], nfe: [] });
      cells.get(key).acc.push(one.acc[place]);
      cells.get(key).nfe.push(one.nfe[place]);
    });
  }
  const whole = [...cells.values()].filter((cell) => cell.acc.length === found.length && [...cell.acc, ...cell.nfe].every((value) => value !== null));
  const points = whole.map((cell) => ({ budget: cell.budget, tolerance: cell.tolerance, x: interval(cell.nfe).y, ...interval(cell.acc) }));
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
  return folded(found.map((curve) => column(curve.epoch).map((x, place) => [x, curve[view.training][place]])));
}

function haltingPoints(row) {
  const found = allOf(row, (run) => run.curves.halting);
  if (!found) return [];
  const rules = new Map();
  for (const one of found) {
    column(one.rule).forEach((rule, place) => {
      if (!rules.has(rule)) rules.set(rule, { acc: [], nfe: [] });
      rules.get(rule).acc.push(one.acc[place]);
      rules.get(rule).nfe.push(one.nfe[place]);
    });
  }
  return [...rules].filter(([, each]) => each.acc.length === found.length && [...each.acc, ...each.nfe].every((value) => value !== null))
    .map(([rule, each]) => ({ rule, x: interval(each.nfe).y, ...interval(each.acc) }));
}

// At the largest number of iterations, by the number of starts.
function breadthCurves(row) {
  const found = allOf(row, (run) => run.curves.breadth);
  if (!found) return [];
  const kinds = [...new Set(found.flatMap((one) => column(one.agg)))];
  return kinds.flatMap((agg) => folded(found.map((one) => {
    const most = Math.max(...column(one.k));
    return column(one.breadth).map((x, place) => [x, one.acc[place], place])
      .filter(([, , place]) => column(one.agg)[place] === agg && column(one.k)[place] === most);
  })).map((point) => ({ ...point, agg })));
}

// At the largest budget, by the difficulty of the data.
function difficultyCurve(row) {
  const found = allOf(row, (run) => run.curves.hard);
  if (!found) return [];
  return folded(found.map((one) => {
    const most = Math.max(...column(one.k));
    return column(one.difficulty).map((x, place) => [x, one.acc[place], place]).filter(([, , place]) => column(one.k)[place] === most);
  }));
}

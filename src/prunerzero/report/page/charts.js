// The charts' data, from the study's document.

const place = (candidates) => new Map(candidates.id.map((id, index) => [id, index]));

function bestLine(study, x) {
  const { candidates } = study;
  const where = place(candidates);
  const points = study.best.map((id) => [x(where.get(id)), candidates.value[where.get(id)], id]);
  const last = candidates.id.length - 1;
  if (points.length) points.push([x(last), points[points.length - 1][1], points[points.length - 1][2]]);
  return points;
}

function progressOptions(study, xName, x, randomX) {
  const points = bestLine(study, x);
  if (!points.length) return null;
  const { random, references, measure } = study;
  const end = Math.max(points[points.length - 1][0], random ? Math.max(...random[randomX]) : 0);
  const flat = (name, value, type) => ({ name, type: "line", symbol: "none", data: [[0, value], [end, value]],
    lineStyle: { type, width: 2 } });
  const dashes = ["dashed", "dotted", [8, 3, 2, 3]];
  const series = [
    { name: "best so far", type: "line", step: "end", data: points, symbolSize: 7, lineStyle: { width: 3 } },
    ...references.map((line, index) => flat(line.name, line.value, dashes[index % 3])),
  ];
  if (random) {
    series.push({ name: "random search", type: "line", step: "end", symbol: "triangle", symbolSize: 7,
      data: random[randomX].map((at, index) => [at, random.value[index]]) });
  }
  if (measure.dense !== null) series.push(flat("dense", measure.dense, "solid"));
  const top = Math.max(...references.map((line) => line.value), points[Math.min(1, points.length - 1)][1]);
  return {
    legend: {},
    tooltip: { trigger: "item", formatter: ({ seriesName, value }) =>
      `${seriesName}\n${number(value[1])} at ${number(value[0])}${value[2] ? `\ncandidate ${value[2]}` : ""}` },
    grid: { left: 8, right: 20, top: 40, bottom: 40, containLabel: true },
    xAxis: xAxis("value", xName, { min: 0, max: end || 1 }),
    yAxis: axis("value", "", { min: measure.dense === null ? (r) => 0.95 * r.min : 0, max: Math.ceil(11 * top) / 10 }),
    series,
  };
}

function populationOptions(study) {
  const { candidates, front, heldout } = study;
  const families = candidates.family.some((family) => family !== null);
  const groups = new Map();
  candidates.id.forEach((id, index) => {
    if (candidates.value[index] === null) return;
    const family = candidates.family[index];
    const group = !families ? candidates.origins[candidates.origin[index]]
      : family === null ? "family not measured" : `mask family ${family + 1}`;
    if (!groups.has(group)) groups.set(group, []);
    groups.get(group).push([candidates.size[index], candidates.value[index], id]);
  });
  if (!groups.size) return null;
  const names = [...groups.keys()].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const many = candidates.id.length > 3000;
  const series = names.map((name, index) => ({
    // Colours come round after seven: symbols are one further on by then, so no pair returns.
    name, type: "scatter", data: groups.get(name), symbol: SYMBOLS[(index + Math.floor(index / SYMBOLS.length)) % SYMBOLS.length],
    symbolSize: many ? 5 : 10, large: many, largeThreshold: 3000,
    itemStyle: { opacity: many ? 0.5 : 0.8, ...(name === "family not measured" ? { color: GREY } : {}) },
  }));
  series.push({ name: "Pareto front", type: "line", step: "end", symbol: "emptyCircle", symbolSize: many ? 8 : 14,
    data: front.map((member) => [member.size, member.value, member.id]), z: 3,
    itemStyle: { color: ink() }, lineStyle: { color: ink(), width: 1.5 } });
  const winner = heldout && front.concat(study.winner ?? []).find((member) => member.id === heldout.winner);
  if (winner) {
    series.push({ name: "winner", type: "scatter", z: 4, symbol: "diamond", symbolSize: 20,
      data: [[winner.size, winner.value, winner.id]],
      itemStyle: { color: "transparent", borderColor: colours()[3], borderWidth: 3 } });
  }
  return {
    legend: { data: series.map(({ name }) => name) },
    tooltip: { trigger: "item", formatter: ({ seriesName, value }) =>
      `candidate ${value[2]} (${seriesName})\nsize ${value[0]}, ${number(value[1])}` },
    grid: { left: 8, right: 20, top: 40, bottom: 40, containLabel: true },
    xAxis: xAxis("log", "nodes of the formulas", { min: "dataMin", max: "dataMax", minorTick: { show: true } }),
    yAxis: axis("log", "", { min: "dataMin", max: "dataMax", axisLabel: { color: soft(), formatter: (value) => number(value, 3) } }),
    series,
  };
}

function barOptions(names, series, name, percentages) {
  return {
    legend: series.length > 1 ? {} : null,
    tooltip: { trigger: "item", formatter: ({ seriesName, name: row, value }) =>
      `${row}\n${seriesName}: ${percentages ? percent(value) : number(value)}` },
    grid: { left: 8, right: 50, top: series.length > 1 ? 40 : 8, bottom: 40, containLabel: true },
    xAxis: xAxis("value", name, { min: 0, ...(percentages ? { max: 1, splitNumber: narrow() ? 2 : 5, axisLabel: { color: soft(), formatter: (value) => `${100 * value} %` } } : { minInterval: 1 }) }),
    yAxis: axis("category", "", { data: names, inverse: true, axisLabel: { color: ink(), width: narrow() ? 110 : 260, overflow: "break", lineHeight: 14, interval: 0 } }),
    series: series.map((each, index) => ({ type: "bar", barGap: 0, label: percentages ? { show: false } : { show: true, position: "right", color: ink() },
      itemStyle: index ? { color: GREY } : {}, ...each })),
  };
}

const funnelOptions = ({ funnel: { stages } }) => stages[0].count === 0 ? null : barOptions(
  stages.map(({ name }) => name), [{ name: "candidates", data: stages.map(({ count }) => count) }], "candidates", false);

function elementsOptions({ elements }) {
  const share = (row) => Math.abs(row.best / elements.best - row.all / elements.all);
  const rows = [...elements.rows].sort((a, b) => share(b) - share(a)).slice(0, 16);
  if (!rows.length) return null;
  return barOptions(rows.map(({ kind, name }) => kind === "terminal" ? name : `${name}()`), [
    { name: "best tenth", data: rows.map((row) => row.best / elements.best) },
    { name: "all", data: rows.map((row) => row.all / elements.all) },
  ], "share of candidates", true);
}

function heatOptions(kinds, values, { shades, low, high, show }) {
  const data = values.flatMap((line, y) => line.map((value, x) => [x, y, value]).filter((cell) => cell[2] !== null));
  return {
    tooltip: { trigger: "item", formatter: ({ value }) => `${kinds[value[1]]}, block ${value[0]}\n${show(value[2])}` },
    grid: { left: 8, right: 12, top: 8, bottom: 80, containLabel: true },
    xAxis: xAxis("category", "block", { data: values[0].map((_, index) => index), splitLine: { show: false } }),
    yAxis: axis("category", "", { data: kinds, inverse: true, axisLabel: { color: ink(), interval: 0 } }),
    visualMap: { min: low, max: high, calculable: false, orient: "horizontal", left: "center", bottom: 0, itemWidth: 14, itemHeight: 140,
      text: [show(high), show(low)], textStyle: { color: ink() }, inRange: { color: shades } },
    series: [{ type: "heatmap", data, itemStyle: { borderColor: rule(), borderWidth: 0.5 } }],
  };
}

function allocationOptions({ winner }) {
  const map = winner?.allocation;
  if (!map) return null;
  const all = map.values.flat().filter((value) => value !== null);
  if (map.exact) return heatOptions(map.kinds, map.values, { shades: SEQUENTIAL, low: Math.min(...all), high: Math.max(...all), show: percent });
  // A curve of few points is drawn at as many depths as the longest has.
  const length = Math.max(...map.values.map((line) => line.length));
  const stretch = (line) => Array.from({ length }, (_, index) => {
    const at = (index / Math.max(1, length - 1)) * (line.length - 1);
    const left = Math.floor(at), right = Math.min(left + 1, line.length - 1);
    return line[left] + (at - left) * (line[right] - line[left]);
  });
  const most = Math.max(...all.map(Math.abs)) || 0.01;
  return heatOptions(map.kinds, map.values.map(stretch), { shades: DIVERGING, low: -most, high: most, show: (value) => percent(value, true) });
}

function overlapOptions(masks) {
  const found = masks?.overlap.find((each) => each.candidate === masks.candidate);
  if (!found) return null;
  const all = found.values.flat().filter((value) => value !== null);
  return heatOptions(found.kinds, found.values, { shades: SEQUENTIAL, low: Math.min(...all), high: 1, show: percent });
}

function pictureOptions(values, shown) {
  const names = values[0].map((_, index) => index);
  return {
    tooltip: { trigger: "item", formatter: ({ value }) => `output ${value[1]}, input ${value[0]}\n${shown(value[2])}` },
    grid: { left: 4, right: 4, top: 4, bottom: 4 },
    xAxis: { type: "category", data: names, show: false },
    yAxis: { type: "category", data: values.map((_, index) => index), inverse: true, show: false },
    visualMap: { min: 0, max: 1, show: false, inRange: { color: dark.matches ? ["#12161b", "#56b4e9"] : ["#ffffff", "#0b3d66"] } },
    series: [{ type: "heatmap", data: values.flatMap((line, y) => line.map((value, x) => [x, y, value])) }],
  };
}

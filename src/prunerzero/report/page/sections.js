// The page's sections. A part without data says so in a line.

function showResult({ heldout, overview }) {
  byId("command").textContent = overview.command;
  if (!heldout) {
    fill("heldout", note("Not closed yet: held-out text is read once, when the search ends."));
    return;
  }
  const change = (row) => row.change === null ? "" : element("span", { class: row.high < 0 ? "better" : row.low > 0 ? "worse" : null },
    `${percent(row.change, true)} (${percent(row.low, true)} to ${percent(row.high, true)})`);
  const rows = heldout.rows.map((row) => Object.assign(
    [row.candidate ? candidateButton(row.candidate, row.name) : row.name, row.role, number(row.perplexity, 5), change(row)],
    { chosen: row.role === "winner" }));
  fill("heldout",
    element("p", { class: "verdict" }, heldout.verdict),
    element("div", { class: "scroll" }, table(
      [{ title: "model" }, { title: "role" }, { title: "perplexity", number: true }, { title: "winner against it (95 %)", number: true }], rows,
      `${heldout.windows} windows, ${number(heldout.tokens)} tokens of held-out text, read ${heldout.readings === 1 ? "once" : `${heldout.readings} times`}`)));
}

function showProgress(study) {
  const { candidates } = study;
  byId("measure").textContent = `${study.measure.name}; lower is better. ${study.measure.explanation}`;
  draw("chart-time", `${study.measure.name}, best so far against search time in seconds`,
    () => progressOptions(study, "search time, s", (index) => candidates.at[index], "at"));
  draw("chart-candidates", `${study.measure.name}, best so far against the number of candidates`,
    () => progressOptions(study, "candidates", (index) => index + 1, "index"));
  const notes = [];
  if (!study.best.length) notes.push(note("Nothing has been measured yet."));
  if (!study.random) notes.push(note("No random search to compare with: give one with --random STUDY (prunerzero search --preset random)."));
  for (const name of ["wanda", "pruner-zero"]) {
    if (study.best.length && !study.references.some((line) => line.name === name)) notes.push(note(`No line for ${name}: this search has not measured it.`));
  }
  fill("progress-notes", ...notes);
}

function candidateButton(id, label = String(id)) {
  return element("button", { type: "button", click: () => showCandidate(id) }, label);
}

function showPopulation(study) {
  const { candidates } = study;
  const families = candidates.family.some((family) => family !== null);
  const count = candidates.value.filter((value) => value !== null).length;
  byId("population-note").textContent = `${number(count)} evaluated candidates. ` + (families
    ? "Colours are the mask families that prunerzero analyze found among those that it measured."
    : "Colours say how a candidate came about; prunerzero analyze finds mask families.");
  draw("chart-population", `Size against ${study.measure.name}, a point a candidate`, () => populationOptions(study),
    { click: ({ value }) => Array.isArray(value) && value[2] && showCandidate(value[2]) });
  fill("front", study.front.length ? table(
    [{ title: "candidate" }, { title: "size", number: true }, { title: "measure", number: true }, { title: "formula", code: true }],
    study.front.map(({ id, size, value, expression }) => [candidateButton(id), size, number(value), element("div", { class: "text", title: expression }, expression)]))
    : note("No candidate has been evaluated yet."));
  byId("number").max = Math.max(1, ...candidates.id.slice(-1));
}

function definitions(rows) {
  return element("dl", {}, ...rows.filter(([, value]) => value !== null && value !== "").flatMap(([name, value]) =>
    [element("dt", {}, name), element("dd", {}, value)]));
}

function detailView(detail, study) {
  const overlap = study.masks?.overlap.find((each) => each.candidate === detail.id);
  const relatives = detail.parents.length
    ? element("span", {}, ...detail.parents.flatMap(({ id, value }) => [candidateButton(id), ` ${number(value)} `])) : "none";
  const readings = detail.readings.map((reading) => [
    reading.purpose + (reading.purpose === "fitness" ? `, rung ${reading.rung}` : "") + (reading.audit ? " (audit)" : ""),
    number(reading.perplexity), number(reading.kl),
    reading.log_ratio === null ? "–" : `${number(reading.log_ratio, 3)} ± ${number(reading.standard_error, 2)}`,
    number(reading.tokens), reading.seconds.toFixed(1)]);
  const tree = element("div", { class: "chart", id: "chart-candidate" });
  return [
    element("h3", {}, `Candidate ${detail.id}`),
    definitions([
      ["status", detail.status], ["reason", detail.reason], ["measure", number(detail.value, 5)], ["size", detail.size],
      ["origin", `${detail.origin}, step ${detail.step}`], ["parents", relatives],
      ["group", detail.group], ["allocation", detail.allocation ? "curves" : "uniform"], ["update", detail.update],
      ["made", `${detail.created}, ${detail.seconds.toFixed(1)} s`],
    ]),
    formulaList(detail.formulas),
    element("figure", {}, element("figcaption", {}, "as a tree"), kindChoice(detail.formulas, "chart-candidate"), element("div", { class: "across" }, tree)),
    element("div", { class: "scroll" }, readings.length ? table(
      [{ title: "reading" }, ...["perplexity", "KL", "log ratio to the incumbent", "tokens", "seconds"].map((title) => ({ title, number: true }))],
      readings, "measurements") : note("No measurement.")),
    overlap ? element("div", { class: "scroll" }, table([{ title: "kind" }, ...overlap.values[0].map((_, block) => ({ title: String(block), number: true }))],
      overlap.kinds.map((kind, row) => [kind, ...overlap.values[row].map((value) => value === null ? "–" : (100 * value).toFixed(0))]),
      "weights treated as Wanda does, %, by block"))
      : note("Overlap with Wanda by block: made by prunerzero report --masks for the winner and the Pareto front."),
  ];
}

// Buttons, one a formula, that draw its tree.
function kindChoice(formulas, chart) {
  const drawable = formulas.filter(({ tree }) => tree.data !== undefined);
  if (drawable.length < 2) return element("div", { class: "choices" });
  const buttons = drawable.map((formula, index) => element("button", { type: "button", "aria-pressed": String(index === 0), click: (event) => {
    for (const button of buttons) button.setAttribute("aria-pressed", String(button === event.currentTarget));
    drawTree(chart, formula);
  } }, formula.kind));
  return element("div", { class: "choices" }, ...buttons);
}

function drawTree(chart, formula) {
  const drawable = formula?.tree.data !== undefined;
  byId(chart).style.minWidth = drawable ? treeWidth(formula.tree) : "";
  draw(chart, `Tree of ${formula?.text ?? "nothing"}`, () => drawable ? treeOptions(formula.tree) : null);
}

function showWinner(study) {
  const { winner, analysis, masks, heldout } = study;
  byId("winner-title").textContent = heldout ? "Winner" : "Best so far";
  if (!winner) {
    fill("winner-formulas", note("No candidate has been evaluated yet."));
    fill("winner-kinds");
  } else {
    fill("winner-formulas",
      element("p", {}, candidateButton(winner.id, `Candidate ${winner.id}`), ` ${number(winner.value)}, ${winner.size} nodes, group ${winner.group}`),
      formulaList(winner.formulas));
    byId("winner-kinds").replaceChildren(...kindChoice(winner.formulas, "chart-tree").childNodes);
  }
  drawTree("chart-tree", winner?.formulas[0]);
  byId("winner-tree-caption").textContent = "formula as a tree" + (analysis?.ablation.length
    ? "; under a node, what perplexity does without it, as prunerzero analyze measured on the best recipe by fitness" : "");
  fill("ablation", analysis?.ablation.length ? table(
    [{ title: "edit of the best recipe" }, { title: "in" }, { title: "change of perplexity (95 %)", number: true }],
    analysis.ablation.map(({ edit, kinds, change, low, high }) => [edit, kinds.join(", ") || "all",
      `${percent(change, true)} (${percent(low, true)} to ${percent(high, true)})`]))
    : note("Not measured: prunerzero analyze STUDY edits each part out of the best recipe and measures what that costs."));
  const exact = winner?.allocation?.exact;
  byId("allocation-caption").textContent = exact ? "sparsity of each matrix, over depth and kind"
    : "allocation over depth and kind: offsets from the pattern's sparsity, before they are shifted to the same total";
  draw("chart-allocation", "Allocation over depth and kind of matrix", () => allocationOptions(study));
  const lines = [];
  if (winner && !winner.allocation) lines.push("Allocation: uniform, every matrix has the pattern's sparsity.");
  lines.push(masks ? `Candidate ${masks.candidate}, ${masks.picture.matrix}: the first ${masks.picture.rows} of ${masks.picture.of_rows} outputs (down) and ${masks.picture.columns} of ${masks.picture.of_columns} inputs (across).`
    : "No pictures of masks: prunerzero report --masks loads the model and makes them.");
  byId("masks-note").textContent = lines.join(" ");
  byId("masks").hidden = !masks;
  const kept = (value) => value ? "kept" : "pruned";
  draw("chart-dense", "Dense weights", () => masks && pictureOptions(masks.picture.weights, (value) => `|W| ${value} of the largest here`));
  draw("chart-winner-mask", "Weights kept by the winner", () => masks && pictureOptions(masks.picture.winner, kept));
  draw("chart-wanda-mask", "Weights kept by Wanda", () => masks && pictureOptions(masks.picture.wanda, kept));
  draw("chart-overlap", "Share of weights that the winner and Wanda treat alike", () => overlapOptions(masks));
}

function showFunnel(study) {
  const { funnel } = study;
  draw("chart-funnel", "Number of candidates at each stage", () => funnelOptions(study));
  const [proposed, fresh] = funnel.stages;
  const lines = [`${number(proposed.count - fresh.count)} duplicates avoided.`];
  for (const { rungs, tau, readings, audits } of funnel.agreement) {
    if (tau !== null) lines.push(`Rungs ${rungs[0]} and ${rungs[1]} agree with Kendall's tau ${tau.toFixed(2)} (${readings} candidates on both, ${audits} of them audits).`);
  }
  const audited = funnel.agreement.length ? funnel.agreement[0].audits : 0;
  if (funnel.top_lost !== null) lines.push(`Rung 0 alone would lose ${percent(funnel.top_lost)} of the best ten, by an estimate from ${number(audited)} audits.`);
  fill("agreement", ...lines.map(note));
  fill("failures", funnel.failures.length ? table([{ title: "status" }, { title: "reason" }, { title: "candidates", number: true }],
    funnel.failures.map(({ status, reason, count }) => [status, reason, number(count)])) : note("No candidate failed or was rejected."));
}

function showLessons(study) {
  const { analysis, elements } = study;
  byId("elements-caption").textContent = `operators and terminals: the best tenth (${elements.best}) against all ${number(elements.all)} evaluated candidates, those that differ most`;
  draw("chart-elements", "Share of candidates with each operator and terminal", () => elementsOptions(study));
  fill("enrichment", analysis?.enrichment.length ? table(
    [{ title: "feature" }, { title: "kind" }, ...["best", "all", "q"].map((title) => ({ title, number: true }))],
    analysis.enrichment.map((row) => [element("code", {}, row.name), row.kind, `${row.best_with} of ${row.best}`, `${row.all_with} of ${row.all}`, number(row.q, 2)]),
    "Fisher's exact test, q after Benjamini and Hochberg") : note("Not tested yet: prunerzero analyze STUDY does."));
  fill("principles", ...(analysis?.principles.length ? analysis.principles.map((each) => element("details", {},
    element("summary", {}, `${each.statement}: ${each.verdict} (confidence: ${each.confidence}, source: ${each.source})`),
    element("ul", {}, ...each.evidence.map((line) => element("li", {}, line))))) : [note("Not analysed yet: prunerzero analyze STUDY.")]));
}

function showEvaluations({ evaluations }) {
  if (!evaluations.length) {
    fill("evaluations", note("No evaluation was given: --evaluation FILE with what prunerzero evaluate MODEL --json printed (--tasks for zero-shot accuracy, --deep for texts side by side)."));
    return;
  }
  const models = evaluations.map(({ model }) => ({ title: model, number: true }));
  const matrix = (title, keys, value) => keys.length ? element("div", { class: "scroll" }, table([{ title }, ...models],
    keys.map((key) => [key, ...evaluations.map((each) => value(each, key))]))) : null;
  const texts = [...new Set(evaluations.flatMap((each) => Object.keys(each.perplexity)))];
  const name = ({ task, metric }) => `${task} (${metric})`;
  const tasks = [...new Set(evaluations.flatMap((each) => each.accuracies.map(name)))];
  const continuations = evaluations.flatMap((each) => each.continuations.map((found) => [each, found]));
  fill("evaluations", ...[
    matrix("perplexity", texts, (each, key) => number(each.perplexity[key], 5)),
    tasks.length ? matrix("zero-shot accuracy", tasks, (each, key) => percent(each.accuracies.find((one) => name(one) === key)?.value))
      : note("No zero-shot accuracy in these files."),
    ...continuations.flatMap(([{ model, against }, found]) => [
      element("h3", {}, `${found.source}: the first ${found.same_tokens} tokens the same`),
      element("div", { class: "beside" }, ...[["prompt", found.prompt], ["the text goes on", found.text], [against ?? "dense", found.dense], [model, found.model]]
        .map(([title, text]) => element("div", {}, element("h4", {}, title), text)))]),
  ].filter((part) => part !== null));
}

function showSettings({ overview }) {
  const text = (value) => typeof value === "string" ? value : JSON.stringify(value);
  fill("settings-table", table([{ title: "setting" }, { title: "value", code: true }], [
    ["state", overview.state], ["began", overview.began ?? "–"], ["search time", duration(overview.seconds)], ["sessions", String(overview.sessions)],
    ...Object.entries(overview.counts).map(([status, count]) => [`candidates ${status}`, number(count)]),
    ...Object.entries(overview.settings).map(([name, value]) => [name, text(value)]),
    ...Object.entries(overview.versions).map(([name, value]) => [`version of ${name}`, text(value)]),
  ]));
}

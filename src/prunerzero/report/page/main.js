// Where the data come from: this page itself, or the server that follows the study.

let study = null;
let shown = null; // number of the candidate in the details
const embedded = byId("document");

async function fetched(path) {
  const answer = await fetch(path, { credentials: "same-origin" });
  if (!answer.ok) throw new Error((await answer.json()).detail ?? answer.statusText);
  return answer.json();
}

// A report holds the details in compressed chunks, of which only those that are wanted are read.
const chunks = new Map();
async function chunkOf(id) {
  const details = JSON.parse(byId("details").textContent);
  const key = String(Math.floor(id / details.size));
  if (!(key in details.chunks)) return {};
  if (!chunks.has(key)) {
    const bytes = Uint8Array.from(atob(details.chunks[key]), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    chunks.set(key, await new Response(stream).json());
  }
  return chunks.get(key);
}

async function detailOf(id) {
  if (!embedded) return fetched(`api/candidates/${id}`);
  const found = (await chunkOf(id))[id];
  if (!found) throw new Error(`there is no candidate ${id}`);
  return found;
}

async function showCandidate(id, focus = true) {
  shown = id;
  byId("number").value = id;
  let parts;
  try {
    const detail = await detailOf(id);
    if (shown !== id) return;
    const old = document.getElementById("chart-candidate");
    if (old) echarts.getInstanceByDom(old)?.dispose();
    parts = detailView(detail, study);
    fill("detail", ...parts);
    drawTree("chart-candidate", detail.formulas[0]);
  } catch (error) {
    drawn.delete("chart-candidate");
    fill("detail", note(`Candidate ${id}: ${error.message}`));
  }
  if (focus) byId("detail").focus({ preventScroll: false });
}

function showState() {
  const { overview, notes } = study;
  const count = Object.values(overview.counts).reduce((sum, each) => sum + each, 0);
  byId("title").textContent = `${overview.name}: ${overview.settings.model ?? "?"} at ${overview.settings.pattern ?? "?"}`;
  byId("state").textContent = [`${overview.state}, ${number(count)} candidates in ${duration(overview.seconds)} of search`, ...notes].join(". ");
}

function show(found) {
  // New tables take the place of the old: who was on a button stays on the one at its place.
  const active = document.activeElement;
  const holder = active?.tagName === "BUTTON" ? active.closest("[id]:not(button)") : null;
  const at = holder ? [...holder.querySelectorAll("button")].indexOf(active) : -1;
  study = found;
  for (const part of [showState, showResult, showProgress, showPopulation, showWinner, showFunnel, showLessons, showEvaluations, showSettings]) part(study);
  if (shown === null && study.winner) showCandidate(study.winner.id, false);
  if (holder && document.activeElement !== active) holder.querySelectorAll("button")[at]?.focus({ preventScroll: true });
}

async function follow() {
  // Events that come while the document is on its way ask for one more.
  let wanted = false, busy = false;
  const refresh = async () => {
    wanted = true;
    if (busy) return;
    busy = true;
    try {
      while (wanted) {
        wanted = false;
        show(await fetched("api/document"));
      }
    } catch (error) {
      byId("state").textContent = `The dashboard does not answer: ${error.message}`;
    } finally {
      busy = false;
    }
  };
  const events = new EventSource("api/events");
  events.addEventListener("study", refresh);
  events.addEventListener("fault", (event) => { byId("state").textContent = JSON.parse(event.data).message; });
  events.addEventListener("error", () => { byId("state").textContent = "Not connected to the dashboard; trying again."; });
}

function step(by) {
  if (!study?.candidates.id.length) return;
  const ids = study.candidates.id;
  const at = ids.indexOf(shown ?? study.winner?.id ?? ids[0]);
  showCandidate(ids[Math.min(ids.length - 1, Math.max(0, at + by))], false);
}
byId("choose").addEventListener("submit", (event) => {
  event.preventDefault();
  showCandidate(Number(byId("number").value));
});
byId("previous").addEventListener("click", () => step(-1));
byId("next").addEventListener("click", () => step(1));
byId("copy").addEventListener("click", async () => {
  const range = document.createRange();
  range.selectNodeContents(byId("command"));
  getSelection().removeAllRanges();
  getSelection().addRange(range);
  try {
    await navigator.clipboard.writeText(byId("command").textContent);
    byId("copy").textContent = "Copied";
  } catch {
    byId("copy").textContent = "Selected";
  }
});

if (embedded) show(JSON.parse(embedded.textContent));
else follow();

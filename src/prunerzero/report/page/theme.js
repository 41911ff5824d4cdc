// The charts' looks, in both colour schemes, and their life: made once, redrawn when data,
// scheme or width change.

const dark = window.matchMedia("(prefers-color-scheme: dark)");
const calm = window.matchMedia("(prefers-reduced-motion: reduce)");

// Okabe and Ito's colours, told apart with every common kind of colour vision; symbols differ too.
const SYMBOLS = ["circle", "triangle", "diamond", "rect", "pin", "roundRect", "arrow"];
const GREY = "#8c959f";
const colours = () => dark.matches
  ? ["#56b4e9", "#e69f00", "#2fc79b", "#f0795b", "#f0e442", "#dd9cc0", "#a9b7ff"]
  : ["#0072b2", "#d98200", "#00805f", "#c24a00", "#8a7a00", "#b04d85", "#3b4cc0"];
const SEQUENTIAL = ["#440154", "#3b528b", "#21918c", "#5ec962", "#fde725"]; // viridis
const DIVERGING = ["#2166ac", "#92c5de", "#f7f7f7", "#f4a582", "#b2182b"];
const ink = () => getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
const soft = () => getComputedStyle(document.documentElement).getPropertyValue("--soft").trim();
const rule = () => getComputedStyle(document.documentElement).getPropertyValue("--line").trim();

const drawn = new Map(); // id of the element -> {make, label}

// `make` gives the chart's own options; none (null) hides the chart.
function draw(id, label, make, events = {}) {
  const place = byId(id);
  const figure = place.closest("figure");
  drawn.set(id, { make, label });
  const own = make();
  figure.hidden = own === null;
  if (own === null) return;
  let chart = echarts.getInstanceByDom(place);
  if (!chart) {
    chart = echarts.init(place, null, { renderer: "canvas" });
    for (const [name, handler] of Object.entries(events)) chart.on(name, handler);
    new ResizeObserver(() => chart.resize()).observe(place);
  }
  place.setAttribute("role", "img");
  place.setAttribute("aria-label", label);
  chart.setOption({
    animation: false,
    backgroundColor: "transparent",
    color: colours(),
    textStyle: { color: ink(), fontFamily: getComputedStyle(document.body).fontFamily },
    ...own,
    // Text, not markup: what is from the study is never parsed, and no style attribute is needed.
    tooltip: own.tooltip ? {
      renderMode: "richText", confine: true, backgroundColor: dark.matches ? "#2a323b" : "#ffffff",
      borderColor: rule(), textStyle: { color: ink(), fontSize: 13 }, ...own.tooltip,
    } : { show: false },
    legend: own.legend ? { type: "scroll", top: 0, textStyle: { color: ink() },
      pageTextStyle: { color: ink() }, pageIconColor: ink(), ...own.legend } : { show: false },
  }, { notMerge: true });
}

function redraw() {
  for (const [id, { make, label }] of drawn) draw(id, label, make);
}
dark.addEventListener("change", redraw);

const narrow = () => window.innerWidth < 600;

function axis(kind, name, more = {}) {
  return { type: kind, name, nameTextStyle: { color: soft() }, axisLabel: { color: soft(), hideOverlap: true },
    axisLine: { lineStyle: { color: rule() } }, splitLine: { lineStyle: { color: rule(), opacity: 0.6 } }, ...more };
}

function xAxis(kind, name, more = {}) {
  return axis(kind, name, { nameLocation: "middle", nameGap: 28, ...more });
}

// Making elements. Everything from the study enters the page as text, never as markup.

const byId = (id) => document.getElementById(id);

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null).map((child) =>
    child instanceof Node ? child : String(child)));
  return made;
}

const note = (text) => element("p", { class: "note" }, text);

function fill(id, ...children) {
  byId(id).replaceChildren(...children);
}

// Columns: {title, number, code}. Rows: arrays of cells (text, number or element), may have `chosen`.
function table(columns, rows, caption = null) {
  const kind = (column) => (column.number ? "number" : column.code ? "code" : null);
  return element("table", {},
    caption === null ? null : element("caption", {}, caption),
    element("thead", {}, element("tr", {},
      ...columns.map((column) => element("th", { scope: "col", class: kind(column) }, column.title)))),
    element("tbody", {},
      ...rows.map((row) => element("tr", { class: row.chosen ? "chosen" : null },
        ...row.map((cell, index) => element("td", { class: kind(columns[index]) }, cell ?? ""))))));
}

function number(value, digits = 4) {
  if (value === null || value === undefined) return "–";
  if (Number.isInteger(value)) return value.toLocaleString("en");
  return Math.abs(value) >= 1e5 || Math.abs(value) < 1e-4
    ? value.toExponential(digits - 2) : String(Number(value.toPrecision(digits)));
}

function percent(value, signed = false) {
  if (value === null || value === undefined) return "–";
  const text = `${(100 * value).toFixed(1)} %`;
  return signed && value > 0 ? `+${text}` : text.replace("-", "−");
}

function duration(seconds) {
  if (seconds < 90) return `${seconds.toFixed(0)} s`;
  if (seconds < 5400) return `${(seconds / 60).toFixed(1)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

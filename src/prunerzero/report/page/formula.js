// Formulas from their JSON trees (`{"data": "mul", "left": ..., "right": ...}`): typeset, or as a tree.

const MATHML = "http://www.w3.org/1998/Math/MathML";
const SUM = 1, PRODUCT = 2, UNARY = 3, POWER = 4, ATOM = 5;
const SIGNS = { add: "+", sub: "−", mul: "·", ratio: "/", power: "^", div: "÷‖·‖" };

function math(tag, ...children) {
  const made = document.createElementNS(MATHML, tag);
  made.append(...children);
  return made;
}

function typeset(tree) {
  const root = math("math", mathOf(tree)[0]);
  root.setAttribute("displaystyle", "true");
  return root;
}

const wrapped = (tree, needed) => {
  const [node, binds] = mathOf(tree);
  return binds >= needed ? node : fenced("(", node, ")");
};
const fenced = (open, node, close) => math("mrow", math("mo", open), node, math("mo", close));
const infix = (left, sign, right) => math("mrow", left, math("mo", sign), right);

// The MathML of a tree, and how tightly its outermost operation binds.
function mathOf({ data, left, right }) {
  if (typeof data === "number") {
    return [math("mn", String(data).replace("-", "−")), data < 0 ? UNARY : ATOM];
  }
  if (!left) return [math("mi", data), ATOM];
  switch (data) {
    case "add": return [infix(wrapped(left, SUM), "+", wrapped(right, SUM)), SUM];
    case "sub": return [infix(wrapped(left, SUM), "−", wrapped(right, PRODUCT)), SUM];
    case "mul": return [infix(wrapped(left, PRODUCT), "·", wrapped(right, UNARY)), PRODUCT];
    case "ratio": return [math("mfrac", mathOf(left)[0], mathOf(right)[0]), ATOM];
    case "div": return [math("mfrac", mathOf(left)[0],
      math("msub", fenced("‖", mathOf(right)[0], "‖"), math("mi", "F"))), ATOM];
    case "power": {
      const plain = left.left === undefined && typeof left.data === "string";
      const base = plain ? mathOf(left)[0] : fenced("|", mathOf(left)[0], "|");
      return [math("msup", base, mathOf(right)[0]), POWER];
    }
    case "sqr": case "pow": return [math("msup", wrapped(left, ATOM), math("mn", "2")), POWER];
    case "sqrt": return [math("msqrt", mathOf(left)[0]), ATOM];
    case "abs": return [fenced("|", mathOf(left)[0], "|"), ATOM];
    case "exp": return [math("msup", math("mi", "e"), mathOf(left)[0]), POWER];
    case "neg": return [math("mrow", math("mo", "−"), wrapped(left, POWER)), UNARY];
    case "skp": return mathOf(left);
    default: {
      const inner = right ? infix(mathOf(left)[0], ",", mathOf(right)[0]) : mathOf(left)[0];
      return [math("mrow", math("mi", data), fenced("(", inner, ")")), ATOM];
    }
  }
}

function nodesOf({ data, left, right, cost }) {
  // A constant exponent is part of its operator's label: as a leaf it would only take room.
  const folded = data === "power" && typeof right.data === "number";
  const label = folded ? `^${right.data}` : typeof data === "number" ? String(data) : left ? SIGNS[data] ?? data : data;
  const kind = typeof data === "number" ? "constant" : left ? "operator" : "terminal";
  const measured = cost !== undefined;
  const round = kind === "operator" && label.length < 3 && !measured;
  const shades = { terminal: ["#cfe8cf", "#1d4d38"], constant: ["#f2e6c9", "#57471c"], operator: ["#cfdff2", "#1f4468"] };
  return {
    name: label, value: kind, cost,
    symbol: round ? "circle" : "roundRect",
    symbolSize: round ? 26 : [Math.max(measured ? 58 : 30, 7.5 * label.length + 12), measured ? 38 : 24],
    // What is worth most has the thickest border; the number says it too.
    itemStyle: { color: shades[kind][dark.matches ? 1 : 0], borderColor: measured ? ink() : soft(),
      borderWidth: measured ? 1 + 4 * Math.min(1, Math.max(0, cost)) : 1 },
    children: [left, folded ? null : right].filter(Boolean).map(nodesOf),
  };
}

const leavesOf = (node) => node.children.length ? node.children.reduce((sum, child) => sum + leavesOf(child), 0) : 1;

function treeOptions(tree) {
  return {
    series: [{
      type: "tree", data: [nodesOf(tree)], orient: "TB", expandAndCollapse: false, roam: false,
      initialTreeDepth: -1, left: 30, right: 30, top: 22, bottom: 22,
      label: { position: "inside", color: ink(), fontSize: 12, formatter: ({ name, data }) => data.cost === undefined ? name : `${name}\n${percent(data.cost, true)}` },
      lineStyle: { color: GREY, curveness: 0 }, edgeShape: "polyline", emphasis: { disabled: true },
    }],
  };
}

// Leaves are side by side; so many of them may need more room than there is, and then scroll.
const treeWidth = (tree) => `${60 * leavesOf(nodesOf(tree)) + 60}px`;

function formulaList(formulas) {
  return element("div", {}, ...formulas.map(({ kind, text, tree }) => element("div", { class: "formula" },
    kind ? element("strong", {}, `${kind}: `) : null,
    tree.data === undefined ? null : element("div", {}, typeset(tree)),
    element("code", {}, text))));
}

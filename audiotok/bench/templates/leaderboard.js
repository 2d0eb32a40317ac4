"use strict";
const { suites } = JSON.parse(document.getElementById("data").textContent);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];
const make = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};
const draw = (name, attributes = {}, ...children) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
};
const arrows = new Map([["higher", " ↑"], ["lower", " ↓"], ["neither", ""]]);
const short = (value) => (Math.abs(value) >= 10000 ? `${+(value / 1000).toPrecision(4)}k` : `${+value.toPrecision(4)}`);
const present = (value) => value !== null && value !== undefined;
const grouped = (values, key) => {
  const groups = new Map();
  for (const value of values) groups.set(key(value), [...(groups.get(key(value)) ?? []), value]);
  return [...groups];
};

// Tables: a click sorts by that column, a second one the other way. Numbers as numbers, what is missing last, equal rows as they were.
const content = (row, column) => row.cells[column].dataset.sort ?? row.cells[column].textContent.trim();
const order = (left, right) => {
  const numbers = [left, right].map(Number);
  return numbers.some(Number.isNaN) ? left.localeCompare(right, undefined, { numeric: true }) : numbers[0] - numbers[1];
};
for (const button of all(".sortable .sort")) {
  button.addEventListener("click", () => {
    const head = button.closest("th");
    const table = head.closest("table");
    const now = head.getAttribute("aria-sort");
    const next = now === "none" ? button.dataset.first : now === "ascending" ? "descending" : "ascending";
    all("thead th", table).forEach((other) => other.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", next);
    const column = head.cellIndex;
    const compare = (left, right) => {
      const [one, other] = [content(left, column), content(right, column)];
      if (one === "" || other === "") return (one === "") - (other === "");
      return (next === "ascending" ? 1 : -1) * order(one, other);
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  });
}

// Filters: whatever is of a hidden tokenizer, in tables, figures and players, is hidden.
const filters = document.getElementById("filters");
const [find, axis, references, explain, shown, chosen] = ["find", "axis", "references", "explain", "shown", "suite"].map((id) => document.getElementById(id));
const current = () => (chosen ? chosen.selectedIndex : 0);
const kept = (tokenizer) => {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  const text = [tokenizer.label, tokenizer.name, tokenizer.family ?? ""].join(" ").toLowerCase();
  const fits = all(".taxonomy", filters).every((select) => !select.value || tokenizer.taxonomy[select.id] === select.value);
  return words.every((word) => text.includes(word)) && fits && (references.checked || !tokenizer.reference);
};
const filter = () => {
  for (const place of all(".suite")) {
    const suite = suites[place.dataset.suite];
    const names = new Set(suite.tokenizers.filter(kept).map((tokenizer) => tokenizer.name));
    place.hidden = Number(place.dataset.suite) !== current();
    for (const part of all("[data-tokenizer]", place)) part.toggleAttribute("hidden", !names.has(part.dataset.tokenizer));
    for (const section of all("[data-axis]", place)) section.hidden = axis.value !== "" && section.dataset.axis !== axis.value;
    if (!place.hidden) shown.textContent = `${names.size} of ${suite.tokenizers.length} tokenizers`;
  }
  document.body.classList.toggle("explain", explain.checked);
};
filters.addEventListener("input", filter);
filters.addEventListener("submit", (event) => event.preventDefault());

// One voice at a time.
for (const audio of all("audio")) {
  audio.addEventListener("play", () => all("audio").filter((other) => other !== audio).forEach((other) => other.pause()));
}

// Where a number comes from.
const dialog = document.getElementById("provenance");
const table = (heads, rows) =>
  make(
    "table", {},
    make("thead", {}, make("tr", {}, ...heads.map((head) => make("th", { scope: "col" }, head)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map((value) => make("td", {}, value))))),
  );
const titled = (title, ...parts) => [make("h4", {}, title), ...parts];
const json = (value) => make("pre", { tabIndex: 0 }, JSON.stringify(value, null, 2));
const scaled = (score, value) => (present(value) ? (value * score.scale).toFixed(score.digits) : "–");

const summary = (score, cell) => {
  const unit = score.unit ? ` ${score.unit}` : "";
  const parts = [`${cell.text}${cell.spread ? ` ± ${cell.spread}` : ""}${unit} over ${cell.n} seed${cell.n === 1 ? "" : "s"}${cell.items ? ` and ${cell.items} items` : ""}`];
  if (cell.interval) parts.push(`95 % interval ${scaled(score, cell.interval[0])} to ${scaled(score, cell.interval[1])}`);
  if (cell.rank) parts.push(`rank ${cell.rank}`);
  if (present(score.chance)) parts.push(`chance ${scaled(score, score.chance)}`);
  const flags = cell.flags.map((flag) => make("p", { className: "failure" }, `${flag.kind}: ${flag.reason}`));
  const failures = Object.entries(cell.failures).map(([reason, count]) => make("p", { className: "failure" }, `${count} failed: ${reason}`));
  return [make("p", {}, `${parts.join("; ")}.`), ...flags, ...failures];
};

const seeds = (rows, score, cell) => {
  const heads = ["Seed", ...(cell ? ["Value"] : []), "Verdict", "Started", "Seconds"];
  const told = (row) => [`${row.seed}`, ...(cell ? [scaled(score, cell.values[row.seed])] : []), [row.verdict, row.reason].filter(Boolean).join(": "), row.started, row.seconds.toFixed(1)];
  return titled("Seeds", table(heads, rows.map(told)));
};

const against = (suite, score, tokenizer) => {
  const pairs = (suite.differences[score.key] ?? []).filter((pair) => [pair.left, pair.right].includes(tokenizer.name));
  if (!pairs.length) return [];
  const told = pairs.map(({ left, right, difference, signs }) => {
    const own = left === tokenizer.name;
    const ends = difference && (own ? [difference.low, difference.high] : [-difference.high, -difference.low]);
    const interval = difference ? `${scaled(score, own ? difference.estimate : -difference.estimate)} (${scaled(score, ends[0])} to ${scaled(score, ends[1])})` : "no interval";
    const items = signs ? `${own ? signs.left : signs.right} : ${own ? signs.right : signs.left}, ${signs.ties} tied, p ${signs.p.toPrecision(2)}` : "";
    return [own ? right : left, interval, difference ? `${difference.p.toPrecision(2)} (${difference.n} ${difference.over})` : "", items];
  });
  return titled("Paired differences from", table(["Tokenizer", "Difference, 95 % interval", "p", "Items better : worse (sign test)"], told));
};

const provenance = (suite, rows) => {
  const groups = grouped(rows, (row) => row.provenance);
  return groups.flatMap(([index, own]) => titled(`Provenance of seed ${own.map((row) => row.seed).join(", ")}`, json(suite.provenances[index])));
};

const open = (suite, button) => {
  const tokenizer = suite.tokenizers.find((one) => one.name === button.dataset.of);
  const { task, score: name } = button.dataset;
  const score = suite.scores.find((one) => one.task === task && one.name === name);
  const cell = score && suite.cells[score.key][tokenizer.name];
  const rows = suite.rows[tokenizer.name]?.[task] ?? [];
  const told = { fingerprint: tokenizer.fingerprint, spec: tokenizer.spec, bits_per_second: tokenizer.bits_per_second, settings: tokenizer.settings };
  document.getElementById("provenance-title").textContent = [tokenizer.label, task, score?.label].filter(Boolean).join(" · ");
  dialog.querySelector(".content").replaceChildren(
    ...(cell ? summary(score, cell) : []), ...seeds(rows, score, cell), ...(score ? against(suite, score, tokenizer) : []), ...provenance(suite, rows), ...titled("Tokenizer", json(told)),
  );
  dialog.showModal();
  dialog.scrollTop = 0;
};
for (const button of all(".value")) button.addEventListener("click", () => open(suites[button.closest(".suite").dataset.suite], button));
dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());

// Figures: lines of points within axes, drawn once for what is shown.
const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [340, 190, 46, 18, 8, 34];
const spread = (values) => {
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const margin = 0.05 * (high - low) || 0.5 * Math.abs(high) || 1;
  return [low - margin, high + margin];
};
const ticks = (low, high) => {
  const raw = (high - low) / 4 || 1;
  const scale = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * scale).find((size) => size >= raw * 0.999);
  const count = Math.floor(high / step) - Math.ceil(low / step) + 1;
  return Array.from({ length: count }, (_, index) => (Math.ceil(low / step) + index) * step);
};
const decades = (low, high) => {
  const found = [];
  for (let power = Math.floor(low); power <= high; power++) for (const factor of [1, 2, 5]) found.push(factor * 10 ** power);
  return found.filter((value) => Math.log10(value) >= low && Math.log10(value) <= high);
};

// lines: [{ colour, points: [{ x, y, text, name, tokenizer }] }]; across: { label, log }; names: write them beside the points
const chart = (title, lines, across, names = false) => {
  const points = lines.flatMap((line) => line.points);
  const along = (value) => (across.log ? Math.log10(value) : value);
  const [left, right] = spread(points.map((point) => along(point.x)));
  const [low, high] = spread(points.map((point) => point.y));
  const place = (point) => [LEFT + ((along(point.x) - left) / (right - left)) * (WIDTH - LEFT - RIGHT), TOP + ((high - point.y) / (high - low)) * (HEIGHT - TOP - BOTTOM)];
  const svg = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title} over ${across.label}` });
  for (const value of ticks(low, high)) {
    const y = place({ x: points[0].x, y: value })[1];
    svg.append(draw("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y, y2: y }), draw("text", { x: LEFT - 6, y: y + 3.5, "text-anchor": "end" }, short(value)));
  }
  for (const value of across.log ? decades(left, right) : ticks(left, right)) {
    svg.append(draw("text", { x: place({ x: value, y: low })[0], y: HEIGHT - BOTTOM + 13, "text-anchor": "middle" }, short(value)));
  }
  svg.append(draw("text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 5, "text-anchor": "middle" }, across.label));
  for (const line of lines) {
    const group = draw("g", { class: `c${line.colour}`, ...(line.tokenizer ? { "data-tokenizer": line.tokenizer } : {}) });
    if (line.points.length > 1) group.append(draw("polyline", { points: line.points.map((point) => place(point).map((at) => at.toFixed(1)).join(",")).join(" ") }));
    for (const point of line.points) {
      const [cx, cy] = place(point);
      const mark = draw("g", point.tokenizer ? { "data-tokenizer": point.tokenizer } : {}, draw("circle", { cx, cy, r: names ? 3 : 3.4 }, draw("title", {}, point.text)));
      const end = cx > WIDTH * 0.7;
      if (names) mark.append(draw("text", { class: "name", x: cx + (end ? -5 : 5), y: cy - 4, "text-anchor": end ? "end" : "start" }, point.name));
      group.append(mark);
    }
    svg.append(group);
  }
  return make("figure", { className: "panel" }, make("figcaption", {}, title), svg);
};

const headed = (score) => `${score.label}${score.unit ? ` (${score.unit})` : ""}${arrows.get(score.better)}`;
const value = (suite, score, tokenizer) => {
  const mean = score.key === "rate" ? tokenizer.bits_per_second : suite.cells[score.key]?.[tokenizer.name]?.mean;
  return present(mean) ? mean * score.scale : null;
};
const RATE = { key: "rate", task: "tokenizer", label: "Rate", unit: "bit/s", better: "neither", scale: 1, digits: 0 };
const scatter = (suite, x, y, tokenizers) =>
  tokenizers
    .map((tokenizer) => ({ x: value(suite, x, tokenizer), y: value(suite, y, tokenizer), name: tokenizer.label, tokenizer: tokenizer.name, of: tokenizer }))
    .filter((point) => present(point.x) && present(point.y))
    .map((point) => ({ ...point, text: `${point.name}: ${point.y.toFixed(y.digits)}${y.unit && ` ${y.unit}`} at ${point.x.toFixed(x.digits)}${x.unit && ` ${x.unit}`}` }));

const rates = (suite, place) => {
  for (const score of suite.scores.filter((one) => one.axis === "reconstruction" && one.shown && one.better !== "neither")) {
    const points = scatter(suite, RATE, score, suite.tokenizers).filter((point) => point.x > 0);
    if (points.length < 2) continue;
    const families = grouped(points, (point) => point.of.family ?? point.name);
    const lines = families.map(([, own]) => ({ colour: own[0].of.colour, points: own.sort((left, right) => left.x - right.x) }));
    place.querySelector(".panels.rates").append(chart(`${score.task}: ${headed(score)}`, lines, { label: "bit/s", log: true }));
    place.querySelector(".rates-title").hidden = false;
  }
};

const tradeoff = (suite, place) => {
  const choices = [RATE, ...suite.scores];
  const [across, up] = [".across", ".up"].map((selector) => place.querySelector(selector));
  for (const select of [across, up]) select.append(...choices.map((score, index) => make("option", { value: index }, `${score.task}: ${headed(score)}`)));
  up.value = String(Math.max(1, choices.findIndex((score) => score.primary)));
  const redraw = () => {
    const [x, y] = [choices[across.value], choices[up.value]];
    const points = y ? scatter(suite, x, y, suite.tokenizers) : [];
    const log = x.unit === "bit/s" && points.every((point) => point.x > 0);
    const drawn = points.length ? chart(headed(y), points.map((point) => ({ colour: point.of.colour, points: [point] })), { label: `${x.task}: ${headed(x)}`, log }, true) : make("p", { className: "note" }, "No tokenizer has both.");
    place.querySelector(".tradeoff").replaceChildren(drawn);
    filter();
  };
  for (const select of [across, up]) select.addEventListener("change", redraw);
  redraw();
};

const radars = (suite, place) => {
  const { axes, tokenizers } = suite.ranks;
  const count = Object.keys(tokenizers).length;
  if (axes.length < 3 || count < 2) return;
  const at = (index, radius) => {
    const angle = (2 * Math.PI * index) / axes.length - Math.PI / 2;
    return [130 + radius * Math.cos(angle), 95 + radius * Math.sin(angle)].map((place) => place.toFixed(1));
  };
  const ring = (radius) => axes.map((_, index) => at(index, radius).join(",")).join(" ");
  for (const [name, { means }] of Object.entries(tokenizers)) {
    const tokenizer = suite.tokenizers.find((one) => one.name === name);
    const sizes = axes.map((one) => (means[one] ? 1 - (means[one].mean - 1) / (count - 1) : 0));
    const told = axes.map((one) => `${one.replace("_", " ")} ${means[one] ? means[one].mean.toFixed(2) : "not ranked"}`).join(", ");
    const svg = draw("svg", { viewBox: "0 0 260 190", role: "img", "aria-label": `Mean ranks of ${tokenizer.label}: ${told}` }, draw("title", {}, told));
    for (const share of [0.5, 1]) svg.append(draw("polygon", { class: "grid", fill: "none", points: ring(65 * share) }));
    svg.append(draw("polygon", { class: "area", points: sizes.map((size, index) => at(index, 65 * size).join(",")).join(" ") }));
    axes.forEach((one, index) => {
      const [x, y] = at(index, 78);
      svg.append(draw("text", { x, y: Number(y) + 3, "text-anchor": Math.abs(x - 130) < 20 ? "middle" : x > 130 ? "start" : "end" }, one.replace("_", " ").replace("language model", "LM").replace("reconstruction", "reconstr.")));
      if (!means[one]) svg.append(draw("circle", { class: "missing", cx: at(index, 65)[0], cy: at(index, 65)[1], r: 3 }, draw("title", {}, "not ranked")));
    });
    const figure = make("figure", { className: `panel c${tokenizer.colour}` }, make("figcaption", {}, tokenizer.label), svg);
    figure.dataset.tokenizer = name;
    place.querySelector(".panels.radars").append(figure);
    place.querySelector(".radars-title").hidden = false;
  }
};

const curves = (suite, place) => {
  for (const [title, own] of grouped(suite.curves, (curve) => `${curve.task}: ${curve.name}`)) {
    const lines = own.map((curve) => {
      const tokenizer = suite.tokenizers.find((one) => one.name === curve.tokenizer);
      const points = curve.points.filter(([x, y]) => present(x) && present(y)).sort((left, right) => left[0] - right[0]);
      return { colour: tokenizer.colour, tokenizer: tokenizer.name, points: points.map(([x, y]) => ({ x, y, text: `${tokenizer.label}: ${short(y)} at ${short(x)}` })) };
    });
    const drawn = lines.filter((line) => line.points.length);
    if (!drawn.length) continue;
    place.querySelector(".panels.curves").append(chart(title, drawn, { label: "level", log: false }));
    place.querySelector(".curves-title").hidden = false;
  }
};

const heat = (suite, place) => {
  const grid = place.querySelector(".heat");
  if (!grid) return;
  const [coefficient, pointed] = [".coefficient", ".pointed"].map((selector) => place.querySelector(selector));
  const columns = [...new Set(suite.correlations.map((one) => one.right))].map((key) => suite.scores.find((score) => score.key === key));
  const rows = [...new Set(suite.correlations.map((one) => one.left))].map((key) => suite.scores.find((score) => score.key === key));
  const redraw = () => {
    const kind = coefficient.value;
    const cells = (row) =>
      columns.map((column) => {
        const found = suite.correlations.find((one) => one.left === row.key && one.right === column.key);
        if (!found) return make("td", {}, "");
        const text = `${row.task} ${row.label} with ${column.task} ${column.label}: ${kind} ${found[kind].toFixed(3)}, n ${found.n}, p ${found[`${kind}_p`].toPrecision(2)}`;
        const cell = make("td", { className: found[kind] < 0 ? "down" : "up", title: text, tabIndex: 0 }, found[kind].toFixed(2));
        cell.style.setProperty("--size", Math.abs(found[kind]).toFixed(2));
        for (const when of ["pointerenter", "focus"]) cell.addEventListener(when, () => { pointed.textContent = text; });
        return cell;
      });
    const named = (score, scope) => make("th", { scope }, headed(score), make("small", {}, score.task));
    grid.replaceChildren(
      make("thead", {}, make("tr", {}, make("td", {}), ...columns.map((column) => named(column, "col")))),
      make("tbody", {}, ...rows.map((row) => make("tr", {}, named(row, "row"), ...cells(row)))),
    );
  };
  coefficient.addEventListener("change", redraw);
  redraw();
};

for (const place of all(".suite")) {
  const suite = suites[place.dataset.suite];
  for (const part of [rates, radars, curves, heat, tradeoff]) part(suite, place);
}
filter();

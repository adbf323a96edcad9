"use strict";
// What a page does for its reader beyond what it says without a script. Values are read off the charts themselves: a
// group says which values its places are (report/plots/chart.py).

const SVG = "http://www.w3.org/2000/svg";

// ---------------------------------------------------------------- charts answer to the mouse, to touch, to the keyboard

function axisOf(text) {
  const [low, high, start, end] = text.split(" ").map(Number);
  return { low, high, start, end, isLog: text.endsWith("log") };
}

function valueAt(axis, place) {
  const share = (place - axis.start) / (axis.end - axis.start);
  const value = axis.low * (1 - share) + axis.high * share;
  return axis.isLog ? 2 ** value : value;
}

// As many digits as a chart's lines are drawn to: some thousandth of the axis.
function said(value, axis, shares) {
  const span = axis.isLog ? value : axis.high - axis.low;
  if (shares) return (100 * value).toFixed(Math.max(0, Math.min(3, 1 - Math.floor(Math.log10(100 * span) - 1)))) + "%";
  const largest = Math.max(Math.abs(axis.low), Math.abs(axis.high));
  if (largest >= 1e15 || (largest < 1e-3 && largest > 0)) return value.toPrecision(3);
  const digits = Math.max(0, Math.min(12, 3 - Math.floor(Math.log10(span))));
  return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });
}

function plotOf(group) {
  const lines = [...group.querySelectorAll("polyline.line")].map((line) => ({
    name: line.dataset.name,
    up: axisOf(line.dataset.up),
    told: line.dataset.told ? JSON.parse(line.dataset.told) : [],
    colour: () => getComputedStyle(line).stroke,
    points: line.getAttribute("points").trim().split(" ").map((point) => point.split(",").map(Number)),
  }));
  const marks = [];
  for (const line of lines) {
    const mark = document.createElementNS(SVG, "circle");
    mark.setAttribute("r", "3");
    mark.setAttribute("visibility", "hidden");
    group.append(mark);
    marks.push(mark);
  }
  return {
    label: group.dataset.label,
    across: axisOf(group.dataset.across),
    named: group.dataset.named ? JSON.parse(group.dataset.named) : [],
    shares: group.dataset.shares === "1",
    lines,
    marks,
  };
}

function nearest(points, x) {
  let low = 0, high = points.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (points[middle][0] < x) low = middle;
    else high = middle;
  }
  return x - points[low][0] <= points[high][0] - x ? points[low] : points[high];
}

function answering(chart) {
  const svg = chart.querySelector("svg");
  const plots = [...svg.querySelectorAll("g.plot")].map(plotOf).filter((plot) => plot.lines.length);
  if (!plots.length) return;
  const places = [...new Set(plots.flatMap((plot) => plot.lines.flatMap((line) => line.points.map(([x]) => x))))];
  places.sort((a, b) => a - b);
  const rule = document.createElementNS(SVG, "line");
  rule.setAttribute("class", "pointer");
  rule.setAttribute("visibility", "hidden");
  svg.append(rule);
  const words = document.createElement("div");
  words.className = "pointed";
  words.hidden = true;
  words.setAttribute("role", "status");
  chart.append(words);
  let at = -1;

  function show(number) {
    at = Math.max(0, Math.min(places.length - 1, number));
    const x = places[at];
    words.replaceChildren();
    const head = document.createElement("div");
    const { across, label, named } = plots[0];
    const whole = label === "step" || label === "epoch";
    const value = valueAt(across, x);
    const name = named.find(([place]) => Math.abs(place - x) < 0.05);
    const shown = whole ? Math.round(value).toLocaleString("en") : said(value, across, false);
    head.textContent = `${label} ${name ? name[1] : shown}`;
    words.append(head);
    for (const plot of plots)
      plot.lines.forEach((line, number) => {
        const point = nearest(line.points, x), [px, py] = point;
        const mark = plot.marks[number];
        // Lines that end earlier, or begin later, have nothing to say there.
        const near = Math.abs(px - x) < 4;
        mark.setAttribute("visibility", near ? "visible" : "hidden");
        if (!near) return;
        mark.setAttribute("cx", px);
        mark.setAttribute("cy", py);
        mark.style.fill = line.colour();
        const row = document.createElement("div");
        const dot = document.createElement("span");
        dot.textContent = "\u25cf ";
        dot.style.color = line.colour();
        const told = line.told[line.points.indexOf(point)];
        row.append(dot, `${line.name} ${told ?? said(valueAt(line.up, py), line.up, plot.shares)}`);
        words.append(row);
      });
    const tops = plots.flatMap((plot) => plot.lines.flatMap((line) => [line.up.start, line.up.end]));
    for (const [name, place] of [["x1", x], ["x2", x], ["y1", Math.min(...tops)], ["y2", Math.max(...tops)]])
      rule.setAttribute(name, place);
    rule.setAttribute("visibility", "visible");
    words.hidden = false;
    const box = svg.getBoundingClientRect(), own = chart.getBoundingClientRect();
    const left = box.left - own.left + (x / svg.viewBox.baseVal.width) * box.width;
    const fits = left + 12 + words.offsetWidth <= own.width;
    words.style.left = `${Math.max(0, fits ? left + 12 : left - 12 - words.offsetWidth)}px`;
    words.style.top = `${box.top - own.top + 0.16 * box.height}px`;
  }

  function hide() {
    words.hidden = true;
    rule.setAttribute("visibility", "hidden");
    for (const plot of plots) for (const mark of plot.marks) mark.setAttribute("visibility", "hidden");
  }

  function pointed(event) {
    const box = svg.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * svg.viewBox.baseVal.width;
    const place = nearest(places.map((one) => [one]), x)[0];
    show(places.indexOf(place));
  }

  svg.setAttribute("tabindex", "0");
  svg.addEventListener("pointermove", pointed);
  svg.addEventListener("pointerdown", pointed);
  svg.addEventListener("pointerleave", hide);
  svg.addEventListener("blur", hide);
  svg.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20 }[event.key];
    if (event.key === "Escape") return hide();
    if (event.key === "Home") show(0);
    else if (event.key === "End") show(places.length - 1);
    else if (step) show(at < 0 ? (step > 0 ? 0 : places.length - 1) : at + step);
    else return;
    event.preventDefault();
  });
}

// ---------------------------------------------------------------- pictures through training, one at a time

function sliding(group) {
  const frames = [...group.querySelectorAll("figure")].sort((a, b) => a.dataset.place - b.dataset.place);
  if (frames.length < 2) return;
  const slider = document.createElement("div");
  slider.className = "slider";
  const input = document.createElement("input");
  Object.assign(input, { type: "range", min: 0, max: frames.length - 1, step: 1, value: frames.length - 1 });
  input.setAttribute("aria-label", "Pictures through training");
  const output = document.createElement("output");
  slider.append(input, output);
  for (const frame of frames) frame.querySelector("figcaption").hidden = true;
  group.replaceChildren(slider, ...frames);
  function show() {
    frames.forEach((frame, number) => (frame.hidden = number !== Number(input.value)));
    output.textContent = frames[input.value].querySelector("figcaption").textContent;
    input.setAttribute("aria-valuetext", output.textContent);
  }
  input.addEventListener("input", show);
  show();
}

// ---------------------------------------------------------------- counts of a table lead to their images

function leading(part) {
  const links = [...part.querySelectorAll("a")], pairs = [...part.querySelectorAll(".pair")];
  const fold = part.querySelector("details");
  function choose(id, opens) {
    for (const pair of pairs) pair.hidden = pair.id !== id;
    for (const link of links) {
      const is = link.hash === `#${id}`;
      link.parentElement.classList.toggle("chosen", is);
      if (is) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
    if (opens) fold.open = true;
  }
  for (const link of links)
    link.addEventListener("click", (event) => {
      event.preventDefault();
      choose(link.hash.slice(1), true);
    });
  for (const image of part.querySelectorAll(".tiles img")) {
    image.tabIndex = 0;
    image.setAttribute("role", "button");
    const toggle = () => image.closest("figure").classList.toggle("large");
    image.addEventListener("click", toggle);
    image.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      toggle();
    });
  }
  choose(pairs[0].id, true);
  addEventListener("beforeprint", () => pairs.forEach((pair) => (pair.hidden = false)));
}

document.querySelectorAll(".mistakes").forEach(leading);
document.querySelectorAll(".chart").forEach(answering);
document.querySelectorAll(".slides").forEach(sliding);
// A page on paper shows all that a click would unfold.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));

// The page: what is chosen, what is asked of the model, and what of it is shown.

import { newest, Wrong } from "./asking.js";
import { Drawing } from "./drawing.js";
import { Occlusion } from "./occlusion.js";
import { Patches } from "./patches.js";

const $ = id => document.getElementById(id);
const state = { about: null, image: null, original: null, view: null, seed: 0, turn: 0, filled: null, attention: null };
const seen = new Drawing($("seen")), made = new Drawing($("made"));
const patches = new Patches($("patches"), () => { drawSeen(); return refresh(); }, () => { show("attention"); });
let answers = null, occlusion = null, playing = false;

const VIEWS = {
  pixels: { pasted: "pasted in", predicted: "reconstruction", error: "error map" },
  strokes: { predicted: "predicted edges", true: "true edges", error: "error map" },
  errors: { error: "error map" },
};
const TITLES = {
  pasted: "Reconstruction, pasted in", predicted: "Reconstruction alone", error: "Error of each hidden patch",
  true: "Its edges", original: "Original", attention: "Attention", occlusion: "What matters",
};
const NAMES = { random: "random", block: "blocks", grid: "a lattice", crop: "all but a window", uniform: "even spread" };

// ---------------------------------------------------------------- beginning

// source: where answers come from, such as server.js has it: about(), thumbnail(kind, number), sample(number),
// neighbour(number), open(file), mask(asked), fill(asked), attention(asked), says(asked), occlude(asked), nearest(asked).
export function start(source) {
  answers = source;
  return guarded(begin)();
}

async function begin() {
  const about = state.about = await busy(answers.about());
  document.title = `${about.model} · openmae demo`;
  $("model").textContent = about.model;
  $("described").textContent = about.described;
  say("missing", about.missing);
  say("limits", about.limits);
  // At least one patch hides, and one is left.
  Object.assign($("ratio"), { min: Math.ceil(100 / about.units), max: Math.floor(100 - 100 / about.units) });
  $("ratio").value = Math.round(100 * (about.ratio || 0.5));
  $("ratio-said").textContent = `${$("ratio").value}%`;
  $("layer-said").textContent = about.layers;
  $("mask").replaceChildren(...about.masks.map(name => option(name, NAMES[name] ?? name, name === about.mask)));
  $("layer").max = $("layer").value = about.layers;
  views({
    ...VIEWS[about.fills], original: "original", attention: "attention",
    ...(about.task ? { occlusion: "what matters" } : {}),
  });
  $("borrows").hidden = !about.borrows;
  for (const part of ["tools", "hiding"]) $(part).hidden = !about.fills && !about.task;
  document.body.style.setProperty("--aspect", about.size[1] / about.size[0]);
  for (const drawing of [seen, made]) drawing.size(about.size, about.grid);
  patches.lay(...about.grid);
  strip($("samples"), about.samples.map((name, number) => ({ name, number })), "sample");
  $("samples-said").textContent = about.samples_said;
  if (about.samples.length) await open(answers.sample(0));
}

function views(shown) {
  for (const [name, title] of Object.entries(shown)) {
    const label = document.createElement("label"), radio = document.createElement("input");
    Object.assign(radio, { type: "radio", name: "view", value: name });
    radio.addEventListener("change", () => show(name));
    label.append(radio, ` ${title}`);
    $("views").append(label);
  }
  state.view = Object.keys(shown)[0];
  $("views").querySelector("input").checked = true;
}

function option(value, text, selected) {
  return Object.assign(document.createElement("option"), { value, textContent: text, selected });
}

function strip(section, images, kind) {
  section.hidden = images.length === 0;
  section.querySelector(".strip").replaceChildren(...images.map(({ name, number, said }) => {
    const button = document.createElement("button"), picture = document.createElement("img");
    button.type = "button";
    Object.assign(picture, { src: answers.thumbnail(kind, number), alt: "", loading: "lazy" });
    const below = document.createElement("small");
    below.textContent = button.title = name;
    button.append(picture, below);
    if (said) button.append(Object.assign(document.createElement("small"), { textContent: said }));
    button.addEventListener("click", guarded(() => open(answers[kind](number))));
    return button;
  }));
}

// ---------------------------------------------------------------- an image

async function open(opened, name = "the image", others = "") {
  stop();
  tell(`Reading ${name} ...`);
  const turn = state.turn += 1;
  const found = await busy(opened);
  if (turn !== state.turn) return; // another one was opened since
  say("alarm", others); // here, not at the end: by then it may be another's
  Object.assign(state, { image: found.image, original: found.picture, filled: null, attention: null });
  occlusion = state.about.task ? new Occlusion(state.about.windows, found.image, answers.occlude) : null;
  $("notes").replaceChildren(...found.notes.map(note =>
    Object.assign(document.createElement("li"), { textContent: note })));
  $("seen-title").textContent = `${found.name}, masked`;
  for (const part of ["stage", "controls", "words"]) $(part).hidden = false;
  patches.choose(null);
  if (state.about.fills) await draw(); else patches.set([]);
  if (!state.about.fills && !state.about.task) show("attention");
  if (state.about.neighbours) await nearest();
}

async function nearest() {
  const image = state.image, { nearest: found } = await answers.nearest({ image });
  if (image !== state.image) return;
  $("nearest-said").textContent = state.about.neighbours;
  strip($("nearest"), found.map(one => ({ ...one, said: one.similarity.toFixed(3) })), "neighbour");
}

function take(files) {
  if (!files.length) return;
  const others = files.length > 1 ? `${files.length} files were dropped, and one is shown at a time: the first, ` +
    `${files[0].name}.` : "";
  return open(answers.open(files[0]), files[0].name, others);
}

// ---------------------------------------------------------------- what hides

const draw = newest(async () => {
  const ratio = $("ratio").value / 100;
  $("ratio-said").textContent = `${$("ratio").value}%`;
  const { hidden } = await answers.mask({ mask: $("mask").value, ratio, seed: state.seed });
  await patches.set(hidden);
});

async function play() {
  if (playing) return stop();
  playing = true;
  $("play").textContent = "Stop";
  const [least, most] = [$("ratio").min, $("ratio").max].map(Number), step = Math.max(1, (most - least) / 20);
  for (let ratio = least; ratio <= most && playing; ratio += step) {
    $("ratio").value = ratio;
    await Promise.all([draw(), new Promise(done => setTimeout(done, 200))]);
  }
  stop();
}

function stop() {
  playing = false;
  $("play").textContent = "Play over the ratio";
}

// ---------------------------------------------------------------- what the model makes of it

const refill = newest(async () => {
  const { image, about } = state, hidden = [...patches.hidden].sort((a, b) => a - b);
  if (about.task) says(await answers.says({ image, hidden }));
  if (about.fills) {
    if (hidden.length === 0 || hidden.length === patches.count) { state.filled = null; drawMade(); return; }
    const stats = $("visible-stats").checked ? "visible" : "true";
    const filled = await answers.fill({ image, hidden, patch_stats: stats });
    if (image !== state.image) return;
    state.filled = filled;
  }
  drawMade();
});

const refresh = () => guarded(refill)();

const look = newest(async () => {
  const patch = patches.look ?? patches.active, layer = Number($("layer").value);
  patches.choose(patch);
  state.attention = { patch, layer, ...await answers.attention({ image: state.image, patch, layer }) };
  drawMade();
});

function says({ says: found }) {
  $("says").hidden = false;
  const isValue = state.about.task === "regression";
  occlusion.of(found[0]);
  $("says").querySelector("ol").replaceChildren(...found.map(({ name, value }) => {
    const line = document.createElement("li"), bar = document.createElement("div"), part = document.createElement("i");
    bar.className = "bar";
    part.style.width = isValue ? "0" : `${100 * value}%`;
    bar.append(part);
    line.append(Object.assign(document.createElement("span"), { textContent: name }), bar,
      Object.assign(document.createElement("b"), { textContent: isValue ? value.toPrecision(4) : percent(value) }));
    return line;
  }));
}

// ---------------------------------------------------------------- what is shown

function show(view) {
  state.view = view;
  $("views").querySelector(`[value="${view}"]`).checked = true;
  const isLook = view === "attention";
  if (isLook || patches.tool === "look") tool(isLook ? "look" : "flip");
  $("layers").hidden = !isLook;
  if (!isLook) patches.choose(null);
  if (isLook) guarded(look)(); else drawMade();
  if (view === "occlusion") guarded(() => occlusion.find(drawMade))();
}

function tool(name) {
  patches.tool = name;
  $("tools").querySelector(`[value="${name}"]`).checked = true;
}

function drawSeen() {
  if (!state.original) return;
  seen.whole(state.original);
  seen.cover(patches.hidden);
  const hidden = patches.hidden.size;
  tell(`${hidden} of ${patches.count} patches hidden (${percent(hidden / patches.count)})`);
}

function drawMade() {
  if (!state.original) return;
  const { filled, view } = state;
  const legend = ["error", "attention", "occlusion"].includes(view) ? view : "";
  made.whole(state.original);
  $("made-title").textContent = TITLES[view];
  let said = { original: "The original." }[view], ends = null;
  if (view === "attention") [said, ends] = drawAttention();
  else if (view === "occlusion") [said, ends] = occlusion.draw(made);
  else if (view !== "original") [said, ends] = drawFilled(filled, view);
  $("made-said").textContent = said;
  $("legend").hidden = !ends;
  $("legend").className = legend;
  if (ends) [$("legend").firstElementChild.textContent, $("legend").lastElementChild.textContent] = ends;
}

function drawFilled(filled, view) {
  if (!filled) {
    return [patches.hidden.size ? "Everything is hidden: show a patch, so that the model sees something."
      : "Nothing is hidden: paint over the masked image.", null];
  }
  const { hidden, errors } = filled, most = Math.max(...errors, 1e-9);
  let ends = null;
  if (view === "true" || (view === "predicted" && state.about.fills === "strokes")) made.whole(filled[view]);
  else if (view === "predicted") { made.nothing(); made.parts(filled.predicted, hidden); }
  else if (view === "pasted") made.parts(filled.predicted, hidden);
  else { made.dim(0.6); made.heat(hidden, errors.map(error => error / most)); ends = ["error 0", most.toPrecision(3)]; }
  const took = filled.seconds < 0.1 ? "" : ` (${filled.seconds.toFixed(1)} s)`;
  return [`Error ${filled.error.toPrecision(3)}${took}. ${filled.caption}`, ends];
}

function drawAttention() {
  const found = state.attention;
  if (!found) return ["Choose a patch of the masked image: what does it attend to?", null];
  const most = Math.max(...found.weights);
  made.heat(found.weights.map((_, patch) => patch), found.weights.map(weight => weight / most), 0.7);
  const row = Math.floor(found.patch / patches.columns) + 1, column = found.patch % patches.columns + 1;
  return [`What the patch in row ${row}, column ${column} attends to in block ${found.layer}, nothing hidden: the mean ` +
    `over the heads. Class tokens get ${percent(found.classes)}.`, ["0", percent(most)]];
}

// ---------------------------------------------------------------- words

const percent = share => `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)}%`;
const tell = text => { $("status").textContent = text; };

export function say(id, text = "") {
  $(id).textContent = text;
  $(id).hidden = !text;
}

function guarded(made) {
  return async (...given) => {
    try {
      return await made(...given);
    } catch (error) {
      stop();
      say("alarm", error instanceof Wrong ? error.message : `This page has failed: ${error.message}`);
      tell("");
    }
  };
}

function busy(waited) {
  document.body.classList.add("busy");
  return waited.finally(() => document.body.classList.remove("busy"));
}

// ---------------------------------------------------------------- hands

$("file").addEventListener("change", guarded(async event => { await take(event.target.files); event.target.value = ""; }));
for (const kind of ["dragover", "dragleave", "drop"]) document.addEventListener(kind, guarded(async event => {
  event.preventDefault();
  document.body.classList.toggle("dropping", kind === "dragover");
  if (kind === "drop") await take(event.dataTransfer.files);
}));
$("tools").addEventListener("change", event => {
  tool(event.target.value);
  if (event.target.value === "look" && state.view !== "attention") show("attention");
});
$("mask").addEventListener("change", guarded(draw));
$("ratio").addEventListener("input", guarded(draw));
$("again").addEventListener("click", guarded(async () => { state.seed += 1; await draw(); }));
$("play").addEventListener("click", guarded(play));
$("clear").addEventListener("click", () => patches.set([]));
$("invert").addEventListener("click", () =>
  patches.set(Array.from({ length: patches.count }, (_, patch) => patch).filter(patch => !patches.hidden.has(patch))));
$("brush").addEventListener("change", event => { patches.brush = Number(event.target.value); });
$("visible-stats").addEventListener("change", refresh);
$("layer").addEventListener("input", () => { $("layer-said").textContent = $("layer").value; guarded(look)(); });

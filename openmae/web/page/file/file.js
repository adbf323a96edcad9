// The page as one file: answers come from a model that lies in it, and nothing is asked of anybody.

import { say, start } from "../demo.js";
import { loaded } from "../drawing.js";
import { drawMask } from "./masks.js";
import { openModel } from "./model.js";
import { read, readView } from "./reading.js";

const NARROW = 0.5, NOISE = 2.5 / 255, TAIL = 0.005; // as in openmae/report/sheets/pictures.py
const given = JSON.parse(document.getElementById("given").textContent);
const { about, captions, samples, channels, alpha, patch, unit, classes } = given;
const [height, width] = about.size, patches = about.grid[0] * about.grid[1];
let model = null;

const answers = {
  about: async () => about,
  thumbnail: (_, number) => samples[number],
  async sample(number) {
    return opened(about.samples[number], readView(await loaded(samples[number]), about.size, channels), []);
  },
  async open(file) {
    const { levels, notes } = await read(file, { size: about.size, patch, channels, alpha });
    return opened(file.name, levels, notes);
  },
  mask: async asked => ({ hidden: drawMask(asked, about.grid, unit) }),
  async fill({ image, hidden, patch_stats: stats }) {
    const started = performance.now(), { levels, range } = image, isHidden = new Set(hidden);
    const visible = Array.from({ length: patches }, (_, i) => i).filter(i => !isHidden.has(i));
    const found = await asked({ levels, visible, hidden, range, estimate: stats === "visible", asking: 0 });
    const error = found.errors.reduce((sum, one) => sum + one, 0) / hidden.length;
    return {
      predicted: drawn(found.picture), hidden, errors: found.errors, error,
      caption: [captions[stats], stretched(range)].filter(Boolean).join(" "),
      seconds: (performance.now() - started) / 1000,
    };
  },
  async attention({ image, patch: asking, layer }) {
    const { levels, range } = image, visible = Array.from({ length: patches }, (_, i) => i);
    const { attention, tokens } = await asked({ levels, visible, hidden: [0], range, estimate: false, asking });
    const row = [...attention.subarray((layer - 1) * tokens, layer * tokens)];
    return { weights: row.slice(classes), classes: row.slice(0, classes).reduce((sum, one) => sum + one, 0) };
  },
};

// The page stands before the model is there, which takes a while.
async function asked(given) {
  if (!model) say("made-said", "Reading the model ...");
  model ??= openModel();
  return (await model)({ ...given, shape: [channels, height, width] });
}

function opened(name, levels, notes) {
  const range = shownRange(levels), [low, high] = range;
  const shown = levels.map(level => Math.min(255, Math.max(0, Math.round((level / 255 - low) / (high - low) * 255))));
  return { image: { levels, range }, name, notes, picture: drawn(shown) };
}

// What is shown as black and as white: all, but of an image that uses less than half of the range.
function shownRange(levels) {
  const counts = new Array(256).fill(0), last = levels.length - 1;
  for (const level of levels) counts[level] += 1;
  const at = rank => { let level = 0; for (let seen = counts[0]; seen <= rank; seen += counts[++level]); return level / 255; };
  const [low, high] = [at(Math.round(TAIL * last)), at(Math.round((1 - TAIL) * last))];
  return high - low < NARROW && high - low > NOISE ? [low, high] : [0, 1];
}

function stretched([low, high]) {
  return high - low === 1 ? "" : "This image uses less than half of the range from black to white: here its contrast is " +
    `${(1 / (high - low)).toPrecision(2)} times what it is. Values outside its middle 99% are shown as black or white.`;
}

// (C, H, W) of 0 to 255 as a picture.
function drawn(levels) {
  const canvas = new OffscreenCanvas(width, height), to = canvas.getContext("2d"), picture = to.createImageData(width, height);
  for (let pixel = 0; pixel < height * width; pixel++) {
    for (let colour = 0; colour < 3; colour++) {
      picture.data[4 * pixel + colour] = levels[(channels === 3 ? colour : 0) * height * width + pixel];
    }
    picture.data[4 * pixel + 3] = 255;
  }
  to.putImageData(picture, 0, 0);
  return canvas;
}

start(answers);

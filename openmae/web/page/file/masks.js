// Which patches hide, as openmae/masking.py has it, from this page's own random numbers.

import { Wrong } from "../asking.js";

// -> the patches that hide, ascending. grid: rows and columns; unit: patches a side that hide together.
export function drawMask({ mask, ratio, seed }, grid, unit) {
  const coarse = grid.map(side => side / unit), units = coarse[0] * coarse[1];
  const visible = Math.floor(units * (1 - ratio) + 1e-9);
  if (visible <= 0 || visible >= units) throw new Wrong("This ratio leaves nothing visible or nothing hidden.");
  const shown = new Set(MASKS[mask](numbers(seed), coarse, visible).slice(0, visible)), hidden = [];
  for (let patch = 0; patch < grid[0] * grid[1]; patch++) {
    const row = Math.floor(patch / grid[1] / unit), column = Math.floor(patch % grid[1] / unit);
    if (!shown.has(row * coarse[1] + column)) hidden.push(patch);
  }
  return hidden;
}

const MASKS = { random, block, crop, grid: lattice, uniform };

// A function to the next number of 0 to below 1: mulberry32, public domain.
function numbers(seed) {
  let state = (seed + 0x9e3779b9) | 0;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

const between = (draw, least, most) => least + (most - least) * draw();
const below = (draw, end) => Math.floor(draw() * end);
const all = ([rows, columns]) => Array.from({ length: rows * columns }, (_, patch) => patch);
const sorted = (grid, key) => all(grid).sort((a, b) => key(a) - key(b) || a - b);

function random(draw, grid) {
  const order = all(grid);
  for (let last = order.length - 1; last > 0; last--) {
    const other = below(draw, last + 1);
    [order[last], order[other]] = [order[other], order[last]];
  }
  return order;
}

function block(draw, grid, visible) {
  const patches = grid[0] * grid[1], hidden = new Set(), smallest = patches * 16 / 196;
  for (let missing; (missing = patches - visible - hidden.size) > 0;) {
    const area = between(draw, Math.min(smallest, missing), missing);
    const fresh = place(draw, grid, sides(draw, grid, area)).filter(patch => !hidden.has(patch));
    if (draw() >= 0.5) fresh.reverse(); // cut at either end
    for (const patch of fresh.slice(0, missing)) hidden.add(patch);
  }
  return sorted(grid, patch => Number(hidden.has(patch)));
}

function crop(draw, grid, visible) {
  let area = visible, window = sides(draw, grid, area);
  while (window[0] * window[1] < visible) window = sides(draw, grid, area *= 1.1);
  for (const axis of [0, 1]) window[axis] = Math.ceil(visible * window[axis] / (window[0] * window[1]));
  const shown = Array.from({ length: window[0] * window[1] }, (_, i) => i < visible);
  const [upsideDown, mirrored] = [draw() < 0.5, draw() < 0.5];
  const found = new Set(place(draw, grid, window).filter((_, i) => {
    const row = Math.floor(i / window[1]), column = i % window[1];
    return shown[(upsideDown ? window[0] - 1 - row : row) * window[1] + (mirrored ? window[1] - 1 - column : column)];
  }));
  return sorted(grid, patch => Number(!found.has(patch)));
}

function lattice(draw, grid) {
  const code = interleaved(grid, true);
  return sorted(grid, patch => code[patch]);
}

function uniform(draw, grid, visible) {
  const code = interleaved(grid, false), curve = sorted(grid, patch => code[patch]);
  const edge = i => Math.round(i * curve.length / visible);
  const shown = new Set(Array.from({ length: visible }, (_, i) => curve[edge(i) + below(draw, edge(i + 1) - edge(i))]));
  return sorted(grid, patch => Number(!shown.has(patch)));
}

function sides(draw, grid, area) {
  const stretch = grid.map(() => between(draw, -1, 1) * 0.5 * Math.log(1 / 0.3));
  const mean = (stretch[0] + stretch[1]) / 2;
  return grid.map((side, axis) =>
    Math.min(side, Math.max(1, Math.ceil(Math.sqrt(area) * Math.exp(stretch[axis] - mean)))));
}

function place(draw, grid, window) {
  const [top, left] = grid.map((side, axis) => below(draw, side - window[axis] + 1));
  return Array.from({ length: window[0] * window[1] }, (_, i) =>
    (top + Math.floor(i / window[1])) * grid[1] + left + i % window[1]);
}

// The bits of each patch's row and column by turns: the Z-order curve, or with the bits reversed, ordered dithering.
function interleaved(grid, isReversed) {
  const bits = Math.max(1, Math.ceil(Math.log2(Math.max(...grid))));
  return all(grid).map(patch => [Math.floor(patch / grid[1]), patch % grid[1]].reduce((code, at, axis) => {
    for (let bit = 0; bit < bits; bit++) {
      code += ((at >> bit) & 1) * 2 ** ((isReversed ? bits - 1 - bit : bit) * 2 + axis);
    }
    return code;
  }, 0));
}

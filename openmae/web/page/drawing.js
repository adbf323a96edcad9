// What stands on the two canvases. Both have the model's own size in pixels; a picture is an ImageBitmap or a canvas.

const GREY = "#808080";
const RAMP = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]];

export async function loaded(address) {
  const picture = new Image();
  picture.src = address;
  await picture.decode();
  return picture;
}

export class Drawing {
  constructor(canvas) { this.canvas = canvas; this.to = canvas.getContext("2d"); }

  size([height, width], [rows, columns]) {
    Object.assign(this.canvas, { height, width });
    this.canvas.classList.toggle("coarse", Math.max(height, width) <= 128);
    Object.assign(this, { height, width, rows, columns, down: height / rows, across: width / columns });
  }

  box(patch) {
    return [patch % this.columns * this.across, Math.floor(patch / this.columns) * this.down, this.across, this.down];
  }

  whole(picture) {
    this.to.clearRect(0, 0, this.width, this.height);
    this.to.drawImage(picture, 0, 0, this.width, this.height);
  }

  nothing() { this.to.clearRect(0, 0, this.width, this.height); }

  cover(patches, colour = GREY) {
    this.to.fillStyle = colour;
    for (const patch of patches) this.to.fillRect(...this.box(patch));
  }

  dim(share) { this.to.fillStyle = `rgb(0 0 0 / ${share})`; this.to.fillRect(0, 0, this.width, this.height); }

  parts(picture, patches) {
    for (const patch of patches) this.to.drawImage(picture, ...this.box(patch), ...this.box(patch));
  }

  // values: of the patches, 0..1. share: of the picture that they cover.
  heat(patches, values, share = 1) {
    this.to.globalAlpha = share;
    patches.forEach((patch, i) => this.cover([patch], ramp(values[i])));
    this.to.globalAlpha = 1;
  }

  // A value of -1..1 of a set of patches: orange below 0, where what is said falls; blue above.
  change(patches, value) {
    const colour = value < 0 ? "255 122 0" : "43 108 255";
    this.cover(patches, `rgb(${colour} / ${(0.85 * Math.min(1, Math.abs(value))).toFixed(3)})`);
  }
}

function ramp(value) {
  const at = Math.min(0.9999, Math.max(0, value)) * (RAMP.length - 1), from = Math.floor(at);
  const mixed = RAMP[from].map((part, i) => Math.round(part + (RAMP[from + 1][i] - part) * (at - from)));
  return `rgb(${mixed.join(" ")})`;
}

// Where covering a part of an image changes most what a model says of it, found window by window.

const AT_ONCE = 8;

export class Occlusion {
  constructor(windows, image, occlude) { Object.assign(this, { windows, image, occlude, changes: [], top: null, busy: false }); }

  // What is said most of the image; the first that is heard is of all of it.
  of(top) { this.top ??= top; }

  async find(told) {
    if (this.busy || !this.top) return;
    this.busy = true;
    try {
      for (let first = this.changes.length; first < this.windows.length; first += AT_ONCE) {
        const asked = { image: this.image, output: this.top.output, first, last: first + AT_ONCE };
        this.changes.push(...(await this.occlude(asked)).changes);
        told();
      }
    } finally {
      this.busy = false;
    }
  }

  draw(drawing) {
    const most = Math.max(...this.changes.map(Math.abs), 1e-12);
    drawing.dim(0.25);
    this.changes.forEach((change, i) => drawing.change(this.windows[i], change / most));
    const { name } = this.top ?? { name: "" }, done = this.changes.length, all = this.windows.length;
    const so = done < all ? ` ${done} of ${all} are covered so far.` : "";
    const said = `Where covering a part changes most what the model says, ${name}: orange lowers it, blue raises it, ` +
      `by ${most.toPrecision(2)} at most. Each part is covered with the mean of the model's data, one after the other.${so}`;
    return [said, [`rises by ${most.toPrecision(2)}`, `falls by ${most.toPrecision(2)}`]];
  }
}

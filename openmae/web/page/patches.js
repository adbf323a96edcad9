// The patches of an image as a grid that mouse, touch and keyboard paint on.

export class Patches {
  // told: called after each change. chosen: called with a patch where the tool chooses one.
  constructor(place, told, chosen) {
    Object.assign(this, { place, told, chosen, hidden: new Set(), tool: "flip", brush: 1, active: 0, look: null });
    place.addEventListener("pointerdown", event => this.begin(event));
    place.addEventListener("pointermove", event => this.move(event));
    for (const end of ["pointerup", "pointercancel"]) place.addEventListener(end, () => { this.stroke = null; });
    place.addEventListener("keydown", event => this.key(event));
  }

  lay(rows, columns) {
    Object.assign(this, { rows, columns });
    this.place.style.gridTemplate = `repeat(${rows}, 1fr) / repeat(${columns}, 1fr)`;
    this.place.setAttribute("aria-rowcount", rows);
    this.place.setAttribute("aria-colcount", columns);
    this.place.classList.toggle("fine", Math.max(rows, columns) > 40);
    this.cells = [];
    this.place.replaceChildren(...Array.from({ length: rows }, (_, row) => {
      const line = document.createElement("div");
      line.setAttribute("role", "row");
      line.append(...Array.from({ length: columns }, (_, column) => this.cell(row, column)));
      return line;
    }));
    this.cells[0].tabIndex = 0;
  }

  cell(row, column) {
    const cell = document.createElement("div");
    cell.setAttribute("role", "gridcell");
    cell.setAttribute("aria-label", `row ${row + 1}, column ${column + 1}`);
    cell.setAttribute("aria-selected", "false");
    cell.tabIndex = -1;
    this.cells.push(cell);
    return cell;
  }

  get count() { return this.rows * this.columns; }

  set(patches) {
    this.hidden = new Set(patches);
    this.mark();
    return this.told();
  }

  mark() {
    this.cells.forEach((cell, patch) => {
      const said = this.hidden.has(patch) ? "true" : "false";
      if (cell.getAttribute("aria-selected") !== said) {
        cell.setAttribute("aria-selected", said);
        const place = `row ${Math.floor(patch / this.columns) + 1}, column ${patch % this.columns + 1}`;
        cell.setAttribute("aria-label", said === "true" ? `${place}, hidden` : place);
      }
    });
  }

  choose(patch) {
    this.cells[this.look]?.classList.remove("chosen");
    this.look = patch;
    if (patch !== null) this.cells[patch].classList.add("chosen");
  }

  at(event) {
    const box = this.place.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * this.columns, (event.clientY - box.top) / box.height * this.rows];
  }

  patchAt([x, y]) {
    const column = Math.min(this.columns - 1, Math.max(0, Math.floor(x)));
    return Math.min(this.rows - 1, Math.max(0, Math.floor(y))) * this.columns + column;
  }

  begin(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    const point = this.at(event), patch = this.patchAt(point);
    this.focus(patch);
    if (this.tool === "look") { this.choose(patch); this.chosen(patch); return; }
    this.place.setPointerCapture(event.pointerId);
    const hides = this.tool === "flip" ? !this.hidden.has(patch) : this.tool === "hide";
    this.stroke = { point, hides };
    this.paint([point], hides);
  }

  // Between two events a quick hand passes several patches.
  move(event) {
    if (!this.stroke) return;
    const [x, y] = this.at(event), [fromX, fromY] = this.stroke.point;
    const steps = Math.max(1, Math.ceil(2 * Math.max(Math.abs(x - fromX), Math.abs(y - fromY))));
    const points = Array.from({ length: steps }, (_, i) =>
      [fromX + (x - fromX) * (i + 1) / steps, fromY + (y - fromY) * (i + 1) / steps]);
    this.stroke.point = [x, y];
    this.paint(points.filter(([a, b]) => a >= 0 && b >= 0 && a < this.columns && b < this.rows), this.stroke.hides);
  }

  paint(points, hides) {
    const before = this.hidden.size;
    for (const point of points) for (const patch of this.under(this.patchAt(point))) {
      if (hides) this.hidden.add(patch); else this.hidden.delete(patch);
    }
    if (this.hidden.size !== before) { this.mark(); this.told(); }
  }

  under(patch) {
    const row = Math.floor(patch / this.columns), column = patch % this.columns, found = [];
    const first = -Math.floor((this.brush - 1) / 2);
    for (let down = first; down < first + this.brush; down++) for (let right = first; right < first + this.brush; right++) {
      const [r, c] = [row + down, column + right];
      if (r >= 0 && c >= 0 && r < this.rows && c < this.columns) found.push(r * this.columns + c);
    }
    return found;
  }

  focus(patch) {
    this.cells[this.active].tabIndex = -1;
    this.active = patch;
    this.cells[patch].tabIndex = 0;
    this.cells[patch].focus({ preventScroll: true });
  }

  key(event) {
    const row = Math.floor(this.active / this.columns), column = this.active % this.columns;
    const moves = {
      ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1],
      Home: [event.ctrlKey ? -row : 0, -column],
      End: [event.ctrlKey ? this.rows - 1 - row : 0, this.columns - 1 - column],
    };
    if (event.key === " " || event.key === "Enter") {
      event.preventDefault();
      if (this.tool === "look") { this.choose(this.active); this.chosen(this.active); return; }
      this.apply(this.active, this.tool === "flip" ? !this.hidden.has(this.active) : this.tool === "hide");
    } else if (moves[event.key]) {
      event.preventDefault();
      const is = this.hidden.has(this.active);
      const to = (n, most) => Math.min(most - 1, Math.max(0, n));
      const [down, right] = moves[event.key];
      this.focus(to(row + down, this.rows) * this.columns + to(column + right, this.columns));
      if (event.shiftKey && this.tool !== "look") this.apply(this.active, is);
    }
  }

  apply(patch, hides) {
    const point = [patch % this.columns + 0.5, Math.floor(patch / this.columns) + 0.5];
    this.paint([point], hides);
  }
}

// What goes wrong, in a sentence for whoever looks; and the newest of many wishes.

export class Wrong extends Error {}

// Calls `made` for the newest wish alone, one at a time: while one is answered, later ones take each other's place. Who
// wishes waits until all are answered.
export function newest(made) {
  let running = null, again = false;
  async function answer() {
    try {
      while (again) { again = false; await made(); }
    } finally {
      running = null;
    }
  }
  return function wish() {
    again = true;
    running ??= answer();
    return running;
  };
}

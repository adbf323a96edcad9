// What is asked of the server that gave this page, one sentence where it does not answer.

export const GONE =
  "The server has stopped: start openmae demo again, and open the address that it prints.";

export class Wrong extends Error {}

export async function ask(path, body) {
  const how = body === undefined ? {} : { method: "POST", body: body instanceof Blob ? body : JSON.stringify(body) };
  let answer;
  try {
    answer = await fetch(path, how);
  } catch {
    throw new Wrong(GONE);
  }
  let values;
  try {
    values = await answer.json();
  } catch {
    throw new Wrong(GONE);
  }
  if (!answer.ok) throw new Wrong(values.wrong ?? "This cannot be answered.");
  return values;
}

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

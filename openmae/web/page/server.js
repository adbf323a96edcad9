// The page whose answers come from the server that gave it, one sentence where it does not answer.

import { Wrong } from "./asking.js";
import { say, start } from "./demo.js";
import { loaded } from "./drawing.js";

const GONE = "The server has stopped: start openmae demo again, and open the address that it prints.";
const MOST_BYTES = 2 ** 29;

async function ask(path, body) {
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

const pictured = async found => ({ ...found, picture: await loaded(found.picture) });

const answers = {
  about: () => ask("about"),
  thumbnail: (kind, number) => `${kind}.png?number=${number}`,
  sample: async number => pictured(await ask(`sample?number=${number}`, {})),
  neighbour: async number => pictured(await ask(`neighbour?number=${number}`, {})),
  async open(file) {
    if (file.size > MOST_BYTES) throw new Wrong(`${file.name} is larger than 512 MB: make it smaller first.`);
    return pictured(await ask(`open?name=${encodeURIComponent(file.name)}`, file));
  },
  mask: ({ mask, ratio, seed }) => ask(`mask?mask=${mask}&ratio=${ratio}&seed=${seed}`),
  async fill(asked) {
    const filled = await ask("fill", asked);
    for (const name of ["predicted", "true"]) if (filled[name]) filled[name] = await loaded(filled[name]);
    return filled;
  },
  attention: asked => ask("attention", asked),
  says: asked => ask("says", asked),
  occlude: asked => ask("occlude", asked),
  nearest: asked => ask("nearest", asked),
};

async function isAlive() {
  if (document.hidden) return;
  const alarm = document.getElementById("alarm");
  try {
    await ask("alive");
    if (alarm.textContent === GONE) say("alarm", "");
  } catch {
    say("alarm", GONE);
  }
}

setInterval(isAlive, 4000);
start(answers);

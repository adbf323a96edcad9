// The model as an ONNX graph in onnxruntime-web (`ort`, which a script before this one has left), in this thread: pages
// from a disk may not share memory between several.

import { Wrong } from "../asking.js";

export async function openModel() {
  if (!globalThis.DecompressionStream) {
    throw new Wrong("This browser is too old for this page: take Chrome or Edge 97, Firefox 113, Safari 16.4 or newer.");
  }
  const [runtime, graph] = await Promise.all([unpacked("runtime"), unpacked("graph")]);
  Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary: runtime });
  const session = await ort.InferenceSession.create(graph, {
    executionProviders: ["wasm"], logSeverityLevel: 3, extra: { session: { disable_quant_qdq: "1" } },
  });
  return given => run(session, given);
}

// What the graph takes and gives: openmae/recipes/demo/graph.py.
async function run(session, { levels, shape, visible, hidden, range, estimate, asking }) {
  const tensor = (kind, values, sides) => new ort.Tensor(kind, values, sides);
  const { picture, errors, attention } = await session.run({
    levels: tensor("uint8", levels, [1, ...shape]),
    visible: tensor("int32", Int32Array.from(visible), [1, visible.length]),
    hidden: tensor("int32", Int32Array.from(hidden), [1, hidden.length]),
    range: tensor("float32", Float32Array.from(range), [2]),
    estimate: tensor("float32", Float32Array.of(estimate ? 1 : 0), [1]),
    asking: tensor("int32", Int32Array.of(asking), [1]),
  });
  return { picture: picture.data, errors: [...errors.data], attention: attention.data, tokens: attention.dims[1] };
}

// Bytes that lie in this page as base64 of gzip.
async function unpacked(id) {
  const place = document.getElementById(id), letters = atob(place.textContent);
  place.remove();
  const bytes = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

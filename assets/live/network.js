// The network: onnxruntime-web and the book's ONNX files, all from the folder `built` beside this script, which
// tools/build_live.py fills. What goes in and comes out of a network is written in posebook/export.py.

const BUILT = new URL("built/", import.meta.url);
const fetched = new Map();                                            // file name -> promise of its bytes
let runtime = null;

/** What there is: networks, examples, sizes of files (see tools/build_live.py). */
export async function readList(base = BUILT) {
  const answer = await fetch(new URL("live.json", base));
  if (!answer.ok) throw new Error("the network's files are not there; `make book` puts them beside the pages");
  return answer.json();
}

/** Bytes of a file of the list, fetched once. `progress(received)` is called as they arrive, bytes so far. */
async function bytes(name, base, progress) {
  if (!fetched.has(name)) fetched.set(name, receive(new URL(name, base), progress));
  try {
    return await fetched.get(name);
  } catch (error) {
    fetched.delete(name);                                             // the next attempt asks again
    throw error;
  }
}

async function receive(url, progress) {
  let answer;
  try {
    answer = await fetch(url);
  } catch {
    throw new Error("the connection was lost; try again");
  }
  if (!answer.ok) throw new Error(`${url.pathname.split("/").pop()} is missing (${answer.status})`);
  const parts = [], reader = answer.body.getReader();
  for (let received = 0, next = await reader.read(); !next.done; next = await reader.read()) {
    parts.push(next.value);
    progress(received += next.value.length);
  }
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

/** The file as it was before gzip; some servers have already undone it. */
async function unpacked(data) {
  if (data[0] !== 0x1f || data[1] !== 0x8b) return data;
  const stream = new Blob([data]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function startRuntime(list, base, progress) {
  const binary = await unpacked(await bytes(list.runtime.binary, base, progress));
  const ort = await import(new URL(list.runtime.script, base));
  ort.env.wasm.numThreads = 1;                                        // more need headers that plain servers do not send
  ort.env.wasm.wasmBinary = binary.buffer;
  return ort;
}

/**
 * A network, ready to run.
 *
 * list: of `readList`; name: one of list.networks; progress(received, total) in bytes of what has to be fetched.
 * Returns {about, run}: `run(crop)` takes bytes (3, size, size) and returns {answers, milliseconds}, answers being
 * output name -> {dims, data}.
 */
export async function loadNetwork(list, name, progress = () => {}, base = BUILT) {
  const wanted = [list.runtime.binary, list.networks[name].file].filter(file => !fetched.has(file));
  const received = Object.fromEntries(wanted.map(file => [file, 0]));
  const total = wanted.reduce((sum, file) => sum + list.bytes[file], 0);
  const note = file => count => {
    received[file] = count;
    progress(Math.min(total, Object.values(received).reduce((a, b) => a + b, 0)), total);
  };
  runtime ??= startRuntime(list, base, note(list.runtime.binary)).catch(error => { runtime = null; throw error; });
  const file = list.networks[name].file;
  const [ort, model] = await Promise.all([runtime, bytes(file, base, note(file))]);
  const session = await ort.InferenceSession.create(model, {executionProviders: ["wasm"]});
  const {about} = list.networks[name], side = about.crop;
  const run = async crop => {
    const pixels = new ort.Tensor("uint8", crop, [crop.length / (3 * side * side), 3, side, side]);
    const began = performance.now();
    const answers = await session.run({pixels});
    return {answers, milliseconds: performance.now() - began};
  };
  await run(new Uint8Array(3 * side * side));                         // the first run is slow: not at the reader's expense
  return {about, run};
}

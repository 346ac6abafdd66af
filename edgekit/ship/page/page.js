// The page: proves the golden outputs in this browser, then labels pictures. Every text of the bundle is text, never markup.

import { arrays, judged, largest, run, tensor } from "./golden.js";
import { decoded, draw, prepared } from "./picture.js";

const TOP = 5;
const by = (id) => document.getElementById(id);
const say = (id, text) => { by(id).textContent = text; };

async function fetched(name, how) {
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name} is missing from this page's folder (HTTP ${answer.status})`);
  return answer[how]();
}

async function opened() {
  const page = await fetched("page.json", "json");
  document.title = `${page.name} in this browser`;
  say("name", page.name);
  say("about", `The ${page.variant} network in this browser, by onnxruntime-web ${page.runtime} (WebAssembly, one thread).`);
  say("verdict", "Loading the network ...");
  const golden = arrays(page.arrays, await fetched("golden.bin", "arrayBuffer"));
  const begin = performance.now();
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = new URL("runtime/", location.href).href;
  const model = new Uint8Array(await fetched("model.onnx", "arrayBuffer"));
  const session = await ort.InferenceSession.create(model, { executionProviders: ["wasm"] });
  return { page, golden, session, loading: performance.now() - begin };
}

async function advanced(samples) {
  by("progress").value = samples;
  say("verdict", `Running golden inputs: ${samples} of ${by("progress").max} ...`);
  await new Promise((resolve) => setTimeout(resolve)); // lets the browser draw
}

async function proven({ page, golden, session, loading }) {
  Object.assign(by("progress"), { hidden: false, max: page.samples, value: 0 });
  const { outputs, milliseconds } = await run(session, page, golden, advanced);
  const checks = page.outputs.flatMap((bar) => judged(outputs[bar.name], bar, golden, page.parts));
  checks.push(...(await picturesChecked(page, golden)));
  by("checks").replaceChildren(...checks.map(row));
  by("progress").hidden = true;
  by("table").hidden = false;
  const batch = page.batch === 1 ? "" : ` of ${page.batch}`;
  say("facts", `${page.samples} golden inputs; ${page.reference} is the reference. Loading took ${ms(loading)}, a run${batch} ${ms(milliseconds)} on average.`);
  return checks.every((each) => each.passed);
}

/** The golden pictures, decoded and prepared here, must be their golden inputs, to the last bit. */
async function picturesChecked(page, golden) {
  if (!page.preprocess || !page.pictures.length) return [];
  const inputs = golden[`input.${page.inputs[0].name}`];
  const size = inputs.data.length / page.samples;
  let equal = 0;
  for (const { file, sample } of page.pictures) {
    const { input } = prepared(await decoded(await fetched(file, "blob")), page.preprocess);
    const expected = inputs.data.subarray(sample * size, (sample + 1) * size);
    equal += input.length === size && input.every((value, i) => value === expected[i]) ? 1 : 0;
  }
  const count = page.pictures.length;
  return [{ name: "pictures that become their golden inputs", found: `${equal} of ${count}`, allowed: `${count}`, passed: equal === count }];
}

function row({ name, found, allowed, passed }) {
  const line = document.createElement("tr");
  line.append(...[name, found, allowed, passed ? "pass" : "FAIL"].map((text) => element("td", text)));
  line.lastChild.className = passed ? "good" : "bad";
  return line;
}

function element(kind, text, className = "") {
  const made = document.createElement(kind);
  made.textContent = text;
  made.className = className;
  return made;
}

const ms = (time) => `${time < 10 ? time.toFixed(1) : Math.round(time)} ms`;

/** Lets the page take pictures, one after another. */
function offered(open) {
  const { page } = open;
  by("no-labels").hidden = true;
  by("labelling").hidden = false;
  let last = Promise.resolve();
  const take = (blob, name) => { last = last.then(() => labelled(open, blob, name)).catch((problem) => refused(name, problem)); };
  by("file").addEventListener("change", (event) => [...event.target.files].forEach((file) => take(file, file.name)));
  const drop = by("drop");
  for (const kind of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(kind, (event) => {
      event.preventDefault(); // a picture that misses the field would replace the page
      drop.classList.toggle("over", kind === "dragover");
      if (kind === "drop") [...event.dataTransfer.files].forEach((file) => take(file, file.name));
    });
  }
  by("pictures").replaceChildren(...page.pictures.map(({ file }) => {
    const [item, button, image] = ["li", "button", "img"].map((kind) => document.createElement(kind));
    Object.assign(image, { src: file, alt: `Label ${file}` });
    button.type = "button";
    button.addEventListener("click", () => fetched(file, "blob").then((blob) => take(blob, file)).catch((problem) => refused(file, problem)));
    button.append(image);
    item.append(button);
    return item;
  }));
  by("examples").hidden = !page.pictures.length;
}

async function labelled({ page, session }, blob, name) {
  by("waiting").hidden = true;
  const begin = performance.now();
  const { pixels, input } = prepared(await decoded(blob), page.preprocess);
  const ready = performance.now();
  const filled = new Float32Array(input.length * page.batch);
  for (let sample = 0; sample < page.batch; sample++) filled.set(input, sample * input.length);
  const { height, width } = page.preprocess;
  const feed = { [page.inputs[0].name]: tensor("float32", filled, [page.batch, pixels.length, height, width]) };
  const found = await session.run(feed);
  const end = performance.now();
  const numbers = Float64Array.from(found[page.outputs[0].name].data.slice(0, page.labels.length), Number);
  if (!numbers.every((value) => !Number.isNaN(value))) throw new Error("the network's output for it is not a number");
  draw(by("canvas"), pixels, page.preprocess);
  by("seen").hidden = false;
  say("caption", `${name}, as the network sees it: ${width} x ${height} pixels`);
  by("guesses").replaceChildren(...guesses(page, page.softmax ? softmax(numbers) : numbers));
  say("times", `${ms(end - ready)} in the network, ${ms(ready - begin)} to decode and resize.`);
}

function softmax(logits) {
  const top = logits[largest(logits)];
  const shares = logits.map((value) => Math.exp(value - top));
  const sum = shares.reduce((total, share) => total + share, 0);
  return shares.map((share) => share / sum);
}

function guesses(page, shares) {
  const order = [...shares.keys()].sort((a, b) => shares[b] - shares[a] || a - b).slice(0, TOP);
  return order.map((place) => {
    const item = document.createElement("li");
    const bar = element("span", "", "bar");
    bar.append(document.createElement("i"));
    bar.firstChild.style.width = `${100 * Math.min(1, Math.max(0, shares[place]))}%`;
    item.append(element("span", page.labels[place], "label"), element("span", `${(100 * shares[place]).toFixed(1)} %`, "share"), bar);
    return item;
  });
}

function refused(name, problem) {
  by("waiting").hidden = false;
  by("seen").hidden = true;
  by("guesses").replaceChildren();
  say("times", "");
  const undecodable = problem instanceof DOMException;
  say("waiting", undecodable ? `${name} cannot be decoded by this browser; give a PNG or JPEG file.` : `${name}: ${problem.message}`);
}

function verdict(state, text) {
  say("verdict", text);
  by("verdict").className = `verdict ${state === "pass" ? "good" : "bad"}`;
  document.documentElement.dataset.state = state;
}

try {
  const open = await opened();
  const passed = await proven(open);
  verdict(passed ? "pass" : "fail", passed
    ? "PASS: this browser computes what the original model computed."
    : "FAIL: this browser computes something else than the original model did. Do not use these outputs.");
  if (passed && open.page.no_labels === "") offered(open);
  else say("no-labels", passed ? open.page.no_labels : "No picture is labelled, because a check has failed.");
} catch (problem) {
  by("progress").hidden = true;
  verdict("error", `ERROR: ${problem.message}`);
}

// Answers of the model beside this page, which LiteRT.js runs in the browser.

import { Tensor, loadAndCompile, loadLiteRt } from "../litert/index.js";
import { verify } from "./golden.js";
import { loadImage, preprocess } from "./preprocessing.js";

const TOP = 5; // classes to show, as the runtime does
const CONTROL_MS = 3000; // to wait for the service worker

/** Where the model runs, for the line below the title. */
export const WHERE = "The picture stays on this device: the model runs in your browser.";

/** What is said meanwhile. */
export const LOADING = "The first time, the model and what runs it have to be fetched.";

let spec;
let model;

/** The one model, described as a server would. */
export async function describe() {
  if (!self.WebAssembly || !self.createImageBitmap) {
    throw new Error("Your browser is too old to run the model.");
  }
  await workOffline();
  spec = JSON.parse(new TextDecoder().decode(await load("spec.json")));
  const file = (await load("model.tflite")).subarray(0, spec.integrity.size);
  await checkDigest(file, spec.integrity.sha256);
  await loadLiteRt("litert/");
  model = await loadAndCompile(file, { accelerator: "wasm" });
  return [{ ...described(), ...(spec.golden && (await verify(spec, logits))) }];
}

function described() {
  return {
    name: spec.name,
    default: true,
    classes: spec.class_names,
    input_size: spec.input_size,
    min_confidence: spec.confidence?.threshold ?? 0,
    quantization: spec.export.quantization,
    test_top1: spec.provenance.test_top1,
    sha256: spec.integrity.sha256,
  };
}

/**
 * Classify one image.
 * @param {Blob} image a file.
 * @returns see the server's answers.js.
 */
export async function classify(image) {
  const start = performance.now();
  const pixels = await loadImage(image, spec).catch(() => {
    throw new Error("Your browser can't read it as an image. Try a JPEG or PNG file.");
  });
  const probabilities = softmax(await logits(pixels), spec.confidence?.temperature ?? 1);
  const order = [...probabilities.keys()].sort((a, b) => probabilities[b] - probabilities[a]);
  const predictions = order.slice(0, TOP).map((index) => {
    return { label: spec.class_names[index], index, probability: probabilities[index] };
  });
  const known = predictions[0].probability >= (spec.confidence?.threshold ?? 0);
  const milliseconds = Math.round(performance.now() - start);
  return { known, predictions, note: `${milliseconds} ms in this browser` };
}

/** The model's logits for pixels (Uint8Array) of its input size. */
export async function logits(pixels) {
  const embedded = spec.export.preprocessing_embedded;
  const [height, width, channels] = spec.input_size;
  const side = spec.image_size;
  const input = embedded
    ? new Tensor(pixels, [1, height, width, channels])
    : new Tensor(preprocess(pixels, spec), [1, side, side, channels]);
  const [output] = await model.run([input]);
  const values = Float32Array.from(await output.data());
  input.delete();
  output.delete();
  return values;
}

function softmax(values, temperature) {
  const largest = Math.max(...values);
  const powers = Float64Array.from(values, (value) => Math.exp((value - largest) / temperature));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

/** Let the service worker see every file that is loaded from here on, so that it can keep them. */
async function workOffline() {
  const workers = navigator.serviceWorker; // none on plain http://, but for localhost
  if (!workers) return;
  try {
    const registration = await workers.register("service-worker.js");
    const ours = new URL("service-worker.js", location).href; // not that of a page above this one
    if (workers.controller?.scriptURL === ours) {
      registration.update().catch(() => {}); // for the next visit; fails without network
      return;
    }
    await new Promise((done) => {
      workers.addEventListener("controllerchange", done, { once: true });
      setTimeout(done, CONTROL_MS);
    });
  } catch (error) {
    console.warn("This page will not work offline:", error); // private windows may refuse
  }
}

async function load(name) {
  const response = await fetch(name).catch(() => null);
  if (!response?.ok) throw new Error(`${name} can't be loaded. Is all of the folder there?`);
  return new Uint8Array(await response.arrayBuffer());
}

/** Refuse a model that is not the one that the spec was written for. */
async function checkDigest(file, expected) {
  if (!crypto.subtle) return; // on plain http://
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", file));
  const text = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (text !== expected) throw new Error("model.tflite is damaged, or of another export than spec.json.");
}

// Does this browser answer as the machine that exported the model did? See
// vitsd_runtime.verification: the model's spec holds images and their logits.

import { loadImage } from "./preprocessing.js";

const MOST_CLASSES = 100; // of which the spec holds logits: every n-th

/**
 * Compare the golden images' logits; in words for the user.
 * @param spec with `golden`.
 * @param {(pixels: Uint8Array) => Promise<Float32Array>} logits the model.
 */
export async function verify(spec, logits) {
  const { golden } = spec;
  const expected = new Float32Array(bytes(golden.logits).buffer);
  const step = Math.ceil(spec.class_names.length / MOST_CLASSES);
  let largest = 0;
  let at = 0;
  for (const image of golden.images) {
    const actual = await logits(await loadImage(new Blob([bytes(image)]), spec));
    for (let i = 0; i < actual.length; i += step) {
      largest = Math.max(largest, Math.abs(actual[i] - expected[at++]));
    }
  }
  const count = `${golden.images.length} images`;
  if (largest <= golden.tolerance) return `this browser gives the right answers for ${count}`;
  return `NOT right: for ${count} this browser gives other answers than it should. Does a protection against tracking change the pixels of images?`;
}

const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

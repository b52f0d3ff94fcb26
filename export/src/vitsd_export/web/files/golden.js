// Does this browser answer as the machine that exported the model did? See
// vitsd_runtime.verification: the model's spec holds images and their logits.

import { loadImage } from "./preprocessing.js";

const MOST_CLASSES = 100; // of which the spec holds logits: every n-th

/**
 * Compare the golden images' logits.
 * @param spec with `golden`.
 * @param {(pixels: Uint8Array) => Promise<Float32Array>} logits the model.
 * @returns {Promise<{checked: string, warning?: string}>} in words for the user.
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
  const checked = `on ${golden.images.length} images, logits differ by ${largest.toPrecision(2)}`;
  if (largest <= golden.tolerance) return { checked };
  const warning =
    "Answers may be wrong: this browser does not compute what it should. Does a protection " +
    "against tracking change the pixels of images?";
  return { checked, warning };
}

const bytes = (text) => Uint8Array.from(atob(text), (character) => character.charCodeAt(0));

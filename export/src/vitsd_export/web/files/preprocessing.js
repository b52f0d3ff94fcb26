// From an image file to what the model takes, as vitsd_runtime.images does it in Python: the same
// numbers, but where a browser decodes a file in its own way.

const ONE = 2 ** 22; // weights of the filter are whole numbers of this many parts, as Pillow's
const STRIP = 2 ** 20; // pixels that are read at once

/**
 * Bring an image to a model's input size.
 * @param {Blob} file
 * @param {{input_size: number[], resize_mode?: string}} spec
 * @returns {Promise<Uint8Array>} rows of pixels, channels last.
 */
export async function loadImage(file, spec) {
  const bitmap = await createImageBitmap(file, {
    imageOrientation: "from-image",
    colorSpaceConversion: "none", // color profiles are not applied in training either
    premultiplyAlpha: "premultiply",
  });
  try {
    return fit(bitmap, spec);
  } finally {
    bitmap.close(); // else a phone's memory is full after some photos
  }
}

function fit(bitmap, { input_size: [height, width, channels], resize_mode }) {
  const image = { height: bitmap.height, width: bitmap.width, rows: reader(bitmap, channels) };
  if (image.height === height && image.width === width) return image.rows(0, height);
  const crop = resize_mode === "crop";
  const box = crop ? centerCrop(image, height, width) : [0, 0, image.width, image.height];
  return resize(image, height, width, channels, box);
}

/**
 * Normalize, and resize to what the transformer sees.
 * @param {Uint8Array} pixels of the input size.
 * @param {{input_size: number[], image_size: number, mean: number[], variance: number[]}} spec
 * @returns {Float32Array}
 */
export function preprocess(pixels, { input_size, image_size, mean, variance }) {
  const [height, width, channels] = input_size;
  const scale = variance.map((value) => 1 / Math.max(Math.sqrt(value), 1e-7));
  const offset = Float32Array.from(scale, (factor, channel) => -mean[channel] * factor);
  const factor = Float32Array.from(scale);
  const normalized = Float32Array.from(pixels, (value, i) => {
    return Math.fround(value * factor[i % channels]) + offset[i % channels];
  });
  if (height === image_size && width === image_size) return normalized;
  const wide = interpolate(normalized, { count: height, size: width, inner: channels }, image_size);
  return interpolate(wide, { count: 1, size: height, inner: image_size * channels }, image_size);
}

/** Reads rows of a bitmap, on white where it is transparent, as RGB or gray. */
function reader(bitmap, channels) {
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = Math.min(bitmap.height, Math.max(1, Math.floor(STRIP / bitmap.width)));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  return function rows(start, stop) {
    const result = new Uint8Array((stop - start) * bitmap.width * channels);
    for (let row = start, at = 0; row < stop; row += canvas.height) {
      const count = Math.min(canvas.height, stop - row);
      context.fillRect(0, 0, canvas.width, canvas.height);
      context.drawImage(bitmap, 0, -row);
      const { data } = context.getImageData(0, 0, canvas.width, count);
      for (let i = 0; i < data.length; i += 4) {
        if (channels === 1) result[at++] = gray(data[i], data[i + 1], data[i + 2]);
        else for (let channel = 0; channel < 3; channel += 1) result[at++] = data[i + channel];
      }
    }
    return result;
  };
}

/** ITU-R 601, in Pillow's fixed-point arithmetic. */
const gray = (red, green, blue) => (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16;

/** The largest central part with the aspect ratio of the new size: left, top, right, bottom. */
function centerCrop(image, height, width) {
  const scale = Math.min(image.height / height, image.width / width);
  const cropHeight = Math.min(height * scale, image.height);
  const cropWidth = Math.min(width * scale, image.width);
  const left = (image.width - cropWidth) / 2;
  const top = (image.height - cropHeight) / 2;
  return [left, top, left + cropWidth, top + cropHeight];
}

/** Antialiased: a triangle filter along the rows, rounded to 8 bits, then along the columns. */
function resize(image, height, width, channels, box) {
  const [left, top, right, bottom] = box.map(Math.fround); // Pillow's precision
  const columns = filters(image.width, width, left, right);
  const lines = filters(image.height, height, top, bottom);
  const first = lines[0].first;
  const count = lines[height - 1].first + lines[height - 1].weights.length - first;
  const narrow = new Uint8Array(count * width * channels);
  const step = Math.max(1, Math.floor(STRIP / image.width));
  for (let row = 0; row < count; row += step) {
    const stop = Math.min(row + step, count);
    const strip = image.rows(first + row, first + stop);
    const target = narrow.subarray(row * width * channels);
    filter(strip, target, columns, { count: stop - row, size: image.width, inner: channels });
  }
  const shifted = lines.map((line) => ({ ...line, first: line.first - first }));
  const result = new Uint8Array(height * width * channels);
  filter(narrow, result, shifted, { count: 1, size: count, inner: width * channels });
  return result;
}

/** Of each new pixel of an axis: its first old pixel, and the weights of this and the next ones. */
function filters(size, newSize, low, high) {
  const scale = Math.fround(high - low) / newSize;
  const support = Math.max(scale, 1);
  return Array.from({ length: newSize }, (_, i) => {
    const center = low + (i + 0.5) * scale;
    const first = Math.max(Math.trunc(center - support + 0.5), 0);
    const last = Math.min(Math.trunc(center + support + 0.5), size);
    const raw = Array.from({ length: last - first }, (_, k) => {
      return Math.max(0, 1 - Math.abs((first + k - center + 0.5) * (1 / support)));
    });
    const sum = raw.reduce((total, weight) => total + weight, 0);
    return { first, weights: raw.map((weight) => Math.floor((weight / sum) * ONE + 0.5)) };
  });
}

/** Filter the middle axis of an array (count, size, inner); sums are of whole numbers: exact. */
function filter(source, target, pixels, { count, size, inner }) {
  for (let outer = 0; outer < count; outer += 1) {
    for (let pixel = 0; pixel < pixels.length; pixel += 1) {
      const { first, weights } = pixels[pixel];
      for (let k = 0; k < inner; k += 1) {
        let sum = ONE / 2; // to the nearest, halves upwards
        let at = (outer * size + first) * inner + k;
        for (const weight of weights) {
          sum += weight * source[at];
          at += inner;
        }
        target[(outer * pixels.length + pixel) * inner + k] = Math.floor(sum / ONE);
      }
    }
  }
}

/** Bilinear along the middle axis of (count, size, inner): half-pixel centers, no antialiasing. */
function interpolate(source, { count, size, inner }, newSize) {
  const result = new Float32Array(count * newSize * inner);
  for (let pixel = 0; pixel < newSize; pixel += 1) {
    const center = Math.min(Math.max(((pixel + 0.5) * size) / newSize - 0.5, 0), size - 1);
    const low = Math.floor(center);
    const step = low + 1 < size ? inner : 0;
    const share = Math.fround(center - low);
    for (let outer = 0; outer < count; outer += 1) {
      const from = (outer * size + low) * inner;
      const to = (outer * newSize + pixel) * inner;
      for (let k = 0; k < inner; k += 1) {
        const lower = source[from + k];
        const difference = Math.fround(source[from + k + step] - lower);
        result[to + k] = lower + Math.fround(difference * share);
      }
    }
  }
  return result;
}

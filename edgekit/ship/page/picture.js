// From a picture to the network's input, to the last bit what edgekit.preprocess makes of the same pixels.

const BITS = 22; // of the fixed point that Pillow resizes in (src/libImaging/Resample.c)

/** Decodes a Blob, upright, its colours as the file has them, transparency on black -> ImageData. */
export async function decoded(blob) {
  const bitmap = await createImageBitmap(blob, { imageOrientation: "from-image", colorSpaceConversion: "none" });
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillRect(0, 0, canvas.width, canvas.height);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

/** RGBA pixels -> one Uint8Array for each channel, grey as Pillow's "L": (19595 R + 38470 G + 7471 B) / 65536, rounded. */
function channels({ data, width, height }, color) {
  const count = width * height;
  if (color === "grey") {
    const grey = new Uint8Array(count);
    for (let i = 0; i < count; i++) {
      grey[i] = (data[4 * i] * 19595 + data[4 * i + 1] * 38470 + data[4 * i + 2] * 7471 + 0x8000) >> 16;
    }
    return [grey];
  }
  return [0, 1, 2].map((channel) => Uint8Array.from({ length: count }, (_, i) => data[4 * i + channel]));
}

/** For each place of the output: where its window of the input begins, and the window's weights in fixed point. */
function windows(from, to) {
  const scale = from / to;
  const support = Math.max(scale, 1); // of the triangle filter; it widens where the picture shrinks, against aliasing
  const triangle = (x) => Math.max(0, 1 - Math.abs(x * (1 / support)));
  return Array.from({ length: to }, (_, place) => {
    const centre = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support + 0.5));
    const last = Math.min(from, Math.trunc(centre + support + 0.5));
    const weights = Array.from({ length: last - first }, (_, i) => triangle(i + first - centre + 0.5));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return { first, weights: weights.map((weight) => Math.trunc(0.5 + (weight / sum) * 2 ** BITS)) };
  });
}

/** Pillow's antialiased bilinear filter along rows: lines x from -> to x lines. */
function resizedAlong(pixels, lines, from, to) {
  const out = new Uint8Array(lines * to);
  windows(from, to).forEach(({ first, weights }, place) => {
    for (let line = 0; line < lines; line++) {
      let sum = 2 ** (BITS - 1);
      for (let i = 0; i < weights.length; i++) sum += weights[i] * pixels[line * from + first + i];
      out[place * lines + line] = Math.min(255, sum >> BITS);
    }
  });
  return out;
}

/** rows x columns -> columns x rows. */
function turned(pixels, rows, columns) {
  const out = new Uint8Array(pixels.length);
  for (let row = 0; row < rows; row++) for (let column = 0; column < columns; column++) out[column * rows + row] = pixels[row * columns + column];
  return out;
}

/** One channel, resized; very tall pictures lose their rows first, as in Pillow 13 (before: never, one grey level apart). */
function resized(pixels, width, height, how) {
  const across = (values, rows) => (width === how.width ? turned(values, rows, width) : resizedAlong(values, rows, width, how.width));
  const down = (values, columns) => (height === how.height ? turned(values, columns, height) : resizedAlong(values, columns, height, how.height));
  const tall = height - how.height > 2 * Math.max(0, width - how.width);
  if (!tall) return down(across(pixels, height), how.width);
  const turnedBack = across(down(turned(pixels, height, width), width), how.height);
  return turned(turnedBack, how.width, how.height);
}

/** ImageData -> {pixels: one Uint8Array H x W for each channel, input: Float32Array C x H x W}; ``how`` as in the manifest. */
export function prepared(image, how) {
  const pixels = channels(image, how.color).map((channel) => resized(channel, image.width, image.height, how));
  const size = how.width * how.height;
  const input = new Float32Array(pixels.length * size);
  pixels.forEach((channel, index) => {
    const mean = Math.fround(how.mean[index]);
    const std = Math.fround(how.std[index]);
    for (let i = 0; i < size; i++) input[index * size + i] = Math.fround(Math.fround(Math.fround(channel[i] / 255) - mean) / std);
  });
  return { pixels, input };
}

/** Draws what the network sees. */
export function draw(canvas, pixels, how) {
  [canvas.width, canvas.height] = [how.width, how.height];
  const data = new Uint8ClampedArray(4 * how.width * how.height);
  for (let i = 0; i < how.width * how.height; i++) {
    for (let channel = 0; channel < 3; channel++) data[4 * i + channel] = pixels[Math.min(channel, pixels.length - 1)][i];
    data[4 * i + 3] = 255;
  }
  canvas.getContext("2d").putImageData(new ImageData(data, how.width, how.height), 0, 0);
}

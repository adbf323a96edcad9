// A file that the browser can decode -> what the model sees of it.

import { Wrong } from "../asking.js";
import { centredView } from "./resize.js";

const MOST_PIXELS = 2 ** 28; // of a canvas, in any browser that has so many
const LUMINANCE = [19595, 38470, 7471]; // ITU-R 601 in 1/65536, as Pillow weighs
const ELSEWHERE = "openmae demo, which decodes as in training, reads TIFF, DICOM and 16 bits";

// file: a File. about: size, patch, channels and alpha of the model's images.
// -> { levels (C, H, W) as the graph has them, notes }
export async function read(file, { size, patch, channels, alpha }) {
  await checkDepth(file);
  let decoded;
  try {
    decoded = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
  } catch {
    throw new Wrong(`${file.name}: this browser cannot decode it. JPEG, PNG, WebP and most others that pages show can ` +
      `be opened here; ${ELSEWHERE}.`);
  }
  const { height, width } = decoded;
  if (height < patch[0] || width < patch[1]) {
    throw new Wrong(`${file.name} is ${width} x ${height}, less than one patch: give another image.`);
  }
  if (height * width > MOST_PIXELS) {
    throw new Wrong(`${file.name} has more pixels than a browser shows: make it smaller, or give a part of it.`);
  }
  const view = centredView(channelsOf(pixelsOf(decoded, alpha), channels), size);
  const isSame = height === size[0] && width === size[1];
  const middle = `Of ${width} x ${height} pixels the model sees the middle, at ${size[1]} x ${size[0]}.`;
  return { levels: planes(view), notes: isSame ? [] : [middle] };
}

// A picture that is what the model sees already, such as an <img>.
export function readView(picture, [height, width], channels) {
  const canvas = new OffscreenCanvas(width, height), to = canvas.getContext("2d", { willReadFrequently: true });
  to.drawImage(picture, 0, 0, width, height);
  return planes(channelsOf(to.getImageData(0, 0, width, height), channels));
}

// A browser shows the upper 8 of 16 bits, and says nothing of it.
async function checkDepth(file) {
  const head = new Uint8Array(await file.slice(0, 32).arrayBuffer());
  const isPng = [0x89, 0x50, 0x4e, 0x47].every((byte, i) => head[i] === byte);
  if (isPng && head[24] === 16) {
    throw new Wrong(`${file.name} has 16 bits a channel, of which a browser keeps 8: ${ELSEWHERE}.`);
  }
}

function pixelsOf(decoded, alpha) {
  const { height, width } = decoded;
  const to = new OffscreenCanvas(width, height).getContext("2d", { willReadFrequently: true });
  if (alpha !== "ignore") {
    to.fillStyle = alpha === "black" ? "black" : "white";
    to.fillRect(0, 0, width, height);
  }
  to.drawImage(decoded, 0, 0);
  decoded.close();
  return to.getImageData(0, 0, width, height);
}

function channelsOf({ height, width, data }, channels) {
  const found = new Uint8ClampedArray(height * width * channels);
  for (let pixel = 0; pixel < height * width; pixel++) {
    const [red, green, blue] = [data[4 * pixel], data[4 * pixel + 1], data[4 * pixel + 2]];
    if (channels === 3) found.set([red, green, blue], 3 * pixel);
    else found[pixel] = (red * LUMINANCE[0] + green * LUMINANCE[1] + blue * LUMINANCE[2] + 0x8000) >> 16;
  }
  return { height, width, channels, data: found };
}

function planes({ height, width, channels, data }) {
  const found = new Uint8Array(channels * height * width);
  for (let pixel = 0; pixel < height * width; pixel++) {
    for (let channel = 0; channel < channels; channel++) {
      found[channel * height * width + pixel] = data[pixel * channels + channel];
    }
  }
  return found;
}

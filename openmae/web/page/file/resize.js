// Bytes of an image -> the view that the model sees, as openmae/data/views/crop.py makes it: the same integer
// arithmetic as torch's antialiased bicubic interpolation of 8-bit images.

const LARGEST_CROPPED = 224;
const REACH = 2; // of the bicubic kernel, in pixels of the coarser grid

// An image is { height, width, channels, data }: a Uint8 array, row by row, the channels of a pixel side by side.

export function centredView(image, [height, width]) {
  if (image.height === height && image.width === width) return image;
  const part = middle(image, [height, width]), sides = covering([part.height, part.width], [height, width]);
  const larger = resized(part, sides);
  return cut(larger, roundHalf(larger.height - height), roundHalf(larger.width - width), height, width);
}

// Half of an even or odd number, to the nearest even one, as Python rounds.
const roundHalf = number => number % 2 === 0 ? number / 2 : 2 * Math.round(number / 4);

// Without the far ends of a long strip.
function middle(image, size) {
  const have = [image.height, image.width];
  const least = Math.min(have[0] / size[0], have[1] / size[1]), longest = size.map(side => 8 * Math.ceil(side * least));
  const [top, left] = have.map((side, axis) => Math.max(0, Math.floor((side - longest[axis]) / 2)));
  return top || left ? cut(image, top, left, have[0] - 2 * top, have[1] - 2 * left) : image;
}

function covering(size, view) {
  const isSmall = Math.max(...view) <= LARGEST_CROPPED;
  const sides = view.map(side => isSmall ? Math.floor(side * 256 / 224) : side);
  const first = size[0] * sides[1] <= size[1] * sides[0] ? 0 : 1, covered = sides[first];
  const other = view[0] === view[1] ? Math.floor(covered * size[1 - first] / size[first])
    : Math.round(size[1 - first] / (size[first] / covered));
  const found = Math.max(view[1 - first], other);
  return first === 0 ? [covered, found] : [found, covered];
}

function cut({ width: wide, channels, data }, top, left, height, width) {
  const found = new Uint8ClampedArray(height * width * channels);
  for (let row = 0; row < height; row++) {
    const start = ((top + row) * wide + left) * channels;
    found.set(data.subarray(start, start + width * channels), row * width * channels);
  }
  return { height, width, channels, data: found };
}

// Along the rows first, then along the columns, each rounded to 8 bits.
function resized(image, [height, width]) {
  const across = image.width === width ? image : along(image, width, true);
  return across.height === height ? across : along(across, height, false);
}

function along(image, length, isAcross) {
  const { height, width, channels, data } = image, have = isAcross ? width : height;
  const { taps, bits } = weights(have, length), half = 1 << (bits - 1);
  const [tall, wide] = isAcross ? [height, length] : [length, width];
  const found = new Uint8ClampedArray(tall * wide * channels), step = isAcross ? channels : width * channels;
  const lines = isAcross ? height : width * channels, line = isAcross ? width * channels : 1;
  const [outStep, outLine] = isAcross ? [channels, length * channels] : [width * channels, 1];
  for (let one = 0; one < lines; one++) {
    for (let to = 0; to < length; to++) {
      const { first, share } = taps[to];
      for (let channel = 0; channel < (isAcross ? channels : 1); channel++) {
        let sum = half, at = one * line + first * step + channel;
        for (let tap = 0; tap < share.length; tap++, at += step) sum += data[at] * share[tap];
        found[one * outLine + to * outStep + channel] = sum >> bits; // clamped to 0..255
      }
    }
  }
  return { height: tall, width: wide, channels, data: found };
}

// For each new pixel the first old one and the shares of it and of those behind it, as whole numbers of 2^-bits.
function weights(have, want) {
  const scale = have / want, coarse = Math.max(1, scale), taps = [];
  let most = 0;
  for (let to = 0; to < want; to++) {
    const centre = scale * (to + 0.5);
    const first = Math.max(0, Math.trunc(centre - REACH * coarse + 0.5));
    const last = Math.min(have, Math.trunc(centre + REACH * coarse + 0.5));
    const share = Array.from({ length: last - first }, (_, tap) => bicubic((first + tap - centre + 0.5) / coarse));
    const sum = share.reduce((all, one) => all + one, 0);
    taps.push({ first, share: share.map(one => one / sum) });
    most = Math.max(most, ...taps[to].share);
  }
  let bits = 0;
  while (bits < 22 && Math.trunc(0.5 + most * 2 ** (bits + 1)) < 2 ** 15) bits++;
  for (const tap of taps) tap.share = tap.share.map(one => Math.trunc(one * 2 ** bits + (one < 0 ? -0.5 : 0.5)));
  return { taps, bits };
}

// Keys' kernel, a = -0.5.
function bicubic(x) {
  const far = Math.abs(x);
  if (far < 1) return (1.5 * far - 2.5) * far * far + 1;
  return far < 2 ? ((-0.5 * far + 2.5) * far - 4) * far + 2 : 0;
}

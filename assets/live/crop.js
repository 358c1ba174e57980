// The crop, as the package makes it: posebook.geometry.square_box and posebook.datasets.crop_image.
//
// The package resizes with Pillow, and the network's answer depends a little on how. So this is Pillow's arithmetic, step
// by step: a triangle that widens when the picture shrinks, weights in fixed point with 22 bits, rows before columns, and
// rounding to bytes after each of the two. The bytes are the same ones (tested), except that Pillow 13 takes the columns of
// tall pictures first, as older versions do not: there they may differ by 1.

const BITS = 22;
const float32 = Math.fround;

/** The square about a box [x0, y0, x1, y1] with `enlarge` times its longer side, in float32 as the package counts. */
export function squareBox(box, enlarge) {
  const [x0, y0, x1, y1] = box.map(float32);
  const side = Math.max(float32(x1 - x0), float32(y1 - y0));
  const half = float32(float32(side * float32(enlarge)) / 2);
  const cx = float32(float32(x0 + x1) / 2), cy = float32(float32(y0 + y1) / 2);
  return [float32(cx - half), float32(cy - half), float32(cx + half), float32(cy + half)];
}

/** For each of `size` pixels of an axis: the first source pixel that counts, and the weights of it and the next ones. */
function weights(length, low, high, size) {
  const scale = float32(high - low) / size, widen = Math.max(scale, 1);
  return Array.from({length: size}, (_, k) => {
    const centre = low + (k + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - widen + 0.5));
    const end = Math.min(length, Math.trunc(centre + widen + 0.5));
    const raw = Array.from({length: end - first}, (_, n) =>
      Math.max(0, 1 - Math.abs((n + first - centre + 0.5) * (1 / widen))));
    const sum = raw.reduce((a, b) => a + b, 0);
    return {first, factors: raw.map(w => Math.trunc(0.5 + (sum ? w / sum : w) * (1 << BITS)))};
  });
}

/**
 * Cut a box out of a picture and resize it to size x size. Where the box leaves the picture, its border is repeated.
 *
 * picture: {data, width, height} with four bytes a pixel, such as ImageData; box: [x0, y0, x1, y1], half open, in pixels.
 * Returns bytes (3, size, size): all of red, then green, then blue, as the network wants them.
 */
export function cropImage({data, width, height}, box, size) {
  const [x0, y0, x1, y1] = box.map(float32);
  const margin = v => Math.max(0, Math.ceil(v));
  const [left, top, right, bottom] = [margin(-x0), margin(-y0), margin(x1 - width), margin(y1 - height)];
  if (!(x1 > x0 && y1 > y0) || x0 >= width || y0 >= height || x1 <= 0 || y1 <= 0)
    throw new RangeError(`the box ${box} does not fit a picture of ${width} x ${height} pixels`);
  const columns = weights(left + width + right, float32(x0 + left), float32(x1 + left), size);
  const rows = weights(top + height + bottom, float32(y0 + top), float32(y1 + top), size);
  const begin = rows[0].first, end = rows[size - 1].first + rows[size - 1].factors.length;
  const inside = (v, length) => Math.min(length - 1, Math.max(0, v));

  const narrow = new Uint8Array((end - begin) * size * 3);
  let before = -1;
  for (let y = begin; y < end; y++) {
    const source = inside(y - top, height), to = (y - begin) * size * 3;
    if (source === before) {                                          // a repeated border: the row above once more
      narrow.copyWithin(to, to - size * 3, to);
      continue;
    }
    before = source;
    for (let k = 0; k < size; k++) {
      const {first, factors} = columns[k];
      let red = 1 << (BITS - 1), green = red, blue = red;
      for (let n = 0; n < factors.length; n++) {
        const at = (source * width + inside(first + n - left, width)) * 4, factor = factors[n];
        red += data[at] * factor;
        green += data[at + 1] * factor;
        blue += data[at + 2] * factor;
      }
      narrow[to + k * 3] = red >> BITS;
      narrow[to + k * 3 + 1] = green >> BITS;
      narrow[to + k * 3 + 2] = blue >> BITS;
    }
  }
  const crop = new Uint8Array(3 * size * size);
  for (let i = 0; i < size; i++) {
    const {first, factors} = rows[i];
    for (let k = 0; k < size * 3; k++) {
      let sum = 1 << (BITS - 1);
      for (let n = 0; n < factors.length; n++) sum += narrow[(first - begin + n) * size * 3 + k] * factors[n];
      crop[(k % 3) * size * size + i * size + Math.floor(k / 3)] = sum >> BITS;
    }
  }
  return crop;
}

/** Points [x, y] of a crop of `size` pixels in pixels of the picture that `box` was cut out of. */
export function toPicture(points, box, size) {
  const [x0, y0, x1, y1] = box;
  return points.map(([x, y]) => [(x + 0.5) * (x1 - x0) / size + x0 - 0.5, (y + 0.5) * (y1 - y0) / size + y0 - 0.5]);
}

// Drawing: stick figures by the convention of posebook/draw.py, windows over a crop, maps.

const NAMESPACE = "http://www.w3.org/2000/svg";
const COLOURS = {left: "#0072B2", right: "#E69F00", middle: "#7F7F7F"};
const TRUE = "#CC79A7";

function add(parent, kind, attributes) {
  const node = parent.appendChild(document.createElementNS(NAMESPACE, kind));
  for (const name in attributes) node.setAttribute(name, attributes[name]);
  return node;
}

/**
 * Draw a pose into an SVG element: the person's left blue and solid, the right orange and dashed, the middle grey.
 *
 * points: [x, y] of each joint, in units of the viewBox; about: of the network; unit: a line's width in these units.
 */
export function drawPose(group, points, about, unit) {
  const at = names => names.map(name => points[about.joints.indexOf(name)])
    .reduce((sum, p, _, all) => sum.map((v, k) => v + p[k] / all.length), [0, 0]);
  for (const limb of about.limbs) {
    const [x1, y1] = at(limb.start), [x2, y2] = at(limb.end), line = {x1, y1, x2, y2, "stroke-linecap": "round"};
    add(group, "line", {...line, stroke: "#fff", "stroke-width": 1.9 * unit, "stroke-opacity": 0.75});
    add(group, "line", {...line, stroke: COLOURS[limb.side], "stroke-width": unit, class: limb.side,
      ...(limb.side === "right" ? {"stroke-dasharray": `${1.6 * unit} ${1.7 * unit}`} : {})});
  }
  points.forEach(([cx, cy], k) => {
    add(group, "circle", {cx, cy, r: 0.95 * unit, fill: COLOURS[about.sides[k]], stroke: "#fff",
      "stroke-width": 0.35 * unit});
  });
}

/** Mark true joints with crosses. points: [x, y], or null where a joint has no label. */
export function drawTruth(group, points, unit) {
  for (const point of points) {
    if (!point) continue;
    const [x, y] = point, d = 1.3 * unit;
    const path = {d: `M${x - d} ${y - d}L${x + d} ${y + d}M${x - d} ${y + d}L${x + d} ${y - d}`, fill: "none"};
    add(group, "path", {...path, stroke: "#fff", "stroke-width": 1.3 * unit});
    add(group, "path", {...path, stroke: TRUE, "stroke-width": 0.7 * unit});
  }
}

/** Show a crop, bytes (3, size, size), on a canvas of size x size. With `pale` in grey, for something to lie over it. */
export function drawCrop(canvas, crop, size, pale) {
  canvas.width = canvas.height = size;
  const pixels = new ImageData(size, size), plane = size * size;
  for (let k = 0; k < plane; k++) {
    const rgb = [crop[k], crop[k + plane], crop[k + 2 * plane]];
    const grey = 0.3 * rgb[0] + 0.59 * rgb[1] + 0.11 * rgb[2];
    for (let c = 0; c < 3; c++) pixels.data[4 * k + c] = pale ? 0.75 * grey : rgb[c];
    pixels.data[4 * k + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

/**
 * One square for each window into an SVG group, about the window's middle and as large as the step to the next one (the
 * windows themselves overlap); the more probable, the more opaque. The most probable window is outlined in full.
 *
 * probability: rows, then columns; windows: {side, window, stride}. Returns the largest probability.
 */
export function drawWindows(group, probability, {side, window, stride}) {
  let best = 0;
  for (let k = 0; k < side * side; k++) if (probability[k] > probability[best]) best = k;
  const corner = k => [stride * (k % side) - 0.5, stride * Math.floor(k / side) - 0.5], inset = (window - stride) / 2;
  for (let k = 0; k < side * side; k++) {
    const [x, y] = corner(k);
    add(group, "rect", {x: x + inset, y: y + inset, width: stride, height: stride, fill: "#F0E442",
      "fill-opacity": (0.9 * probability[k]).toFixed(3)});
  }
  const [x, y] = corner(best);
  add(group, "rect", {x, y, width: window, height: window, fill: "none", stroke: "#fff", "stroke-width": 1.6});
  add(group, "rect", {x, y, width: window, height: window, fill: "none", stroke: "#D55E00", "stroke-width": 0.8});
  return probability[best];
}

/** One map on a canvas of side x side: from black, nothing, to yellow, the map's largest value. Returns that value. */
export function drawMap(canvas, map, side) {
  canvas.width = canvas.height = side;
  const largest = map.reduce((a, b) => Math.max(a, b), 0), pixels = new ImageData(side, side);
  map.forEach((value, k) => {
    const v = largest > 0 ? Math.max(0, value) / largest : 0;
    pixels.data.set([255 * Math.min(1, 1.6 * v), 235 * v, 90 * v * v + 60 * v * (1 - v), 255], 4 * k);
  });
  canvas.getContext("2d").putImageData(pixels, 0, 0);
  return largest;
}

export function clear(group) {
  group.replaceChildren();
  return group;
}

// The figure with the network in it. Every element of the class `posebook-live` becomes one; with the attribute
// data-small, one picture without what lies behind the joints. posebook.interactive.live_network writes the element.

import {cropImage, squareBox, toPicture} from "./crop.js";
import {clear, drawCrop, drawMap, drawPose, drawTruth, drawWindows} from "./draw.js";
import {loadNetwork, readList} from "./network.js";
import {firstPicture, fromFile, hasCamera, startCamera} from "./picture.js";

const SOURCES = {regression: "pose", joints_best: "joints_best", joints_mean: "joints_mean"};
const SMALLEST = 8;                                                   // side of a person box, pixels of the picture
let figures = 0;

const megabytes = count => (count / 1e6).toFixed(1);
const plain = name => name.replaceAll("_", " ");

/** The markup; labels and texts stand here and nowhere else. */
function markup(id, small) {
  const behind = small ? "" : `
    <div class="behind">
      <fieldset><legend>Network trained on</legend><div class="networks"></div><p class="score"></p></fieldset>
      <p><label>Joints from <select class="source">
        <option value="regression">the regression</option>
        <option value="joints_best">each joint's most probable window</option>
        <option value="joints_mean">the mean of its windows</option></select></label></p>
      <p><label><input type="checkbox" class="truth"> show the true joints (pink crosses)</label></p>
      <div class="pair">
        <figure><figcaption><label>What the network sees, and the windows of <select class="thing"></select></label>
          </figcaption>
          <div class="view"><canvas class="seen" width="64" height="64" role="img"
            aria-label="What the network sees: nothing yet"></canvas>
          <svg viewBox="-0.5 -0.5 64 64" aria-hidden="true"></svg></div>
          <p class="said-windows"></p></figure>
        <figure><figcaption><label>Maps of <select class="layer"><option>conv2</option><option>conv3</option></select>
          </label></figcaption>
          <div class="view"><canvas class="map" width="24" height="24" role="img"
            aria-label="A map of the network: nothing yet"></canvas></div>
          <p><label>map <input type="range" class="number" min="0" max="31" value="0"></label> <span class="said-map"></span>
          </p></figure>
      </div>
      <details><summary>The joints as numbers</summary><table><thead><tr><th>joint</th><th>x</th><th>y</th></tr></thead>
        <tbody></tbody></table></details>
    </div>`;
  return `
    <div class="choose" role="group" aria-label="Choose a picture">
      <div class="examples"></div>
      <div class="own"><button type="button" class="file">Your own photo…</button>
      <button type="button" class="camera" hidden>Camera</button>
      <input type="file" accept="image/*" hidden tabindex="-1">
      <span class="promise">It never leaves this machine: the network runs in this page.</span></div>
    </div>
    <div class="panels">
      <div class="stage">
        <div class="frame"><canvas class="picture" role="img" aria-label="No picture yet"></canvas>
          <svg aria-hidden="true"><rect class="square"></rect><rect class="box"></rect><g class="pose"></g>
          <g class="true"></g></svg>
          <div class="handles" role="group" aria-label="The box around the person"></div></div>
        <p class="help" id="${id}-help">Drag the box around one person: its corners, or the cross in its middle. With the
          keyboard, go to one of them and use the arrow keys, with Shift for larger steps. The network sees the dashed square.</p>
        <div class="loading"><button type="button" class="start"></button>
          <progress hidden aria-label="Loading the network"></progress> <span class="received"></span></div>
        <p class="status" role="status"></p>
        <p class="timing"></p>
        <p class="legend"><span class="left">person's left</span> <span class="right">person's right</span>
          <span class="middle">middle</span></p>
      </div>${behind}
    </div>`;
}

class Figure {
  constructor(root, list) {
    Object.assign(this, {root, list, small: "small" in root.dataset, networks: new Map(), chosenSource: false,
      running: false, again: false, camera: null, picture: null, last: null});
    const id = `posebook-live-${++figures}`;
    root.innerHTML = markup(id, this.small);
    root.classList.add("ready");
    this.network = list.default;
    this.makeExamples();
    this.makeHandles(`${id}-help`);
    if (!this.small) this.makeBehind(id);
    this.listen();
    const size = megabytes(this.size(this.network));
    this.find(".start").textContent = `Start: load the network (${size} MB)`;
    this.show(list.examples[0]).catch(error => this.say(error.message));
  }

  find(selector) { return this.root.querySelector(selector); }
  say(text) { this.find(".status").textContent = text; }
  size(name) { return ["runtime", name].reduce((sum, key) => sum + (key === "runtime"
    ? this.list.bytes[this.list.runtime.script] + this.list.bytes[this.list.runtime.binary]
    : this.list.bytes[this.list.networks[key].file]), 0); }

  // --- the controls

  makeExamples() {
    const parent = this.find(".examples");
    const shown = this.small ? this.list.examples.slice(0, 5) : this.list.examples;
    for (const example of shown) {
      const button = parent.appendChild(document.createElement("button"));
      button.type = "button";
      button.setAttribute("aria-pressed", "false");
      const image = button.appendChild(document.createElement("img"));
      image.src = new URL(`built/${example.file}`, import.meta.url);
      image.alt = example.alt;
      image.width = image.height = 56;
      button.addEventListener("click", () => this.choose(() => this.show(example, button)));
    }
  }

  makeHandles(help) {
    const parent = this.find(".handles");
    const names = [["upper left corner", [0, 1]], ["upper right corner", [2, 1]], ["lower left corner", [0, 3]],
      ["lower right corner", [2, 3]], ["the whole box", null]];
    this.handles = names.map(([name, corner]) => {
      const button = parent.appendChild(document.createElement("button"));
      button.type = "button";
      button.className = corner ? "corner" : "whole";
      button.setAttribute("aria-label", corner ? `${name} of the box` : name);
      button.setAttribute("aria-describedby", help);
      button.addEventListener("keydown", event => {
        const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
        if (!way || !this.picture) return;
        event.preventDefault();
        const step = Math.max(1, Math.round(this.longest / 128)) * (event.shiftKey ? 8 : 1);
        this.moveBox(corner, step * way[0], step * way[1]);
      });
      this.drag(button, corner);
      return {button, corner};
    });
    this.drag(this.find("canvas.picture"), null, "mouse");            // a finger on the picture scrolls the page
  }

  /** Let a pointer that goes down on the element move a corner of the box, or all of it. */
  drag(element, corner, kind = null) {
    let from = null;
    element.addEventListener("pointerdown", event => {
      if (!this.picture || (kind && event.pointerType !== kind) || event.button) return;
      element.setPointerCapture(event.pointerId);
      event.preventDefault();
      if (element.focus && !kind) element.focus();
      from = this.toPixels(event);
    });
    element.addEventListener("pointermove", event => {
      if (!from || !element.hasPointerCapture(event.pointerId)) return;
      const now = this.toPixels(event);
      const moved = this.moveBox(corner, now[0] - from[0], now[1] - from[1]);
      from = [from[0] + moved[0], from[1] + moved[1]];
    });
    for (const end of ["pointerup", "pointercancel"]) element.addEventListener(end, () => { from = null; });
  }

  makeBehind(id) {
    const parent = this.find(".networks");
    for (const [name, network] of Object.entries(this.list.networks)) {
      const label = parent.appendChild(document.createElement("label"));
      const input = label.appendChild(document.createElement("input"));
      Object.assign(input, {type: "radio", name: `${id}-network`, value: name, checked: name === this.network});
      label.append(` ${network.title}`);
      input.addEventListener("change", () => this.choose(() => this.useNetwork(name)));
    }
    const {about} = this.list.networks[this.network], select = this.find(".thing");
    select.add(new Option("nothing: the picture alone", ""));
    for (const [kind, names] of [["joints", about.joints], ["parts", about.limbs.map(limb => limb.name)]]) {
      const group = select.appendChild(document.createElement("optgroup"));
      group.label = kind === "joints" ? "joints" : "body parts";
      names.forEach((name, k) => group.append(new Option(plain(name), `${kind} ${k}`)));
    }
    select.value = `joints ${about.joints.indexOf("head_top")}`;
    const source = this.find(".source");
    source.addEventListener("change", () => { this.chosenSource = true; this.paint(); });
    for (const control of [".thing", ".layer", ".truth"]) this.find(control).addEventListener("change", () => this.paint());
    this.find(".number").addEventListener("input", () => this.paint());
    this.syncNetwork();
  }

  listen() {
    const file = this.find("input[type=file]");
    this.find(".file").addEventListener("click", () => file.click());
    file.addEventListener("change", () => {
      const chosen = file.files[0];
      if (chosen) this.choose(() => this.open(chosen));
      file.value = "";                                                // the same file may be chosen again
    });
    this.find(".start").addEventListener("click", () => this.choose(() => this.run()));
    for (const kind of ["dragenter", "dragover"]) this.root.addEventListener(kind, event => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      this.root.classList.add("over");
    });
    this.root.addEventListener("dragleave", event => {
      if (!this.root.contains(event.relatedTarget)) this.root.classList.remove("over");
    });
    this.root.addEventListener("drop", event => {
      const dropped = firstPicture(event.dataTransfer);
      this.root.classList.remove("over");
      if (!dropped) return;
      event.preventDefault();
      this.choose(() => this.open(dropped));
    });
    document.addEventListener("paste", event => {
      const pasted = firstPicture(event.clipboardData);
      const typing = event.target.closest?.("input, textarea, [contenteditable]");
      if (!pasted || typing || Figure.lastUsed !== this) return;      // of several figures, the one last used
      event.preventDefault();
      this.choose(() => this.open(pasted));
    });
    for (const kind of ["pointerdown", "focusin"]) this.root.addEventListener(kind, () => { Figure.lastUsed = this; });
    Figure.lastUsed ??= this;
    const camera = this.find(".camera");
    camera.hidden = !hasCamera();
    camera.addEventListener("click", () => this.choose(() => this.camera ? this.stopCamera() : this.watch()));
  }

  /** Do what the reader asked for; a failure becomes one sentence under the picture. */
  async choose(work) {
    try {
      await work();
    } catch (error) {
      this.say(error.message);
    }
  }

  // --- pictures

  get longest() { return Math.max(this.picture.width, this.picture.height); }

  /** All pixels of the picture, read once. */
  pixels() {
    if (this.pixelsOf !== this.picture) {
      const {width, height} = this.picture;
      this.pixelsOf = this.picture;
      this.read = this.picture.getContext("2d", {willReadFrequently: true}).getImageData(0, 0, width, height);
    }
    return this.read;
  }

  async show(example, button = this.find(".examples button")) {
    const answer = await fetch(new URL(`built/${example.file}`, import.meta.url));
    const canvas = await fromFile(await answer.blob());
    this.stopCamera();
    const first = !this.picture;
    this.setPicture(canvas, example.box, example.alt, example);
    button.setAttribute("aria-pressed", "true");
    if (!first) await this.run();
  }

  async open(file) {
    const canvas = await fromFile(file);
    this.stopCamera();
    this.setPicture(canvas, [0, 0, canvas.width, canvas.height], "Your picture");
    this.say("Now drag the box around one person.");
    await this.forPhotographs();
  }

  /** Photographs are for the network that was trained on photographs, until the reader chooses another. */
  async forPhotographs() {
    if (!this.chosenNetwork && this.list.photographs !== this.network) {
      this.network = this.list.photographs;
      this.syncNetwork();
    }
    await this.run();
  }

  setPicture(canvas, box, alt, example = null) {
    this.picture = canvas;
    this.example = example;
    this.box = [...box];
    this.last = null;
    const shown = this.find("canvas.picture"), {width, height} = canvas;
    Object.assign(shown, {width, height});
    shown.setAttribute("aria-label", alt);
    this.find(".frame").style.maxWidth = `min(100%, ${Math.round(460 * Math.min(1, width / height))}px)`;
    this.find(".stage svg").setAttribute("viewBox", `-0.5 -0.5 ${width} ${height}`);
    for (const pressed of this.root.querySelectorAll(".examples button")) pressed.setAttribute("aria-pressed", "false");
    this.say("");
    this.paint();
  }

  async watch() {
    const camera = await startCamera();
    this.stopCamera();
    this.camera = camera;
    this.find(".camera").textContent = "Stop: keep this picture";
    const first = camera.frame();
    this.setPicture(first, [0, 0, first.width, first.height], "The camera's picture");
    this.say("The camera is on. Its pictures stay in this page.");
    await this.forPhotographs();
    while (this.camera === camera) {                                  // a few pictures a second
      await new Promise(done => setTimeout(done, 120));
      if (this.camera !== camera || document.hidden) continue;
      this.picture = camera.frame();
      await this.run();
    }
  }

  stopCamera() {
    this.camera?.stop();
    this.camera = null;
    this.find(".camera").textContent = "Camera";
  }

  // --- the box

  toPixels({clientX, clientY}) {
    const area = this.find(".frame").getBoundingClientRect();
    return [(clientX - area.left) / area.width * this.picture.width, (clientY - area.top) / area.height * this.picture.height];
  }

  /** Move a corner ([index of x, index of y] in the box) or the whole box; returns how far it went. */
  moveBox(corner, dx, dy) {
    const [width, height] = [this.picture.width, this.picture.height], box = this.box, least = SMALLEST * this.longest / 128;
    const held = (v, low, high) => Math.min(Math.max(v, low), Math.max(low, high));
    let moved;
    if (corner) {
      const before = corner.map(k => box[k]);
      for (const [k, by, limit] of [[corner[0], dx, width], [corner[1], dy, height]])
        box[k] = k < 2 ? held(box[k] + by, 0, box[k + 2] - least) : held(box[k] + by, box[k - 2] + least, limit);
      moved = corner.map((k, n) => box[k] - before[n]);
    } else {
      moved = [held(dx, -box[0], width - box[2]), held(dy, -box[1], height - box[3])];
      this.box = box.map((v, k) => v + moved[k % 2]);
    }
    this.last = null;
    this.paint();
    this.run().catch(error => this.say(error.message));
    return moved;
  }

  // --- the network

  async useNetwork(name) {
    this.network = name;
    this.chosenNetwork = true;
    this.syncNetwork();
    await this.run();
  }

  syncNetwork() {
    this.last = null;
    if (this.small) return;
    this.find(`.networks input[value=${this.network}]`).checked = true;
    const {scores, source} = this.list.networks[this.network];
    if (!this.chosenSource) this.find(".source").value = source;
    this.find(".score").textContent = `On pictures of that kind which it has not learned from, ` +
      `${Math.round(100 * Math.max(...Object.values(scores)))} of 100 joints come within a fifth of the torso's length.`;
  }

  async ready(name) {
    if (!this.networks.has(name)) {
      const bar = this.find("progress"), text = this.find(".received");
      this.find(".start").hidden = true;
      bar.hidden = false;
      bar.removeAttribute("value");
      this.say("Loading the network.");
      const loading = loadNetwork(this.list, name, (received, total) => {
        bar.max = total;
        bar.value = received;
        text.textContent = `${megabytes(received)} of ${megabytes(total)} MB`;
      });
      this.networks.set(name, loading);
      try {
        await loading;
        this.say("The network is ready.");
      } catch (error) {
        this.networks.delete(name);
        if (!this.networks.size) this.find(".start").hidden = false;
        throw new Error(`The network could not be loaded: ${error.message}.`);
      } finally {
        bar.hidden = true;
        text.textContent = "";
      }
    }
    return this.networks.get(name);
  }

  /** Run the network on the box. Requests that come while it runs are answered once, with the last box. */
  async run() {
    this.again = this.running;
    if (this.running) return;
    this.running = true;
    try {
      do {
        this.again = false;
        const name = this.network, network = await this.ready(name), picture = this.picture;
        const square = squareBox(this.box, network.about.enlarge), began = performance.now();
        const crop = cropImage(this.pixels(), square, network.about.crop), cropped = performance.now() - began;
        const {answers, milliseconds} = await network.run(crop);
        if (picture === this.picture && name === this.network) {
          this.last = {answers, crop, square, about: network.about, cropped, milliseconds};
          this.paint();
        } else this.again = true;
      } while (this.again);
    } finally {
      this.running = false;
    }
  }

  // --- what is seen

  paint() {
    const {width, height} = this.picture, unit = this.longest / 75, [x0, y0, x1, y1] = this.box;
    this.find("canvas.picture").getContext("2d").drawImage(this.picture, 0, 0);
    const about = this.last?.about ?? this.list.networks[this.network].about;
    const place = (selector, [left, top, right, bottom], line) => Object.entries({x: left - 0.5, y: top - 0.5,
      width: right - left, height: bottom - top, "stroke-width": line, "stroke-dasharray": selector === ".square"
        ? `${unit} ${unit}` : "none"}).forEach(([name, value]) => this.find(selector).setAttribute(name, value));
    place(".box", this.box, unit * 0.4);
    place(".square", squareBox(this.box, about.enlarge), unit * 0.3);
    for (const {button, corner} of this.handles) {
      const x = corner ? this.box[corner[0]] : (x0 + x1) / 2, y = corner ? this.box[corner[1]] : (y0 + y1) / 2;
      button.style.left = `${100 * x / width}%`;
      button.style.top = `${100 * y / height}%`;
    }
    const pose = clear(this.find("g.pose")), truth = clear(this.find("g.true"));
    const wanted = this.find(".truth");
    if (wanted) {
      wanted.disabled = !this.example;
      if (this.example && wanted.checked) drawTruth(truth, this.example.joints, unit);
    }
    this.find(".timing").textContent = "";
    if (!this.last) return;
    const points = this.pose();
    drawPose(pose, points, about, unit);
    const time = v => v < 10 ? v.toFixed(1) : Math.round(v);
    this.find(".timing").textContent = `This run: crop ${time(this.last.cropped)} ms, network ` +
      `${time(this.last.milliseconds)} ms.${this.example ? ` Mean error ${this.error(points).toFixed(1)} pixels of this ` +
      `picture's ${width}.` : ""}`;
    if (!this.small) this.paintBehind(about, points);
  }

  /** Joints [x, y] in pixels of the picture. */
  pose() {
    const source = this.small ? this.list.networks[this.network].source : this.find(".source").value;
    const {data} = this.last.answers[SOURCES[source]];
    const points = this.last.about.joints.map((_, k) => [data[2 * k], data[2 * k + 1]]);
    return toPicture(points, this.last.square, this.last.about.crop);
  }

  error(points) {
    const away = this.example.joints.flatMap((p, k) => p ? [Math.hypot(p[0] - points[k][0], p[1] - points[k][1])] : []);
    return away.reduce((a, b) => a + b, 0) / away.length;
  }

  paintBehind(about, points) {
    this.find("tbody").innerHTML = points.map(([x, y], k) => `<tr><th scope="row">${plain(about.joints[k])}</th>` +
      `<td>${x.toFixed(1)}</td><td>${y.toFixed(1)}</td></tr>`).join("");
    const {answers, crop} = this.last, choice = this.find(".thing").value, seen = this.find(".seen");
    drawCrop(seen, crop, about.crop, Boolean(choice));
    const group = clear(this.find(".view svg")), told = this.find(".said-windows");
    told.textContent = "";
    let text = "The square that the network sees";
    if (choice) {
      const [kind, k] = choice.split(" "), {dims, data} = answers[`${kind}_probability`], count = dims[2] * dims[3];
      const best = drawWindows(group, data.subarray(k * count, (k + 1) * count), about.windows);
      told.textContent = `Most probable window (outlined): ${best.toFixed(2)}`;
      text += `; ${told.textContent.toLowerCase()}`;
    }
    seen.setAttribute("aria-label", text);
    const layer = this.find(".layer").value, {dims, data} = answers[layer], slider = this.find(".number");
    slider.max = dims[1] - 1;
    const number = Number(slider.value), count = dims[2] * dims[3];
    const largest = drawMap(this.find(".map"), data.subarray(number * count, (number + 1) * count), dims[3]);
    this.find(".said-map").textContent = `${number} (of 0 to ${dims[1] - 1}), ${dims[2]} x ${dims[3]} values, ` +
      (largest > 0 ? `largest ${largest.toFixed(2)}` : "all zero here");
    slider.setAttribute("aria-valuetext", this.find(".said-map").textContent);
    this.find(".map").setAttribute("aria-label", `Map ${this.find(".said-map").textContent} of ${layer}`);
  }
}

const roots = [...document.querySelectorAll(".posebook-live:not(.ready)")];
if (roots.length) readList().then(
  list => roots.forEach(root => { root.posebook = new Figure(root, list); }),             // kept for the tests
  error => roots.forEach(root => { root.textContent = `The network cannot be shown: ${error.message}.`; }));

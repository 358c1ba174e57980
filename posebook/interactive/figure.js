  // What the figures share; README.md beside this file describes it.
  const figure = (() => {
    const colours = {left: "#0072B2", right: "#E69F00", middle: "#7F7F7F"};
    // An SVG node with attributes, and text if there is any.
    function make(parent, kind, attributes = {}, text = null) {
      const node = parent.appendChild(document.createElementNS("http://www.w3.org/2000/svg", kind));
      set(node, attributes);
      if (text !== null) node.textContent = text;
      return node;
    }
    function set(node, attributes) {
      for (const name in attributes) node.setAttribute(name, attributes[name]);
    }
    // The same for HTML.
    function add(parent, kind, properties = {}, text = "") {
      const node = parent.appendChild(document.createElement(kind));
      Object.assign(node, properties);
      if (text) node.textContent = text;
      return node;
    }
    // Dragging by mouse, pen or finger. pick(event, point) names what is taken, or null; move(what, x, y) puts it.
    function drag(svg, pick, move) {
      const at = event => new DOMPoint(event.clientX, event.clientY).matrixTransform(svg.getScreenCTM().inverse());
      let held = null;
      svg.addEventListener("pointerdown", event => {
        held = pick(event, at(event));
        if (held === null) return;
        event.preventDefault();
        svg.setPointerCapture(event.pointerId);
      });
      svg.addEventListener("pointermove", event => {
        if (held === null || !svg.hasPointerCapture(event.pointerId)) return;
        const point = at(event);
        move(held, point.x, point.y);
      });
      ["pointerup", "pointercancel"].forEach(kind => svg.addEventListener(kind, () => { held = null; }));
    }
    // Arrow keys: work(right, down) with -1, 0 or 1 each, times 5 with the shift key.
    function arrows(node, work) {
      node.addEventListener("keydown", event => {
        const way = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
        if (!way || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        work(...way.map(step => step * (event.shiftKey ? 5 : 1)));
      });
    }
    // Lines from joint to joint, the left solid, the right dashed, on a white edge; gives a function that moves them.
    // bones: [from, to, side]; a width below 0 draws nothing but keeps the call.
    function skeleton(parent, bones, {width, opacity = 1, halo = true}) {
      const group = make(parent, "g", {"pointer-events": "none", opacity, "stroke-linecap": "round"});
      const lines = bones.map(([from, to, side]) => [
        halo && make(group, "line", {stroke: "#fff", "stroke-opacity": 0.75, "stroke-width": 1.8 * width}),
        make(group, "line", {stroke: colours[side], "stroke-width": width,
          "stroke-dasharray": side === "right" ? `${1.6 * width} ${1.9 * width}` : "none"})]);
      return points => bones.forEach(([from, to], k) => {
        const [[x1, y1], [x2, y2]] = [points[from], points[to]];
        lines[k].forEach(line => line && set(line, {x1, y1, x2, y2}));
      });
    }
    // A labelled slider. text(value) is what stands beside it and what a screen reader says.
    function slider(parent, label, {min, max, step, value, text = String}, work) {
      const row = add(parent, "label", {className: "slider"}), says = add(row, "span", {}, label + " ");
      const output = add(says, "output"), input = add(row, "input", {type: "range", min, max, step, value});
      const show = () => {
        output.textContent = text(Number(input.value));
        input.setAttribute("aria-valuetext", output.textContent);
      };
      input.setAttribute("aria-label", label);
      input.addEventListener("input", () => { show(); work(Number(input.value)); });
      // As a slider does by itself, except where a notebook takes the arrow keys first.
      input.addEventListener("keydown", event => {
        const way = {ArrowLeft: -1, ArrowDown: -1, ArrowRight: 1, ArrowUp: 1}[event.key];
        if (!way || event.ctrlKey || event.metaKey || event.altKey) return;
        event.preventDefault();
        input.stepUp(way);
        input.dispatchEvent(new Event("input", {bubbles: true}));
      });
      show();
      return {input, get value() { return Number(input.value); }, set value(v) { input.value = v; show(); }};
    }
    // Buttons in a row, one for each name; work(k) when one is pressed. press(k) marks one as the chosen.
    function buttons(parent, label, names, work) {
      const group = add(parent, "div", {className: "buttons"});
      set(group, {role: "group", "aria-label": label});
      const all = names.map((name, k) => {
        const button = add(group, "button", {type: "button"}, name);
        button.addEventListener("click", () => work(k));
        return button;
      });
      return {all, press: chosen => all.forEach((button, k) => button.setAttribute("aria-pressed", k === chosen))};
    }
    // Text that follows at once for the eye, and is read aloud only when it has come to rest.
    function speaker(node) {
      const spoken = add(node.parentElement, "p", {className: "spoken"});
      let waiting = null;
      node.setAttribute("aria-hidden", "true");
      spoken.setAttribute("aria-live", "polite");
      return text => {
        node.textContent = text;
        clearTimeout(waiting);
        waiting = setTimeout(() => { spoken.textContent = text; }, 400);
      };
    }
    // JupyterLab would take the arrow keys for itself.
    document.getElementById("FIGURE_ID").setAttribute("data-lm-suppress-shortcuts", "true");
    return {colours, make, set, add, drag, arrows, skeleton, slider, buttons, speaker};
  })();

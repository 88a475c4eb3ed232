"use strict";

/**
 * A molecule on a canvas: balls, sticks and arrows, painted from the farthest to the nearest.
 *
 * `createViewer(canvas)` returns `{ show(scene, keepView) }`. A scene has `atoms` ({ symbol, position, radius, colour }),
 * `bonds` (pairs of atom numbers) and `arrows` ({ atom, vector, radius, colour, opacity }). Lengths are in Å, colours
 * are [red, green, blue]. Drag to turn, pinch or scroll to zoom, double-click to go back; keys: arrows, + and −.
 */
function createViewer(canvas) {
  const context = canvas.getContext("2d");
  const STICK = 0.11, FADE = 0.5, DISTANCE = 4; // stick radius in Å; haze at the back; of the eye, in molecule radii
  let scene = { atoms: [], bonds: [], arrows: [] };
  let centre = [0, 0, 0], extent = 1; // of the molecule and its arrows, in Å
  let rotation, zoom, waiting = false;

  const add = (a, b, factor = 1) => a.map((value, k) => value + factor * b[k]);
  const scaled = (a, factor) => a.map((value) => factor * value);
  const unit = (a) => scaled(a, 1 / (Math.hypot(...a) || 1));
  const mix = (a, b, share) => a.map((value, k) => value + share * (b[k] - value));
  const css = (colour, opacity = 1) => `rgb(${colour.map(Math.round).join(" ")} / ${opacity})`;
  const times = (matrix, vector) => matrix.map((row) => row.reduce((sum, value, k) => sum + value * vector[k], 0));

  /** Turn the molecule about the vertical and the horizontal axis of the screen, by angles in radians. */
  const turn = (aboutY, aboutX) => {
    const [c, s, d, t] = [Math.cos(aboutY), Math.sin(aboutY), Math.cos(aboutX), Math.sin(aboutX)];
    const step = [[c, 0, s], [t * s, d, -t * c], [-d * s, t, d * c]];
    const columns = [0, 1, 2].map((k) => times(step, rotation.map((row) => row[k])));
    rotation = [0, 1, 2].map((k) => columns.map((column) => column[k]));
    redraw();
  };
  const zoomBy = (factor) => {
    zoom = Math.min(Math.max(zoom * factor, 0.3), 12);
    redraw();
  };
  const resetView = () => {
    [rotation, zoom] = [[[1, 0, 0], [0, 1, 0], [0, 0, 1]], 1];
    turn(0.6, 0.35); // flat molecules often lie in a plane of the axes: look at them from an angle
  };

  /** Paint the scene at the screen's own resolution. */
  const draw = () => {
    waiting = false;
    const [width, height, ratio] = [canvas.clientWidth, canvas.clientHeight, window.devicePixelRatio || 1];
    if (!width || !height) return;
    [canvas.width, canvas.height] = [Math.round(width * ratio), Math.round(height * ratio)];
    context.scale(ratio, ratio);
    const style = getComputedStyle(canvas);
    const background = style.backgroundColor.match(/[\d.]+/g).slice(0, 3).map(Number);
    const pixels = (zoom * 0.5 * Math.min(width, height)) / extent; // of 1 Å at the centre
    const place = (position) => {
      const [x, y, z] = times(rotation, add(position, centre, -1));
      const scale = (pixels * DISTANCE * extent) / Math.max(DISTANCE * extent - z, 0.5 * extent);
      return { x: width / 2 + scale * x, y: height / 2 - scale * y, z, scale };
    };
    const hazy = (colour, z) => mix(colour, background, FADE * Math.min(Math.max((1 - z / extent) / 2, 0), 1));

    const ball = (point, { radius, colour }) => {
      const r = radius * point.scale, shade = hazy(colour, point.z);
      const gradient = context.createRadialGradient(point.x - 0.35 * r, point.y - 0.4 * r, 0.05 * r, point.x, point.y, r);
      gradient.addColorStop(0, css(mix(shade, [255, 255, 255], 0.6)));
      gradient.addColorStop(0.45, css(shade));
      gradient.addColorStop(1, css(mix(shade, [0, 0, 0], 0.4)));
      context.fillStyle = gradient;
      context.beginPath();
      context.arc(point.x, point.y, r, 0, 2 * Math.PI);
      context.fill();
    };
    const stick = (from, to, radius, colour, opacity = 1) => {
      const [along, across] = [Math.hypot(to.x - from.x, to.y - from.y), radius * from.scale];
      if (along < 0.1) return;
      const [x, y] = [(-(to.y - from.y) / along) * across, ((to.x - from.x) / along) * across];
      const shade = hazy(colour, (from.z + to.z) / 2), dark = css(mix(shade, [0, 0, 0], 0.35), opacity);
      const gradient = context.createLinearGradient(from.x - x, from.y - y, from.x + x, from.y + y);
      gradient.addColorStop(0, dark);
      gradient.addColorStop(0.5, css(mix(shade, [255, 255, 255], 0.2), opacity));
      gradient.addColorStop(1, dark);
      context.strokeStyle = gradient;
      context.lineWidth = 2 * across;
      context.beginPath();
      context.moveTo(from.x, from.y);
      context.lineTo(to.x, to.y);
      context.stroke();
    };
    /** The head of an arrow, a cone; towards the eye or away from it, one sees its round base. */
    const cone = (base, tip, radius, direction, colour, opacity) => {
      const r = radius * base.scale, angle = Math.atan2(tip.y - base.y, tip.x - base.x);
      const [x, y] = [-Math.sin(angle) * r, Math.cos(angle) * r];
      context.fillStyle = css(hazy(colour, base.z), opacity);
      context.beginPath();
      context.ellipse(base.x, base.y, r * Math.abs(times(rotation, direction)[2]), r, angle, 0, 2 * Math.PI, true);
      context.moveTo(base.x + x, base.y + y);
      context.lineTo(tip.x, tip.y);
      context.lineTo(base.x - x, base.y - y);
      context.fill();
    };

    const layers = []; // [depth, paint]
    const { atoms, bonds, arrows } = scene;
    for (const atom of atoms) {
      const point = place(atom.position);
      layers.push([point.z, () => ball(point, atom)]);
    }
    for (const pair of bonds) {
      const [a, b] = pair.map((k) => atoms[k]);
      const middle = scaled(add(a.position, b.position), 0.5);
      for (const atom of [a, b]) { // each half in its atom's colour, from where it leaves the ball
        const out = unit(add(middle, atom.position, -1));
        const [from, to] = [place(add(atom.position, out, 0.9 * atom.radius)), place(middle)];
        layers.push([(from.z + to.z) / 2, () => stick(from, to, STICK, atom.colour)]);
      }
    }
    for (const { atom, vector, radius, colour, opacity } of arrows) {
      const length = Math.hypot(...vector), out = unit(vector), { position, radius: ball } = atoms[atom];
      if (length < 0.03) continue;
      const start = add(position, out, 0.9 * ball), head = Math.min(0.45 * length, 4.5 * radius);
      const [from, base, tip] = [0, length - head, length].map((distance) => place(add(start, out, distance)));
      layers.push([(from.z + base.z) / 2, () => stick(from, base, radius, colour, opacity)]);
      layers.push([(base.z + tip.z) / 2, () => cone(base, tip, 2.3 * radius, out, colour, opacity)]);
    }
    layers.sort((a, b) => a[0] - b[0]);
    for (const [, paint] of layers) paint();

    context.font = `13px ${style.fontFamily}`;
    context.textBaseline = "middle";
    let x = 18; // a legend of the elements
    for (const [symbol, { colour }] of new Map(atoms.map((atom) => [atom.symbol, atom]))) {
      ball({ x, y: height - 20, z: extent, scale: 1 }, { radius: 7, colour });
      context.fillStyle = style.color;
      context.fillText(symbol, x + 12, height - 19);
      x += 28 + context.measureText(symbol).width;
    }
  };
  const redraw = () => {
    if (!waiting) requestAnimationFrame(draw);
    waiting = true;
  };

  const pointers = new Map(); // fingers, or the mouse while its button is down
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event);
  });
  canvas.addEventListener("pointermove", (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    pointers.set(event.pointerId, event);
    const other = [...pointers.values()].find((pointer) => pointer.pointerId !== event.pointerId);
    const span = (pointer) => Math.hypot(pointer.clientX - other.clientX, pointer.clientY - other.clientY) || 1;
    if (other) zoomBy(span(event) / span(before));
    else turn(0.01 * (event.clientX - before.clientX), 0.01 * (event.clientY - before.clientY));
  });
  for (const name of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(name, (event) => pointers.delete(event.pointerId));
  }
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas && !event.ctrlKey) return; // the page scrolls past unless one has clicked here
    event.preventDefault();
    zoomBy(Math.exp(-0.0015 * event.deltaY));
  }, { passive: false });
  canvas.addEventListener("dblclick", resetView);
  const keys = {
    ArrowLeft: () => turn(-0.1, 0), ArrowRight: () => turn(0.1, 0), ArrowUp: () => turn(0, -0.1),
    ArrowDown: () => turn(0, 0.1), "+": () => zoomBy(1.15), "-": () => zoomBy(1 / 1.15),
  };
  canvas.addEventListener("keydown", (event) => {
    if (!(event.key in keys)) return;
    event.preventDefault();
    keys[event.key]();
  });
  new ResizeObserver(redraw).observe(canvas);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);

  resetView();
  return {
    show(newScene, keepView) {
      scene = newScene;
      if (!keepView) {
        const positions = scene.atoms.map((atom) => atom.position);
        const range = [0, 1, 2].map((k) => positions.map((position) => position[k]));
        centre = range.map((values) => (Math.min(...values) + Math.max(...values)) / 2);
        extent = Math.max(...positions.map((position) => Math.hypot(...add(position, centre, -1)))) + 0.8;
        resetView();
      }
      redraw();
    },
  };
}

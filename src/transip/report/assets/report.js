"use strict";
(() => {
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const element = (id) => document.getElementById(id);
  const [box, note, select, scale] = ["viewer", "viewer-note", "viewer-structure", "viewer-scale"].map(element);
  const hidden = new Set(Object.keys(data.runs).slice(1)); // arrows of many runs hide each other
  const LONGEST = 2.0; // Å, the largest reference force at arrow length 1

  let viewer;
  try {
    viewer = $3Dmol.createViewer(box, { backgroundAlpha: 0, antialias: true });
  } catch (error) {
    viewer = null;
  }
  if (!viewer) return; // no WebGL: the note says so

  const option = (structure, k) =>
    new Option(`${structure.formula} · ${structure.reason} · ${structure.domain} ${structure.id}`, k);
  data.structures.forEach((structure, k) => select.add(option(structure, k)));

  const addSwitch = (key, name, colour) => {
    const label = document.createElement("label");
    const input = document.createElement("input");
    const swatch = document.createElement("i");
    Object.assign(input, { type: "checkbox", checked: !hidden.has(key) });
    swatch.className = "swatch";
    swatch.style.background = colour;
    label.append(input, " ", swatch, name);
    input.addEventListener("change", () => {
      input.checked ? hidden.delete(key) : hidden.add(key);
      draw(false);
    });
    element("viewer-runs").append(label);
  };
  addSwitch("reference", "Reference forces", data.reference);
  for (const [key, run] of Object.entries(data.runs)) addSwitch(key, `Predicted by ${run.name}`, run.colour);

  const addArrows = (positions, forces, length, colour, radius, opacity) => {
    positions.forEach(([x, y, z], i) => {
      const [u, v, w] = forces[i].map((component) => component * length);
      if (Math.hypot(u, v, w) < 0.05) return;
      viewer.addArrow({
        start: { x, y, z }, end: { x: x + u, y: y + v, z: z + w },
        radius, radiusRatio: 2.2, mid: 0.75, color: colour, opacity,
      });
    });
  };

  const draw = (recentre) => {
    const structure = data.structures[select.value];
    const { positions, symbols, forces, predicted } = structure;
    viewer.removeAllModels();
    viewer.removeAllShapes();
    const lines = symbols.map((symbol, i) => [symbol, ...positions[i]].join(" "));
    viewer.addModel([symbols.length, "", ...lines].join("\n"), "xyz");
    viewer.setStyle({}, { stick: { radius: 0.09, color: "#9aa0a6" }, sphere: { scale: 0.2 } });
    const largest = Math.max(...forces.map((force) => Math.hypot(...force)), 0.1);
    const length = (LONGEST / largest) * Number(scale.value);
    if (!hidden.has("reference")) addArrows(positions, forces, length, data.reference, 0.11, 0.5);
    const remarks = [];
    for (const [key, run] of Object.entries(data.runs)) {
      const found = predicted[key];
      if (!found) continue;
      if (!hidden.has(key)) addArrows(positions, found.forces, length, run.colour, 0.05, 1);
      remarks.push(`${run.name}: force MAE ${found.forceError} meV/Å, energy error ${found.energyError} meV/atom`);
    }
    remarks.push(`Largest reference force ${largest.toFixed(2)} eV/Å. Drag to turn, scroll to zoom. ` +
      `Structures were chosen by the errors of ${data.chosenBy}.`);
    note.textContent = remarks.join("\n");
    if (recentre) {
      viewer.zoomTo();
      viewer.zoom(1.3);
    }
    viewer.render();
  };

  select.addEventListener("change", () => draw(true));
  scale.addEventListener("input", () => draw(false));
  draw(true);
  viewer.rotate(35, "y"); // molecules often lie along an axis: look at them from an angle
  viewer.rotate(20, "x");
  viewer.render();
})();

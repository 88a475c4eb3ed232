"use strict";
(() => {
  const data = JSON.parse(document.getElementById("viewer-data").textContent);
  const element = (id) => document.getElementById(id);
  const [note, select, scale] = ["viewer-note", "viewer-structure", "viewer-scale"].map(element);
  const viewer = createViewer(element("viewer"));
  const hidden = new Set(Object.keys(data.runs).slice(1)); // arrows of many runs hide each other
  const LONGEST = 2.0; // Å, the largest reference force at arrow length 1
  const rgb = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));

  const draw = (keepView) => {
    const { symbols, positions, bonds, forces, predicted } = data.structures[select.value];
    const atoms = symbols.map((symbol, k) => ({ symbol, position: positions[k], ...data.elements[symbol] }));
    const largest = Math.max(...forces.map((force) => Math.hypot(...force)), 0.1);
    const length = (LONGEST / largest) * Number(scale.value);
    const arrows = [];
    const addArrows = (vectors, style) => vectors.forEach((vector, atom) => {
      arrows.push({ atom, vector: vector.map((component) => component * length), ...style });
    });
    const notes = [];
    if (!hidden.has("reference")) addArrows(forces, { radius: 0.11, colour: rgb(data.reference), opacity: 0.6 });
    for (const [key, run] of Object.entries(data.runs)) {
      const prediction = predicted[key];
      if (!prediction) continue;
      if (!hidden.has(key)) addArrows(prediction.forces, { radius: 0.055, colour: rgb(run.colour), opacity: 1 });
      notes.push(`${run.name}: force MAE ${prediction.forceError} meV/Å, energy error ${prediction.energyError} meV/atom`);
    }
    notes.push(`Largest reference force: ${largest.toFixed(2)} eV/Å. Drag to turn, pinch or click and scroll to zoom, ` +
      `double-click to reset. Structures were chosen by the errors of ${data.chosenBy}.`);
    note.textContent = notes.join("\n");
    viewer.show({ atoms, bonds, arrows }, keepView);
  };

  const addSwitch = (key, name, colour) => {
    const [label, input, swatch] = ["label", "input", "i"].map((tag) => document.createElement(tag));
    Object.assign(input, { type: "checkbox", checked: !hidden.has(key) });
    Object.assign(swatch, { className: "swatch", style: `background: ${colour}` });
    label.append(input, " ", swatch, name);
    input.addEventListener("change", () => {
      input.checked ? hidden.delete(key) : hidden.add(key);
      draw(true);
    });
    element("viewer-runs").append(label);
  };
  addSwitch("reference", "Reference forces", data.reference);
  for (const [key, run] of Object.entries(data.runs)) addSwitch(key, `Predicted by ${run.name}`, run.colour);
  data.structures.forEach(({ formula, reason, domain, id }, k) => {
    select.add(new Option(`${formula} · ${reason} · ${domain} ${id}`, k));
  });
  select.addEventListener("change", () => draw(false));
  scale.addEventListener("input", () => draw(true));
  draw(false);
})();

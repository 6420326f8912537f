// The sliders and fields: what the server is told of how to draw.

import {$, bindOutput, element, show} from "./dom.js";

const SLIDERS = ["guidance", "temperature", "top_p"]; // two sliders with plain names stand for these

export class Settings {
  constructor(model) {
    this.model = model;
    this.fields = new Map();
    show("guidance-row", model.guidance);
    $("fields").replaceChildren();
    for (const field of model.fields) {
      if (!SLIDERS.includes(field.name)) this.addField(field);
    }
    this.updates = [
      bindOutput("follow", (value) => value.toFixed(1)),
      bindOutput("variety", (value) => `${Math.round(100 * value)}%`),
      bindOutput("strength", (value) => `${Math.round(100 * value)}%`),
      bindOutput("candidates"), bindOutput("seam"),
    ];
    this.write(model.settings);
    $("seed").value = 0;
  }

  addField(field) {
    const id = `field-${field.name}`, help = `help-${field.name}`;
    const input = element("input", {id, type: "number", step: field.whole ? 1 : "any",
      placeholder: field.optional ? "off" : ""});
    input.setAttribute("aria-describedby", help);
    $("fields").append(element("div", {className: "field"},
      element("label", {htmlFor: id, textContent: field.name.replaceAll("_", "-")}), input,
      element("small", {id: help, textContent: field.help})));
    this.fields.set(field.name, input);
  }

  // What `Sampling` takes, but for size and seed
  get values() {
    const variety = Number($("variety").value);
    const values = {
      temperature: Math.round(100 * (0.6 + 0.8 * variety)) / 100,
      top_p: Math.round(100 * (0.8 + 0.2 * variety)) / 100,
    };
    if (this.model.guidance) values.guidance = Number($("follow").value);
    for (const [name, input] of this.fields) {
      values[name] = input.value === "" ? null : Number(input.value);
    }
    for (const name of Object.keys(values)) if (values[name] === null) delete values[name];
    return values;
  }

  write(values) {
    if (values.guidance !== undefined) $("follow").value = values.guidance;
    if (values.temperature !== undefined) $("variety").value = (values.temperature - 0.6) / 0.8;
    for (const [name, input] of this.fields) input.value = values[name] ?? "";
    for (const update of this.updates) update();
  }

  get seed() { return Math.max(0, Math.floor(Number($("seed").value) || 0)); }
  set seed(value) { $("seed").value = value; }

  nextSeed() {
    if ($("new-seed").checked) this.seed = crypto.getRandomValues(new Uint32Array(1))[0] >>> 8;
    return this.seed;
  }
}

// A project is one JSON file: layout, settings, and every picture with its layout.

import {bytesOf} from "./dom.js";

const FORMAT = "taming-studio", VERSION = 1, MOST = 2000;

async function packed(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate-raw"));
  return base64(new Uint8Array(await new Response(stream).arrayBuffer()));
}

async function unpacked(text, length) {
  const stream = new Blob([fromBase64(text)]).stream()
    .pipeThrough(new DecompressionStream("deflate-raw"));
  const bytes = new Uint8Array(length), reader = stream.getReader();
  let place = 0;
  for (;;) {
    const {done, value} = await reader.read();
    if (done) break;
    if (place + value.length > length) throw new Error("a layout is longer than its size says");
    bytes.set(value, place);
    place += value.length;
  }
  if (place !== length) throw new Error("a layout is shorter than its size says");
  return bytes;
}

export function base64(bytes) {
  let text = "";
  for (let i = 0; i < bytes.length; i += 32768) {
    text += String.fromCharCode(...bytes.subarray(i, i + 32768));
  }
  return btoa(text);
}

export function fromBase64(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

export async function projectFile(state) {
  const pictures = [];
  for (const picture of state.history) {
    pictures.push({
      png: base64(await bytesOf(picture.blob)), width: picture.width, height: picture.height,
      layout: picture.labels ? await packed(picture.labels) : null,
      settings: picture.settings, title: picture.title,
    });
  }
  const {width, height, data} = state.labels;
  const project = {format: FORMAT, version: VERSION, model: state.model, width, height,
    labels: state.count, layout: await packed(data), settings: state.settings, pictures};
  return new Blob([JSON.stringify(project)], {type: "application/json"});
}

function sized(entry, largest) {
  const sides = [entry?.width, entry?.height];
  if (!sides.every((side) => Number.isInteger(side) && side >= 1 && side <= largest[0])
      || sides[0] * sides[1] > largest[1]) {
    throw new Error("it has a picture of a size that can't be");
  }
  return sides;
}

async function labelsIn(entry, count, largest) {
  const [width, height] = sized(entry, largest);
  const data = await unpacked(entry.layout, width * height);
  if (count && data.some((label) => label >= count)) {
    throw new Error("its layout has labels that this model does not have");
  }
  return {width, height, data};
}

// Throws an Error whose message is one line for a person.
export async function readProject(file, count, largest) {
  let project;
  try {
    project = JSON.parse(await file.text());
  } catch {
    throw new Error("it is no JSON");
  }
  if (project?.format !== FORMAT || project.version !== VERSION) {
    throw new Error("it is no project of taming studio");
  }
  if (!Array.isArray(project.pictures) || project.pictures.length > MOST) {
    throw new Error("its list of pictures is none");
  }
  const labels = await labelsIn(project, count, largest);
  const history = [];
  for (const entry of project.pictures) {
    const [width, height] = sized(entry, largest);
    const blob = new Blob([fromBase64(entry.png)], {type: "image/png"});
    const bitmap = await createImageBitmap(blob);
    if (bitmap.width !== width || bitmap.height !== height) throw new Error("a picture is damaged");
    history.push({
      blob, width, height, title: String(entry.title).slice(0, 200),
      labels: entry.layout === null ? null : (await labelsIn(entry, count, largest)).data,
      settings: plainSettings(entry.settings),
    });
  }
  return {labels, history, settings: plainSettings(project.settings)};
}

function plainSettings(settings) {
  const plain = {};
  for (const [name, value] of Object.entries(settings ?? {}).slice(0, 50)) {
    if (value === null || ["number", "boolean"].includes(typeof value)) plain[name] = value;
  }
  return plain;
}

const STYLE = "body{font:15px sans-serif;max-width:72rem;margin:1rem auto;padding:0 1rem}"
  + "figure{display:inline-block;margin:.5rem}img{max-width:100%}figcaption{font-size:.85rem}";

function escaped(text) {
  return String(text).replace(/[&<>"']/g, (letter) => `&#${letter.charCodeAt(0)};`);
}

// One HTML file with every picture inside it, and no link to anywhere.
export async function historyPage(history, model) {
  const title = escaped(`taming studio: ${model}`), figures = [];
  for (const picture of history) {
    const source = `data:image/png;base64,${base64(await bytesOf(picture.blob))}`;
    const words = Object.entries(picture.settings).filter(([, value]) => value !== null)
      .map(([name, value]) => `${name.replaceAll("_", "-")} ${value}`).join(", ");
    const name = escaped(picture.title);
    figures.push(`<figure><img src="${source}" alt="${name}">`
      + `<figcaption>${name}; ${escaped(words)}</figcaption></figure>\n`);
  }
  return new Blob([`<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>${title}`
    + `</title><style>${STYLE}</style></head><body><h1>${title}</h1>\n`, ...figures,
    "</body></html>\n"], {type: "text/html"});
}

// The page: what is painted goes to the server, what is drawn comes back.

import {$, bytesOf, download, element, show, stampedName} from "./dom.js";
import {Easels, TOOLS} from "./easel.js";
import {Inspector} from "./inspector.js";
import {Layout} from "./layout.js";
import {historyPage, projectFile, readProject} from "./project.js";
import * as raster from "./raster.js";
import {Settings} from "./settings.js";
import {Connection} from "./socket.js";

const PREVIEW_DELAY = 80; // milliseconds after a stroke
const SIZES = [[64, 64], [96, 64], [128, 128], [192, 128], [256, 256], [384, 256], [512, 384],
  [768, 512], [1024, 680], [1280, 832]];

const state = {tool: "brush", selecting: false, label: 0, ground: 0, size: 10, mirror: false,
  colours: new Uint32Array(), class: 0, number: 0};
const layout = new Layout(64, 64);
const pictures = {history: [], current: null, base: null};
let model = null, settings = null, easels = null, inspector = null;
let drawing = null, preview = null, previewTimer = 0, previewNumber = 0, style = null;

const connection = new Connection({
  welcome: (description) => { if (!model) start(description); else say(""); },
  failed: (message) => say(message, true),
  lost: (reason) => { finish(); say(`${reason}; trying again`, true); },
});

function say(message, failure = false) {
  $("message").textContent = message;
  $("message").classList.toggle("failure", failure);
  show("message", Boolean(message));
}

// Start

function start(description) {
  model = description;
  const paints = model.labels.length > 0, draws = model.kind !== "first";
  $("model").textContent = model.name.split(/[\\/]/).at(-1);
  document.title = `taming studio: ${$("model").textContent}`;
  state.colours = new Uint32Array(256).fill(0xff808080);
  model.labels.forEach(({colour: [r, g, b]}, i) => {
    state.colours[i] = (0xff000000 | b << 16 | g << 8 | r) >>> 0;
  });
  settings = new Settings(model);
  easels = new Easels(state, layout, {
    begins: () => stopPreview(), ends: (plane) => { if (plane === "labels") askPreview(); },
    picks: choose, shortcut, moves: showCursor,
    resizes: (by) => setSize(state.size + by * Math.max(1, Math.round(state.size / 10))),
  });
  inspector = new Inspector(connection, model);
  layout.onchange = changed;
  const ids = ["layout-easel", "start-row", "upload-row", "save-mask", "swatches", "ground-row"];
  for (const id of ids) {
    show(id, paints);
  }
  show("layout-side", paints || draws); // without a layout its tools select what is drawn anew
  $("layout-title").textContent = paints ? "Layout" : "Selection";
  $("follow-name").textContent = `Follow the ${model.kind}`;
  for (const id of ["live-row", "update"]) show(id, paints && draws);
  show("photograph-row", model.photographs);
  show("inspector", model.codes.length > 0);
  show("picture-easel", draws);
  show("picture-row", draws);
  document.querySelector("main").classList.toggle("no-layout", !(paints || draws));
  $("easels").classList.toggle("single", !(paints && draws));
  show("inspect-row", !(paints && !draws));
  for (const part of document.querySelectorAll("[data-draws]")) part.hidden = !draws;
  for (const part of document.querySelectorAll("[data-canvas]")) part.hidden = !(draws || paints);
  $("inspector").open = !draws;
  buildTools();
  buildLabels();
  buildClasses();
  buildSizes();
  const [width, height] = model.trained;
  layout.replace(raster.blank(width, height, state.ground));
  layout.past = [];
  easels.fit();
  changed();
  if (paints && model.sketches.length) startFrom(model.sketches[0]);
}

function buildTools() {
  const ofLayouts = model.labels.length ? [] : ["pick", "select"];
  const tools = Object.entries(TOOLS).filter(([name]) => !ofLayouts.includes(name));
  $("tools").replaceChildren(...tools.map(([name, [text, key]]) => {
    const button = element("button", {type: "button", textContent: text, id: `tool-${name}`,
      title: `key ${key.toUpperCase()}`});
    button.onclick = () => useTool(name);
    return button;
  }));
  useTool("brush");
}

function useTool(name) {
  if (!$(`tool-${name}`)) return;
  if (name === "select") state.selecting = !state.selecting;
  else state.tool = name;
  for (const other of Object.keys(TOOLS)) {
    const pressed = other === "select" ? state.selecting : other === state.tool;
    $(`tool-${other}`)?.setAttribute("aria-pressed", pressed);
  }
}

function buildLabels() {
  const swatches = model.labels.map(({name, colour}, i) => {
    const chip = element("i");
    chip.style.background = `rgb(${colour.join(" ")})`;
    const button = element("button", {type: "button", className: "swatch"}, chip, name);
    button.setAttribute("role", "radio");
    button.onclick = () => choose(i);
    button.onkeydown = (event) => {
      const step = {ArrowDown: 1, ArrowRight: 1, ArrowUp: -1, ArrowLeft: -1}[event.key];
      if (!step) return;
      event.preventDefault();
      choose((i + step + model.labels.length) % model.labels.length);
      $("swatches").children[state.label].focus();
    };
    return button;
  });
  $("swatches").replaceChildren(...swatches);
  const sky = model.labels.findIndex(({name}) => name.startsWith("sky"));
  state.ground = Math.max(0, sky);
  $("ground").replaceChildren(...model.labels.map(({name}, i) =>
    element("option", {value: i, textContent: name})));
  $("ground").value = state.ground;
  choose(Math.min(model.labels.length - 1, 3));
  $("sketch").append(...model.sketches.map((name) => element("option", {value: name, textContent: name})));
}

function choose(label) {
  state.label = label;
  if (state.tool === "pick" || state.tool === "eraser") useTool("brush");
  [...$("swatches").children].forEach((button, i) => {
    button.setAttribute("aria-checked", i === label);
    button.tabIndex = i === label ? 0 : -1;
  });
}

function buildClasses() {
  if (model.kind === "caption") {
    show("classes", true);
    const caption = element("input", {id: "caption", type: "text", maxLength: 1000});
    $("classes").append(element("label", {}, "Caption ", caption));
  }
  if (model.kind !== "class") return;
  show("classes", true);
  const choice = element("select", {id: "class"});
  choice.append(...model.classes.map((name, i) => element("option", {value: i, textContent: name})));
  choice.onchange = () => { state.class = Number(choice.value); };
  $("classes").append(element("label", {}, "Class ", choice));
}

function buildSizes() {
  const [side, area] = model.largest;
  const sizes = [model.trained, ...SIZES].filter(([width, height], i, all) =>
    width <= side && width * height <= area && Math.min(width, height) >= model.smallest
    && all.findIndex(([w, h]) => w === width && h === height) === i);
  $("sizes").append(element("option", {value: "", textContent: "choose"}),
    ...sizes.map(([width, height]) => element("option",
      {value: `${width}x${height}`, textContent: `${width} x ${height}`})));
}

// The canvas

function changed(step = null) {
  if (!step?.box) easels.resize();
  easels.redraw();
  $("width").value = layout.width;
  $("height").value = layout.height;
  $("dimensions").textContent = `${layout.width} x ${layout.height}`;
  $("undo").disabled = !layout.past.length;
  $("redo").disabled = !layout.future.length;
  const marked = layout.region.data.some(Boolean);
  $("redraw").disabled = !(marked && fits(pictures.base));
  $("clear-region").disabled = !marked;
  $("update").disabled = !(fits(pictures.base) && pictures.base.labels && differs());
}

function fits(picture) {
  return picture && picture.width === layout.width && picture.height === layout.height;
}

function differs() {
  const {labels} = pictures.base;
  return layout.labels.data.some((label, i) => label !== labels[i]);
}

function setCanvas(labels, region = null) {
  const resized = labels.width !== layout.width || labels.height !== layout.height;
  layout.replace(labels, region);
  if (resized) easels.fit();
  changed();
  askPreview();
}

function resize(width, height) {
  if (!(width >= model.smallest && height >= model.smallest)) {
    return say(`sides go from ${model.smallest} to ${model.largest[0]} pixels`, true);
  }
  if (width > model.largest[0] || height > model.largest[0] || width * height > model.largest[1]) {
    return say("that is larger than 1280 x 832 pixels", true);
  }
  say("");
  setCanvas(raster.resized(layout.labels, width, height));
}

// Rows or columns more; where there is a picture, what is new is selected, to be drawn on
async function grow(side) {
  const by = Math.max(1, Math.floor(Number($("grow-by").value) || 1)), sides = {[side]: by};
  const labels = raster.grown(layout.labels, sides);
  if (labels.width > model.largest[0] || labels.height > model.largest[0]
      || labels.width * labels.height > model.largest[1]) {
    return say("that would be larger than 1280 x 832 pixels", true);
  }
  const region = raster.grown(raster.blank(layout.width, layout.height), sides, 1);
  const {base} = pictures;
  if (fits(base)) {
    const bitmap = await createImageBitmap(base.blob);
    const canvas = element("canvas", {width: labels.width, height: labels.height});
    const context = canvas.getContext("2d");
    context.drawImage(bitmap, 0, 0, labels.width, labels.height); // behind what is not drawn yet
    context.drawImage(bitmap, sides.left ?? 0, sides.top ?? 0);
    const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
    pictures.base = {...base, blob, bytes: await bytesOf(blob), width: labels.width, height: labels.height,
      labels: base.labels ? labels.data.slice() : null};
    setCanvas(labels, region);
    return paintBlob(blob);
  }
  setCanvas(labels);
}

function startFrom(name) {
  const {width, height} = layout;
  if (!name) return setCanvas(raster.blank(width, height, state.ground));
  connection.ask("sketch", {name, width, height}, {}, {layout: takeLayout});
}

function takeLayout({width, height, remarks}, {layout: data, png}) {
  setCanvas({data: data.slice(), width, height});
  say(remarks ?? "");
  if (png) takePicture(new Blob([png], {type: "image/png"}), {title: "photograph", labels: data.slice()});
}

async function upload(input, request) {
  const [file] = input.files;
  input.value = "";
  if (!file) return;
  const {width, height} = layout;
  connection.ask(request, {width, height}, {file: await bytesOf(file)}, {layout: takeLayout});
}

// A picture of one's own, cropped to the canvas, of which regions are drawn anew
async function uploadPicture(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return say(`'${file.name}' is no picture that the browser can read`, true);
  }
  const {width, height} = layout, canvas = element("canvas", {width, height});
  const scale = Math.max(width / bitmap.width, height / bitmap.height);
  const wide = bitmap.width * scale, tall = bitmap.height * scale;
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.fillStyle = "#ffffff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, (width - wide) / 2, (height - tall) / 2, wide, tall);
  const blob = await new Promise((resolve) => canvas.toBlob(resolve, "image/png"));
  takePicture(blob, {title: "uploaded", labels: model.labels.length ? layout.labels.data.slice() : null});
}

// Previews

function stopPreview() {
  clearTimeout(previewTimer);
  previewNumber++; // what is still on its way is not shown
  if (preview !== null) connection.cancel(preview);
  preview = null;
}

function askPreview() {
  stopPreview();
  if (model.kind !== "layout" || !$("live").checked || drawing) return;
  const number = previewNumber;
  previewTimer = setTimeout(() => {
    const started = performance.now();
    const id = preview = connection.ask("preview", {...canvasSize(), seed: settings.seed, settings: settings.values},
      {layout: layout.labels.data}, {
        preview: async (answer, {png}) => {
          const isWanted = () => number === previewNumber && !drawing;
          if (!await drawRows($("picture"), answer, png, isWanted)) return;
          badge("preview");
          document.body.dataset.preview = `${answer.stage} ${Math.round(performance.now() - started)}`;
        },
        ended: () => { if (preview === id) preview = null; },
      });
  }, PREVIEW_DELAY);
}

function badge(words) {
  $("stage").textContent = words;
  show("stage", Boolean(words));
}

const canvasSize = () => ({width: layout.width, height: layout.height});

// Pictures

function draw({count = 1, region = null} = {}) {
  if (drawing) return;
  stopPreview();
  say("");
  const seed = settings.nextSeed(), values = settings.values, size = canvasSize();
  if ($("new-seed").checked) state.number = 0;
  const header = {...size, seed, settings: values, count, number: count > 1 ? 0 : state.number};
  const blobs = {};
  if (model.kind === "layout") blobs.layout = layout.labels.data.slice();
  if (model.kind === "class") header.class = state.class;
  if (model.kind === "caption") header.caption = $("caption").value;
  if (style) {
    Object.assign(header, {strength: Number($("strength").value),
      candidates: Number($("candidates").value)});
    blobs.style = style;
  }
  const base = region ? pictures.base : null;
  if (region) {
    Object.assign(blobs, {picture: base.bytes, region});
    header.seam = Number($("seam").value);
  }
  const canvases = prepareCanvases(count, size, base);
  const details = {values: {...values, seed, number: header.number}, labels: blobs.layout ?? null, size};
  const number = drawing = connection.ask("draw", header, blobs, {
    queued: ({position}) => progress(0, `${position} before this one`),
    progress: ({share, seconds_left: left}) => progress(share, remaining(left)),
    rows: (answer, {png}) =>
      drawRows(canvases[answer.index], answer, png, () => drawing === number),
    picture: ({index, number: variation, seconds}, {png}) => {
      const title = `seed ${seed}${count > 1 || variation ? `, variation ${variation + 1}` : ""}`
        + (region ? ", a part anew" : "");
      document.body.dataset.seconds = seconds;
      const drawn = {...details, title, values: {...details.values, number: variation}};
      takePicture(new Blob([png], {type: "image/png"}), drawn,
        count > 1 ? canvases[index] : null, count === 1);
    },
    ended: finish,
  });
  if (number !== null) progress(0, "");
}

// Rows of a picture, which may be smaller than the canvas, as a cascade's first levels are
async function drawRows(canvas, {top, height}, png, isWanted = () => true) {
  const bitmap = await createImageBitmap(new Blob([png], {type: "image/png"}));
  if (!isWanted()) return false;
  const context = canvas.getContext("2d"), scale = canvas.height / height;
  context.imageSmoothingQuality = "high";
  context.drawImage(bitmap, 0, top * scale, canvas.width, bitmap.height * scale);
  return true;
}

function remaining(seconds) {
  if (seconds === null) return "";
  return seconds < 90 ? `${Math.ceil(seconds)} s left` : `${Math.ceil(seconds / 60)} min left`;
}

function prepareCanvases(count, {width, height}, base) {
  const several = count > 1;
  badge(several ? "" : "drawing");
  show("variations", several);
  if (!several) {
    const canvas = $("picture");
    if (base) paintBlob(base.blob, "drawing");
    return [canvas];
  }
  const buttons = Array.from({length: count}, (_, i) => element("button", {type: "button"},
    element("canvas", {width, height}), `variation ${i + 1}`));
  $("variations").replaceChildren(...buttons);
  return buttons.map((button) => button.firstChild);
}

function progress(share, words) {
  show("progress", true);
  show("cancel", true);
  $("bar").value = share;
  $("time").textContent = words;
}

function finish(event = "done") {
  if (event === "cancelled" && pictures.current) paintBlob(pictures.current.blob);
  drawing = null;
  show("progress", false);
  show("cancel", false);
  if (event !== "done") badge("");
}

// `details`: title, values (settings and seed), labels, size
async function takePicture(blob, details, canvas = null, choosing = true) {
  const bitmap = await createImageBitmap(blob);
  const picture = {blob, bytes: await bytesOf(blob), width: bitmap.width, height: bitmap.height,
    title: details.title, settings: details.values ?? {}, labels: details.labels ?? null};
  pictures.history.push(picture);
  addToHistory(picture);
  if (canvas) {
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    canvas.parentElement.onclick = () => { show("variations", false); use(picture); };
  }
  if (choosing) use(picture);
}

function addToHistory(picture) {
  const image = element("img", {src: URL.createObjectURL(picture.blob), alt: ""});
  const button = element("button", {type: "button"}, image, picture.title);
  button.onclick = () => { returnTo(picture); };
  picture.button = button;
  $("history").prepend(element("li", {}, button));
  $("export").disabled = false;
}

// Shown, and the one that is changed from now on
function use(picture) {
  stopPreview();
  pictures.current = pictures.base = picture;
  for (const {button} of pictures.history) button.removeAttribute("aria-current");
  picture.button?.setAttribute("aria-current", "true");
  $("save-picture").disabled = $("style-current").disabled = false;
  layout.change("region", (region) => region.data.fill(0));
  paintBlob(picture.blob);
  changed();
}

async function paintBlob(blob, words = "") {
  const bitmap = await createImageBitmap(blob);
  const canvas = $("picture");
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  badge(words);
}

function returnTo(picture) {
  stopPreview();
  const {width, height} = picture;
  const labels = picture.labels ? {data: picture.labels.slice(), width, height} : null;
  if (labels || !fits(picture)) {
    layout.replace(labels ?? raster.resized(layout.labels, width, height));
    easels.fit();
  }
  settings.write(picture.settings);
  if (picture.settings.seed !== undefined) settings.seed = picture.settings.seed;
  state.number = picture.settings.number ?? 0;
  use(picture);
}

function redrawSelection() { draw({region: layout.region.data.slice()}); }

// Where the layout is another than the picture's, and a margin around it
function redrawChanges() {
  const {labels} = pictures.base;
  const region = raster.blank(layout.width, layout.height);
  layout.labels.data.forEach((label, i) => { region.data[i] = label !== labels[i] ? 1 : 0; });
  draw({region: raster.dilate(region, Math.max(model.multiple, Number($("seam").value))).data});
}

// Style

async function setStyle(bytes) {
  style = bytes;
  $("style-none").disabled = !style;
  show("style", Boolean(style));
  if (!style) return;
  const bitmap = await createImageBitmap(new Blob([style]));
  const canvas = $("style");
  Object.assign(canvas, {width: 128, height: Math.max(1, Math.round(128 * bitmap.height / bitmap.width))});
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
}

// Keys and buttons

function setSize(size) {
  state.size = Math.min(120, Math.max(1, size));
  $("brush").value = $("brush-size").textContent = state.size;
}

function shortcut({key}) {
  const tool = Object.entries(TOOLS).find(([, [, letter]]) => letter === key.toLowerCase());
  if (tool) useTool(tool[0]);
  else if (key === "m") $("mirror").click();
  else if (key === "[") setSize(state.size - 1);
  else if (key === "]") setSize(state.size + 1);
  else if (key === "+" || key === "=") easels.zoomBy(1.25);
  else if (key === "-") easels.zoomBy(0.8);
  else if (/^[0-9]$/.test(key) && Number(key) < model.labels.length) choose(Number(key));
  else return false;
  return true;
}

function showCursor(x, y) {
  const {labels} = layout, inside = x >= 0 && y >= 0 && x < labels.width && y < labels.height;
  const name = inside ? model.labels[labels.data[y * labels.width + x]]?.name ?? "" : "";
  $("cursor").textContent = inside ? `${x}, ${y} ${name}` : "";
}

async function openProject(file) {
  try {
    const project = await readProject(file, model.labels.length, model.largest);
    pictures.history = [];
    pictures.current = pictures.base = null;
    $("history").replaceChildren();
    setCanvas(project.labels);
    settings.write(project.settings);
    settings.seed = project.settings.seed ?? 0;
    for (const picture of project.history) {
      const details = {title: picture.title, values: picture.settings, labels: picture.labels};
      await takePicture(picture.blob, details, null, false);
    }
    const last = pictures.history.at(-1);
    if (fits(last)) use(last);
    say(`${project.history.length} pictures opened`);
  } catch (error) {
    say(`'${file.name}' can't be opened: ${error.message}`, true);
  }
}

async function saveProject() {
  const blob = await projectFile({history: pictures.history, labels: layout.labels,
    model: model.name, count: model.labels.length,
    settings: {...settings.values, seed: settings.seed}});
  download(blob, stampedName("taming.json"));
}

const chosen = (input, act) => { const [file] = input.files; input.value = ""; if (file) act(file); };
const clicks = {
  undo: () => { stopPreview(); layout.undo(); askPreview(); },
  redo: () => { stopPreview(); layout.redo(); askPreview(); },
  draw: () => draw(), vary: () => draw({count: 4}), redraw: redrawSelection, update: redrawChanges,
  cancel: () => connection.cancel(drawing),
  "clear-region": () => layout.change("region", (region) => region.data.fill(0)),
  "zoom-in": () => easels.zoomBy(1.25), "zoom-out": () => easels.zoomBy(0.8), "zoom-fit": () => easels.fit(),
  start: () => startFrom($("sketch").value),
  resize: () => resize(Number($("width").value), Number($("height").value)),
  "style-current": () => setStyle(pictures.current.bytes), "style-none": () => setStyle(null),
  "save-picture": () => download(pictures.current.blob, stampedName("png")),
  "save-mask": () => connection.ask("mask", canvasSize(), {layout: layout.labels.data},
    {mask: (_, {png}) => download(new Blob([png], {type: "image/png"}), stampedName("layout.png"))}),
  "save-project": saveProject,
  export: async () => download(await historyPage(pictures.history, model.name), stampedName("html")),
  inspect: () => {
    if (model.kind === "first" && model.labels.length) {
      inspector.look({layout: layout.labels.data}, canvasSize());
    } else if (pictures.current) inspector.look({picture: pictures.current.bytes}, {});
    else say("there is no picture yet; draw one, or upload one", true);
  },
  theme: () => {
    const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = (root.dataset.theme ?? (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
  },
};
for (const [id, act] of Object.entries(clicks)) $(id).onclick = act;
for (const button of document.querySelectorAll("[data-grow]")) {
  button.onclick = () => grow(button.dataset.grow);
}
$("ground").onchange = () => { state.ground = Number($("ground").value); };
$("brush").oninput = () => setSize(Number($("brush").value));
$("mirror").onchange = () => { state.mirror = $("mirror").checked; };
$("live").onchange = () => { if ($("live").checked) askPreview(); else stopPreview(); };
$("sizes").onchange = () => {
  const [width, height] = $("sizes").value.split("x").map(Number);
  if (width) resize(width, height);
};
$("layout-file").onchange = (event) => upload(event.target, "layout");
$("photograph-file").onchange = (event) => upload(event.target, "photograph");
$("style-file").onchange = (event) => chosen(event.target, async (file) => setStyle(await bytesOf(file)));
$("picture-file").onchange = (event) => chosen(event.target, uploadPicture);
$("project-file").onchange = (event) => chosen(event.target, openProject);
$("seed").addEventListener("change", () => { state.number = 0; });
for (const id of ["follow", "variety", "seed"]) $(id).addEventListener("change", askPreview);
document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey)) return;
  const key = event.key.toLowerCase();
  const act = {z: event.shiftKey ? "redo" : "undo", y: "redo", enter: "draw"}[key];
  if (!act || event.target.matches?.("input[type=number]")) return;
  event.preventDefault();
  clicks[act]();
});
addEventListener("resize", () => easels?.fit());

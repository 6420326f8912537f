// Two canvases on which one paints: the layout, and the picture, where only regions are marked.

import {$} from "./dom.js";
import * as raster from "./raster.js";

export const TOOLS = {
  brush: ["Brush", "b"], eraser: ["Eraser", "e"], fill: ["Fill", "f"], line: ["Line", "l"],
  rectangle: ["Box", "r"], polygon: ["Polygon", "p"], pick: ["Pick", "i"], select: ["Select", "s"],
};
const DRAGGED = new Set(["line", "rectangle"]);

export class Easels {
  // `state`: tool, selecting, label, ground, size, mirror; `layout`: a Layout.
  // `handlers`: begins(), ends(plane), picks(label), shortcut(event), moves(x, y).
  constructor(state, layout, handlers) {
    Object.assign(this, {state, layout, handlers, zoom: 1, corners: [], cursor: {x: 0, y: 0}});
    this.easels = ["layout", "picture"].map((name) => {
      const canvas = $(name);
      return {name, canvas, overlay: canvas.parentElement.querySelector(".overlay"),
        scroll: canvas.closest(".scroll")};
    });
    for (const easel of this.easels) this.listen(easel);
  }

  listen(easel) {
    const {canvas} = easel;
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button === 1) return this.pan(event, easel);
      if (event.button !== 0) return;
      event.preventDefault();
      canvas.focus({preventScroll: true});
      canvas.setPointerCapture(event.pointerId);
      this.down(easel, this.place(event, canvas), event);
    });
    canvas.addEventListener("pointermove", (event) => {
      const events = this.stroke ? event.getCoalescedEvents?.() ?? [] : [];
      for (const one of events.length ? events : [event]) this.move(this.place(one, canvas), one);
    });
    canvas.addEventListener("pointerup", (event) => this.up(this.place(event, canvas)));
    canvas.addEventListener("pointercancel", () => this.abandon());
    canvas.addEventListener("pointerleave", () => { if (!this.stroke) this.hover(null); });
    canvas.addEventListener("dblclick", () => this.close());
    canvas.addEventListener("keydown", (event) => this.key(event, easel));
    canvas.addEventListener("wheel", (event) => {
      event.preventDefault();
      if (event.ctrlKey) return this.zoomBy(event.deltaY < 0 ? 1.25 : 0.8);
      this.handlers.resizes(event.deltaY < 0 ? 1 : -1);
      this.hover(this.cursor);
    }, {passive: false});
  }

  pan(event, {canvas, scroll}) {
    event.preventDefault();
    canvas.setPointerCapture(event.pointerId);
    const move = (next) => scroll.scrollBy(-next.movementX, -next.movementY);
    canvas.addEventListener("pointermove", move);
    canvas.addEventListener("pointerup", () => canvas.removeEventListener("pointermove", move),
      {once: true});
  }

  place(event, canvas) {
    const box = canvas.getBoundingClientRect();
    return {
      x: (event.clientX - box.left) / box.width * this.layout.width,
      y: (event.clientY - box.top) / box.height * this.layout.height,
    };
  }

  // What is painted on, and with what

  plane(easel) { return this.state.selecting || easel.name === "picture" ? "region" : "labels"; }

  value(plane) {
    if (plane === "region") return this.state.tool === "eraser" ? 0 : 1;
    return this.state.tool === "eraser" ? this.state.ground : this.state.label;
  }

  width(event) {
    const pressure = event?.pointerType === "pen" ? 0.3 + 1.4 * event.pressure : 1;
    return Math.max(1, this.state.size * Math.min(1, pressure));
  }

  both(point, act) {
    act(point);
    if (this.state.mirror) act({x: this.layout.width - point.x, y: point.y});
  }

  mirrored(point) { return {x: this.layout.width - point.x, y: point.y}; }

  // Strokes

  down(easel, point, event) {
    const plane = this.plane(easel), {tool} = this.state;
    if (tool === "pick" || event?.altKey) return this.pick(point);
    if (tool === "polygon") {
      this.corners.push(point);
      this.polygonOf = plane;
      return this.hover(point);
    }
    this.handlers.begins(plane);
    this.stroke = {plane, start: point, last: point, before: raster.copy(this.layout[plane])};
    if (tool === "fill") return this.fill(point);
    if (!DRAGGED.has(tool)) this.dab(point, point, event);
    this.redraw();
  }

  move(point, event) {
    this.cursor = point;
    this.handlers.moves(Math.floor(point.x), Math.floor(point.y));
    if (this.stroke && !DRAGGED.has(this.state.tool)) {
      this.dab(this.stroke.last, point, event);
      this.stroke.last = point;
      this.redraw();
    }
    this.hover(point);
  }

  up(point) {
    if (!this.stroke) return;
    const {plane, start, before} = this.stroke;
    this.shape(this.layout[plane], start, point, this.value(plane));
    this.stroke = null;
    this.layout.commit(plane, before);
    this.handlers.ends(plane);
    this.hover(point);
  }

  abandon() {
    this.corners = [];
    if (this.stroke) {
      this.layout[this.stroke.plane].data.set(this.stroke.before.data);
      this.stroke = null;
      this.redraw();
    }
    this.hover(null);
  }

  dab(from, to, event) {
    const {plane} = this.stroke, image = this.layout[plane], size = this.width(event);
    raster.line(image, from, to, size, this.value(plane));
    if (this.state.mirror) {
      raster.line(image, this.mirrored(from), this.mirrored(to), size, this.value(plane));
    }
  }

  shape(image, start, end, value) {
    const act = {line: (a, b) => raster.line(image, a, b, this.state.size, value),
      rectangle: (a, b) => raster.rectangle(image, a, b, value)}[this.state.tool];
    act?.(start, end);
    if (this.state.mirror) act?.(this.mirrored(start), this.mirrored(end));
  }

  fill(point) {
    const {plane} = this.stroke, image = this.layout[plane];
    this.both(point, ({x, y}) => {
      if (plane === "labels") return raster.fill(image, x, y, this.value(plane));
      // A region by label: all that is connected and has the label under the point
      const marked = raster.copy(this.layout.labels);
      raster.fill(marked, x, y, 255);
      marked.data.forEach((label, i) => { if (label === 255) image.data[i] = this.value(plane); });
    });
    this.up(point);
  }

  close() {
    if (this.corners.length < 3) return;
    const plane = this.polygonOf, points = this.corners;
    this.handlers.begins(plane);
    this.layout.change(plane, (image) => {
      raster.polygon(image, points, this.value(plane));
      if (this.state.mirror) raster.polygon(image, points.map((p) => this.mirrored(p)), this.value(plane));
    });
    this.corners = [];
    this.handlers.ends(plane);
    this.hover(null);
  }

  pick({x, y}) {
    const {labels} = this.layout;
    const label = labels.data[Math.floor(y) * labels.width + Math.floor(x)];
    if (label !== undefined) this.handlers.picks(label);
  }

  // Keys

  key(event, easel) {
    if (event.ctrlKey || event.metaKey) return;
    const step = event.shiftKey ? 10 : 1;
    const moves = {ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step],
      ArrowDown: [0, step]};
    if (moves[event.key]) {
      const [dx, dy] = moves[event.key], {width, height} = this.layout;
      this.move({x: Math.min(width - 0.5, Math.max(0.5, this.cursor.x + dx)),
        y: Math.min(height - 0.5, Math.max(0.5, this.cursor.y + dy))});
    } else if (event.key === " ") {
      if (this.stroke) this.up(this.cursor); else this.down(easel, this.cursor, event);
    } else if (event.key === "Enter") {
      this.close();
    } else if (event.key === "Escape") {
      this.abandon();
    } else if (!this.handlers.shortcut(event)) {
      return;
    }
    event.preventDefault();
  }

  // Looks

  fit() {
    const {width, height} = this.layout;
    const {scroll} = this.easels.find((easel) => easel.scroll.offsetParent) ?? this.easels[1];
    this.zoom = Math.max(0.1, Math.min((scroll.clientWidth - 8) / width,
      (scroll.clientHeight - 8) / height));
    this.resize();
  }

  zoomBy(factor) {
    this.zoom = Math.min(40, Math.max(0.1, this.zoom * factor));
    this.resize();
  }

  resize() {
    const {width, height} = this.layout;
    for (const {canvas, overlay} of this.easels) {
      for (const one of [canvas, overlay]) {
        if (one.width !== width || one.height !== height) Object.assign(one, {width, height});
      }
      canvas.style.width = `${Math.round(width * this.zoom)}px`;
      canvas.style.height = `${Math.round(height * this.zoom)}px`;
    }
    this.redraw();
  }

  redraw() {
    const {labels} = this.layout, [{canvas}] = this.easels;
    if (this.state.colours.length) {
      const context = canvas.getContext("2d");
      const image = context.createImageData(labels.width, labels.height);
      const pixels = new Uint32Array(image.data.buffer), {colours} = this.state;
      labels.data.forEach((label, i) => { pixels[i] = colours[label]; });
      context.putImageData(image, 0, 0);
    }
    this.hover(this.stroke ? this.cursor : null);
  }

  hover(point) {
    for (const {overlay} of this.easels) {
      const context = overlay.getContext("2d"), {region} = this.layout;
      context.clearRect(0, 0, overlay.width, overlay.height);
      this.drawRegion(context, region);
      if (!point) continue;
      context.lineWidth = Math.max(1, 1.5 / this.zoom);
      for (const [style, dash] of [["#000000", []], ["#ffffff", [3 / this.zoom, 3 / this.zoom]]]) {
        context.strokeStyle = style;
        context.setLineDash(dash);
        this.outline(context, point);
      }
    }
  }

  drawRegion(context, region) {
    if (!region.data.some(Boolean)) return;
    const image = context.createImageData(region.width, region.height);
    const pixels = new Uint32Array(image.data.buffer);
    region.data.forEach((marked, i) => {
      const stripe = (i % region.width + Math.floor(i / region.width)) % 6 < 3;
      pixels[i] = marked ? (stripe ? 0x8cff40ff : 0x8cffffff) : 0;
    });
    context.putImageData(image, 0, 0);
  }

  outline(context, point) {
    const {tool, size} = this.state;
    context.beginPath();
    if (this.corners.length) {
      for (const corner of [...this.corners, point]) context.lineTo(corner.x, corner.y);
    } else if (this.stroke && tool === "line") {
      context.moveTo(this.stroke.start.x, this.stroke.start.y);
      context.lineTo(point.x, point.y);
    } else if (this.stroke && tool === "rectangle") {
      const {x, y} = this.stroke.start;
      context.rect(x, y, point.x - x, point.y - y);
    } else {
      context.arc(point.x, point.y, Math.max(1, size / 2), 0, 7);
    }
    context.stroke();
  }
}

// The layout that is painted, the region that is selected, and every step back and forward.

import {blank, copy} from "./raster.js";

function changedBox(before, after) {
  const {width, height} = before;
  let top = height, bottom = -1, left = width, right = -1;
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      const place = y * width + x;
      if (before.data[place] === after.data[place]) continue;
      if (top === height) top = y;
      bottom = y;
      if (x < left) left = x;
      if (x > right) right = x;
    }
  }
  return bottom < 0 ? null : {top, left, width: right - left + 1, height: bottom - top + 1};
}

function cut(image, box) {
  const part = new Uint8Array(box.width * box.height);
  for (let y = 0; y < box.height; y++) {
    const start = (box.top + y) * image.width + box.left;
    part.set(image.data.subarray(start, start + box.width), y * box.width);
  }
  return part;
}

function put(image, box, part) {
  for (let y = 0; y < box.height; y++) {
    const start = (box.top + y) * image.width + box.left;
    image.data.set(part.subarray(y * box.width, (y + 1) * box.width), start);
  }
}

export class Layout {
  constructor(width, height) {
    this.labels = blank(width, height);
    this.region = blank(width, height);
    this.past = [];
    this.future = [];
    this.onchange = () => {};
  }

  get width() { return this.labels.width; }
  get height() { return this.labels.height; }

  // `plane`: "labels" or "region". What `change` does to it is one step.
  change(plane, change) {
    const before = copy(this[plane]);
    change(this[plane]);
    this.commit(plane, before);
  }

  commit(plane, before) {
    const box = changedBox(before, this[plane]);
    if (!box) return;
    this.remember({plane, box, before: cut(before, box), after: cut(this[plane], box)});
  }

  replace(labels, region = null) {
    const before = {labels: this.labels, region: this.region};
    this.labels = labels;
    this.region = region ?? blank(labels.width, labels.height);
    this.remember({before, after: {labels: copy(this.labels), region: copy(this.region)}});
  }

  remember(step) {
    this.past.push(step);
    this.future = [];
    this.onchange(step);
  }

  undo() { this.step(this.past, this.future, "before"); }
  redo() { this.step(this.future, this.past, "after"); }

  step(from, to, side) {
    const step = from.pop();
    if (!step) return;
    to.push(step);
    if (step.box) {
      put(this[step.plane], step.box, step[side]);
    } else {
      this.labels = copy(step[side].labels);
      this.region = copy(step[side].region);
    }
    this.onchange(step);
  }
}

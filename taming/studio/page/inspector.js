// The codes of a picture: click a place, see its code, where else it stands, swap it.

import {$, bytesOf, show} from "./dom.js";

export class Inspector {
  constructor(connection, model) {
    Object.assign(this, {connection, model, levels: [], place: 0});
    const canvas = $("code-picture");
    canvas.onpointerdown = (event) => {
      const box = canvas.getBoundingClientRect(), {rows, columns} = this.level;
      const column = Math.floor((event.clientX - box.left) / box.width * columns);
      const row = Math.floor((event.clientY - box.top) / box.height * rows);
      this.choose(row * columns + column);
    };
    canvas.onkeydown = (event) => {
      const {columns, codes} = this.level;
      const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns}[event.key];
      if (!step) return;
      event.preventDefault();
      this.choose(Math.min(codes.length - 1, Math.max(0, this.place + step)));
    };
    $("swap").onclick = () => this.swap();
    $("inspect-file").onchange = async (event) => {
      const [file] = event.target.files;
      if (file) this.look({picture: await bytesOf(file)}, {});
      event.target.value = "";
    };
  }

  // The finest level is the one that is clicked
  get level() { return this.levels.at(-1) ?? {rows: 1, columns: 1, codes: [0]}; }

  look(blobs, header) {
    this.connection.ask("encode", header, blobs, {codes: (answer, {png}) => {
      this.levels = answer.levels;
      show("codes", true);
      this.picture(png, () => { if (this.levels.length) this.choose(0); });
    }});
  }

  async picture(png, then = () => {}) {
    const bitmap = await createImageBitmap(new Blob([png], {type: "image/png"}));
    const canvas = $("code-picture"), overlay = canvas.nextElementSibling;
    for (const one of [canvas, overlay]) Object.assign(one, {width: bitmap.width, height: bitmap.height});
    canvas.getContext("2d").drawImage(bitmap, 0, 0);
    then();
  }

  choose(place) {
    this.place = place;
    const {columns, rows, codes} = this.level, code = codes[place];
    const where = codes.flatMap((other, i) => other === code ? [i] : []);
    const overlay = $("code-picture").nextElementSibling, context = overlay.getContext("2d");
    const wide = overlay.width / columns, tall = overlay.height / rows;
    context.clearRect(0, 0, overlay.width, overlay.height);
    for (const i of where) {
      context.strokeStyle = i === place ? "#ff4040" : "#ffe000";
      context.strokeRect(i % columns * wide + .5, Math.floor(i / columns) * tall + .5, wide - 1, tall - 1);
    }
    const count = this.model.codes.at(-1);
    $("code-text").textContent = `code ${code} of ${count}, row ${Math.floor(place / columns)},`
      + ` column ${place % columns}; it stands in ${where.length} of ${codes.length} places`;
    $("swap-code").max = count - 1;
    if (this.model.codes.length > 1) return;
    this.connection.ask("code", {code}, {}, {code: async (_, {png}) => {
      const bitmap = await createImageBitmap(new Blob([png], {type: "image/png"}));
      const patch = $("patch");
      Object.assign(patch, {width: bitmap.width, height: bitmap.height});
      patch.getContext("2d").drawImage(bitmap, 0, 0);
    }});
  }

  swap() {
    const {codes} = this.level, old = codes[this.place], next = Number($("swap-code").value);
    const before = [...codes];
    codes.forEach((code, i) => {
      if (i === this.place || ($("swap-all").checked && code === old)) codes[i] = next;
    });
    this.connection.ask("decode", {levels: this.levels}, {}, {
      decoded: (_, {png}) => this.picture(png, () => this.choose(this.place)),
      failed: ({message}) => {
        codes.splice(0, codes.length, ...before);
        this.connection.handlers.failed(message);
      },
    });
  }
}

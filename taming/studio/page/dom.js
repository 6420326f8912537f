// A few words for the page's elements.

export const $ = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export function download(blob, name) {
  const link = element("a", {href: URL.createObjectURL(blob), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

export function stampedName(ending) {
  const time = new Date().toISOString().slice(0, 19).replaceAll(":", "-");
  return `taming-${time}.${ending}`;
}

export async function bytesOf(blob) {
  return new Uint8Array(await blob.arrayBuffer());
}

export function show(id, visible) { $(id).hidden = !visible; }

export function bindOutput(id, write = String) {
  const input = $(id), output = $(`${id}-value`);
  const update = () => { output.textContent = write(Number(input.value)); };
  input.addEventListener("input", update);
  update();
  return update;
}

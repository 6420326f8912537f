// Frames to and from the server: the length of a header, the header in JSON, and blobs of bytes.

const text = new TextEncoder(), words = new TextDecoder();

export function pack(header, blobs = {}) {
  const sizes = Object.fromEntries(Object.entries(blobs).map(([name, blob]) => [name, blob.length]));
  const head = text.encode(JSON.stringify({...header, blobs: sizes}));
  const length = Object.values(blobs).reduce((sum, blob) => sum + blob.length, 4 + head.length);
  const frame = new Uint8Array(length);
  new DataView(frame.buffer).setUint32(0, head.length, true);
  frame.set(head, 4);
  let place = 4 + head.length;
  for (const blob of Object.values(blobs)) {
    frame.set(blob, place);
    place += blob.length;
  }
  return frame;
}

export function unpack(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(words.decode(new Uint8Array(buffer, 4, length)));
  const blobs = {};
  let place = 4 + length;
  for (const [name, size] of Object.entries(header.blobs)) {
    blobs[name] = new Uint8Array(buffer, place, size);
    place += size;
  }
  return {header, blobs};
}

export class Connection {
  // `handlers`: welcome(model), lost(reason), back(). Each request has its own handlers by event.
  constructor(handlers) {
    this.handlers = handlers;
    this.requests = new Map();
    this.number = 0;
    this.delay = 500;
    this.open();
  }

  open() {
    const token = new URLSearchParams(location.search).get("token") ?? "";
    const address = `ws://${location.host}/socket?token=${encodeURIComponent(token)}`;
    this.socket = new WebSocket(address);
    this.socket.binaryType = "arraybuffer";
    this.socket.onmessage = (event) => this.receive(unpack(event.data));
    this.socket.onclose = (event) => this.close(event);
  }

  get limit() { return this.model?.upload_bytes ?? 1 << 24; }

  receive({header, blobs}) {
    if (header.event === "welcome") {
      this.delay = 500;
      this.model = header.model;
      return this.handlers.welcome(header.model);
    }
    if (header.id === null) return this.handlers.failed(header.message);
    const request = this.requests.get(header.id);
    if (!request) return;
    const ended = ["done", "failed", "cancelled"].includes(header.event);
    if (ended) this.requests.delete(header.id);
    request[header.event]?.(header, blobs);
    if (header.event === "failed" && !request.failed) this.handlers.failed(header.message);
    if (ended) request.ended?.(header.event);
  }

  close(event) {
    const reasons = {1009: "that was too large", 1013: event.reason, 1008: event.reason};
    for (const request of this.requests.values()) request.ended?.("failed");
    this.requests.clear();
    this.handlers.lost(reasons[event.code] || "the connection is lost");
    setTimeout(() => this.open(), this.delay);
    this.delay = Math.min(2 * this.delay, 15000);
  }

  // The number of the request, for `cancel`; null where it could not be sent.
  ask(name, header, blobs, handlers) {
    const id = ++this.number, frame = pack({do: name, id, ...header}, blobs);
    let problem = "";
    if (frame.length > this.limit) {
      problem = `that is larger than the ${this.limit >> 20} MB that may be sent`;
    } else if (this.socket.readyState !== WebSocket.OPEN) {
      problem = "there is no connection to taming studio";
    }
    if (problem) {
      this.handlers.failed(problem);
      return null;
    }
    this.requests.set(id, handlers);
    this.socket.send(frame);
    return id;
  }

  cancel(id) {
    if (this.requests.has(id)) this.socket.send(pack({do: "cancel", id: ++this.number, of: id}));
  }
}

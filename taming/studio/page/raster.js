// Shapes on an array of bytes, one a pixel: {data, width, height}. No smoothing: labels don't mix.

export function copy(image) {
  return {data: image.data.slice(), width: image.width, height: image.height};
}

export function blank(width, height, value = 0) {
  return {data: new Uint8Array(width * height).fill(value), width, height};
}

function span(image, y, from, to, value) {
  if (y < 0 || y >= image.height) return;
  const start = Math.max(0, Math.ceil(from)), end = Math.min(image.width - 1, Math.floor(to));
  if (start <= end) image.data.fill(value, y * image.width + start, y * image.width + end + 1);
}

export function disc(image, x, y, size, value) {
  const radius = size / 2;
  if (size <= 1) return span(image, Math.floor(y), Math.floor(x), Math.floor(x), value);
  for (let row = Math.floor(y - radius); row <= y + radius; row++) {
    const side = radius * radius - (row + 0.5 - y) ** 2;
    if (side >= 0) span(image, row, x - Math.sqrt(side) - 0.5, x + Math.sqrt(side) - 0.5, value);
  }
}

export function line(image, from, to, size, value) {
  const steps = Math.max(1, Math.ceil(Math.hypot(to.x - from.x, to.y - from.y) / Math.max(1, size / 6)));
  for (let i = 0; i <= steps; i++) {
    const share = i / steps;
    disc(image, from.x + share * (to.x - from.x), from.y + share * (to.y - from.y), size, value);
  }
}

export function rectangle(image, from, to, value) {
  const [left, right] = [from.x, to.x].sort((a, b) => a - b).map(Math.floor);
  const [top, bottom] = [from.y, to.y].sort((a, b) => a - b).map(Math.floor);
  for (let y = Math.max(0, top); y <= bottom; y++) span(image, y, left, right, value);
}

export function polygon(image, points, value) {
  // Even-odd rule along the middle of each row
  for (let y = 0; y < image.height; y++) {
    const crossings = [];
    points.forEach((a, i) => {
      const b = points[(i + 1) % points.length], middle = y + 0.5;
      if (a.y <= middle !== b.y <= middle) {
        crossings.push(a.x + (middle - a.y) / (b.y - a.y) * (b.x - a.x));
      }
    });
    crossings.sort((a, b) => a - b);
    for (let i = 0; i + 1 < crossings.length; i += 2) {
      span(image, y, crossings[i] - 0.5, crossings[i + 1] - 0.5, value);
    }
  }
}

export function fill(image, x, y, value) {
  // All that is connected and has the label under (x, y)
  x = Math.floor(x); y = Math.floor(y);
  const {data, width, height} = image;
  if (x < 0 || y < 0 || x >= width || y >= height) return;
  const old = data[y * width + x];
  if (old === value) return;
  const stack = [[x, y]];
  while (stack.length) {
    const [column, row] = stack.pop();
    let left = column, right = column;
    if (data[row * width + column] !== old) continue;
    while (left > 0 && data[row * width + left - 1] === old) left--;
    while (right < width - 1 && data[row * width + right + 1] === old) right++;
    data.fill(value, row * width + left, row * width + right + 1);
    for (const next of [row - 1, row + 1]) {
      if (next < 0 || next >= height) continue;
      for (let i = left; i <= right; i++) {
        const place = next * width + i;
        if (data[place] === old && (i === left || data[place - 1] !== old)) stack.push([i, next]);
      }
    }
  }
}

export function dilate(image, radius) {
  // Grown by a square of this radius, rows first
  const {width, height} = image, rows = blank(width, height), grown = blank(width, height);
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (image.data[y * width + x]) span(rows, y, x - radius, x + radius, 1);
    }
  }
  for (let y = 0; y < height; y++) {
    for (let x = 0; x < width; x++) {
      if (!rows.data[y * width + x]) continue;
      for (let row = Math.max(0, y - radius); row <= Math.min(height - 1, y + radius); row++) {
        grown.data[row * width + x] = 1;
      }
    }
  }
  return grown;
}

export function resized(image, width, height) {
  const after = blank(width, height);
  for (let y = 0; y < height; y++) {
    const row = Math.floor((y + 0.5) * image.height / height) * image.width;
    for (let x = 0; x < width; x++) {
      after.data[y * width + x] = image.data[row + Math.floor((x + 0.5) * image.width / width)];
    }
  }
  return after;
}

export function grown(image, {top = 0, bottom = 0, left = 0, right = 0}, value = null) {
  // Continued by the edge, or by `value`
  const after = blank(image.width + left + right, image.height + top + bottom, value ?? 0);
  for (let y = 0; y < after.height; y++) {
    for (let x = 0; x < after.width; x++) {
      const row = y - top, column = x - left;
      const inside = row >= 0 && column >= 0 && row < image.height && column < image.width;
      if (!inside && value !== null) continue;
      const nearest = Math.min(image.height - 1, Math.max(0, row)) * image.width
        + Math.min(image.width - 1, Math.max(0, column));
      after.data[y * after.width + x] = image.data[nearest];
    }
  }
  return after;
}

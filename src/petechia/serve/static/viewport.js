// Two linked views of one image: window, zoom, cursor, stamps and heat.

const CLICK = 4; // pixels that a hand may tremble between press and release

// What both views share.
export class Scene {
  constructor() {
    this.picture = null; // what the server says of the image, with its `levels`
    this.stamps = [];
    this.opacity = .7;
    this.invert = false;
    this.reset();
  }

  reset() {
    this.zoom = 1; this.x = .5; this.y = .5; // the share of the image that is in the middle
    this.invert = false;
    this.cursor = null;
    if (this.picture) ({ low: this.low, high: this.high } = this.picture);
  }

  show(picture) {
    this.picture = picture;
    this.stamps = [];
    this.reset();
  }

  // Grey on the screen of a value of the image.
  shade(value) {
    const share = Math.min(Math.max((value - this.low) / Math.max(this.high - this.low, 1e-9), 0), 1);
    return Math.round(255 * (this.invert ? 1 - share : share));
  }

  paint() {
    const { levels, width, height, least, most } = this.picture;
    const shades = new Uint8ClampedArray(65536);
    for (let level = 0; level < 65536; level++) shades[level] = this.shade(least + (most - least) * level / 65535);
    const image = new ImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    for (let at = 0; at < levels.length; at++) { const shade = shades[levels[at]]; pixels[at] = 0xff000000 | shade << 16 | shade << 8 | shade; }
    this.canvas = new OffscreenCanvas(width, height);
    this.canvas.getContext("2d").putImageData(image, 0, 0);
  }

  // A stamp's square in pixels of the image; the attack may stamp on what the model sees instead.
  square({ row, column, size }) {
    const { kept, unit } = this.picture;
    return unit === 1 && !this.picture.onInput ? [column, row, size] : [kept.left + column * unit, kept.top + row * unit, size * unit];
  }

  // A stamp around a pixel of the image, inside of it.
  stampAt(x, y, size, value) {
    const { kept, unit, width, height, onInput } = this.picture;
    const [tall, wide] = onInput ? [Math.round(kept.height / unit), Math.round(kept.width / unit)] : [height, width];
    const centre = onInput ? [(y - kept.top) / unit, (x - kept.left) / unit] : [y, x];
    if (size > Math.min(tall, wide)) throw new Error(`The trigger of ${size} pixels is larger than the image of ${wide} × ${tall}; make it smaller.`);
    const [row, column] = centre.map((at, axis) => Math.min(Math.max(Math.floor(at) - Math.floor(size / 2), 0), [tall, wide][axis] - size));
    return { row, column, size, value };
  }
}

export class Viewport {
  constructor(canvas, scene, triggered, events) {
    Object.assign(this, { canvas, scene, triggered, events, heat: null });
    canvas.addEventListener("pointerdown", (event) => this.press(event));
    canvas.addEventListener("pointermove", (event) => this.move(event));
    canvas.addEventListener("pointerup", (event) => this.release(event));
    canvas.addEventListener("pointercancel", () => { this.held = null; });
    canvas.addEventListener("contextmenu", (event) => event.preventDefault());
    canvas.addEventListener("wheel", (event) => { event.preventDefault(); this.zoomBy(Math.exp(-event.deltaY / 400), this.at(event)); }, { passive: false });
    canvas.addEventListener("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  // Screen pixels of the canvas to one of the image, and where the image's corner is.
  geometry() {
    const { picture, zoom, x, y } = this.scene;
    const [wide, tall] = [this.canvas.clientWidth, this.canvas.clientHeight];
    const scale = zoom * Math.min(wide / picture.width, tall / picture.height);
    return { scale, left: wide / 2 - x * picture.width * scale, top: tall / 2 - y * picture.height * scale };
  }

  at(event) {
    const { scale, left, top } = this.geometry();
    return [(event.offsetX - left) / scale, (event.offsetY - top) / scale];
  }

  inside([x, y]) {
    const { width, height } = this.scene.picture;
    return x >= 0 && y >= 0 && x < width && y < height;
  }

  zoomBy(factor, [x, y] = this.scene.cursor ?? [this.scene.x * this.scene.picture.width, this.scene.y * this.scene.picture.height]) {
    const { scene } = this;
    const zoom = Math.min(Math.max(scene.zoom * factor, 1), 64);
    const [wide, tall] = [x / scene.picture.width, y / scene.picture.height];
    scene.x = wide + (scene.x - wide) * scene.zoom / zoom; // what is under the pointer stays there
    scene.y = tall + (scene.y - tall) * scene.zoom / zoom;
    if (zoom === 1) scene.x = scene.y = .5;
    scene.zoom = zoom;
    this.events.redraw();
  }

  press(event) {
    if (!this.scene.picture) return;
    this.canvas.setPointerCapture(event.pointerId);
    const { x, y, low, high } = this.scene;
    this.held = { from: [event.clientX, event.clientY], x, y, low, high, window: event.button === 2, moved: false };
  }

  move(event) {
    if (!this.held) return;
    const [right, down] = [event.clientX - this.held.from[0], event.clientY - this.held.from[1]];
    if (Math.hypot(right, down) > CLICK) this.held.moved = true;
    if (!this.held.moved) return;
    const { scene } = this;
    if (this.held.window) {
      const { picture } = scene, unit = (picture.most - picture.least) / 400;
      const centre = (this.held.low + this.held.high) / 2 + down * unit, width = Math.max(this.held.high - this.held.low + right * 2 * unit, unit);
      Object.assign(scene, { low: centre - width / 2, high: centre + width / 2 });
      this.events.window();
    } else if (scene.zoom > 1) {
      const { scale } = this.geometry();
      scene.x = Math.min(Math.max(this.held.x - right / scale / scene.picture.width, 0), 1);
      scene.y = Math.min(Math.max(this.held.y - down / scale / scene.picture.height, 0), 1);
      this.events.redraw();
    }
  }

  release(event) {
    const held = this.held;
    this.held = null;
    const place = this.scene.picture && this.at(event);
    if (held && !held.moved && !held.window && event.button === 0 && this.inside(place)) this.events.stamp(...place);
  }

  key(event) {
    const { scene } = this, step = event.shiftKey ? 10 : 1;
    const ways = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (!scene.picture || event.ctrlKey || event.metaKey || event.altKey) return;
    const { width, height } = scene.picture;
    scene.cursor ??= [Math.floor(width / 2) + .5, Math.floor(height / 2) + .5];
    if (event.key in ways) {
      const [right, down] = ways[event.key];
      scene.cursor = [Math.min(Math.max(scene.cursor[0] + right, .5), width - .5), Math.min(Math.max(scene.cursor[1] + down, .5), height - .5)];
      this.events.cursor();
    } else if (event.key === "Enter" || event.key === " ") this.events.stamp(...scene.cursor);
    else return;
    event.preventDefault();
  }

  draw() {
    const { canvas, scene } = this, { picture } = scene;
    if (!picture || !scene.canvas) return;
    const dense = window.devicePixelRatio || 1;
    canvas.width = canvas.clientWidth * dense;
    canvas.height = canvas.clientHeight * dense;
    const context = canvas.getContext("2d"), { scale, left, top } = this.geometry();
    context.setTransform(scale * dense, 0, 0, scale * dense, left * dense, top * dense);
    context.imageSmoothingEnabled = scale < 3;
    context.drawImage(scene.canvas, 0, 0);
    if (this.triggered) for (const stamp of scene.stamps) {
      const [x, y, side] = scene.square(stamp), shade = scene.shade(picture.low + (picture.high - picture.low) * stamp.value / 255);
      context.fillStyle = `rgb(${shade} ${shade} ${shade})`;
      context.fillRect(x, y, side, side);
    }
    const { kept } = picture;
    if (this.heat && scene.opacity > 0) {
      context.imageSmoothingEnabled = true;
      context.globalAlpha = scene.opacity;
      context.drawImage(this.heat, kept.left, kept.top, kept.width, kept.height);
      context.globalAlpha = 1;
    }
    this.outline(context, scale);
  }

  // The frame of what the model sees, rings around the stamps, the keyboard's cursor; as thick at any zoom.
  outline(context, scale) {
    const { scene } = this, { kept, width, height } = scene.picture;
    const line = (colour, thick, dash = []) => { context.strokeStyle = colour; context.lineWidth = thick / scale; context.setLineDash(dash.map((one) => one / scale)); };
    if (kept.height < height || kept.width < width) {
      line("rgb(255 255 255 / .75)", 1, [5, 4]);
      context.strokeRect(kept.left, kept.top, kept.width, kept.height);
    }
    if (this.triggered) for (const stamp of scene.stamps) {
      const [x, y, side] = scene.square(stamp), radius = Math.max(side, 18 / scale);
      for (const [colour, thick] of [["#000", 4], ["#fff", 1.8]]) {
        line(colour, thick);
        context.beginPath();
        context.arc(x + side / 2, y + side / 2, radius, 0, 7);
        context.stroke();
      }
    }
    if (scene.cursor) for (const [colour, thick] of [["#000", 3.5], ["#7cc4ff", 1.4]]) {
      const [x, y] = scene.cursor, far = 11 / scale, near = 4 / scale;
      line(colour, thick);
      context.beginPath();
      for (const [right, down] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) { context.moveTo(x + right * near, y + down * near); context.lineTo(x + right * far, y + down * far); }
      context.stroke();
    }
  }
}

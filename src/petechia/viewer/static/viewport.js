// One of the two linked views: draws the scene, and changes it as pointer and keys ask.

const CLICK = 4; // pixels that the pointer may move during a click
const MOST_ZOOM = 64;
const clamp = (value, least, most) => Math.min(Math.max(value, least), most);

export class Viewport {
  // `events` are functions that the view calls: redraw(), window(), cursor(), probe(place or null), stamp(place).
  constructor(canvas, scene, triggered, events) {
    Object.assign(this, { canvas, scene, triggered, events, heat: null, held: null });
    const on = (name, work, options) => canvas.addEventListener(name, (event) => this.scene.picture && work(event), options);
    on("pointerdown", (event) => this.press(event));
    on("pointermove", (event) => this.move(event));
    on("pointerup", (event) => this.release(event));
    on("pointercancel", () => { this.held = null; });
    on("pointerleave", () => events.probe(null));
    on("contextmenu", (event) => event.preventDefault());
    on("wheel", (event) => this.wheel(event), { passive: false });
    on("keydown", (event) => this.key(event));
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  // How many screen pixels a pixel of the image takes, and where the corner of the image is on the canvas.
  geometry() {
    const { picture, zoom, x, y } = this.scene;
    const [wide, tall] = [this.canvas.clientWidth, this.canvas.clientHeight];
    const scale = zoom * Math.min(wide / picture.width, tall / picture.height);
    return { scale, left: wide / 2 - x * picture.width * scale, top: tall / 2 - y * picture.height * scale };
  }

  place(event) {
    const { scale, left, top } = this.geometry();
    return [(event.offsetX - left) / scale, (event.offsetY - top) / scale];
  }

  zoomBy(factor, around) {
    const { scene } = this, { width, height } = scene.picture;
    const [x, y] = around ?? scene.cursor ?? [scene.x * width, scene.y * height];
    const zoom = clamp(scene.zoom * factor, 1, MOST_ZOOM);
    scene.x = x / width + (scene.x - x / width) * scene.zoom / zoom; // the point under the pointer stays where it is
    scene.y = y / height + (scene.y - y / height) * scene.zoom / zoom;
    if (zoom === 1) scene.x = scene.y = .5;
    scene.zoom = zoom;
    this.events.redraw();
  }

  wheel(event) {
    event.preventDefault();
    this.zoomBy(Math.exp(-event.deltaY / 400), this.place(event));
  }

  press(event) {
    this.canvas.setPointerCapture(event.pointerId);
    const { x, y, low, high } = this.scene;
    this.held = { from: [event.clientX, event.clientY], x, y, low, high, window: event.button === 2, moved: false };
  }

  move(event) {
    const { held } = this;
    if (!held) {
      const place = this.place(event);
      this.events.probe(this.scene.inside(place) ? place : null);
      return;
    }
    const [right, down] = [event.clientX - held.from[0], event.clientY - held.from[1]];
    if (Math.hypot(right, down) > CLICK) held.moved = true;
    if (!held.moved) return;
    if (held.window) this.changeWindow(right, down);
    else if (this.scene.zoom > 1) this.pan(right, down);
  }

  changeWindow(right, down) {
    const { scene, held } = this, unit = (scene.picture.most - scene.picture.least) / 400;
    const centre = (held.low + held.high) / 2 + down * unit, width = Math.max(held.high - held.low + right * 2 * unit, unit);
    Object.assign(scene, { low: centre - width / 2, high: centre + width / 2 });
    this.events.window();
  }

  pan(right, down) {
    const { scene, held } = this, { scale } = this.geometry();
    scene.x = clamp(held.x - right / scale / scene.picture.width, 0, 1);
    scene.y = clamp(held.y - down / scale / scene.picture.height, 0, 1);
    this.events.redraw();
  }

  release(event) {
    const { held } = this, place = this.place(event);
    this.held = null;
    if (held && !held.moved && event.button === 0 && this.scene.inside(place)) this.events.stamp(place);
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = event.shiftKey ? 10 : 1;
    const ways = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, -step], ArrowDown: [0, step] };
    if (event.key in ways) {
      this.scene.moveCursor(...ways[event.key]);
      this.follow();
      this.events.cursor();
    } else if (event.key === "Enter" || event.key === " ") {
      this.scene.moveCursor(0, 0);
      this.events.stamp(this.scene.cursor);
    } else return;
    event.preventDefault();
  }

  // Centres the view on the cursor when the cursor has left it.
  follow() {
    const { scene } = this, { scale, left, top } = this.geometry();
    const [x, y] = [left + scene.cursor[0] * scale, top + scene.cursor[1] * scale];
    if (x >= 0 && y >= 0 && x <= this.canvas.clientWidth && y <= this.canvas.clientHeight) return;
    [scene.x, scene.y] = [scene.cursor[0] / scene.picture.width, scene.cursor[1] / scene.picture.height];
  }

  draw() {
    const { canvas, scene } = this, { picture } = scene;
    if (!picture) return;
    const dense = window.devicePixelRatio || 1, { scale, left, top } = this.geometry();
    canvas.width = canvas.clientWidth * dense;
    canvas.height = canvas.clientHeight * dense;
    const context = canvas.getContext("2d");
    context.setTransform(scale * dense, 0, 0, scale * dense, left * dense, top * dense);
    context.imageSmoothingEnabled = scale < 3; // when enlarged this much, single pixels should be visible
    context.drawImage(scene.canvas, 0, 0);
    if (this.triggered) this.drawStamps(context);
    if (this.heat && scene.opacity > 0) {
      const { kept } = picture;
      context.imageSmoothingEnabled = true;
      context.globalAlpha = scene.opacity;
      context.drawImage(this.heat, kept.left, kept.top, kept.width, kept.height);
      context.globalAlpha = 1;
    }
    this.drawFrame(context, scale);
    if (scene.suspect && (this.triggered || !(scene.stamps.length || scene.attacked))) this.drawSuspect(context, scale);
    if (this.triggered) this.drawRings(context, scale);
    if (scene.cursor) this.drawCursor(context, scale);
  }

  drawStamps(context) {
    const { scene } = this, { low, high } = scene.picture;
    for (const stamp of scene.stamps) {
      const shade = scene.shade(low + (high - low) * stamp.value / 255);
      context.fillStyle = `rgb(${shade} ${shade} ${shade})`;
      context.fillRect(...scene.rectangle(stamp));
    }
  }

  // Lines have the same width at any zoom, and a dark edge, so that they are visible on black and on white.
  drawFrame(context, scale) {
    const { kept, height, width } = this.scene.picture;
    if (kept.height === height && kept.width === width) return;
    for (const [colour, thick, dash] of [["rgb(0 0 0 / .6)", 3, []], ["#fff", 1.2, [6, 4]]]) {
      pen(context, scale, colour, thick, dash);
      context.strokeRect(kept.left, kept.top, kept.width, kept.height);
    }
  }

  // Dashed if it is not flagged; drawn around the pixels, so that they stay visible, but inside the image.
  drawSuspect(context, scale) {
    const { box, flagged } = this.scene.suspect, { picture } = this.scene, beside = 3 / scale, edge = 2 / scale;
    const [left, top] = [box.left, box.top].map((start) => Math.max(start - beside, edge));
    const right = Math.min(box.left + box.width + beside, picture.width - edge);
    const bottom = Math.min(box.top + box.height + beside, picture.height - edge);
    for (const [colour, thick, dash] of [["#000", 4, []], ["#ff6f61", 2, flagged ? [] : [4, 3]]]) {
      pen(context, scale, colour, thick, dash);
      context.strokeRect(left, top, right - left, bottom - top);
    }
  }

  drawRings(context, scale) {
    for (const stamp of this.scene.stamps) {
      const [x, y, width, height] = this.scene.rectangle(stamp), radius = Math.max(width, height, 18 / scale);
      for (const [colour, thick] of [["#000", 4], ["#fff", 1.8]]) {
        pen(context, scale, colour, thick);
        context.beginPath();
        context.arc(x + width / 2, y + height / 2, radius, 0, 7);
        context.stroke();
      }
    }
  }

  drawCursor(context, scale) {
    const [x, y] = this.scene.cursor, far = 12 / scale, near = 4 / scale;
    for (const [colour, thick] of [["#000", 4], ["#7cc4ff", 1.8]]) {
      pen(context, scale, colour, thick);
      context.beginPath();
      for (const [right, down] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
        context.moveTo(x + right * near, y + down * near);
        context.lineTo(x + right * far, y + down * far);
      }
      context.stroke();
    }
  }
}

function pen(context, scale, colour, thick, dash = []) {
  context.strokeStyle = colour;
  context.lineWidth = thick / scale;
  context.setLineDash(dash.map((one) => one / scale));
}

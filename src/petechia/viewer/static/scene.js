// What both views show: the image with its window, zoom and position, the cursor and the stamps.

const clamp = (value, least, most) => Math.min(Math.max(value, least), most);

export class Scene {
  constructor() {
    this.picture = null; // the server's description of the image, with its `levels`
    this.stamps = [];
    this.attacked = false; // whether the run's own trigger is on the image, if it is not a square
    this.suspect = null; // the answer of the screen: the box where a trigger would be, and whether it is flagged
    this.opacity = .7;
    this.reset();
  }

  reset() {
    this.zoom = 1;
    this.x = this.y = .5; // the point in the middle of the view, as shares of width and height
    this.invert = false;
    this.cursor = null;
    if (this.picture) ({ low: this.low, high: this.high } = this.picture);
  }

  show(picture) {
    this.picture = picture;
    this.stamps = [];
    this.attacked = false;
    this.pixels = new ImageData(picture.width, picture.height);
    this.canvas = new OffscreenCanvas(picture.width, picture.height);
    this.reset();
  }

  // The values of the image at a pixel: one in the unit of the file, or red, green and blue.
  values([x, y]) {
    const { levels, width, least, most, colour } = this.picture, at = Math.floor(y) * width + Math.floor(x);
    return colour ? [...levels.subarray(3 * at, 3 * at + 3)] : [least + (most - least) * levels[at] / 65535];
  }

  // The grey level (0…255) in which a value of the image is displayed.
  shade(value) {
    const share = clamp((value - this.low) / Math.max(this.high - this.low, 1e-9), 0, 1);
    return Math.round(255 * (this.invert ? 1 - share : share));
  }

  paint() {
    if (this.picture.colour) this.paintColours();
    else this.paintGrey();
    this.canvas.getContext("2d").putImageData(this.pixels, 0, 0);
  }

  paintColours() {
    const { levels } = this.picture, { data } = this.pixels;
    const shades = Uint8Array.from({ length: 256 }, (_, value) => this.shade(value));
    data.fill(255);
    for (let from = 0, to = 0; from < levels.length; from += 3, to += 4) {
      for (let one = 0; one < 3; one++) data[to + one] = shades[levels[from + one]];
    }
  }

  paintGrey() {
    const { levels, least, most } = this.picture;
    const colours = new Uint32Array(65536);
    for (let level = 0; level < 65536; level++) {
      const shade = this.shade(least + (most - least) * level / 65535);
      colours[level] = 0xff000000 | shade << 16 | shade << 8 | shade;
    }
    const pixels = new Uint32Array(this.pixels.data.buffer);
    for (let at = 0; at < levels.length; at++) pixels[at] = colours[levels[at]];
  }

  inside([x, y]) {
    const { width, height } = this.picture;
    return x >= 0 && y >= 0 && x < width && y < height;
  }

  moveCursor(right, down) {
    const { width, height } = this.picture;
    const [x, y] = this.cursor ?? [Math.floor(width / 2) + .5, Math.floor(height / 2) + .5];
    this.cursor = [clamp(x + right, .5, width - .5), clamp(y + down, .5, height - .5)];
  }

  // The grid that stamps are placed on: its rows and columns, its corner in the image, and the size of its pixels in pixels of
  // the image. It is the image itself or, if the attack stamps what the model sees, the part of the image that the crop keeps.
  ground() {
    const { kept, input, width, height } = this.picture;
    if (input === null) return { tall: height, wide: width, top: 0, left: 0, down: 1, right: 1 };
    return { tall: input, wide: input, top: kept.top, left: kept.left, down: kept.height / input, right: kept.width / input };
  }

  // The rectangle of a stamp in pixels of the image.
  rectangle({ row, column, size }) {
    const { top, left, down, right } = this.ground();
    return [left + column * right, top + row * down, size * right, size * down];
  }

  // A stamp centred on a pixel of the image, moved so that it lies inside.
  stampAt([x, y], size, value) {
    const { tall, wide, top, left, down, right } = this.ground();
    if (size > Math.min(tall, wide)) {
      throw new Error(`A trigger of ${size} × ${size} pixels does not fit on ${wide} × ${tall} pixels; choose a smaller size.`);
    }
    const corner = (place, most) => clamp(Math.floor(place) - Math.floor(size / 2), 0, most - size);
    return { row: corner((y - top) / down, tall), column: corner((x - left) / right, wide), size, value };
  }
}

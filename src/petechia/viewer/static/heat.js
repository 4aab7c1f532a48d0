// Draws heat maps: a map is enlarged first and then coloured, like the figures of the report.

const SIDE = 192;

// The value of a map at a point given as shares of its height and width: bilinear between the centres of its cells.
function between(map, y, x) {
  const row = Math.min(Math.max(y * map.length - .5, 0), map.length - 1);
  const column = Math.min(Math.max(x * map[0].length - .5, 0), map[0].length - 1);
  const top = Math.floor(row), left = Math.floor(column);
  const bottom = Math.min(top + 1, map.length - 1), right = Math.min(left + 1, map[0].length - 1);
  const down = row - top, over = column - left;
  const above = map[top][left] * (1 - over) + map[top][right] * over;
  const below = map[bottom][left] * (1 - over) + map[bottom][right] * over;
  return above * (1 - down) + below * down;
}

// Draws a map whose cells are shares (0…1) of its maximum. `hottest` is that maximum as a share of the brightest colour.
export function draw(map, hottest, colours) {
  const picture = new ImageData(SIDE, SIDE);
  for (let y = 0, at = 0; y < SIDE; y++) {
    for (let x = 0; x < SIDE; x++, at += 4) {
      const share = hottest * between(map, (y + .5) / SIDE, (x + .5) / SIDE);
      picture.data.set([...colours[Math.min(255, Math.floor(share * 256))], 255 * share], at);
    }
  }
  const canvas = new OffscreenCanvas(SIDE, SIDE);
  canvas.getContext("2d").putImageData(picture, 0, 0);
  return canvas;
}

export function drawScale(canvas, colours) {
  const context = canvas.getContext("2d");
  for (let x = 0; x < canvas.width; x++) {
    context.fillStyle = `rgb(${colours[Math.floor(x / canvas.width * 256)].join(" ")})`;
    context.fillRect(x, 0, 1, canvas.height);
  }
}

// Small pictures of what each effect does, drawn here: a person in a room, no camera needed.

const WIDTH = 96;
const HEIGHT = 64;

function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

function drawRoom(ink) {
  ink.fillStyle = "#d9c7a5";
  ink.fillRect(0, 0, WIDTH, HEIGHT);
  ink.fillStyle = "#8ec5f0"; // a window
  ink.fillRect(6, 6, 24, 22);
  ink.fillStyle = "#ffffff";
  ink.fillRect(17, 6, 2, 22);
  ink.fillRect(6, 16, 24, 2);
  ink.fillStyle = "#7b4f2c"; // a shelf with books
  ink.fillRect(62, 30, 32, 3);
  const books = ["#b3303a", "#2f6f4f", "#e0a526", "#34508c", "#b3303a", "#5c3b78"];
  books.forEach((colour, index) => {
    ink.fillStyle = colour;
    ink.fillRect(64 + index * 5, 16 + (index % 3) * 2, 4, 14 - (index % 3) * 2);
  });
  ink.fillStyle = "#6d7b4a";
  ink.fillRect(0, 54, WIDTH, 10);
}

function personPath() {
  const path = new Path2D();
  path.arc(48, 26, 12, 0, 2 * Math.PI);
  path.moveTo(22, HEIGHT);
  path.bezierCurveTo(24, 44, 34, 40, 48, 40);
  path.bezierCurveTo(62, 40, 72, 44, 74, HEIGHT);
  path.closePath();
  return path;
}

function drawPerson(ink) {
  ink.save();
  ink.clip(personPath());
  ink.fillStyle = "#2d6a8a";
  ink.fillRect(0, 38, WIDTH, HEIGHT);
  ink.fillStyle = "#c98d63";
  ink.fillRect(30, 10, 36, 29);
  ink.fillStyle = "#3a2a20";
  ink.fillRect(30, 10, 36, 9);
  ink.restore();
}

/** Shrink and enlarge: a blur, or squares, in every browser (ctx.filter is not everywhere). */
function coarse(canvas, columns, smooth) {
  const small = canvasOf(columns, Math.round((columns * HEIGHT) / WIDTH));
  small.getContext("2d").drawImage(canvas, 0, 0, small.width, small.height);
  const ink = canvas.getContext("2d");
  ink.imageSmoothingEnabled = smooth;
  ink.drawImage(small, 0, 0, WIDTH, HEIGHT);
}

function checks(ink) {
  for (let y = 0; y < HEIGHT; y += 8) {
    for (let x = 0; x < WIDTH; x += 8) {
      ink.fillStyle = (x + y) % 16 ? "#ffffff" : "#c3c7cf";
      ink.fillRect(x, y, 8, 8);
    }
  }
}

function flood(ink, colour, operation = "source-over", alpha = 1) {
  ink.save();
  ink.globalCompositeOperation = operation;
  ink.globalAlpha = alpha;
  ink.fillStyle = colour;
  ink.fillRect(0, 0, WIDTH, HEIGHT);
  ink.restore();
}

function drawCover(ink, picture) {
  const scale = Math.max(WIDTH / picture.width, HEIGHT / picture.height);
  const width = picture.width * scale;
  const height = picture.height * scale;
  ink.drawImage(picture, (WIDTH - width) / 2, (HEIGHT - height) / 2, width, height);
}

/**
 * Draw the preview of an effect.
 * @param canvas where to; its size is set here
 * @param name the effect
 * @param background for "replace": a CSS colour, or a picture
 */
export function drawPreview(canvas, name, background = "#12a150") {
  canvas.width = WIDTH;
  canvas.height = HEIGHT;
  const ink = canvas.getContext("2d");
  drawRoom(ink);
  if (name === "blur") coarse(canvas, 9, true);
  else if (name === "pixelate") coarse(canvas, 12, false);
  else if (name === "grayscale") flood(ink, "#808080", "saturation");
  else if (name === "cutout") checks(ink);
  else if (name === "replace") {
    if (typeof background === "string") flood(ink, background);
    else drawCover(ink, background);
  }
  drawPerson(ink);
  if (name === "tint") {
    ink.save();
    ink.clip(personPath());
    flood(ink, "#e0218a", "source-over", 0.55);
    ink.restore();
  }
}

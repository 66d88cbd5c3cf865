// Small pictures of what each effect does, drawn here: a person in a room, no camera needed.

const WIDTH = 96;
const HEIGHT = 64;
const OVER_PERSON = {
  tint: { colour: "#e0218a", alpha: 0.55 },
  mask: { colour: "#ffffff", alpha: 1 },
  "per-class": { colour: "#e0a526", alpha: 0.6 },
};

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

/** Stands for a picture that this page does not know. */
function drawHills(ink) {
  flood(ink, "#bfe0f7");
  for (const [colour, x, y, radius] of [
    ["#f7d774", 76, 16, 8],
    ["#7fae7a", 20, 92, 52],
    ["#4f8a57", 80, 100, 54],
  ]) {
    ink.fillStyle = colour;
    ink.beginPath();
    ink.arc(x, y, radius, 0, 2 * Math.PI);
    ink.fill();
  }
}

/** Lines of text with a bar each, as the server writes them into a corner. */
function drawPanel(ink) {
  ink.fillStyle = "rgb(0 0 0 / 70%)";
  ink.fillRect(2, 3, 31, 31);
  [23, 15, 8].forEach((length, index) => {
    ink.fillStyle = "#ffffff";
    ink.fillRect(6, 7 + index * 9, 14 + length / 3, 3);
    ink.fillStyle = "#26a69a";
    ink.fillRect(6, 11 + index * 9, length, 2);
  });
}

/**
 * Draw the preview of an effect.
 * @param canvas where to; its size is set here
 * @param name the effect
 * @param background for "replace": a CSS colour, or a picture; null if it is not known
 */
export function drawPreview(canvas, name, background = "#12a150") {
  canvas.width = WIDTH;
  canvas.height = HEIGHT;
  const ink = canvas.getContext("2d");
  drawRoom(ink);
  if (name === "blur") coarse(canvas, 9, true);
  else if (name === "pixelate") coarse(canvas, 12, false);
  else if (name === "grayscale") flood(ink, "#808080", "saturation");
  else if (name === "mask") flood(ink, "#000000");
  else if (name === "per-class") flood(ink, "#34508c", "source-over", 0.6);
  else if (name === "replace") {
    if (typeof background === "string") flood(ink, background);
    else if (background) drawCover(ink, background);
    else drawHills(ink);
  }
  drawPerson(ink);
  const over = OVER_PERSON[name];
  if (over) {
    ink.save();
    ink.clip(personPath());
    flood(ink, over.colour, "source-over", over.alpha);
    ink.restore();
  }
  if (name === "labels") drawPanel(ink);
}

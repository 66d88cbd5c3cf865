// The live figures: what the server reports, and what the browser itself counts.

const NONE = "–";
const number = (value, digits = 0) =>
  Number.isFinite(value) ? value.toFixed(digits) : NONE;
const inUnit = (value, digits, unit) =>
  Number.isFinite(value) ? `${value.toFixed(digits)} ${unit}` : NONE;

export class Figures {
  constructor() {
    this.fields = Object.fromEntries(
      ["size", "fps", "latency", "rtt", "drops", "bitrate"].map((name) => [
        name,
        document.getElementById(`figure-${name}`),
      ]),
    );
    this.clear();
  }

  clear() {
    this.before = null;
    this.server = {};
    for (const field of Object.values(this.fields)) field.textContent = NONE;
  }

  /** Take the server's statistics, once a second. */
  report(statistics) {
    this.server = statistics;
  }

  /** Read the browser's and show all; called once a second. */
  async update(pc) {
    const now = await browserFigures(pc);
    const seconds = this.before ? (now.at - this.before.at) / 1000 : NaN;
    const rate = (name) => (now[name] - this.before?.[name]) / seconds;
    const dropped = dropsOf(this.server.dropped);
    if (now.dropped) dropped.push(`${now.dropped} shown too late`);
    const show = {
      size: now.width ? `${now.width} × ${now.height}` : NONE,
      fps: number(rate("frames"), 0),
      latency: inUnit(this.server.latency_ms, 0, "ms"),
      rtt: inUnit(now.rtt_ms, 0, "ms"),
      drops: dropped.join(", ") || "none",
      bitrate: `${number(rate("sent") * 8e-6, 1)} / ${number(rate("received") * 8e-6, 1)} Mbit/s`,
    };
    for (const [name, text] of Object.entries(show)) this.fields[name].textContent = text;
    this.before = now;
  }
}

/** "3 superseded" and so on, for causes that happened. */
function dropsOf(dropped) {
  if (typeof dropped === "number") return dropped ? [String(dropped)] : [];
  return Object.entries(dropped ?? {})
    .filter(([, count]) => count > 0)
    .map(([cause, count]) => `${count} ${cause}`);
}

async function browserFigures(pc) {
  const found = { at: performance.now(), frames: 0, sent: 0, received: 0, dropped: 0 };
  for (const report of (await pc.getStats()).values()) {
    if (report.type === "inbound-rtp" && report.kind === "video") {
      found.frames = report.framesDecoded ?? 0;
      found.dropped = report.framesDropped ?? 0;
      found.width = report.frameWidth;
      found.height = report.frameHeight;
    }
    if (report.type === "inbound-rtp") found.received += report.bytesReceived ?? 0;
    if (report.type === "outbound-rtp") found.sent += report.bytesSent ?? 0;
    if (report.type === "candidate-pair" && report.nominated) {
      found.rtt_ms = report.currentRoundTripTime * 1000;
    }
  }
  return found;
}

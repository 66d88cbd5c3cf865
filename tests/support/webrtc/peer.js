// A WebRTC endpoint of libwebrtc, driven by JSON lines: the second implementation of the tests.
//
// stdin:  {"start": {...}} {"answer": sdp} {"offer": sdp} {"size": [w, h]} {"say": text} {"close": true}
// stdout: {"offer": sdp} {"answer": sdp} {"state": s} {"frames": [[number, latency ms, w, h], ...]}
//         {"said": text} {"audio": samples so far}
//
// Each picture has its number as a bar code in its upper eighth: 16 cells, 12 bits and a checksum.
"use strict";
const { RTCPeerConnection, MediaStream, nonstandard } = require("@roamhq/wrtc");
const { RTCVideoSource, RTCVideoSink, RTCAudioSource, RTCAudioSink } = nonstandard;

const say = (object) => process.stdout.write(JSON.stringify(object) + "\n");
const sent = new Map();
let options, connection, source, sound, channel, timer, soundTimer, number = 0, seen = [], samples = 0;

function code(n) {
  const low = n & 0xfff;
  return (low << 4) | (((low >> 8) ^ (low >> 4) ^ low ^ 0x5) & 0xf);
}

const textures = new Map();

function texture(width, height) {
  const key = `${width}x${height}`;
  if (!textures.has(key)) {
    const wide = width + 256, made = new Uint8ClampedArray(wide * height);
    for (let y = 0; y < height; y++) for (let x = 0; x < wide; x++) made[y * wide + x] = 60 + ((x ^ y) & 127);
    textures.set(key, made);
  }
  return textures.get(key);
}

function draw(width, height, n) {
  const data = new Uint8ClampedArray((width * height * 3) / 2);
  // Something that moves and has detail, so that the encoders have work.
  const from = texture(width, height), shift = (3 * n) % 256;
  for (let y = 0; y < height; y++) {
    const at = y * (width + 256) + shift;
    data.set(from.subarray(at, at + width), y * width);
  }
  data.fill(128, width * height);
  const bits = code(n);
  for (let cell = 0; cell < 16; cell++) {
    const value = (bits >> (15 - cell)) & 1 ? 235 : 16;
    const from = Math.floor((cell * width) / 16), to = Math.floor(((cell + 1) * width) / 16);
    for (let y = 0; y < height >> 3; y++) data.fill(value, y * width + from, y * width + to);
  }
  return data;
}

function read({ width, height, data }) {
  const y = height >> 4;
  let bits = 0;
  for (let cell = 0; cell < 16; cell++) {
    const x = Math.floor(((cell + 0.5) * width) / 16);
    bits = (bits << 1) | (data[y * width + x] > 125 ? 1 : 0);
  }
  const n = bits >> 4;
  return code(n) === bits ? n : null;
}

function tick() {
  const [width, height] = options.size;
  source.onFrame({ width, height, data: draw(width, height, number) });
  sent.set(number & 0xfff, process.hrtime.bigint());
  number += 1;
}

function watch(track) {
  if (track.kind === "audio") {
    new RTCAudioSink(track).ondata = ({ samples: some }) => { samples += some.length; };
    return;
  }
  new RTCVideoSink(track).onframe = ({ frame }) => {
    const n = read(frame);
    const at = n === null ? undefined : sent.get(n);
    const latency = at === undefined ? null : Number(process.hrtime.bigint() - at) / 1e6;
    seen.push([n, latency, frame.width, frame.height]);
  };
}

function prefer(sdp) {
  if (!options.codec) return sdp;
  const lines = sdp.split("\r\n");
  const types = new Set();
  for (const line of lines) {
    const found = line.match(/^a=rtpmap:(\d+) ([A-Za-z0-9]+)\//);
    if (found && found[2].toUpperCase() === options.codec) types.add(found[1]);
  }
  return lines
    .map((line) => {
      if (!line.startsWith("m=video")) return line;
      const words = line.split(" ");
      return [...words.slice(0, 3), ...words.slice(3).filter((word) => types.has(word))].join(" ");
    })
    .filter((line) => {
      const found = line.match(/^a=(?:rtpmap|fmtp|rtcp-fb):(\d+) /);
      if (!found) return true;
      const video = lines.find((other) => other.startsWith("m=video")).split(" ").slice(3);
      return !video.includes(found[1]) || types.has(found[1]);
    })
    .join("\r\n");
}

function gathered() {
  return new Promise((resolve) => {
    if (connection.iceGatheringState === "complete") resolve();
    else connection.addEventListener("icegatheringstatechange", () => {
      if (connection.iceGatheringState === "complete") resolve();
    });
  });
}

async function start(given) {
  options = { size: [640, 360], fps: 30, send: true, receive: true, ...given };
  connection = new RTCPeerConnection({ iceServers: [] });
  connection.onconnectionstatechange = () => say({ state: connection.connectionState });
  connection.ontrack = ({ track }) => watch(track);
  const direction = options.send ? (options.receive ? "sendrecv" : "sendonly") : "recvonly";
  if (options.send) {
    source = new RTCVideoSource();
    const track = source.createTrack();
    connection.addTransceiver(track, { direction, streams: [new MediaStream([track])] });
    if (options.audio) {
      sound = new RTCAudioSource();
      connection.addTransceiver(sound.createTrack(), { direction });
    }
  } else {
    connection.addTransceiver("video", { direction });
    if (options.audio) connection.addTransceiver("audio", { direction });
  }
  if (options.data) {
    channel = connection.createDataChannel("control");
    channel.onmessage = ({ data }) => say({ said: data });
  }
  const offer = await connection.createOffer();
  await connection.setLocalDescription({ type: "offer", sdp: prefer(offer.sdp) });
  await gathered();
  say({ offer: connection.localDescription.sdp });
}

function play() {
  if (source && !timer) timer = setInterval(tick, 1000 / options.fps);
  if (sound && !soundTimer) {
    let phase = 0;
    soundTimer = setInterval(() => {
      const data = new Int16Array(480);
      for (let i = 0; i < 480; i++) data[i] = 8000 * Math.sin((phase++ * 2 * Math.PI * 440) / 48000);
      sound.onData({ samples: data, sampleRate: 48000, bitsPerSample: 16, channelCount: 1, numberOfFrames: 480 });
    }, 10);
  }
}

setInterval(() => {
  if (seen.length) say({ frames: seen.splice(0), audio: samples });
}, 200).unref();

async function take(message) {
  if (message.start) await start(message.start);
  if (message.answer) {
    await connection.setRemoteDescription({ type: "answer", sdp: message.answer });
    play();
  }
  if (message.size) options.size = message.size;
  if (message.say !== undefined) channel.send(message.say);
  if (message.mute) { clearInterval(timer); timer = undefined; }
  if (message.close) {
    connection.close();
    setTimeout(() => process.exit(0), 100);
  }
}

let rest = "";
process.stdin.on("data", (chunk) => {
  const lines = (rest + chunk).split("\n");
  rest = lines.pop();
  for (const line of lines) take(JSON.parse(line)).catch((error) => say({ error: String(error) }));
});
process.stdin.on("end", () => process.exit(0));

// Offers a call with pictures that carry their number, and reports what comes back.
"use strict";
const parameters = { width: 1280, height: 720, codec: "H264", receive: true, camera: false, ...(window.parameters || {}) };
const canvas = document.createElement("canvas");
const back = document.createElement("canvas");
const video = document.createElement("video");
const sent = new Map();
let number = 0, seen = [], size = [parameters.width, parameters.height];
const report = (object) => fetch("/report", { method: "POST", body: JSON.stringify(object) });
const code = (n) => (n << 4) | (((n >> 8) ^ (n >> 4) ^ n ^ 0x5) & 0xf);

function draw() {
  const n = number++ & 0xfff, [width, height] = size;
  if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
  const context = canvas.getContext("2d");
  context.fillStyle = "#808080";
  context.fillRect(0, 0, width, height);
  for (let i = 0; i < (parameters.boxes ?? 60); i++) {
    context.fillStyle = `hsl(${i * 6} 60% ${30 + (i * 7) % 40}%)`;
    context.fillRect((i * 97 + n * 5) % width, height / 6 + ((i * 53 + n * 2) % (height * 0.8)), 80, 50);
  }
  for (let cell = 0; cell < 16; cell++) {
    context.fillStyle = (code(n) >> (15 - cell)) & 1 ? "#fff" : "#000";
    context.fillRect(Math.floor(cell * width / 16), 0, Math.ceil(width / 16), height / 8);
  }
  sent.set(n, performance.now());
}

function look(now, meta) {
  const width = video.videoWidth, height = video.videoHeight;
  if (width) {
    back.width = 64; back.height = 4;
    const context = back.getContext("2d", { willReadFrequently: true });
    context.drawImage(video, 0, 0, width, height / 8, 0, 0, 64, 4);
    const data = context.getImageData(0, 0, 64, 4).data;
    let bits = 0;
    for (let cell = 0; cell < 16; cell++) bits = (bits << 1) | (data[4 * (64 * 2 + cell * 4 + 2)] > 125 ? 1 : 0);
    const n = code(bits >> 4) === bits ? bits >> 4 : null;
    seen.push([n, n === null || !sent.has(n) ? null : performance.now() - sent.get(n), width, height]);
  }
  video.requestVideoFrameCallback(look);
}

(async () => {
  const connection = new RTCPeerConnection();
  let stream;
  if (parameters.camera) {
    stream = await navigator.mediaDevices.getUserMedia({ video: { width: size[0], height: size[1], frameRate: 30 } });
  } else {
    draw();
    setInterval(draw, 1000 / 30);
    stream = canvas.captureStream(30);
  }
  const transceiver = connection.addTransceiver(stream.getVideoTracks()[0], { direction: parameters.receive ? "sendrecv" : "sendonly" });
  if (parameters.audio) {
    const context = new AudioContext(), oscillator = context.createOscillator();
    const target = context.createMediaStreamDestination();
    oscillator.connect(target); oscillator.start();
    connection.addTransceiver(target.stream.getAudioTracks()[0], { direction: "sendrecv" });
  }
  if (parameters.codec) {
    const codecs = RTCRtpReceiver.getCapabilities("video").codecs;
    const wanted = codecs.filter((one) => one.mimeType === `video/${parameters.codec}`);
    transceiver.setCodecPreferences([...wanted, ...codecs.filter((one) => one.mimeType === "video/rtx")]);
  }
  connection.ontrack = ({ track }) => {
    if (track.kind !== "video") return;
    video.srcObject = new MediaStream([track]);
    video.muted = true; video.play(); video.requestVideoFrameCallback(look);
  };
  connection.onconnectionstatechange = () => report({ state: connection.connectionState });
  await connection.setLocalDescription(await connection.createOffer());
  await new Promise((resolve) => {
    if (connection.iceGatheringState === "complete") resolve();
    connection.onicegatheringstatechange = () => { if (connection.iceGatheringState === "complete") resolve(); };
  });
  const answer = await fetch("/offer", { method: "POST", body: connection.localDescription.sdp });
  await connection.setRemoteDescription({ type: "answer", sdp: await answer.text() });
  setInterval(async () => {
    const stats = [...(await connection.getStats()).values()];
    const out = stats.find((one) => one.type === "outbound-rtp" && one.kind === "video") || {};
    const target = out.targetBitrate, encoded = [out.frameWidth, out.frameHeight], fps = out.framesPerSecond;
    report({ frames: seen.splice(0), target, encoded, fps });
  }, 500);
  if (parameters.resize) setTimeout(() => { size = parameters.resize; }, parameters.resizeAfter || 2000);
})().catch((error) => report({ error: String(error) }));

// The page: ties devices, choice, connection and screen together.

import { Background } from "./background.js";
import { Capture } from "./capture.js";
import { Choice } from "./choice.js";
import { Connection } from "./connection.js";
import { fillDevices, mayCapture } from "./devices.js";
import { Figures } from "./figures.js";
import { recall, remember } from "./memory.js";
import { Screen } from "./screen.js";
import { Refusal, fetchConfig, setToken } from "./server.js";
import { INSECURE, atTime, deviceProblem, refusalWords } from "./words.js";

const element = (id) => document.getElementById(id);
const [status, problem, startButton] = [element("status"), element("problem"), element("start")];
const [camera, microphone] = [element("camera"), element("microphone")];
const [mask, compare, hear] = [element("mask"), element("compare"), element("hear")];

const capture = new Capture();
const { tracks } = capture;
const screen = new Screen();
const figures = new Figures();
const background = new Background();
const choice = new Choice(background);
let wanted = false; // whether the person wants a call: Start was pressed later than Stop
let config = null; // what the server said last; asked for again before each new call
let told = null; // the wish that the running call began with, as text
let uploadedAgain = false;
let microphoneProblem = ""; // stays to be read while the call goes on without sound

const connection = new Connection({
  config: freshConfig,
  tracks: () => tracks,
  choice: firstWish,
  repair,
  onMessage: heard,
  onStream: (stream) => screen.play(stream, () => performance.mark("first-picture")),
});

// -- the call ------------------------------------------------------------------------------------

async function start() {
  if (wanted) return;
  wanted = true;
  performance.mark("start");
  say("connecting", "Opening the camera");
  showProblem("");
  screen.cover("Opening the camera");
  startButton.textContent = "Stop";
  if (!mayCapture()) return giveUp(INSECURE);
  if (await setVideo()) await call();
}

/** Go on, with the camera open. */
async function call() {
  await setAudio();
  listDevices();
  if (!tracks.video) return; // stopped by now, or another camera is being opened, and goes on then
  remember("running", true);
  await connection.start();
}

function stop() {
  wanted = false;
  remember("running", false);
  connection.stop();
  release();
  showRetry(null);
  startButton.textContent = "Start";
  screen.cover("Press Start to see yourself");
  figures.clear();
  say("idle", "Stopped");
}

function giveUp(words) {
  stop();
  screen.cover("No picture");
  say("failed", "Not connected");
  showProblem(words);
}

function release() {
  capture.close();
  screen.setCamera(null);
}

connection.addEventListener("state", ({ detail }) => {
  if (!wanted) return;
  showRetry(null);
  if (detail.state === "connecting") {
    say("connecting", detail.again ? "Connecting again" : "Connecting");
    screen.cover("Waiting for the first picture");
  } else if (detail.state === "connected") {
    showProblem(microphoneProblem);
    sayEffect();
    catchUp();
  } else if (detail.state === "waiting") {
    showProblem(wordsOf(detail.error));
    say("waiting", `Not connected. Trying again ${atTime(detail.seconds)}.`);
    screen.cover("No picture: not connected");
    figures.clear();
    showRetry(detail.seconds);
  } else if (detail.state === "paused") {
    showProblem("");
    say("waiting", "Paused until this page is shown again");
    screen.cover("Paused");
    figures.clear();
  } else if (detail.state === "failed") {
    giveUp(wordsOf(detail.error));
    element("token-form").hidden = detail.error?.status !== 401;
  }
});

function wordsOf(error) {
  return error instanceof Refusal ? refusalWords(error.status, error.said) : error.message;
}

async function freshConfig(signal) {
  const known = config;
  config = null;
  const fresh = known ?? (await fetchConfig(signal));
  choice.configure(fresh);
  return fresh;
}

// -- what the server is asked for ----------------------------------------------------------------

/**
 * What a new call begins with, so that no other effect is seen first. It does not wait for ever for
 * an own picture on a slow way: that is sent once more, and its words are shown, when the call is up.
 */
async function firstWish(signal) {
  const wish = choice.own ? await choice.message({ signal, anyway: true }) : {};
  told = JSON.stringify(wish);
  return wish;
}

/** Say what changed while the call was being made. */
async function catchUp() {
  if (mask.checked) connection.send({ mask: true });
  if (choice.own) await tellChoice();
}

async function tellChoice({ again = false } = {}) {
  let wish;
  try {
    wish = await choice.message({ again });
  } catch (error) {
    const own = choice.usesOwnPicture ? "Your background picture could not be sent. " : "";
    showProblem(own + wordsOf(error));
    return;
  }
  const text = JSON.stringify(wish);
  if (text === told) return;
  if (choice.isTheServersAlone) connection.renew();
  else if (connection.send(wish)) told = text;
}

/** The server keeps pictures for a while only: one that it has forgotten is sent again, once. */
async function repair(_, signal) {
  if (!choice.usesOwnPicture || uploadedAgain) return false;
  uploadedAgain = true;
  try {
    await background.upload({ again: true, signal });
    return true;
  } catch {
    return false;
  }
}

function heard(message) {
  if (message.statistics) figures.report(message.statistics);
  if (message.effect) {
    uploadedAgain = false;
    showProblem(microphoneProblem);
    sayEffect();
  }
  if ("mask" in message) sayEffect();
  if (message.error) {
    told = null;
    if (choice.usesOwnPicture && !uploadedAgain) {
      uploadedAgain = true;
      tellChoice({ again: true });
    } else showProblem(`The server says: ${message.error}`);
  }
}

// -- devices -------------------------------------------------------------------------------------

/** Open the chosen camera and use it; returns whether it is open and still wanted. */
async function setVideo() {
  screen.setCamera(null);
  try {
    if (!(await capture.openCamera(camera.value))) return false;
  } catch (error) {
    giveUp(deviceProblem(error));
    return false;
  }
  tracks.video.onended = () =>
    giveUp("The camera was disconnected. Connect it again, then press Start.");
  screen.setCamera(tracks.video);
  send("video");
  return true;
}

/** Likewise with the microphone, without which a call goes on. */
async function setAudio() {
  microphoneProblem = "";
  try {
    if (!(await capture.openMicrophone(microphone.value))) return;
  } catch (error) {
    microphone.value = "off";
    microphoneProblem = deviceProblem(error, "microphone");
  }
  showProblem(microphoneProblem);
  send("audio");
}

/** Let the running call send what is open now; one that cannot is made anew. */
function send(kind) {
  const { call: running } = connection;
  running?.[kind].sender.replaceTrack(tracks[kind]).catch(() => running.lose("The device changed."));
}

async function listDevices() {
  if (!mayCapture()) return;
  await fillDevices(camera, "videoinput", { count: 1, unnamed: "Camera" });
  await fillDevices(microphone, "audioinput", { count: 2, unnamed: "Microphone" });
}

async function cameraChosen() {
  remember("camera", camera.value);
  if (wanted && (await setVideo()) && !connection.running) await call();
}

// -- what the page says --------------------------------------------------------------------------

function say(state, words) {
  status.dataset.state = state;
  status.textContent = words;
}

function sayEffect() {
  const words = mask.checked ? "Mask view" : choice.title;
  say("connected", `Connected: ${words}`);
  screen.caption.textContent = `Processed by the server: ${words}`;
}

function showProblem(words) {
  problem.hidden = !words;
  problem.textContent = words;
}

let ticking = 0;
function showRetry(seconds) {
  clearInterval(ticking);
  element("retry").hidden = seconds === null;
  if (seconds === null) return;
  const due = performance.now() + seconds * 1000;
  const tick = () => {
    const left = Math.max(0, Math.ceil((due - performance.now()) / 1000));
    element("countdown").textContent = `Trying again in ${left} s`;
  };
  tick();
  ticking = setInterval(tick, 500);
}

// -- beginning -----------------------------------------------------------------------------------

startButton.addEventListener("click", () => (wanted ? stop() : start()));
element("retry-now").addEventListener("click", () => connection.retryNow());
element("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = element("token").value.trim();
  setToken(token);
  remember("token", token);
  element("token-form").hidden = true;
  start();
});
choice.addEventListener("change", () => tellChoice());
mask.addEventListener("change", () => connection.send({ mask: mask.checked }));
compare.addEventListener("change", () => screen.compare(compare.checked));
hear.addEventListener("change", () => (screen.processed.muted = !hear.checked));
camera.addEventListener("change", cameraChosen);
microphone.addEventListener("change", () => tracks.video && setAudio());
navigator.mediaDevices?.addEventListener("devicechange", listDevices);
// The server's place is free for the next page at once, instead of after its time-out
addEventListener("pagehide", () => {
  connection.leave();
  capture.close();
});
addEventListener("pageshow", ({ persisted }) => {
  if (persisted && wanted) location.reload(); // out of the back/forward cache: the call is gone
});
setInterval(() => {
  if (connection.call && status.dataset.state === "connected") figures.update(connection.call.pc);
}, 1000);

setToken(recall("token", ""));
fetchConfig().then(
  (found) => {
    config = found;
    choice.configure(found);
  },
  () => {}, // Start tries again, and says what is wrong
);
await choice.recall();
await listDevices();
camera.value = recall("camera", "");
if (camera.selectedIndex < 0) camera.selectedIndex = 0;
if (recall("running", false)) start();

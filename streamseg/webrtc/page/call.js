// One call: camera to the server, processed picture back, and a channel to steer it by.

import { endSession, sendOffer } from "./server.js";
import { until } from "./waiting.js";

const GATHER_MS = 1500; // a STUN server that does not answer must not hold up the call
const CONNECT_MS = 12000; // the server itself gives up after 10 s
const INTERRUPTED_MS = 3000; // ICE mends a short hole by itself; after that a new call is quicker
const SILENT_MS = 5000; // the server reports every second
const END_MS = 1000;

/** The call cannot be used any more; a new one can be tried. */
export class Lost extends Error {}

export class Call {
  /**
   * @param tracks {video, audio}: what to send; null is sent as soon as it is there
   * @param handlers {onMessage(object), onStream(stream)}
   */
  constructor(config, tracks, handlers) {
    this.session = null;
    this.handlers = handlers;
    this.pc = new RTCPeerConnection({
      iceServers: config.ice_servers ?? [],
      bundlePolicy: "max-bundle",
    });
    this.lost = new Promise((resolve) => {
      this.lose = (reason) => resolve(new Lost(reason));
    });
    // Both sections are there from the start, so that a microphone can be added without a new offer
    this.video = this.pc.addTransceiver(tracks.video ?? "video", { direction: "sendrecv" });
    this.audio = this.pc.addTransceiver(tracks.audio ?? "audio", { direction: "sendrecv" });
    this.channel = this.pc.createDataChannel("control");
    this.channel.onmessage = (event) => this.#receive(event.data);
    this.channel.onclose = () => {
      this.session = null; // it is over already: nothing to end
      this.lose("The server ended the call.");
    };
    for (const { receiver } of [this.video, this.audio]) {
      // Every picture is shown when it is there: nobody here wants it smooth but late
      if ("jitterBufferTarget" in receiver) receiver.jitterBufferTarget = 0;
    }
    this.stream = new MediaStream([this.video.receiver.track, this.audio.receiver.track]);
    this.pc.onconnectionstatechange = () => this.#watchState();
  }

  /** Make the connection; returns when picture and channel are up. */
  async open(choice, candidates, signal) {
    await this.pc.setLocalDescription(await this.pc.createOffer());
    await this.#gathered(signal);
    const sdp = usefulCandidates(this.pc.localDescription.sdp, candidates);
    const answer = await sendOffer({ sdp, type: "offer", ...choice }, signal);
    this.session = answer.session;
    signal.throwIfAborted();
    this.handlers.onStream(this.stream);
    await this.pc.setRemoteDescription({ sdp: answer.sdp, type: answer.type });
    await this.#opened(signal);
    this.heard = performance.now();
    this.watch = setInterval(() => this.#watchSilence(), 1000);
  }

  /** Send an object; returns whether it could be sent. */
  send(message) {
    if (this.channel.readyState !== "open") return false;
    this.channel.send(JSON.stringify(message));
    return true;
  }

  close() {
    clearInterval(this.watch);
    clearTimeout(this.interrupted);
    this.channel.onclose = null;
    this.pc.onconnectionstatechange = null;
    // The server hears of it before the connection goes, or the session would be unknown by then;
    // where it cannot be reached that must not keep the connection and its encoder
    const { pc, session } = this;
    this.session = null;
    const told = session ? endSession(session) : Promise.resolve();
    const late = new Promise((resolve) => setTimeout(resolve, END_MS));
    Promise.race([told, late]).then(() => pc.close());
  }

  #receive(text) {
    this.heard = performance.now();
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      return; // not ours to judge: a newer server may say more than this page knows
    }
    if (message && typeof message === "object") this.handlers.onMessage(message);
  }

  #watchState() {
    const state = this.pc.connectionState;
    clearTimeout(this.interrupted);
    if (state === "failed" || state === "closed") this.lose("The connection broke.");
    if (state === "disconnected") {
      this.interrupted = setTimeout(() => this.lose("The connection broke."), INTERRUPTED_MS);
    }
  }

  #watchSilence() {
    // A timer that slept with the machine says nothing about the server
    const now = performance.now();
    const slept = now - (this.looked ?? now) > 3000;
    this.looked = now;
    if (slept) this.heard = now;
    if (now - this.heard > SILENT_MS) this.lose("The server does not answer any more.");
  }

  #gathered(signal) {
    return until(signal, GATHER_MS, "resolve", (done, _, over) => {
      const look = () => this.pc.iceGatheringState === "complete" && done();
      this.pc.addEventListener("icegatheringstatechange", look, { signal: over });
      look();
    });
  }

  #opened(signal) {
    return until(signal, CONNECT_MS, new Lost("The connection could not be made."), (done, fail) => {
      this.channel.onopen = () => done();
      this.lost.then(fail);
    });
  }
}

/** Leave out what the server cannot use (TCP) and what is over its limit. */
export function usefulCandidates(sdp, limit = 20) {
  let left = limit;
  return sdp
    .split("\r\n")
    .filter((line) => {
      if (!line.startsWith("a=candidate:")) return true;
      return line.split(" ")[2].toLowerCase() === "udp" && left-- > 0;
    })
    .join("\r\n");
}

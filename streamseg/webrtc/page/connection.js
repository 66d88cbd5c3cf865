// Keeps a call up: makes it, makes it again when it is lost, until it is stopped.

import { Call } from "./call.js";
import { Refusal } from "./server.js";
import { until } from "./waiting.js";

const FIRST_WAIT_S = 0.5;
const LONGEST_WAIT_S = 15;
const STEADY_MS = 10000; // a call that was up for so long was a good one: begin the waits anew

/**
 * Events ("state", with detail):
 *   {state: "connecting", again: bool}
 *   {state: "connected"}
 *   {state: "waiting", error, seconds}   the next try comes by itself
 *   {state: "paused"}                    likewise, as soon as the page is seen or its camera wakes
 *   {state: "failed", error}             there is no next try
 */
export class Connection extends EventTarget {
  #stopper = null;
  #ended = null;
  #connectedAt = null;
  #renewing = false;
  #patient = false;
  #skip = () => {};

  /**
   * @param parts {config(signal), tracks(), choice(signal), repair(error, signal), onMessage,
   *   onStream}: what each new call is made of, asked for each time, since it may have changed;
   *   repair may put right what the server refused and returns whether another try makes sense
   */
  constructor(parts) {
    super();
    this.parts = parts;
    this.call = null;
    addEventListener("online", () => {
      if (!this.#patient) this.#skip();
      this.#loseDisconnected();
    });
    // Also tells of nothing but a new estimate of how fast the network is: no reason to hurry
    navigator.connection?.addEventListener?.("change", () => this.#loseDisconnected());
  }

  get running() {
    return this.#stopper !== null && !this.#stopper.signal.aborted;
  }

  async start() {
    if (this.running) return;
    const { signal } = (this.#stopper = new AbortController());
    await this.#ended; // the run before, which has been stopped
    if (signal.aborted) return;
    this.#ended = this.#keepUp(signal);
    await this.#ended;
  }

  stop() {
    this.#stopper?.abort(new DOMException("stopped", "AbortError"));
  }

  /** End the call at once: the page goes away, and no code of it may run any more. */
  leave() {
    this.#drop();
    this.stop();
  }

  /** Do not wait any longer for the next try. */
  retryNow() {
    this.#skip();
  }

  /** Make a new call in place of the one that there is. */
  renew() {
    if (!this.call) return;
    this.#renewing = true;
    this.call.lose("A new one is made.");
  }

  /** Send to the server; what is said while there is no call is part of the next one's choice. */
  send(message) {
    return this.call?.send(message) ?? false;
  }

  /** Never rejects. */
  async #keepUp(signal) {
    try {
      await this.#run(signal);
    } catch (error) {
      if (signal.aborted) return;
      this.stop();
      this.#tell({ state: "failed", error });
    } finally {
      this.#drop();
    }
  }

  async #run(signal) {
    let failures = 0;
    let again = false;
    for (;;) {
      await this.#awake(signal);
      this.#tell({ state: "connecting", again });
      this.#connectedAt = null;
      let error;
      try {
        error = await this.#once(signal);
      } catch (thrown) {
        error = thrown;
      }
      this.#drop();
      signal.throwIfAborted();
      const final = error instanceof Refusal && !error.passing;
      if (final && !(await this.parts.repair(error, signal))) throw error;
      again = true;
      failures = this.#wasSteady() || this.#renewing ? 1 : failures + 1;
      if (this.#renewing) {
        this.#renewing = false;
        continue;
      }
      const seconds = error.retryAfterS ?? backoff(failures);
      this.#tell({ state: "waiting", error, seconds });
      this.#patient = error.retryAfterS !== undefined;
      await until(signal, seconds * 1000, "resolve", (done) => (this.#skip = done));
    }
  }

  /** One call, from the offer to its loss; returns the reason. */
  async #once(signal) {
    const config = await this.parts.config(signal);
    const wish = await this.parts.choice(signal);
    signal.throwIfAborted();
    const { onMessage, onStream } = this.parts;
    this.call = new Call(config, this.parts.tracks(), { onMessage, onStream });
    await this.call.open(wish, config.limits?.candidates, signal);
    this.#connectedAt = performance.now();
    this.#tell({ state: "connected" });
    return until(signal, null, null, (done) => this.call.lost.then(done));
  }

  /** The time that a failing attempt took says nothing: where UDP is blocked each one takes long. */
  #wasSteady() {
    return this.#connectedAt !== null && performance.now() - this.#connectedAt > STEADY_MS;
  }

  /** A call without pictures is soon ended by the server: none is made with a telephone put away. */
  async #awake(signal) {
    const asleep = () => document.hidden && this.parts.tracks().video?.muted;
    if (!asleep()) return;
    this.#tell({ state: "paused" });
    await until(signal, null, null, (done, _, over) => {
      const look = () => asleep() || done();
      document.addEventListener("visibilitychange", look, { signal: over });
      this.parts.tracks().video.addEventListener("unmute", look, { signal: over });
    });
  }

  #drop() {
    this.call?.close();
    this.call = null;
  }

  /** The addresses that the call was made with may be gone: do not wait for ICE to find out. */
  #loseDisconnected() {
    const state = this.call?.pc.connectionState;
    if (state === "disconnected" || state === "failed") this.call.lose("The network changed.");
  }

  #tell(detail) {
    this.dispatchEvent(new CustomEvent("state", { detail }));
  }
}

/** Twice as long each time, and not the same for all pages that lost the same server. */
function backoff(failures) {
  const seconds = Math.min(LONGEST_WAIT_S, FIRST_WAIT_S * 2 ** (failures - 1));
  return seconds * (0.75 + Math.random() / 2);
}

// Keeps a call up: makes it, makes it again when it is lost, until it is stopped.

import { Call } from "./call.js";
import { Refusal } from "./server.js";

const FIRST_WAIT_S = 0.5;
const LONGEST_WAIT_S = 15;
const STEADY_MS = 10000; // a call that lasted so long was a good one: begin the waits anew

/**
 * Events ("state", with detail):
 *   {state: "connecting", again: bool}
 *   {state: "connected"}
 *   {state: "waiting", error, seconds}   the next try comes by itself
 *   {state: "failed", error}             it does not
 *   {state: "stopped"}
 */
export class Connection extends EventTarget {
  /**
   * @param parts {config(), tracks(), choice(), repair(error), onMessage, onStream}: what each new
   *   call is made of, asked for each time, since it may have changed; repair may put right what
   *   the server refused and returns whether another try makes sense
   */
  constructor(parts) {
    super();
    this.parts = parts;
    this.call = null;
    this.running = false;
    this.skip = () => {};
    for (const [target, name] of [[window, "online"], [navigator.connection, "change"]]) {
      target?.addEventListener?.(name, () => this.#networkChanged());
    }
  }

  async start() {
    if (this.running) return;
    this.running = true;
    this.stopper = new AbortController();
    const { signal } = this.stopper;
    try {
      await this.#run(signal);
    } catch (error) {
      if (!signal.aborted) this.#tell({ state: "failed", error });
    } finally {
      this.#drop();
      this.running = false;
      if (signal.aborted) this.#tell({ state: "stopped" });
    }
  }

  stop() {
    this.stopper?.abort(new DOMException("stopped", "AbortError"));
  }

  /** End the call at once: the page goes away, and no code of it may run any more. */
  leave() {
    this.#drop();
    this.stop();
  }

  /** Do not wait any longer for the next try. */
  retryNow() {
    this.skip();
  }

  /** Send to the server; what is said while there is no call is part of the next one's choice. */
  send(message) {
    return this.call?.send(message) ?? false;
  }

  async #run(signal) {
    let failures = 0;
    let again = false;
    for (;;) {
      this.#tell({ state: "connecting", again });
      let error;
      const begun = performance.now();
      try {
        error = await this.#once(signal);
      } catch (thrown) {
        error = thrown;
      }
      this.#drop();
      signal.throwIfAborted();
      const final = error instanceof Refusal && !error.passing;
      if (final && !(await this.parts.repair(error))) throw error;
      again = true;
      failures = performance.now() - begun > STEADY_MS ? 1 : failures + 1;
      const seconds = error.retryAfterS ?? backoff(failures);
      this.#tell({ state: "waiting", error, seconds });
      await this.#wait(seconds, signal);
    }
  }

  /** One call, from the offer to its loss; returns the reason. */
  async #once(signal) {
    const config = await this.parts.config();
    const { onMessage, onStream } = this.parts;
    this.call = new Call(config, this.parts.tracks(), { onMessage, onStream });
    const wish = await this.parts.choice();
    signal.throwIfAborted();
    await this.call.open(wish, config.limits?.candidates, signal);
    this.#tell({ state: "connected" });
    return Promise.race([this.call.lost, aborted(signal)]);
  }

  #drop() {
    this.call?.close();
    this.call = null;
  }

  #wait(seconds, signal) {
    return new Promise((resolve, reject) => {
      const timer = setTimeout(resolve, seconds * 1000);
      this.skip = () => {
        clearTimeout(timer);
        resolve();
      };
      signal.addEventListener("abort", () => {
        clearTimeout(timer);
        reject(signal.reason);
      });
    });
  }

  #networkChanged() {
    this.skip();
    // The addresses that the call was made with may be gone: do not wait for ICE to find out
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

function aborted(signal) {
  return new Promise((_, reject) => {
    signal.addEventListener("abort", () => reject(signal.reason), { once: true });
  });
}

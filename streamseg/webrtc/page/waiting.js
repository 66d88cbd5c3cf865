// Waiting for something, with an end.

/**
 * A promise that settles when begin says so, when it is too late, or when the signal aborts.
 * @param signal rejects with its reason
 * @param milliseconds until it is too late; null waits for ever
 * @param late "resolve", or the error to reject with then
 * @param begin (done, fail, over): over is a signal that aborts in the end, for listeners
 */
export function until(signal, milliseconds, late, begin) {
  return new Promise((resolve, reject) => {
    const over = new AbortController();
    const finish = (settle) => (value) => {
      clearTimeout(timer);
      over.abort();
      settle(value);
    };
    const [done, fail] = [finish(resolve), finish(reject)];
    const tooLate = () => (late === "resolve" ? done() : fail(late));
    const timer = milliseconds === null ? 0 : setTimeout(tooLate, milliseconds);
    const aborted = () => fail(signal.reason);
    signal.addEventListener("abort", aborted, { signal: over.signal });
    begin(done, fail, over.signal);
    if (signal.aborted) aborted();
  });
}

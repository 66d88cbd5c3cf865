// The server's HTTP side.

const ANSWER_MS = 10000;
const UPLOAD_MS = 40000; // some megabytes over a telephone's connection; the server waits for 30 s

/** The server said no, or nothing at all (status 0). */
export class Refusal extends Error {
  constructor(status, message, retryAfterS) {
    super(message || `HTTP status ${status}`);
    this.status = status;
    this.said = message;
    this.retryAfterS = retryAfterS;
  }

  /** Whether the same request may be answered differently later. */
  get passing() {
    return this.status === 0 || this.status === 408 || this.status === 429 || this.status >= 500;
  }
}

/** Whether it was too slow, or broke off on the way: a server that has waited long enough hangs up. */
export function wasTooSlow(error) {
  return error instanceof Refusal && (error.status === 0 || error.status === 408);
}

let token = "";

/** The bearer token that every request carries from now on. */
export function setToken(value) {
  token = value;
}

async function refusalOf(response) {
  const text = (await response.text().catch(() => "")).slice(0, 500);
  let said = text;
  try {
    said = JSON.parse(text).error ?? "";
  } catch {
    if (text.trimStart().startsWith("<")) said = ""; // a proxy's page of HTML is no message
  }
  const wait = Number.parseFloat(response.headers.get("Retry-After") ?? "");
  return new Refusal(response.status, String(said), Number.isFinite(wait) ? wait : undefined);
}

/**
 * Ask, and return what read makes of the answer.
 * @param options of fetch; signal takes the request back, read(response) is the way to read it
 * @param limitMs how long it may take until it is read: a server may take a request and be silent
 */
async function request(path, { read = () => null, signal, ...options } = {}, limitMs = ANSWER_MS) {
  signal?.throwIfAborted();
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  const stopper = new AbortController();
  const stop = () => stopper.abort();
  const timer = setTimeout(stop, limitMs);
  signal?.addEventListener("abort", stop);
  try {
    const response = await fetch(path, {
      cache: "no-store",
      credentials: "omit",
      ...options,
      headers,
      signal: stopper.signal,
    });
    if (!response.ok) throw await refusalOf(response);
    return await read(response);
  } catch (error) {
    signal?.throwIfAborted();
    if (stopper.signal.aborted) throw new Refusal(0, `no answer after ${limitMs / 1000} s`);
    throw error instanceof Refusal ? error : new Refusal(0);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", stop);
  }
}

const json = (response) => response.json();

export function fetchConfig(signal) {
  return request("config.json", { read: json, signal });
}

/** Exchange the offer for {sdp, type, session}. */
export function sendOffer(body, signal) {
  return request("offer", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    read: json,
    signal,
  });
}

/** Upload a picture; returns the name by which the effect "replace" knows it. */
export async function sendBackground(blob, signal) {
  const headers = { "Content-Type": blob.type };
  const options = { method: "POST", headers, body: blob, read: json, signal };
  return (await request("background", options, UPLOAD_MS)).id;
}

/** Tell the server that a session is over; also while the page goes away. Never rejects. */
export function endSession(session) {
  // Nothing depends on the answer: the server notices by itself, only later
  return request(`session/${encodeURIComponent(session)}`, { method: "DELETE", keepalive: true }).catch(
    () => {},
  );
}

// The server's HTTP side.

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

async function request(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(path, { cache: "no-store", credentials: "omit", ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw options.signal.reason;
    throw new Refusal(0, error.message);
  }
  if (!response.ok) throw await refusalOf(response);
  return response;
}

export async function fetchConfig() {
  return (await request("config.json")).json();
}

/** Exchange the offer for {sdp, type, session}. */
export async function sendOffer(body, signal) {
  const response = await request("offer", {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  return response.json();
}

/** Upload a picture; returns the name by which the effect "replace" knows it. */
export async function sendBackground(blob) {
  const response = await request("background", {
    method: "POST",
    headers: { "Content-Type": blob.type },
    body: blob,
  });
  return (await response.json()).id;
}

/** Tell the server that a session is over; also while the page goes away. Never rejects. */
export function endSession(session) {
  // Nothing depends on the answer: the server notices by itself, only later
  return request(`session/${encodeURIComponent(session)}`, { method: "DELETE", keepalive: true }).catch(
    () => {},
  );
}

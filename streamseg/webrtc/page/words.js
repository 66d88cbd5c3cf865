// What the page says when something does not work: what happened, and what to try.

const CAMERA = {
  NotAllowedError:
    "The camera was refused. Allow it for this page in the browser's address bar, then press Start.",
  NotFoundError: "No camera was found. Connect one, then press Start.",
  NotReadableError:
    "The camera is in use by another program, or does not answer. Close the other program, then press Start.",
  OverconstrainedError:
    "The chosen camera is not there any more. Choose another one, then press Start.",
  SecurityError: "This browser does not let this page use a camera.",
};
// Names that older browsers and other engines use for the same things
CAMERA.AbortError = CAMERA.NotReadableError;
CAMERA.PermissionDeniedError = CAMERA.NotAllowedError;
CAMERA.DevicesNotFoundError = CAMERA.NotFoundError;
CAMERA.TrackStartError = CAMERA.NotReadableError;

/** Words for an error of getUserMedia; kind is "camera" or "microphone". */
export function deviceProblem(error, kind = "camera") {
  const words =
    CAMERA[error?.name] ?? `The camera could not be opened (${error?.name ?? error}).`;
  return kind === "camera"
    ? words
    : words.replaceAll("camera", kind).replace(", then press Start", "");
}

export const INSECURE =
  "The browser gives a camera to secure pages only: open this page over HTTPS, or on the machine itself as localhost.";

/** Words for an answer of the server that is not a session; message is the server's own line. */
export function refusalWords(status, message) {
  const said = message ? ` The server says: ${message}` : "";
  if (status === 0 && message) return `The server does not answer: ${message}.`;
  if (status === 0) return "The server cannot be reached.";
  if (status === 401) return "The server wants an access token.";
  if (status === 403) return `The server does not allow this page.${said}`;
  if (status === 408) return "That took too long to send: try a faster network.";
  if (status === 429) return "The server has had too many calls from here.";
  if (status === 503) return "The server is full.";
  if (status === 413) return `That is too large for the server.${said}`;
  if (status >= 500) return `The server failed (${status}).${said}`;
  return `The server refused the call (${status}).${said}`;
}

/** "in 5 s at 12:30:05", for a moment that a person waits for. */
export function atTime(seconds) {
  const moment = new Date(Date.now() + seconds * 1000);
  return `in ${Math.ceil(seconds)} s, at ${moment.toLocaleTimeString()}`;
}

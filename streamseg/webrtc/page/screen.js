// The pictures: processed, and beside it, if asked for, the local preview.

export class Screen {
  constructor() {
    this.processed = document.getElementById("processed");
    this.local = document.getElementById("local");
    this.before = document.getElementById("before");
    this.veil = document.getElementById("veil");
    this.caption = document.getElementById("after-caption");
    this.camera = null;
  }

  /** Show what a new call brings as soon as its first picture is there. */
  play(stream, onFirst) {
    const { processed } = this;
    processed.srcObject = stream;
    const first = () => {
      if (processed.srcObject !== stream) return;
      this.veil.hidden = true;
      onFirst();
    };
    if (processed.requestVideoFrameCallback) processed.requestVideoFrameCallback(first);
    else processed.addEventListener("loadeddata", first, { once: true });
    // A browser may refuse to play by itself; muted pictures of a page with a camera it plays
    processed.play().catch(() => {});
  }

  /** Hide the picture: nothing that is shown is older than it looks. */
  cover(words) {
    this.veil.textContent = words;
    this.veil.hidden = false;
    this.processed.srcObject = null;
  }

  /** The camera's track, or null; it is shown only in the view before and after. */
  setCamera(track) {
    this.camera = track;
    this.compare(!this.before.hidden);
  }

  compare(shown) {
    this.before.hidden = !shown;
    this.local.srcObject = shown && this.camera ? new MediaStream([this.camera]) : null;
  }
}

// The open camera and microphone. A browser may ask the person first, or take its time, and by then
// nobody may want the device any more: it is closed at once then, or it would be on unseen.

import { openCamera, openMicrophone } from "./devices.js";

export class Capture {
  #asked = { video: 0, audio: 0 };

  constructor() {
    this.tracks = { video: null, audio: null };
  }

  /**
   * Open a camera in place of the open one.
   * @param id of the device; "" is the browser's choice
   * @returns whether it is open: not if it was closed, or another one asked for, in the meantime
   */
  openCamera(id) {
    // Some systems open no second camera while the first one is in use
    this.close("video");
    return this.#open("video", () => openCamera(id));
  }

  /** As openCamera; "off" opens none. */
  openMicrophone(id) {
    return this.#open("audio", async () => (id === "off" ? null : openMicrophone(id)));
  }

  /** Close what is open, and what is being opened. */
  close(...kinds) {
    for (const kind of kinds.length ? kinds : ["video", "audio"]) {
      this.#asked[kind] += 1;
      this.#put(kind, null);
    }
  }

  async #open(kind, open) {
    const asked = ++this.#asked[kind];
    let track = null;
    let problem = null;
    try {
      track = await open();
    } catch (error) {
      problem = error;
    }
    if (asked !== this.#asked[kind]) {
      track?.stop();
      return false;
    }
    this.#put(kind, track);
    if (problem) throw problem;
    return true;
  }

  #put(kind, track) {
    this.tracks[kind]?.stop();
    this.tracks[kind] = track;
  }
}

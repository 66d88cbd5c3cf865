// Runs in the page before its own scripts: reads the numbers of pictures that are sent and shown.
// Cameras' pictures carry their number as 16 black or white cells along the upper edge; the last
// four are a check of the others.

(() => {
  const CELLS = 16;
  const measured = { sent: new Map(), shown: [], unreadable: 0, frames: 0 };
  window.measured = measured;
  const check = (n) => (n << 4) | (((n >> 8) ^ (n >> 4) ^ n ^ 0x5) & 0xf);

  /** The number of a picture, or null; only the strip's luma is copied, no colours are converted. */
  async function numberOf(frame) {
    const { width, height } = frame.visibleRect;
    const rows = Math.floor(height / 20) * 2;
    const rect = { x: 0, y: 0, width: width & ~1, height: rows };
    const bytes = new Uint8Array(frame.allocationSize({ rect }));
    const [luma] = await frame.copyTo(bytes, { rect });
    const row = luma.offset + Math.floor(rows / 4) * luma.stride;
    let bits = 0;
    for (let cell = 0; cell < CELLS; cell++) {
      bits = (bits << 1) | (bytes[row + Math.floor(((cell + 0.5) * width) / CELLS)] > 125 ? 1 : 0);
    }
    return check(bits >> 4) === bits ? bits >> 4 : null;
  }

  async function watchCamera(track) {
    const reader = new MediaStreamTrackProcessor({ track: track.clone() }).readable.getReader();
    for (;;) {
      const { value: frame, done } = await reader.read();
      if (done) return;
      const now = performance.now();
      const number = await numberOf(frame);
      frame.close();
      if (number !== null) measured.sent.set(number, now); // bounded by how many numbers there are
    }
  }

  window.watchShown = () => {
    const video = document.getElementById("processed");
    const look = async (now) => {
      video.requestVideoFrameCallback(look);
      const frame = new VideoFrame(video);
      const number = await numberOf(frame);
      frame.close();
      measured.frames += 1;
      if (number === null || !measured.sent.has(number)) measured.unreadable += 1;
      else measured.shown.push([now, now - measured.sent.get(number)]);
    };
    video.requestVideoFrameCallback(look);
  };

  window.beginMeasuring = () => {
    measured.shown = [];
    measured.frames = measured.unreadable = 0;
    measured.since = performance.now();
  };

  const open = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
  navigator.mediaDevices.getUserMedia = async (wanted) => {
    const stream = await open(wanted);
    const [track] = stream.getVideoTracks();
    if (track && window.MediaStreamTrackProcessor) watchCamera(track);
    return stream;
  };
})();

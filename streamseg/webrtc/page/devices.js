// Cameras and microphones.

const VIDEO = {
  width: { ideal: 1280 },
  height: { ideal: 720 },
  frameRate: { ideal: 30, max: 30 },
};

/** Whether the browser gives this page any camera at all. */
export const mayCapture = () => Boolean(navigator.mediaDevices?.getUserMedia);

/** Open a camera ("" is the browser's choice); rejects with getUserMedia's error. */
export async function openCamera(id) {
  const stream = await navigator.mediaDevices.getUserMedia({
    video: id ? { ...VIDEO, deviceId: { exact: id } } : VIDEO,
  });
  const [track] = stream.getVideoTracks();
  track.contentHint = "motion"; // when bits are short: fewer pixels, not fewer frames
  return track;
}

export async function openMicrophone(id) {
  const stream = await navigator.mediaDevices.getUserMedia({
    audio: id ? { deviceId: { exact: id } } : true,
  });
  return stream.getAudioTracks()[0];
}

/** Put the devices of a kind behind the fixed first options of a select, keeping the choice. */
export async function fillDevices(select, kind, fixed) {
  const chosen = select.value;
  const found = (await navigator.mediaDevices.enumerateDevices()).filter(
    // Without permission ids are empty; "default" is what the fixed option stands for
    (device) => device.kind === kind && device.deviceId && device.deviceId !== "default",
  );
  const options = found.map(
    (device, index) => new Option(device.label || `${fixed.unnamed} ${index + 1}`, device.deviceId),
  );
  select.replaceChildren(...[...select.options].slice(0, fixed.count), ...options);
  select.value = chosen;
  if (select.selectedIndex < 0) select.selectedIndex = 0;
}

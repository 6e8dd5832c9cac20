// The camera: started when asked, and its frames as JPEG. The frames are not mirrored; only the eye sees a mirror.

import { cameraProblem } from "./problems.js";

const WIDTH = 640;
const HEIGHT = 480;
const QUALITY = 0.8;

// Starts the camera in `video`. Returns null, or the code of the problem.
export async function startCamera(video, ended) {
  if (!window.isSecureContext || !navigator.mediaDevices) return "not_secure";
  try {
    const wish = { width: { ideal: WIDTH }, height: { ideal: HEIGHT }, facingMode: "user", frameRate: { ideal: 30 } };
    const media = await navigator.mediaDevices.getUserMedia({ video: wish, audio: false });
    media.getVideoTracks()[0].addEventListener("ended", ended);
    video.srcObject = media;
    await video.play();
    return null;
  } catch (error) {
    return cameraProblem(error.name);
  }
}

// Calls `each` for every new frame, as long as the page is in sight.
export function everyFrame(video, each) {
  const next = video.requestVideoFrameCallback
    ? () => video.requestVideoFrameCallback(step)
    : () => requestAnimationFrame(step);
  function step() {
    each();
    next();
  }
  next();
}

// Draws frames small enough to send.
export class Grabber {
  #canvas = document.createElement("canvas");
  #pen = this.#canvas.getContext("2d");

  // The present frame as a JPEG Blob; null where there is none.
  async grab(video) {
    const scale = Math.min(1, WIDTH / video.videoWidth, HEIGHT / video.videoHeight);
    const width = Math.round(scale * video.videoWidth);
    const height = Math.round(scale * video.videoHeight);
    if (!(width && height)) return null;
    if (this.#canvas.width !== width || this.#canvas.height !== height) {
      Object.assign(this.#canvas, { width, height });
    }
    this.#pen.drawImage(video, 0, 0, width, height);
    return new Promise((resolve) => this.#canvas.toBlob(resolve, "image/jpeg", QUALITY));
  }
}

// Why nothing is read, and what to do: what it is, how bad, and for how long it must last before it is said.

export const PROBLEMS = {
  no_hand: ["warn", "No hand in sight.", "Hold one hand up in front of the camera, at the height of your shoulder.", 1200],
  cut_off: ["warn", "Your hand leaves the picture.", "Move it to the middle, or step back a little.", 500],
  too_dark: ["warn", "It is too dark.", "Switch on a lamp in front of you, or turn towards the window.", 700],
  two_hands: ["warn", "Two hands are in sight.", "Take one of them out of the picture.", 500],
  no_letter: ["info", "Your hand shows no letter.", "It counts once it holds a sign. “Try it” shows them all.", 1500],
  unsure: ["warn", "Not sure which letter this is.", "Turn your palm to the camera and hold still. “Try it” shows each sign.", 1500],

  not_started: ["info", "The camera is off.", "Press “Start the camera”.", 0],
  asking: ["info", "Your browser asks for the camera.", "Allow it, at the top of the window.", 0],
  no_permission: ["bad", "The camera is not allowed.", "Allow it by the icon beside the address, then press “Start the camera” again.", 0],
  no_camera: ["bad", "No camera was found.", "Plug one in, then press “Start the camera” again.", 0],
  camera_in_use: ["bad", "The camera is in use.", "Close the other program or page that uses it, then press “Start the camera” again.", 0],
  camera_failed: ["bad", "The camera does not start.", "Unplug it and plug it in again, or try another browser.", 0],
  camera_ended: ["bad", "The camera has stopped.", "Plug it in or switch it on, then press “Start the camera” again.", 0],
  not_secure: ["bad", "This address may not use the camera.", "Browsers allow it on localhost and https only. On the machine that runs the server, open the address with “localhost” in it.", 0],

  connecting: ["info", "Connecting to the server.", "The first time takes a few seconds.", 0],
  server_gone: ["bad", "The server is gone.", "The page tries again by itself. Is “horovod-asl live” still running? Your text is kept.", 0],
  server_slow: ["warn", "The server is slow to answer.", "Close other programs that keep this machine busy.", 0],
  too_many_sessions: ["bad", "Too many pages are open.", "Close another page of this kind. This one tries again by itself.", 0],
  idle: ["info", "Paused.", "Nothing came from the camera for a while. It goes on when you come back.", 0],
  text_full: ["warn", "The text is full.", "Copy it, then press “Clear”.", 0],
};

const ALL_IS_WELL = ["info", "Reading.", "Hold a letter until the ring is full.", 0];

// A camera's refusal, as getUserMedia names it.
export function cameraProblem(name) {
  return {
    NotAllowedError: "no_permission",
    SecurityError: "no_permission",
    NotFoundError: "no_camera",
    OverconstrainedError: "no_camera",
    NotReadableError: "camera_in_use",
    AbortError: "camera_in_use",
  }[name] ?? "camera_failed";
}

// Says one problem at a time. It waits until a problem has lasted, so that a flicker is not read out.
export class Notice {
  #element;
  #shown = "";
  #waiting = "";
  #timer = 0;

  constructor(element) {
    this.#element = element;
  }

  show(code, message = "") {
    const key = `${code} ${message}`;
    if (key === this.#waiting) return;
    clearTimeout(this.#timer);
    this.#waiting = key;
    const [level, title, help, wait] = PROBLEMS[code] ?? ALL_IS_WELL;
    const delay = code ? wait : 300;
    if (key === this.#shown) return;
    this.#timer = setTimeout(() => this.#write(key, level, message || title, message ? "" : help), delay);
  }

  #write(key, level, title, help) {
    this.#shown = key;
    const strong = document.createElement("b");
    strong.textContent = title;
    this.#element.replaceChildren(strong, help);
    this.#element.dataset.level = level;
  }
}

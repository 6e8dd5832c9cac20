// The page: what the camera sees goes to the server, and what the server reads is shown, written and spoken.

import { everyFrame, Grabber, startCamera } from "./camera.js";
import { Lesson } from "./learn.js";
import { Notice, PROBLEMS } from "./problems.js";
import { setUpKeys, setUpSwitch, setUpTabs, setUpTheme } from "./settings.js";
import { Speaker } from "./speech.js";
import { Stream } from "./stream.js";
import { Teaching } from "./teach.js";
import { byId, drawJoints, showHeld, showSuggestions, showText, showTop } from "./view.js";
import { Words } from "./words.js";

const FRAMES_PER_SECOND = 30;
const UNITS_MS = 2000;

const video = byId("video");
const canvas = byId("joints");
const notice = new Notice(byId("notice"));
const words = new Words();
const speaker = new Speaker((text) => (byId("said").textContent = text));
const grabber = new Grabber();
const stream = new Stream({ message: receive, state: connection });
const teaching = new Teaching((order) => stream.sendOrder(order));
const lesson = new Lesson();
const speakEach = setUpSwitch("speak-each", false);
const keysOn = setUpSwitch("keys-on", true);

let tab = "tab-how";
let cameraProblem = "not_started";
let connectionProblem = null;
let suggestions = [];
let lastFrameMs = 0;
let pace = { sinceMs: 0, frames: 0, delayMs: 0 };

async function start() {
  byId("start").disabled = true;
  setCamera("asking");
  stream.open(); // the server needs a moment too
  const problem = await startCamera(video, () => setCamera("camera_ended"));
  byId("start").disabled = false;
  setCamera(problem);
  if (problem) return;
  byId("text").focus({ preventScroll: true });
}

function setCamera(problem) {
  cameraProblem = problem;
  byId("start-box").hidden = problem === null;
  if (!problem) byId("frame").style.aspectRatio = `${video.videoWidth} / ${video.videoHeight}`;
  else drawJoints(canvas, video, null);
  explain(null);
}

// The first thing that is wrong on the way from the hand to the text.
function explain(problem, message = "") {
  notice.show(cameraProblem ?? connectionProblem ?? problem, message);
}

async function sendFrame() {
  const now = performance.now();
  if (cameraProblem || !stream.wantsFrame || now - lastFrameMs < 900 / FRAMES_PER_SECOND) return;
  lastFrameMs = now;
  const place = stream.reserve();
  stream.sendFrame(place, now, await grabber.grab(video));
}

function receive(message) {
  const handle = { reading: read, text: written, calibration: (it) => teaching.see(it), error: failed }[message.type];
  handle?.(message);
}

function read(reading) {
  if (cameraProblem) return;
  connectionProblem = null;
  drawJoints(canvas, video, reading.joints);
  showHeld(reading.held);
  showTop(reading.top);
  explain(reading.problem);
  written(reading);
  if (tab === "tab-try") lesson.see(reading, video.videoWidth / video.videoHeight);
  measure(reading.sent_ms);
}

function written({ text, suggestions: proposed = [] }) {
  words.receive(text);
  suggestions = proposed;
  refresh();
}

function refresh() {
  showText(words.text);
  showSuggestions(suggestions, takeSuggestion);
  const finished = words.takeFinished();
  if (!finished) return;
  byId("heard").textContent = finished;
  if (speakEach.checked) speaker.speak(finished);
}

function failed({ code, message }) {
  teaching.fail(message);
  if (code === "bad_frame" || code === "idle") return;
  connectionProblem = code in PROBLEMS ? code : null;
  explain(code, code in PROBLEMS ? "" : message);
}

function connection(state, { waitS, code }) {
  if (state === "slow") connectionProblem = "server_slow";
  else if (state === "open") connectionProblem = null;
  else if (state === "connecting") connectionProblem ??= "connecting";
  else if (state === "paused") connectionProblem = "idle";
  else connectionProblem = code in PROBLEMS ? code : "server_gone";
  if (state === "open" && tab === "tab-try") practise();
  if (state === "lost" || state === "paused") {
    words.disconnected();
    suggestions = [];
    drawJoints(canvas, video, null);
    showHeld(null);
    showTop([]);
    refresh();
    teaching.fail("The connection was lost. Try again in a moment.");
  }
  if (state !== "slow") {
    const text = { connecting: "Connecting …", open: "Connected", paused: "Paused" }[state];
    byId("connection").textContent = text ?? `Not connected, next try in ${waitS} s`;
    byId("connection").dataset.state = state;
  }
  explain(null);
}

function measure(sentMs) {
  const now = performance.now();
  pace.frames += 1;
  pace.delayMs += now - sentMs;
  if (now - pace.sinceMs < UNITS_MS) return;
  const perSecond = (1000 * pace.frames) / (now - pace.sinceMs);
  const delay = Math.round(pace.delayMs / pace.frames);
  if (pace.sinceMs) byId("pace").textContent = `${perSecond.toFixed(0)} pictures a second, read in ${delay} ms`;
  pace = { sinceMs: now, frames: 0, delayMs: 0 };
}

// What is signed to practise is no text.
function practise() {
  stream.sendOrder({ type: "practise", on: tab === "tab-try" });
}

function order(message) {
  if (message && !stream.sendOrder(message)) byId("said").textContent = "The server is not connected.";
  refresh();
}

function takeSuggestion(word) {
  if (word) order(words.replaceWord(word));
}

function clear() {
  if (!words.text) return;
  order(words.clear());
  byId("said").textContent = "Cleared. “Undo” brings it back.";
}

async function copy() {
  try {
    await navigator.clipboard.writeText(words.text);
    byId("said").textContent = words.text ? "Copied." : "There is nothing to copy yet.";
  } catch {
    getSelection().selectAllChildren(byId("words"));
    byId("said").textContent = "The text is marked: copy it with Ctrl+C.";
  }
}

const actions = {
  s: () => speaker.speak(words.text),
  Escape: () => speaker.stop(),
  Backspace: () => order(words.undo()),
  " ": () => order(words.space()),
  Delete: clear,
  c: copy,
  1: () => takeSuggestion(suggestions[0]),
  2: () => takeSuggestion(suggestions[1]),
  3: () => takeSuggestion(suggestions[2]),
  w: () => speakEach.click(),
  d: () => byId("theme").click(),
};

setUpTheme();
setUpKeys(keysOn, actions);
setUpTabs((id) => {
  const [before, after] = [tab, id].map((one) => one === "tab-try");
  tab = id;
  if (after) lesson.load();
  if (before !== after) practise();
});
byId("start").addEventListener("click", start);
byId("speak").addEventListener("click", actions.s);
byId("undo").addEventListener("click", actions.Backspace);
byId("space").addEventListener("click", actions[" "]);
byId("clear").addEventListener("click", clear);
byId("copy").addEventListener("click", copy);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && !cameraProblem) stream.open();
});
everyFrame(video, sendFrame);
setCamera(window.isSecureContext ? "not_started" : "not_secure");

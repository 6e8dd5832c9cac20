// “Try it”: a sign to copy, and what differs in the learner's hand.

import { asRight, differences, PARTS } from "./compare.js";
import { byId, element } from "./view.js";

const EVERY_MS = 400;
const MOST_ADVICE = 2;
const LABELS = { thumb: "Thumb", index: "Index", middle: "Middle", ring: "Ring", pinky: "Little", hand: "Hand" };

const HINTS = {
  A: "A fist, the thumb upright beside it.",
  B: "Four fingers straight up and together, the thumb across the palm.",
  C: "Fingers and thumb make the curve of a C.",
  D: "The index finger up; the others meet the thumb in a ring.",
  E: "All fingertips bent down onto the thumb.",
  F: "Index finger and thumb meet; the other three stand apart.",
  G: "Index finger and thumb point to the side, one above the other.",
  H: "Index and middle finger together, pointing to the side.",
  I: "A fist with the little finger up.",
  J: "Start with I, then draw a J in the air with the little finger.",
  K: "Index finger up, middle finger forward, the thumb between them.",
  L: "Index finger up and thumb out: an L.",
  M: "Three fingers over the thumb.",
  N: "Two fingers over the thumb.",
  O: "All fingertips meet the thumb: an O.",
  P: "Like K, pointing down.",
  Q: "Like G, pointing down.",
  R: "Index and middle finger up and crossed.",
  S: "A fist with the thumb in front of the fingers.",
  T: "A fist with the thumb between index and middle finger.",
  U: "Index and middle finger up and together.",
  V: "Index and middle finger up and apart.",
  W: "Three fingers up and apart, thumb and little finger meet.",
  X: "A fist with the index finger up and bent like a hook.",
  Y: "Thumb and little finger out, the others closed.",
  Z: "Point with the index finger and draw a Z in the air.",
};
// Over the picture of 100 × 100, as others see a right hand: the signer writes it the other way round for them.
const ARROWS = {
  J: "M15 34 C18 62 24 82 38 84 S52 78 54 70",
  Z: "M92 12 L58 12 L92 38 L56 38",
};

export class Lesson {
  #signs = null;
  #letter = "A";
  #saidMs = 0;
  #mirrored = true;

  constructor() {
    const select = byId("sign-letter");
    for (const letter of Object.keys(HINTS)) select.append(element("option", letter));
    select.addEventListener("change", () => this.show(select.value));
    byId("sign-before").addEventListener("click", () => this.#step(-1));
    byId("sign-after").addEventListener("click", () => this.#step(1));
    this.show("A");
  }

  async load() {
    this.#signs ??= await (await fetch("/static/signs/signs.json")).json();
  }

  show(letter) {
    this.#letter = letter;
    byId("sign-letter").value = letter;
    byId("sign-picture").src = `/static/signs/${letter}.webp`;
    byId("sign-picture").alt = `The sign ${letter}: ${HINTS[letter]}`;
    byId("sign-hint").textContent = HINTS[letter];
    byId("arrow").setAttribute("d", ARROWS[letter] ?? "");
    byId("arrow").toggleAttribute("hidden", !ARROWS[letter]);
    byId("sign").classList.toggle("mirrored", this.#mirrored);
    this.#saidMs = 0;
    this.#say([], "Show the camera your hand.");
  }

  // reading: a message of the server; aspect: the frame's width ÷ its height.
  see(reading, aspect) {
    const isHeld = reading.held?.label === this.#letter && reading.held.progress >= 1;
    if (isHeld || reading.taken.some(({ label }) => label === this.#letter)) {
      const done = this.#letter;
      this.#step(1);
      this.#say(PARTS.map((part) => [part, "ok"]), `That was ${done}. Now ${this.#letter}.`);
      this.#saidMs = performance.now() + 1200; // time to read it
      return;
    }
    const now = performance.now();
    if (!this.#signs || now - this.#saidMs < EVERY_MS) return;
    this.#saidMs = now;
    if (!reading.joints) {
      this.#say([], "Show the camera your hand.");
      return;
    }
    this.#turn(reading.handedness);
    const own = asRight(reading.world ?? reading.joints.map(([x, y]) => [x * aspect, y, 0]), reading.handedness);
    const found = differences(own, this.#signs[this.#letter]);
    const states = PARTS.map((part) => [part, found.some((one) => one.part === part) ? "fix" : "ok"]);
    this.#say(states, advice(found, this.#letter));
  }

  // A mirror shows the learner's own hand: a right one as the mirror image of what others see.
  #turn(handedness) {
    this.#mirrored = handedness !== "left";
    byId("sign").classList.toggle("mirrored", this.#mirrored);
  }

  #step(by) {
    const letters = Object.keys(HINTS);
    this.show(letters[(letters.indexOf(this.#letter) + by + letters.length) % letters.length]);
  }

  #say(states, text) {
    const known = new Map(states);
    byId("parts").replaceChildren(
      ...PARTS.map((part) => {
        const state = known.get(part) ?? "unknown";
        const item = element("li", LABELS[part], { "data-state": state });
        if (known.has(part)) item.append(element("span", state === "ok" ? ": good" : ": differs", { class: "hidden" }));
        return item;
      }),
    );
    const line = byId("advice");
    if (line.textContent !== text) line.textContent = text;
  }
}

function advice(found, letter) {
  if (found.length) return found.slice(0, MOST_ADVICE).map(({ text }) => text).join(" ");
  return ARROWS[letter] ? "Your hand is right. Now draw along the arrow." : "Your hand is right. Hold it still.";
}

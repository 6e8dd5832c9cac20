// “Teach it your hand”: examples of the person's own letters, kept by the server.

import { byId, element } from "./view.js";

const COUNTDOWN = [3, 2, 1];
const STEP_MS = 700;
const LETTERS = "ABCDEFGHIKLMNOPQRSTUVWXY"; // J and Z are movements

export class Teaching {
  #send;
  #busy = false;

  // send(order): whether the server was told.
  constructor(send) {
    this.#send = send;
    for (const letter of LETTERS) byId("teach-letter").append(element("option", letter));
    byId("teach").addEventListener("click", () => this.#begin());
    byId("forget").addEventListener("click", () => byId("confirm").showModal());
    byId("confirm").addEventListener("close", () => this.#forget());
  }

  see({ letter, progress, counts }) {
    if (counts) this.#count(counts);
    if (!letter) return;
    byId("teach-progress").value = progress;
    if (progress < 1) {
      this.#say(`Keep ${letter} still …`);
    } else {
      this.#end(`Kept. It knows your ${letter} now.`);
    }
  }

  // The server could not do it, or is gone.
  fail(message) {
    if (this.#busy) this.#end(message);
  }

  async #begin() {
    if (this.#busy) return;
    this.#busy = true;
    byId("teach").disabled = true;
    const letter = byId("teach-letter").value;
    for (const left of COUNTDOWN) {
      this.#say(`Hold ${letter}: ${left} …`);
      await new Promise((resolve) => setTimeout(resolve, STEP_MS));
    }
    this.#say(`Keep ${letter} still …`);
    if (!this.#send({ type: "calibrate", letter })) this.#end("The server is not connected. Try again in a moment.");
  }

  #end(message) {
    this.#busy = false;
    byId("teach").disabled = false;
    this.#say(message);
  }

  #forget() {
    if (byId("confirm").returnValue !== "delete") return;
    byId("confirm").returnValue = "";
    byId("teach-progress").value = 0;
    const told = this.#send({ type: "forget" });
    if (told) this.#count({});
    this.#say(told ? "All deleted." : "The server is not connected. Nothing was deleted.");
  }

  #count(counts) {
    const items = Object.entries(counts).map(([letter, count]) => element("li", `${letter} × ${count}`));
    byId("counts").replaceChildren(...(items.length ? items : [element("li", "Nothing yet")]));
  }

  #say(text) {
    byId("teach-status").textContent = text;
  }
}

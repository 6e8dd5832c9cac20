// Speech: the browser's own voice, or else the server's.

const VOICES_WAIT_MS = 1000;
const CLICK_FIRST = "Your browser wants a click first: press “Speak”.";

export class Speaker {
  #say;
  #audio = null;
  #queue = Promise.resolve();
  #waited = false;

  // say(text): shows the person what happens.
  constructor(say) {
    this.#say = say;
    window.speechSynthesis?.getVoices(); // asks browsers to load them
  }

  // Says the text as it stands, after what is being said. The case of letters is the page's own: what is heard is
  // what is written.
  async speak(text) {
    const words = text.trim();
    if (!words) {
      this.#say("There is nothing to say yet.");
      return;
    }
    if (await this.#hasVoice()) this.#byBrowser(words);
    else this.#byServer(words);
  }

  stop() {
    window.speechSynthesis?.cancel();
    this.#queue = Promise.resolve();
    this.#audio?.pause();
    this.#audio = null;
  }

  #byBrowser(words) {
    const utterance = new SpeechSynthesisUtterance(words);
    utterance.lang = "en-US";
    utterance.onerror = (event) => {
      if (event.error === "not-allowed") this.#say(CLICK_FIRST);
      else if (!["canceled", "interrupted"].includes(event.error)) this.#byServer(words);
    };
    window.speechSynthesis.speak(utterance);
    this.#say(`Said: ${words}`);
  }

  // One text after the other; `stop` forgets those that wait.
  #byServer(words) {
    const before = this.#queue;
    const turn = (this.#queue = before.then(() => this.#play(words)));
    turn.catch((error) => this.#say(playProblem(error)));
    this.#queue = turn.catch(() => {});
  }

  async #play(words) {
    const answer = await fetch("/api/speak", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ text: words }),
    });
    if (!answer.ok) {
      this.#say(answerProblem(answer.status));
      return;
    }
    const address = URL.createObjectURL(await answer.blob());
    this.#audio = new Audio(address);
    this.#say(`Said: ${words}`);
    await this.#audio.play();
    await new Promise((resolve) => {
      this.#audio.onended = this.#audio.onpause = resolve;
    });
    URL.revokeObjectURL(address);
  }

  // Some browsers load their voices late; some have the interface and no voice.
  async #hasVoice() {
    const synthesis = window.speechSynthesis;
    if (!synthesis || !window.SpeechSynthesisUtterance) return false;
    if (!synthesis.getVoices().length && !this.#waited) {
      await new Promise((resolve) => {
        synthesis.addEventListener?.("voiceschanged", resolve, { once: true });
        setTimeout(resolve, VOICES_WAIT_MS);
      });
      this.#waited = true;
    }
    return synthesis.getVoices().length > 0;
  }
}

function playProblem(error) {
  if (error.name === "NotAllowedError") return CLICK_FIRST;
  return "This browser has no voice, and the server cannot be reached.";
}

function answerProblem(status) {
  if (status === 503) return "This browser has no voice, and the server has none: install espeak-ng there.";
  return "The server could not speak this. Try again in a second.";
}

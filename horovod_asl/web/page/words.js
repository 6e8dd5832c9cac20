// The text of the page. The server has the text of its session; what was written before the connection was lost, and
// what was cleared, is kept here, so that neither costs the person a word.

export class Words {
  #before = "";
  #server = "";
  #cleared = "";
  #finished = "";
  #outdated = "";

  get text() {
    return this.#before + this.#server;
  }

  receive(serverText) {
    // Readings that were on their way when the text was cleared still have it.
    if (this.#outdated && serverText.startsWith(this.#outdated)) return;
    this.#outdated = "";
    this.#server = serverText;
    if (serverText) this.#cleared = "";
  }

  // The server forgets its text with the connection.
  disconnected() {
    this.#before = this.text;
    this.#server = this.#outdated = "";
  }

  // Each of these four returns the message for the server, or null where the page alone had to change.

  undo() {
    if (this.#server) return edit("undo");
    if (this.#before) this.#before = this.#before.slice(0, -1);
    else this.#before = this.#cleared;
    this.#cleared = "";
    this.#finished = wordsOf(this.text);
    return null;
  }

  space() {
    if (this.#server) return edit("space");
    if (this.#before && !this.#before.endsWith(" ")) this.#before += " ";
    return null;
  }

  clear() {
    this.#cleared = this.text || this.#cleared;
    this.#outdated = this.#server;
    this.#before = this.#finished = this.#server = "";
    return this.#outdated ? edit("clear") : null;
  }

  replaceWord(word) {
    return edit("replace_word", { word });
  }

  // The words that were finished since the last call, as one string; "" where there are none.
  takeFinished() {
    const now = wordsOf(this.text);
    const before = this.#finished;
    this.#finished = now;
    if (now.length <= before.length) return "";
    return now.startsWith(before) ? now.slice(before.length).trim() : now.split(" ").at(-1);
  }
}

function edit(action, more = {}) {
  return { type: "edit", action, ...more };
}

// All of a text but the word that is being spelled.
function wordsOf(text) {
  return text.slice(0, text.lastIndexOf(" ") + 1).trim();
}

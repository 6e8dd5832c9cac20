// The WebSocket to the server: frames and orders out, readings in. It comes back by itself when it was lost.

const MOST_IN_FLIGHT = 2;
const FIRST_WAIT_S = 0.5;
const LONGEST_WAIT_S = 10;
const SLOW_MS = 4000;
const DEAD_MS = 30000;

export class Stream {
  #socket = null;
  #handlers;
  #inFlight = 0;
  #waitS = FIRST_WAIT_S;
  #heardMs = 0;
  #farewell = null;
  #retry = 0;

  // handlers: message(object), state(name, details); the names are "connecting", "open", "lost" and "paused".
  constructor(handlers) {
    this.#handlers = handlers;
    setInterval(() => this.#watch(), 1000);
  }

  open() {
    clearTimeout(this.#retry);
    if (this.#socket) return;
    this.#handlers.state("connecting", {});
    const address = new URL("/api/stream", location.href);
    address.protocol = location.protocol === "https:" ? "wss:" : "ws:";
    const socket = (this.#socket = new WebSocket(address));
    this.#inFlight = 0;
    this.#farewell = null;
    this.#heardMs = performance.now();
    socket.onopen = () => this.#handlers.state("open", {});
    socket.onmessage = (event) => this.#receive(JSON.parse(event.data));
    socket.onclose = () => this.#lost(socket);
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  get wantsFrame() {
    return this.isOpen && this.#inFlight < MOST_IN_FLIGHT;
  }

  // Keep a place for a frame that is being compressed.
  reserve() {
    this.#inFlight += 1;
    return this.#socket;
  }

  // A frame may have taken so long to compress that the connection is another one: it is dropped then.
  sendFrame(reservation, timeMs, jpeg) {
    if (reservation !== this.#socket) return;
    if (!jpeg || !this.isOpen) {
      this.#inFlight -= 1;
      return;
    }
    const head = new DataView(new ArrayBuffer(8));
    head.setFloat64(0, timeMs, true);
    if (this.#inFlight === 1) this.#heardMs = performance.now();
    this.#socket.send(new Blob([head, jpeg]));
  }

  // Whether the server could be told.
  sendOrder(order) {
    if (this.isOpen) this.#socket.send(JSON.stringify(order));
    return this.isOpen;
  }

  #receive(message) {
    this.#heardMs = performance.now();
    if ("sent_ms" in message) this.#inFlight = Math.max(0, this.#inFlight - 1 - (message.dropped ?? 0));
    if (message.type === "reading") this.#waitS = FIRST_WAIT_S;
    if (message.type === "error") this.#farewell = message;
    this.#handlers.message(message);
  }

  #lost(socket) {
    if (socket !== this.#socket) return;
    this.#socket = null;
    const code = this.#farewell?.code;
    if (code === "idle") {
      this.#handlers.state("paused", {});
      return;
    }
    const waitS = this.#waitS;
    this.#waitS = Math.min(LONGEST_WAIT_S, 2 * waitS);
    this.#handlers.state("lost", { waitS, code });
    this.#retry = setTimeout(() => this.open(), 1000 * waitS);
  }

  #watch() {
    const silentMs = performance.now() - this.#heardMs;
    if (!this.#socket || !this.#inFlight || silentMs < SLOW_MS) return;
    this.#handlers.state("slow", {});
    if (silentMs > DEAD_MS) {
      const socket = this.#socket;
      socket.close();
      this.#lost(socket);
    }
  }
}

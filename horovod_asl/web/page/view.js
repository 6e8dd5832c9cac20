// What a reading looks like: the joints over the camera, the ring, the three likeliest, the text.

const BONES = [
  [0, 1, 2, 3, 4],
  [0, 5, 6, 7, 8],
  [9, 10, 11, 12],
  [13, 14, 15, 16],
  [0, 17, 18, 19, 20],
  [5, 9, 13, 17],
];
// One colour a finger, after Okabe and Ito, who chose them to be told apart by the colour-blind; the palm is white.
const COLOURS = ["#e69f00", "#56b4e9", "#2fc79a", "#f0e442", "#e58fc0", "#ffffff"];
const NAMES = { space: "space", del: "delete", nothing: "none" };

export const byId = (id) => document.getElementById(id);

export function element(name, text = "", attributes = {}) {
  const made = document.createElement(name);
  made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

const percent = (share) => `${Math.round(100 * share)} %`;
const nameOf = (label) => NAMES[label] ?? label;

// joints: 21 pairs of fractions of the frame's width and height, or null. The canvas is mirrored by the style sheet.
export function drawJoints(canvas, video, joints) {
  const ratio = window.devicePixelRatio || 1;
  const [width, height] = [Math.round(canvas.clientWidth * ratio), Math.round(canvas.clientHeight * ratio)];
  if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, width, height);
  if (!joints || !video.videoWidth) return;
  const scale = Math.min(width / video.videoWidth, height / video.videoHeight);
  const [shown, tall] = [scale * video.videoWidth, scale * video.videoHeight];
  const points = joints.map(([x, y]) => [(width - shown) / 2 + x * shown, (height - tall) / 2 + y * tall]);
  pen.lineCap = pen.lineJoin = "round";
  const thin = Math.max(2, shown / 150);
  for (const [lineWidth, dark] of [[2 * thin, true], [thin, false]]) {
    BONES.forEach((chain, digit) => {
      pen.beginPath();
      chain.forEach((joint, at) => (at ? pen.lineTo(...points[joint]) : pen.moveTo(...points[joint])));
      pen.lineWidth = lineWidth;
      pen.strokeStyle = dark ? "rgb(0 0 0 / 60%)" : COLOURS[digit];
      pen.stroke();
    });
  }
  pen.fillStyle = "#fff";
  for (const [x, y] of points) {
    pen.beginPath();
    pen.arc(x, y, thin, 0, 2 * Math.PI);
    pen.fill();
  }
}

// The ring gives a start when it is full: the letter counts from then on.
export function showHeld(held) {
  const ring = byId("ring");
  const full = (held?.progress ?? 0) >= 1;
  ring.classList.toggle("full", full);
  const letter = byId("letter");
  const text = held ? nameOf(held.label) : "–";
  letter.textContent = text;
  letter.classList.toggle("long", text.length > 1);
  byId("sure").textContent = held ? `${percent(held.confidence)} sure` : "no letter";
  byId("ring-fill").setAttribute("stroke-dashoffset", String(100 - 100 * (held?.progress ?? 0)));
}

// The rows stay and only what they say changes: a reading comes twelve times a second.
export function showTop(top) {
  const list = byId("top");
  while (list.children.length > top.length) list.lastChild.remove();
  while (list.children.length < top.length) {
    const bar = element("span", "", { class: "bar", "aria-hidden": "true" });
    bar.append(element("i"));
    const row = element("li");
    row.append(element("span"), bar, element("span"));
    list.append(row);
  }
  top.forEach(([label, share], at) => {
    const [name, bar, chance] = list.children[at].children;
    name.textContent = nameOf(label);
    chance.textContent = percent(share);
    bar.firstChild.style.width = percent(share).replace(" ", "");
  });
}

export function showText(text) {
  const words = byId("words");
  if (words.textContent === text) return;
  words.textContent = text;
  const box = byId("text");
  box.scrollTop = box.scrollHeight;
}

export function showSuggestions(words, take) {
  const box = byId("suggestions");
  if (box.dataset.words === words.join(" ")) return; // a button under a finger must not be replaced
  box.dataset.words = words.join(" ");
  const buttons = words.slice(0, 3).map((word, at) => {
    const button = element("button", "", { type: "button", "aria-label": word });
    button.append(element("kbd", String(at + 1)), word);
    button.addEventListener("click", () => take(word));
    return button;
  });
  box.replaceChildren(...buttons);
}

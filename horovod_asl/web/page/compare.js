// How a learner's hand differs from a sign, finger by finger. Plain functions of numbers: tests/single/web/hands.json
// has cases that any language can be tested with.
//
// A hand is 21 points [x, y, z] in MediaPipe's order and axes: x right, y down, z away from the camera. Any unit.

const [WRIST, THUMB_TIP, INDEX_KNUCKLE, MIDDLE_KNUCKLE, PINKY_KNUCKLE] = [0, 4, 5, 9, 17];
const FINGERS = { index: 5, middle: 9, ring: 13, pinky: 17 };
const NAMES = { index: "index finger", middle: "middle finger", ring: "ring finger", pinky: "little finger" };

export const PARTS = ["thumb", "index", "middle", "ring", "pinky", "hand"];

// Degrees; of the thumb, palm lengths (wrist to middle knuckle). A finger's bend is the sum of its three joints'.
const STRAIGHT = 75; // a finger that the sign holds straight bends less than this,
const TOO_BENT = 105; // and one of a learner passes for straight up to this
const CURLED = 165;
const TOO_OPEN = 120;
const BEND_TOLERANCE = 65; // of fingers that are neither
const SPREAD_TOLERANCE = 16;
const CROSSED = -12; // fingers side by side converge a little, too
const NEARLY_CROSSED = -5;
const THUMB_TOLERANCE = 0.68;
const DIRECTION_TOLERANCE = 50;
const PALM_TOLERANCE = 75;
const UPRIGHT = 0.6;

const minus = (a, b) => a.map((value, axis) => value - b[axis]);
const times = (a, factor) => a.map((value) => value * factor);
const dot = (a, b) => a.reduce((sum, value, axis) => sum + value * b[axis], 0);
const cross = ([a, b, c], [x, y, z]) => [b * z - c * y, c * x - a * z, a * y - b * x];
const length = (a) => Math.sqrt(dot(a, a));
const unit = (a) => times(a, 1 / Math.max(length(a), 1e-9));
const degrees = (radians) => (180 / Math.PI) * radians;
const angle = (a, b) => degrees(Math.acos(Math.min(1, Math.max(-1, dot(unit(a), unit(b))))));

// The same hand as a right one.
export function asRight(points, handedness) {
  return handedness === "left" ? points.map(([x, y, z]) => [-x, y, z]) : points;
}

// What is compared: the bend of each finger, the angles between neighbours, where the thumb's tip is, how the hand is
// turned.
export function features(points) {
  const palm = palmOf(points);
  const bend = {};
  const lean = {};
  for (const [name, knuckle] of Object.entries(FINGERS)) {
    const chain = [WRIST, knuckle, knuckle + 1, knuckle + 2, knuckle + 3].map((joint) => points[joint]);
    const bones = chain.slice(1).map((joint, at) => minus(joint, chain[at]));
    bend[name] = bones.slice(1).reduce((sum, bone, at) => sum + angle(bone, bones[at]), 0);
    const finger = minus(points[knuckle + 3], points[knuckle]);
    lean[name] = degrees(Math.atan2(dot(finger, palm.across), dot(finger, palm.along)));
  }
  const tip = minus(points[THUMB_TIP], points[INDEX_KNUCKLE]);
  const size = Math.max(length(minus(points[MIDDLE_KNUCKLE], points[WRIST])), 1e-9);
  const thumb = [palm.across, palm.along, palm.out].map((axis) => dot(tip, axis) / size);
  return { bend, lean, thumb, palm };
}

// [{ part, code, text }], what matters most first; empty where the hand is as the sign is.
export function differences(points, target) {
  const [own, aim] = [features(points), features(target)];
  return [...turned(own.palm, aim.palm), ...bent(own.bend, aim.bend), ...apart(own, aim), ...thumbAt(own.thumb, aim.thumb)];
}

function palmOf(points) {
  const along = unit(minus(points[MIDDLE_KNUCKLE], points[WRIST]));
  const wide = minus(points[INDEX_KNUCKLE], points[PINKY_KNUCKLE]);
  const across = unit(minus(wide, times(along, dot(wide, along))));
  return { along, across, out: cross(across, along) };
}

function bent(own, aim) {
  return Object.keys(FINGERS).flatMap((finger) => {
    const [is, should, name] = [own[finger], aim[finger], NAMES[finger]];
    if (should < STRAIGHT) return is > TOO_BENT ? [finding(finger, "straighten", `Straighten your ${name}.`)] : [];
    if (should > CURLED) return is < TOO_OPEN ? [finding(finger, "curl", `Curl your ${name} into your palm.`)] : [];
    if (is < should - BEND_TOLERANCE) return [finding(finger, "bend_more", `Bend your ${name} more.`)];
    if (is > should + BEND_TOLERANCE) return [finding(finger, "bend_less", `Bend your ${name} less.`)];
    return [];
  });
}

// Of fingers that are straight in both hands: together, apart, or crossed.
function apart(own, aim) {
  const names = Object.keys(FINGERS);
  return names.slice(1).flatMap((second, at) => {
    const first = names[at];
    if ([first, second].some((name) => own.bend[name] > TOO_BENT || aim.bend[name] > STRAIGHT)) return [];
    const [ownGap, aimGap] = [own, aim].map(({ lean }) => lean[first] - lean[second]);
    const pair = `your ${NAMES[first]} and your ${NAMES[second]}`;
    if (aimGap < CROSSED) return ownGap > NEARLY_CROSSED ? [finding(first, "cross", `Cross ${pair}.`)] : [];
    if (ownGap < CROSSED - 2) return [finding(first, "uncross", `Do not cross ${pair}.`)];
    if (ownGap > aimGap + SPREAD_TOLERANCE) return [finding(first, "together", `Bring ${pair} together.`)];
    if (ownGap < aimGap - SPREAD_TOLERANCE) return [finding(first, "spread", `Spread ${pair}.`)];
    return [];
  });
}

function thumbAt(own, aim) {
  const off = minus(own, aim);
  if (length(off) < THUMB_TOLERANCE) return [];
  const axis = off.map(Math.abs).indexOf(Math.max(...off.map(Math.abs)));
  const [code, text] = [
    [["thumb_in", "Bring your thumb in, towards your fingers."], ["thumb_out", "Move your thumb out, to the side."]],
    [["thumb_down", "Move your thumb down, towards your wrist."], ["thumb_up", "Move your thumb up, towards your fingertips."]],
    [["thumb_back", "Move your thumb back, closer to your palm."], ["thumb_front", "Move your thumb in front of your palm."]],
  ][axis][off[axis] > 0 ? 0 : 1];
  return [finding("thumb", code, text)];
}

// A hand that lies across may point to either side, and its palm forward or back: people do both.
function turned(own, aim) {
  if (Math.abs(rise(own.along) - rise(aim.along)) > DIRECTION_TOLERANCE) {
    return [finding("hand", "direction", `Point your hand ${whither(aim.along)}.`)];
  }
  const upright = aim.along[1] < -UPRIGHT;
  const faces = upright ? angle(own.out, aim.out) : Math.abs(rise(own.out) - rise(aim.out));
  if ((upright || Math.abs(aim.out[1]) > UPRIGHT) && faces > PALM_TOLERANCE) {
    return [finding("hand", "palm", `Turn your palm ${whither(aim.out)}.`)];
  }
  return [];
}

// Degrees above the horizon.
function rise([, y]) {
  return -degrees(Math.asin(Math.min(1, Math.max(-1, y))));
}

function whither([x, y, z]) {
  const largest = Math.max(Math.abs(x), Math.abs(y), Math.abs(z));
  if (largest === Math.abs(z)) return z < 0 ? "towards the camera" : "towards yourself";
  if (largest === Math.abs(y)) return y < 0 ? "up" : "down";
  return "to the side";
}

function finding(part, code, text) {
  return { part, code, text };
}

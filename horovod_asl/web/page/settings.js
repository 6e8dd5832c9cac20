// What the person chose, kept by the browser; the tabs; and the keys.

import { byId } from "./view.js";

export function remembered(name, otherwise) {
  try {
    return localStorage.getItem(name) ?? otherwise;
  } catch {
    return otherwise; // a browser may forbid it
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(name, value);
  } catch {
    // it is forgotten then
  }
}

// Dark or light: as the system says, until the person says otherwise.
export function setUpTheme() {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => byId("theme").setAttribute("aria-pressed", String(isDark()));
  const chosen = remembered("theme", "");
  if (chosen) root.dataset.theme = chosen;
  system.addEventListener("change", show);
  byId("theme").addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remember("theme", root.dataset.theme);
    show();
  });
  show();
}

// A checkbox that is as it was left.
export function setUpSwitch(id, otherwise) {
  const box = byId(id);
  box.checked = remembered(id, String(otherwise)) === "true";
  box.addEventListener("change", () => remember(id, String(box.checked)));
  return box;
}

// Tabs with the arrow keys, as the ARIA practices describe them.
export function setUpTabs(chosen) {
  const tabs = [...document.querySelectorAll("[role=tab]")];
  const choose = (tab) => {
    for (const other of tabs) {
      const on = other === tab;
      other.setAttribute("aria-selected", String(on));
      other.tabIndex = on ? 0 : -1;
      byId(other.getAttribute("aria-controls")).hidden = !on;
    }
    chosen(tab.id);
  };
  tabs.forEach((tab, at) => {
    tab.addEventListener("click", () => choose(tab));
    tab.addEventListener("keydown", (event) => {
      const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (to === undefined) return;
      event.preventDefault();
      const next = tabs[(to + tabs.length) % tabs.length];
      next.focus();
      choose(next);
    });
  });
}

// actions: by key. A key belongs to the control that has the focus, where that control uses it.
export function setUpKeys(box, actions) {
  document.addEventListener("keydown", (event) => {
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    const always = key === "Escape";
    if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || document.querySelector("dialog[open]")) return;
    if (!actions[key] || !(always || box.checked) || usesKey(event.target, key)) return;
    event.preventDefault();
    actions[key]();
  });
}

function usesKey(target, key) {
  if (target.closest("select")) return key !== "Escape";
  return key === " " && target.closest("button, input, a") !== null;
}

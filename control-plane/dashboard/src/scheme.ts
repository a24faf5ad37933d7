// Light or dark: as the system says, unless the user says otherwise.
import { computed, effect, signal } from "@preact/signals";

type Choice = "light" | "dark" | "";

const STORED = "weft.scheme";
const system = matchMedia("(prefers-color-scheme: dark)");
const prefers = signal(system.matches);
system.addEventListener("change", (event) => (prefers.value = event.matches));

const chosen = signal<Choice>(stored());

function stored(): Choice {
  const found = localStorage.getItem(STORED);
  return found === "light" || found === "dark" ? found : "";
}

export const scheme = computed<"light" | "dark">(() => chosen.value || (prefers.value ? "dark" : "light"));

effect(() => {
  document.documentElement.dataset["scheme"] = scheme.value;
});

/** Changes to the other one; back to the system's own is no choice any more. */
export function toggle(): void {
  const next = scheme.value === "dark" ? "light" : "dark";
  const same = (next === "dark") === prefers.value;
  chosen.value = same ? "" : next;
  if (same) localStorage.removeItem(STORED);
  else localStorage.setItem(STORED, next);
}

/** A colour of the page, for what is drawn. */
export const colour = (name: string): string => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

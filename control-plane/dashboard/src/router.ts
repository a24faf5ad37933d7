// Where the user is: the path under /dashboard, the namespace of everything that is shown, and the other parameters of the address.
import { computed, signal } from "@preact/signals";

export const BASE = "/dashboard";

const address = signal(new URL(location.href));

/** Path below the base: `/`, `/services/shop/cart`. */
export const path = computed(() => {
  const found = address.value.pathname;
  const below = found.startsWith(BASE) ? found.slice(BASE.length) : found;
  return below.replace(/\/+$/, "") || "/";
});

/** Its parts, decoded. */
export const segments = computed(() => path.value.split("/").filter(Boolean).map(decoded));

/** The namespace that is looked at; empty: all. */
export const namespace = computed(() => address.value.searchParams.get("namespace") ?? "");

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** A parameter of the address. */
export function parameter(name: string): string {
  return address.value.searchParams.get(name) ?? "";
}

/** The address of a page, in the namespace that is looked at. */
export function to(page: string, parameters: Record<string, string> = {}): string {
  const set = new URLSearchParams(parameters);
  if (!("namespace" in parameters) && namespace.value) set.set("namespace", namespace.value);
  const text = set.toString();
  return `${BASE}${page === "/" ? "/" : page}${text ? `?${text}` : ""}`;
}

/** The address of the page of a service, edge or object: names are escaped. */
export const toService = (name: string) => to(`/services/${name.split("/").map(encodeURIComponent).join("/")}`);

/** Goes there; `replace`: as the same step of the history. */
export function go(href: string, replace = false): void {
  const before = path.value;
  if (replace) history.replaceState(null, "", href);
  else history.pushState(null, "", href);
  address.value = new URL(location.href);
  if (before !== path.value) {
    scrollTo(0, 0);
    // Who reads by ear or keyboard is at the new page's beginning.
    greet(40);
  }
}

/** Puts the focus on the title once it is there: a page's code may have to come first. */
function greet(tries: number): void {
  setTimeout(() => {
    const title = document.querySelector<HTMLElement>("main h1");
    if (title) title.focus({ preventScroll: true });
    else if (tries > 0) greet(tries - 1);
  }, 50);
}

/** Changes parameters of the address, the page staying; empty ones go. */
export function set(parameters: Record<string, string>): void {
  const next = new URL(location.href);
  for (const [name, value] of Object.entries(parameters)) {
    if (value) next.searchParams.set(name, value);
    else next.searchParams.delete(name);
  }
  go(next.pathname + next.search, true);
}

/** Makes links of the page go without loading it anew. */
export function listen(): void {
  addEventListener("popstate", () => (address.value = new URL(location.href)));
  document.addEventListener("click", (event) => {
    if (event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
    const link = (event.target as Element | null)?.closest("a[href]");
    if (!(link instanceof HTMLAnchorElement) || link.target || link.origin !== location.origin) return;
    if (!link.pathname.startsWith(BASE) || link.getAttribute("href")?.startsWith("#")) return;
    event.preventDefault();
    go(link.pathname + link.search);
  });
}

// Requests to the API with the user's token, and its errors.
import { signal } from "@preact/signals";

const STORED = "weft.token";

/** A bearer token or the key of `weft dashboard`; empty: requests go with what the browser itself presents (a client certificate). */
export const token = signal(taken());

/** Set when the API does not know who asks. */
export const refused = signal<string | null>(null);

/** The key in the address's fragment, which the server never sees and which does not stay there; else what this tab was given before. */
function taken(): string {
  const found = /^#key=([\w.~+/=-]+)$/.exec(location.hash);
  if (found?.[1]) {
    history.replaceState(null, "", location.pathname + location.search);
    sessionStorage.setItem(STORED, found[1]);
    return found[1];
  }
  return sessionStorage.getItem(STORED) ?? "";
}

/** Goes on with another token. */
export function signIn(value: string): void {
  sessionStorage.setItem(STORED, value);
  token.value = value;
  refused.value = null;
}

/** Forgets the token. */
export function signOut(): void {
  sessionStorage.removeItem(STORED);
  token.value = "";
  refused.value = "";
}

/** What the API says where it does not do what was asked: its Status. */
export class ApiError extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly causes: { field?: string; message?: string; reason?: string }[] = [],
  ) {
    super(message);
  }

  /** Whether this control plane has no such page. */
  get isAbsent(): boolean {
    return this.status === 404;
  }
}

interface Status {
  message?: string;
  details?: { causes?: { field?: string; message?: string; reason?: string }[] };
}

const TIMEOUT = 15_000;

/** Sends a request. A stream has no deadline but its signal. */
export async function send(path: string, init: RequestInit & { stream?: boolean } = {}): Promise<Response> {
  const { stream, ...rest } = init;
  const headers = new Headers(rest.headers);
  const used = token.value;
  if (used) headers.set("authorization", `Bearer ${used}`);
  const limits = [rest.signal, stream ? null : AbortSignal.timeout(TIMEOUT)].filter((limit) => limit != null);
  let response: Response;
  try {
    response = await fetch(path, {
      ...rest, headers, cache: "no-store", redirect: "error", credentials: "same-origin", signal: AbortSignal.any(limits),
    });
  } catch (error) {
    if (rest.signal?.aborted) throw error;
    const late = error instanceof DOMException && error.name === "TimeoutError";
    throw new ApiError(0, late ? "the control plane did not answer in time" : "the control plane cannot be reached");
  }
  if (response.ok) return response;
  const failure = await failureOf(response);
  if (response.status === 401 && used === token.value) refused.value = used ? failure.message : "";
  throw failure;
}

async function failureOf(response: Response): Promise<ApiError> {
  const text = await response.text().catch(() => "");
  try {
    const status = JSON.parse(text) as Status;
    if (status.message) return new ApiError(response.status, status.message, status.details?.causes ?? []);
  } catch {
    // Not a Status: said by its code.
  }
  return new ApiError(response.status, text.length > 0 && text.length < 300 && !text.startsWith("<") ? text : `the control plane answered ${response.status}`);
}

/** A JSON document. */
export async function get<T>(path: string, signal?: AbortSignal): Promise<T> {
  const response = await send(path, signal ? { signal } : {});
  return (await response.json()) as T;
}

/** The answer to a posted JSON document. */
export async function post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  const init: RequestInit = { method: "POST", body: JSON.stringify(body), headers: { "content-type": "application/json" } };
  if (signal) init.signal = signal;
  return (await (await send(path, init)).json()) as T;
}

/** `path?a=b`, without parameters that are empty. */
export function query(path: string, parameters: Record<string, string | number | undefined | null>): string {
  const set = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null && value !== "") set.set(name, value.toString());
  }
  const text = set.toString();
  return text ? `${path}?${text}` : path;
}

/** The words of anything that was thrown. */
export function said(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

// A tap that is open: calls as they happen, the last ones kept, what was dropped counted.
import { batch, signal } from "@preact/signals";
import { ApiError, query, said, send } from "../api/client";
import { events } from "../api/sse";
import type { Call } from "../api/types";

/** What is asked for; empty fields do not matter. */
export interface Filter {
  namespace: string;
  service: string;
  source: string;
  destination: string;
  direction: string;
  method: string;
  path: string;
  status: string;
  reason: string;
  perSecond: string;
  seconds: string;
}

export const NO_FILTER: Filter = { namespace: "", service: "", source: "", destination: "", direction: "", method: "", path: "", status: "", reason: "", perSecond: "50", seconds: "300" };

export type TapState = "closed" | "opening" | "open" | "ended" | "absent" | "refused" | "failed";

/** A call with a number, by which it is picked. */
export interface Seen {
  id: number;
  call: Call;
}

/** Calls that are kept. */
export const KEPT = 500;

export const state = signal<TapState>("closed");
export const message = signal("");
export const calls = signal<Seen[]>([]);
export const total = signal(0);
/** By whom so many were dropped. */
export const dropped = signal<Map<string, number>>(new Map());
/** The list stands still while calls go on to be counted. */
export const held = signal(false);

let stop: AbortController | null = null;
let waiting: Seen[] = [];
let number = 0;
let timer: ReturnType<typeof setTimeout> | undefined;

/** Shows what came, a few times a second however much comes. */
function flush(): void {
  timer = undefined;
  if (held.peek() || waiting.length === 0) return;
  calls.value = [...waiting.reverse(), ...calls.value].slice(0, KEPT);
  waiting = [];
}

function take(call: Call): void {
  number += 1;
  waiting.push({ id: number, call });
  if (waiting.length > KEPT) waiting.shift();
  timer ??= setTimeout(flush, 200);
}

/** Goes on showing. */
export function release(): void {
  held.value = false;
  flush();
}

export function clear(): void {
  waiting = [];
  batch(() => {
    calls.value = [];
    total.value = 0;
    dropped.value = new Map();
  });
}

export function close(): void {
  stop?.abort();
  stop = null;
  clearTimeout(timer);
  flush();
  if (state.value === "open" || state.value === "opening") state.value = "closed";
}

export async function open(filter: Filter): Promise<void> {
  close();
  clear();
  held.value = false;
  const own = new AbortController();
  stop = own;
  state.value = "opening";
  message.value = "";
  try {
    const response = await send(query("/weft/v1/tap", { ...filter }), { stream: true, headers: { accept: "text/event-stream" }, signal: own.signal });
    state.value = "open";
    let counted = 0;
    for await (const { event, data } of events(response)) {
      if (event === "call") {
        take(JSON.parse(data) as Call);
        counted += 1;
        total.value = counted;
      } else if (event === "dropped") {
        const { calls: more, by } = JSON.parse(data) as { calls: number; by: string };
        dropped.value = new Map(dropped.value).set(by, (dropped.value.get(by) ?? 0) + more);
      } else if (event === "end") {
        message.value = (JSON.parse(data) as { reason?: string }).reason ?? "";
        break;
      }
    }
    flush();
    state.value = "ended";
  } catch (error) {
    if (own.signal.aborted) return;
    message.value = said(error);
    state.value = !(error instanceof ApiError) ? "failed" : error.isAbsent ? "absent" : error.status === 403 ? "refused" : "failed";
  }
}

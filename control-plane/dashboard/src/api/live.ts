// What the mesh does now: one stream for the whole page, kept in signals, begun again when it breaks, with every state of it said.
import { batch, signal } from "@preact/signals";
import { ApiError, get, query, refused, said, send, token } from "./client";
import { events } from "./sse";
import type { FleetState, Problem, Row, Series, StatDocument, Breaker } from "./types";
import { namespace } from "../router";

export type Connection = "connecting" | "live" | "polling" | "reconnecting" | "paused" | "denied" | "ended";

export interface Mesh {
  windowSeconds: number;
  services: Map<string, Row>;
  edges: Map<string, Row>;
  endpoints: Map<string, Row>;
  routes: Map<string, Row>;
  breakers: Breaker[];
  /** Rows of tables that are not told, because there are too many. */
  omitted: Record<string, number>;
}

/** How the stream is. */
export const connection = signal<Connection>("connecting");
/** Why it is not live. */
export const trouble = signal("");
/** Null until the first event. */
export const mesh = signal<Mesh | null>(null);
/** Null until known; of a control plane that does not say, too. */
export const problems = signal<Problem[] | null>(null);
export const fleet = signal<FleetState | null>(null);
/** When the last event came, in milliseconds since 1970. */
export const seen = signal(0);
/** The last numbers of each service and of the whole (""), newest last, one each two seconds or so. */
export const history = signal<Map<string, Point[]>>(new Map());

export interface Point {
  rps: number;
  success: number | null;
  p99: number | null;
}

const KEPT = 90;
/** Comments come every 15 s: silence beyond this is a broken connection. */
const SILENCE = 40_000;

/** Key of a row: what it is about. */
export const keyOf = {
  services: (row: Row) => row.service,
  edges: (row: Row) => edgeKey(row.source ?? "", row.service),
  endpoints: (row: Row) => `${row.service} ${row.endpoint ?? ""}`,
  routes: (row: Row) => `${row.service} ${row.route ?? ""}`,
} as const;

export const edgeKey = (source: string, service: string) => `${source} ${service}`;

const TABLES = ["services", "edges", "endpoints", "routes"] as const;

/** The mesh with a document of the stream put in. */
export function merged(before: Mesh | null, document: StatDocument): Mesh {
  const whole = document.full !== false || !before;
  const after: Mesh = {
    windowSeconds: document.windowSeconds ?? before?.windowSeconds ?? 10,
    services: new Map(whole ? [] : before.services),
    edges: new Map(whole ? [] : before.edges),
    endpoints: new Map(whole ? [] : before.endpoints),
    routes: new Map(whole ? [] : before.routes),
    breakers: document.breakers ?? before?.breakers ?? [],
    omitted: document.omitted ?? {},
  };
  for (const table of TABLES) {
    for (const row of document[table] ?? []) after[table].set(keyOf[table](row), row);
    for (const gone of document.gone?.[table] ?? []) {
      const parts = Array.isArray(gone) ? gone : [gone];
      after[table].delete(parts.join(" "));
    }
  }
  return after;
}

/** Calls, success and the worst p99 of the mesh. By instance: a call through a route stands once under the service that it names and once
 * under the one whose instance took it, so of each instance the row with more calls is all of its calls. */
export function total(of: Mesh): Point & { slowest: Row | null; mtls: number | null; retries: number } {
  let [calls, failures, rps, sent, secured, retries] = [0, 0, 0, 0, 0, 0];
  let slowest: Row | null = null;
  const instances = new Map<string, Row>();
  for (const row of of.endpoints.values()) {
    // What reached no instance stands under its service alone.
    const place = row.endpoint || `no instance of ${row.service}`;
    const before = instances.get(place);
    if (!before || before.calls < row.calls) instances.set(place, row);
  }
  for (const row of instances.size > 0 ? instances.values() : of.services.values()) {
    calls += row.calls;
    rps += row.rps;
    failures += row.failures;
    retries += row.retries;
    sent += row.calls - row.unsent;
    secured += (row.calls - row.unsent) * (row.mtls ?? 0);
  }
  for (const row of of.services.values()) {
    if (row.p99Ms !== null && (slowest?.p99Ms ?? -1) < row.p99Ms) slowest = row;
  }
  const share = (part: number, of = calls) => (of > 0 ? part / of : null);
  return { rps, success: share(calls - failures), p99: slowest?.p99Ms ?? null, slowest, mtls: share(secured, sent), retries: retries / of.windowSeconds };
}

function take(document: StatDocument): void {
  batch(() => {
    const now = merged(mesh.value, document);
    mesh.value = now;
    seen.value = Date.now();
  });
  setTimeout(record);
}

/** Adds what is now to what was. */
function record(): void {
  const now = mesh.peek();
  if (!now) return;
  const past = new Map<string, Point[]>();
  const put = (key: string, point: Point) => past.set(key, [...(history.peek().get(key) ?? []).slice(1 - KEPT), point]);
  put("", total(now));
  for (const [key, row] of now.services) put(key, { rps: row.rps, success: row.success, p99: row.p99Ms });
  history.value = past;
}

/** What was before the page began, once: lines begin with the last minutes, not with nothing. */
async function recall(ended: AbortSignal, of: string): Promise<void> {
  try {
    const { items } = await get<Series>(query("/weft/v1/series", { about: "service", namespace: of, window: "2m" }), ended);
    const past = new Map(history.value);
    for (const item of items) {
      const known = past.get(item.service) ?? [];
      // Reports fall now into one step, now into the next: two together are even.
      const before = item.rps.flatMap((rps, at): Point[] => (rps === null ? [] : [{ rps: (rps + (item.rps[at - 1] ?? rps)) / 2, success: item.success[at] ?? null, p99: item.p99Ms[at] ?? null }]));
      past.set(item.service, [...before, ...known].slice(-KEPT));
    }
    history.value = past;
  } catch {
    // They fill while the page is looked at.
  }
}

let stop: AbortController | null = null;

/** Begins the stream, or begins it anew: for another namespace, another user, or after a pause. */
export function start(): void {
  stop?.abort();
  stop = new AbortController();
  batch(() => {
    connection.value = "connecting";
    trouble.value = "";
  });
  if (history.value.size === 0) void recall(stop.signal, namespace.value);
  void run(stop.signal, namespace.value);
}

/** Forgets what was seen: of another namespace. */
export function forget(): void {
  batch(() => {
    mesh.value = null;
    problems.value = null;
    history.value = new Map();
  });
}

/** Stops updates until `start`. */
export function pause(): void {
  stop?.abort();
  stop = null;
  connection.value = "paused";
}

async function run(ended: AbortSignal, of: string): Promise<void> {
  let failures = 0;
  while (!ended.aborted) {
    const begun = Date.now();
    try {
      await follow(ended, of);
      if (connection.value === "ended") return;
      trouble.value = "the stream ended";
    } catch (error) {
      if (isStopped(ended)) return;
      if (error instanceof ApiError && error.isAbsent) return poll(ended, of);
      if (error instanceof ApiError && (error.status === 401 || error.status === 403)) {
        batch(() => {
          connection.value = "denied";
          trouble.value = error.message;
        });
        return;
      }
      trouble.value = said(error);
    }
    if (isStopped(ended)) return;
    connection.value = "reconnecting";
    failures = Date.now() - begun > 10_000 ? 0 : failures + 1;
    await pauseFor(Math.min(500 * 2 ** failures, 15_000) * (0.75 + Math.random() / 2), ended);
  }
}

/** Read afresh: an await lies between. */
const isStopped = (signal: AbortSignal): boolean => signal.aborted;

async function follow(ended: AbortSignal, of: string): Promise<void> {
  const silent = new AbortController();
  let timer = setTimeout(() => silent.abort(), SILENCE);
  const alive = () => {
    clearTimeout(timer);
    timer = setTimeout(() => silent.abort(), SILENCE);
  };
  try {
    const response = await send(query("/weft/v1/live", { namespace: of }), {
      stream: true,
      headers: { accept: "text/event-stream" },
      signal: AbortSignal.any([ended, silent.signal]),
    });
    for await (const { event, data } of events(response, alive)) {
      if (ended.aborted) return;
      if (event === "end") return;
      const document: unknown = JSON.parse(data);
      // Reading and showing a large mesh are two tasks: between them the page answers.
      await pauseFor(0, ended);
      if (isStopped(ended)) return;
      batch(() => {
        if (event === "stat") take(document as StatDocument);
        else if (event === "problems") problems.value = (document as { items: Problem[] }).items;
        else if (event === "fleet") fleet.value = document as FleetState;
        connection.value = "live";
        trouble.value = "";
      });
    }
  } catch (error) {
    if (silent.signal.aborted && !ended.aborted) throw new Error("nothing was heard for 40 s");
    throw error;
  } finally {
    clearTimeout(timer);
  }
}

/** For a control plane without the stream. */
async function poll(ended: AbortSignal, of: string): Promise<void> {
  while (!ended.aborted) {
    try {
      take(await get<StatDocument>(query("/weft/v1/stat", { namespace: of, window: "10s" }), ended));
      connection.value = "polling";
    } catch (error) {
      if (isStopped(ended)) return;
      connection.value = "reconnecting";
      trouble.value = said(error);
    }
    await pauseFor(2000, ended);
  }
}

function pauseFor(milliseconds: number, ended: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, milliseconds);
    ended.addEventListener("abort", () => {
      clearTimeout(timer);
      resolve();
    }, { once: true });
  });
}

/** Follows the namespace and the user for as long as the page is there. */
export function attend(): void {
  let [of, by] = [namespace.value, token.value];
  namespace.subscribe((now) => {
    if (now === of) return;
    of = now;
    forget();
    start();
  });
  token.subscribe((now) => {
    if (now === by) return;
    by = now;
    forget();
    start();
  });
  // A page that nobody sees asks for nothing.
  let hidden: ReturnType<typeof setTimeout> | undefined;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hidden);
    if (document.visibilityState === "hidden") {
      hidden = setTimeout(() => {
        if (connection.value === "paused") return;
        stop?.abort();
        stop = null;
        connection.value = "reconnecting";
      }, 60_000);
    } else if (!stop && connection.value !== "paused") start();
  });
  if (refused.value === null) start();
}

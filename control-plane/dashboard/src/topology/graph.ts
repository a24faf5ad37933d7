// What is drawn: services and who calls them, or groups of them, with the figures of now. Pure.
import type { Mesh } from "../api/live";
import type { Problem, Row } from "../api/types";
import { split } from "../format";
import { health, type Health } from "../health";

export interface Node {
  id: string;
  /** A service, a caller that is none, or several of them. */
  kind: "service" | "caller" | "group";
  name: string;
  namespace: string;
  members: string[];
  rps: number;
  success: number | null;
  p99: number | null;
  openBreakers: number;
  health: Health;
  /** Whether a problem begins here, or is only felt here. */
  mark: "cause" | "suffers" | null;
}

export interface Edge {
  id: string;
  from: string;
  to: string;
  calls: number;
  rps: number;
  success: number | null;
  p99: number | null;
  mtls: number | null;
  retries: number;
  openBreakers: number;
  health: Health;
}

export interface Graph {
  nodes: Node[];
  edges: Edge[];
  /** Services in all, before anything is left out. */
  total: number;
}

export interface View {
  grouped: boolean;
  /** Groups that are shown by their members. */
  open: ReadonlySet<string>;
  /** Only what is near this service; empty: everything. */
  focus: string;
  /** How many calls away. */
  reach: number;
}

/** Edges and nodes that were seen since the page began: what pauses stays where it is. */
export interface Known {
  nodes: Set<string>;
  edges: Map<string, [string, string]>;
}

/** Adds what is there now. */
export function learn(known: Known, mesh: Mesh): Known {
  for (const name of mesh.services.keys()) known.nodes.add(name);
  for (const [id, row] of mesh.edges) {
    if (!row.source) continue;
    known.nodes.add(row.source);
    known.nodes.add(row.service);
    if (!known.edges.has(id)) known.edges.set(id, [row.source, row.service]);
  }
  return known;
}

/** The group of a service: its namespace; where there is only one, the first word of its name. */
function grouping(nodes: Iterable<string>): (name: string) => string {
  const namespaces = new Set([...nodes].map((name) => split(name)[0]));
  if (namespaces.size > 1) return (name) => split(name)[0] || "outside";
  return (name) => {
    const [namespace, own] = split(name);
    const word = own.split(/[-_.]/)[0] ?? own;
    return namespace ? `${namespace}/${word}-*` : word;
  };
}

export function graphOf(mesh: Mesh, known: Known, problems: Problem[], view: View): Graph {
  const names = view.focus ? near(known, view.focus, view.reach) : known.nodes;
  const group = grouping(known.nodes);
  const placeOf = (name: string) => {
    if (!view.grouped || view.focus) return name;
    const of = group(name);
    return view.open.has(of) ? name : `group:${of}`;
  };
  const members = new Map<string, string[]>();
  for (const name of [...names].sort()) {
    const place = placeOf(name);
    members.set(place, [...(members.get(place) ?? []), name]);
  }
  const causes = new Set(problems.filter(({ kind }) => kind === "service").map(({ name }) => name));
  const sufferers = new Set(problems.flatMap(({ suffers }) => suffers ?? []));
  const nodes = [...members].map(([id, of]) => nodeOf(id, of, mesh, causes, sufferers));
  const edges = new Map<string, Row[]>();
  const ends = new Map<string, [string, string]>();
  for (const [key, [source, service]] of known.edges) {
    if (!names.has(source) || !names.has(service)) continue;
    const [from, to] = [placeOf(source), placeOf(service)];
    if (from === to && from.startsWith("group:")) continue;
    const id = `${from} ${to}`;
    ends.set(id, [from, to]);
    const row = mesh.edges.get(key);
    const rows = edges.get(id) ?? [];
    if (row) rows.push(row);
    edges.set(id, rows);
  }
  const drawn = [...edges].map(([id, rows]) => edgeOf(id, ends.get(id) ?? ["", ""], rows)).sort((a, b) => (a.id < b.id ? -1 : 1));
  return { nodes, edges: drawn, total: known.nodes.size };
}

function near(known: Known, focus: string, reach: number): Set<string> {
  const found = new Set([focus]);
  for (let step = 0; step < reach; step++) {
    const before = new Set(found);
    for (const [from, to] of known.edges.values()) {
      if (before.has(from)) found.add(to);
      if (before.has(to)) found.add(from);
    }
  }
  return found;
}

const sum = (rows: Row[], of: (row: Row) => number) => rows.reduce((total, row) => total + of(row), 0);

function numbers(rows: Row[]) {
  const calls = sum(rows, (row) => row.calls);
  const share = (part: number, of = calls) => (of > 0 ? part / of : null);
  const sent = (row: Row) => row.calls - row.unsent;
  const latencies = rows.flatMap((row) => (row.p99Ms === null ? [] : [row.p99Ms]));
  return {
    calls,
    rps: sum(rows, (row) => row.rps),
    success: share(calls - sum(rows, (row) => row.failures)),
    mtls: share(sum(rows, (row) => sent(row) * (row.mtls ?? 0)), sum(rows, sent)),
    p99: latencies.length > 0 ? Math.max(...latencies) : null,
    retries: sum(rows, (row) => row.retries),
    openBreakers: sum(rows, (row) => row.openBreakers),
  };
}

function nodeOf(id: string, of: string[], mesh: Mesh, causes: Set<string>, sufferers: Set<string>): Node {
  const isGroup = id.startsWith("group:");
  const rows = of.flatMap((name) => mesh.services.get(name) ?? []);
  const { rps, success, p99, openBreakers } = numbers(rows);
  const [namespace, name] = isGroup ? ["", id.slice("group:".length)] : split(id);
  const worst = rows.some((row) => row.calls > 0 && health(row.success) === "bad") ? "bad" : health(success, openBreakers);
  return {
    id, kind: isGroup ? "group" : mesh.services.has(id) ? "service" : "caller", name, namespace, members: of, rps, success, p99, openBreakers, health: worst,
    mark: of.some((member) => causes.has(member)) ? "cause" : of.some((member) => sufferers.has(member)) ? "suffers" : null,
  };
}

function edgeOf(id: string, [from, to]: [string, string], rows: Row[]): Edge {
  const own = numbers(rows);
  return { id, from, to, ...own, health: own.calls > 0 ? health(own.success, own.openBreakers) : "idle" };
}

// What an object's conditions say: refused and why, on its way, or in force and where. As `weft apply --wait` reads them. Pure.
import type { Condition, Resource } from "../api/types";
import type { Health } from "../health";
import type { Kind } from "./kinds";

export interface State {
  health: Health;
  word: string;
  /** What the condition says. */
  message: string;
  /** Sidecars that have it, and all that should. */
  held: [number, number] | null;
}

/** Conditions with whom they are about: a parent of a route, or nobody. */
export function conditionsOf(object: Resource): { about: string; condition: Condition }[] {
  const own = (object.status?.conditions ?? []).map((condition) => ({ about: "", condition }));
  const parents = (object.status?.parents ?? []).flatMap((parent) =>
    (parent.conditions ?? []).map((condition) => ({ about: `${parent.parentRef?.kind ?? "Service"} ${parent.parentRef?.name ?? ""}`.trim(), condition })));
  return [...own, ...parents];
}

export function stateOf(object: Resource, kind: Kind): State {
  const all = conditionsOf(object).map(({ condition }) => condition);
  const generation = object.metadata.generation ?? 0;
  if (kind.about !== "route" && kind.about !== "policy") {
    const phase = object.status?.["phase"];
    const word = typeof phase === "string" ? phase : "stored";
    return { health: word === "Ready" || word === "stored" ? "ok" : "warn", word: word.toLowerCase(), message: "", held: null };
  }
  if (all.length === 0) return { health: "warn", word: "not looked at yet", message: "", held: null };
  const refused = all.find(({ type, status }) => status === "False" && type !== "Programmed");
  if (refused) return { health: "bad", word: refused.type === "Accepted" ? "not accepted" : "refers to what is not there", message: `${refused.reason}: ${refused.message}`, held: null };
  const programmed = all.filter(({ type }) => type === "Programmed");
  const waiting = programmed.find(({ status, observedGeneration }) => status !== "True" || (observedGeneration ?? generation) < generation);
  const said = waiting ?? programmed[0];
  if (!said) return { health: "warn", word: "on its way", message: "", held: null };
  const counts = /^(\d+) of (\d+) sidecars/.exec(said.message);
  const held: [number, number] | null = counts ? [Number(counts[1]), Number(counts[2])] : null;
  if (waiting) return { health: "warn", word: "on its way", message: waiting.message || waiting.reason, held };
  return { health: "ok", word: "in force", message: said.message, held };
}

interface Reference {
  kind?: string;
  name?: string;
  namespace?: string;
  port?: number;
  sectionName?: string;
}

const list = (value: unknown): Reference[] => (Array.isArray(value) ? (value as Reference[]) : []);

/** What an object is about, in words. */
export function targetsOf(object: Resource, kind: Kind): string[] {
  const spec = object.spec ?? {};
  const references = [...list(spec["targetRefs"]), ...list(spec["parentRefs"])];
  if (references.length > 0) return references.map((to) => `${to.kind ?? "Service"} ${to.namespace ? `${to.namespace}/` : ""}${to.name ?? ""}`);
  if (spec["selector"] && kind.about === "policy") return ["workloads by label"];
  if (kind.about === "policy") return ["the whole namespace"];
  return [];
}

/** Whether an object says something about calls to a service, `namespace/name`. */
export function concerns(object: Resource, kind: Kind, service: string): boolean {
  const spec = object.spec ?? {};
  const own = object.metadata.namespace ?? "";
  const references = [...list(spec["targetRefs"]), ...list(spec["parentRefs"])];
  if (references.some((to) => (to.kind ?? "Service") === "Service" && `${to.namespace ?? own}/${to.name ?? ""}` === service)) return true;
  return references.length === 0 && kind.about === "policy" && !spec["selector"] && service.startsWith(`${own}/`);
}

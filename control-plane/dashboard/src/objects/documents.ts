// YAML documents and the objects in them: read with places for errors, written without what only the server says.
import { isCollection, LineCounter, parseAllDocuments, stringify, type Document, type ParsedNode } from "yaml";
import type { Resource } from "../api/types";
import { kindNamed, type Kind } from "./kinds";

/** Something wrong at a place in the text. */
export interface Mark {
  from: number;
  to: number;
  message: string;
}

export interface Given {
  object: Resource;
  kind: Kind;
  namespace: string;
  document: Document.Parsed;
}

export interface Read {
  given: Given[];
  marks: Mark[];
}

/** Longest text that is read, in characters. */
const MOST = 512 * 1024;

/** The objects of a text; `namespace` is of those that name none. */
export function read(text: string, namespace: string): Read {
  if (text.length > MOST) return { given: [], marks: [{ from: 0, to: 1, message: "the text is too long: apply it by the command" }] };
  const marks: Mark[] = [];
  const given: Given[] = [];
  // Aliases could make little text large.
  const documents = parseAllDocuments(text, { lineCounter: new LineCounter(), uniqueKeys: true });
  if (!Array.isArray(documents)) return { given, marks };
  for (const document of documents) {
    for (const error of document.errors) marks.push({ from: error.pos[0], to: Math.max(error.pos[1], error.pos[0] + 1), message: error.message.split("\n")[0] ?? error.message });
    if (document.errors.length > 0) continue;
    let value: unknown;
    try {
      value = document.toJS({ maxAliasCount: 20 });
    } catch (error) {
      marks.push(at(document, [], String(error)));
      continue;
    }
    if (value === null || value === undefined) continue;
    const object = value as Resource;
    if (typeof object !== "object" || typeof object.kind !== "string" || typeof object.apiVersion !== "string") {
      marks.push(at(document, [], "an object needs apiVersion and kind"));
      continue;
    }
    const kind = kindNamed(object.kind, object.apiVersion);
    if (!kind) {
      marks.push(at(document, ["kind"], `${object.apiVersion} ${object.kind} is not written here: use weft apply`));
      continue;
    }
    if (typeof (object.metadata as Resource["metadata"] | undefined)?.name !== "string") {
      marks.push(at(document, ["metadata"], "metadata.name is missing"));
      continue;
    }
    const own = object.metadata.namespace ?? (namespace || "default");
    if (kind.namespaced) object.metadata.namespace = own;
    given.push({ object, kind, namespace: kind.namespaced ? own : "", document });
  }
  return { given, marks };
}

/** `spec.rules[0].name` as steps. */
function steps(field: string): (string | number)[] {
  return [...field.matchAll(/([^.[\]]+)|\[(\d+)\]/g)].map(([, name, index]) => (index === undefined ? (name ?? "") : Number(index)));
}

/** A mark at a field, or at the nearest of its parents that stands in the text. */
export function at(document: Document.Parsed, path: (string | number)[] | string, message: string): Mark {
  const whole = typeof path === "string" ? steps(path) : path;
  for (let length = whole.length; length > 0; length--) {
    const node = document.getIn(whole.slice(0, length), true);
    const range = (node as ParsedNode | undefined)?.range;
    if (range) {
      const end = isCollection(node) ? range[0] + 1 : range[1];
      return { from: range[0], to: Math.max(end, range[0] + 1), message };
    }
  }
  const [from] = document.contents?.range ?? [0];
  return { from, to: from + 1, message };
}

/** What of the metadata the server alone says. */
const SERVER = ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation"];

/** An object as people write it. */
export function written(object: Resource): string {
  const metadata = Object.fromEntries(Object.entries(object.metadata).filter(([key]) => !SERVER.includes(key)));
  const rest = Object.fromEntries(Object.entries(object).filter(([key]) => !["apiVersion", "kind", "metadata", "status"].includes(key)));
  return stringify({ apiVersion: object.apiVersion, kind: object.kind, metadata, ...rest }, { lineWidth: 0, aliasDuplicateObjects: false });
}

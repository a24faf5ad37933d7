// Writing objects: first as a dry run, which the server judges as it would the real one, then in earnest. A write is of the version that
// was looked at: what somebody else changed meanwhile is not lost.
import { ApiError, get, query, send } from "../api/client";
import type { Plan, Resource, ResourceList } from "../api/types";
import { apiPath } from "./kinds";
import { at, type Given, type Mark } from "./documents";

const MANAGER = "weft-dashboard";

export interface Result {
  given: Given;
  change: "created" | "changed" | "unchanged" | "refused";
  before: Resource | null;
  after: Resource | null;
  error: string;
}

/** Writes, or tries to; `seen` is the version that the user began with, where it is known. */
export async function write(given: Given, dry: boolean, seen: Map<string, string>): Promise<{ result: Result; marks: Mark[] }> {
  const { object, kind, namespace } = given;
  const parameters: Record<string, string> = { fieldManager: MANAGER, fieldValidation: "Strict", ...(dry ? { dryRun: "All" } : {}) };
  let before: Resource | null = null;
  try {
    before = await existing(given);
    const version = seen.get(idOf(given)) ?? before?.metadata.resourceVersion;
    const body = before && version ? { ...object, metadata: { ...object.metadata, resourceVersion: version } } : object;
    const path = before ? apiPath(kind, namespace, object.metadata.name, parameters) : apiPath(kind, namespace, "", parameters);
    const response = await send(path, { method: before ? "PUT" : "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
    const after = (await response.json()) as Resource;
    const same = before !== null && JSON.stringify(core(before)) === JSON.stringify(core(after));
    return { result: { given, before, after, change: before ? (same ? "unchanged" : "changed") : "created", error: "" }, marks: [] };
  } catch (error) {
    if (!(error instanceof ApiError)) throw error;
    const message = error.status === 409 && before ? `somebody changed it meanwhile: load it anew (${error.message})` : error.message;
    const marks = error.causes.filter(({ field }) => field).map(({ field, message }) => at(given.document, field ?? "", `${field ?? ""}: ${message ?? ""}`));
    return { result: { given, before, after: null, change: "refused", error: message }, marks };
  }
}

/** What names an object in the mesh. */
export const idOf = ({ kind, namespace, object }: Given): string => `${kind.plural} ${namespace}/${object.metadata.name}`;

/** A list of one name: that there is none is no error. */
async function existing({ kind, namespace, object }: Given): Promise<Resource | null> {
  const { items } = await get<ResourceList>(apiPath(kind, namespace, "", { fieldSelector: `metadata.name=${object.metadata.name}` }));
  return items[0] ?? null;
}

/** What a write changes. */
const core = ({ spec, metadata: { labels, annotations }, ...rest }: Resource) => ({ spec, labels, annotations, data: (rest as { data?: unknown }).data });

/** What the calls of the last hour would meet; null: this control plane does not say. */
export async function forecast(text: string, namespace: string): Promise<Plan | null> {
  try {
    const response = await send(query("/weft/v1/plan", { namespace }), { method: "POST", headers: { "content-type": "application/yaml" }, body: text });
    return (await response.json()) as Plan;
  } catch (error) {
    if (error instanceof ApiError && (error.isAbsent || error.status === 405)) return null;
    throw error;
  }
}

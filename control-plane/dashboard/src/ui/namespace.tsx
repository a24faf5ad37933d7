// The namespace that everything on the page is of.
import { useLoad } from "../api/load";
import type { ResourceList } from "../api/types";
import { namespace, set } from "../router";

export function NamespacePicker() {
  const { data, error } = useLoad<ResourceList>("/api/v1/namespaces", 60_000);
  const current = namespace.value;
  if (error && !data) {
    return (
      <input class="namespace" aria-label="Namespace" placeholder="namespace" value={current} size={12} onChange={(event) => set({ namespace: event.currentTarget.value.trim() })} />
    );
  }
  const names = new Set((data?.items ?? []).map((item) => item.metadata.name));
  if (current) names.add(current);
  return (
    <select aria-label="Namespace" value={current} onChange={(event) => set({ namespace: event.currentTarget.value })}>
      <option value="">All namespaces</option>
      {[...names].sort().map((name) => <option key={name} value={name}>{name}</option>)}
    </select>
  );
}

// Every route and policy: what it is about, and on how many sidecars it is in force.
import { useState } from "preact/hooks";
import { plural, relative, unix } from "../../format";
import { KINDS, POLICY_KINDS, kindOf } from "../../objects/kinds";
import { stateOf, targetsOf } from "../../objects/state";
import { useObjects, type Found } from "../../objects/use";
import { namespace, parameter, set, to } from "../../router";
import { Icon } from "../../ui/icons";
import { Empty, Equivalent, Head, Meter, Notice, Waiting } from "../../ui/parts";
import { Table, type Column } from "../../ui/table";
import { ObjectState } from "../service-parts";

const WORSE = { bad: 0, warn: 1, ok: 2, idle: 3 };

export const hrefOf = ({ kind, object }: Found): string => to(`/policies/${kind.plural}/${kind.namespaced ? `${encodeURIComponent(object.metadata.namespace ?? "")}/` : ""}${encodeURIComponent(object.metadata.name)}`);

export function List() {
  const of = namespace.value;
  const chosen = parameter("kind");
  const kinds = chosen ? [kindOf(chosen)].filter((kind) => kind !== undefined) : POLICY_KINDS;
  const { found, refused } = useObjects(kinds, of);
  const [text, filter] = useState("");
  const rows = (found ?? [])
    .filter(({ object, kind }) => `${object.metadata.namespace ?? ""}/${object.metadata.name} ${kind.kind} ${targetsOf(object, kind).join(" ")}`.toLowerCase().includes(text.toLowerCase()))
    .sort((a, b) => WORSE[stateOf(a.object, a.kind).health] - WORSE[stateOf(b.object, b.kind).health] || a.object.metadata.name.localeCompare(b.object.metadata.name));
  const columns: Column<Found>[] = [
    { name: "Name", head: true, by: ({ object }) => object.metadata.name, cell: (item) => <a href={hrefOf(item)} class="name">{item.object.metadata.name}</a> },
    { name: "Kind", by: ({ kind }) => kind.kind, cell: ({ kind }) => <span title={kind.what}>{kind.kind}</span> },
    { name: "Namespace", by: ({ object }) => object.metadata.namespace, cell: ({ object }) => object.metadata.namespace ?? "–" },
    { name: "About", wrap: true, by: ({ object, kind }) => targetsOf(object, kind).join(), cell: ({ object, kind }) => targetsOf(object, kind).join(", ") || "–" },
    { name: "State", by: ({ object, kind }) => WORSE[stateOf(object, kind).health], cell: (item) => <ObjectState found={item} /> },
    { name: "Held by", by: ({ object, kind }) => stateOf(object, kind).held?.[1], cell: ({ object, kind }) => {
      const held = stateOf(object, kind).held;
      return held && held[1] > 0 ? <Meter share={held[0] / held[1]} text={`${Math.floor((held[0] / held[1]) * 100)} %`} health={held[0] < held[1] ? "warn" : "ok"} /> : "–";
    } },
    { name: "Age", number: true, by: ({ object }) => unix(object.metadata.creationTimestamp), cell: ({ object }) => relative(unix(object.metadata.creationTimestamp)).replace(" ago", "") },
  ];
  return (
    <>
      <Head title="Policies" sub={found ? `${plural(rows.length, "object")}${of ? ` of ${of}` : ""}` : "What says how calls are carried"}>
        <a class="button" href={to("/policies/explain")}><Icon name="info" /> Explain a call</a>
        <a class="button primary" href={to("/policies/new")}><Icon name="plus" /> New</a>
      </Head>
      <div class="row filters">
        <select aria-label="Kind" value={chosen} onChange={(event) => set({ kind: event.currentTarget.value })}>
          <option value="">All routes and policies</option>
          {KINDS.map((kind) => <option key={kind.plural} value={kind.plural}>{kind.kind}</option>)}
        </select>
        <input type="search" aria-label="Filter by name or target" placeholder="Filter by name or target" value={text} onInput={(event) => filter(event.currentTarget.value)} />
      </div>
      {refused.length > 0 ? <Notice>{refused.every(({ status }) => status === 403) ? "You may not list" : "Cannot read"} {refused.map(({ kind }) => kind.plural).join(", ")}{of ? "" : " of all namespaces: choose one that you may see"}. {refused[0]?.status === 403 ? "" : refused[0]?.error}</Notice> : null}
      {!found ? <Waiting what="objects" /> : (
        <div class="panel">
          {rows.length > 0 ? <Table label="Policies" columns={columns} rows={rows} keyOf={({ object, kind }) => `${kind.plural} ${object.metadata.namespace ?? ""}/${object.metadata.name}`} /> : found.length > 0 ? <Empty icon="search" title="Nothing is called so" /> : (
            <Empty icon="policies" title="None yet: the defaults of the mesh hold" command="weft apply -f policy.yaml">Every call is mutually authenticated, retried twice where that is safe, and gone over to another instance when one fails.</Empty>
          )}
        </div>
      )}
      <Equivalent commands={[`weft get ${chosen || [...new Set((found ?? []).map(({ kind }) => kind.plural))].join(",") || "httproutes,trafficpolicies"} ${of ? `-n ${of}` : "-A"}`]} />
    </>
  );
}

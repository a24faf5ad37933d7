// Of one service: its instances, its routes, and the policies that say something of calls to it.
import { query } from "../api/client";
import { useLoad } from "../api/load";
import { may } from "../api/rights";
import type { Endpoint, Identity, RouteItem, RouteRule } from "../api/types";
import { ms, NONE, percent, plural, rate, relative } from "../format";
import { POLICY_KINDS } from "../objects/kinds";
import { concerns, stateOf } from "../objects/state";
import { useObjects, type Found } from "../objects/use";
import { to } from "../router";
import { Badge, Empty, Failed, Meter, Panel } from "../ui/parts";
import { Icon } from "../ui/icons";
import { Table, type Column } from "../ui/table";

interface Of {
  namespace: string;
  name: string;
}

export function Instances({ namespace, name }: Of) {
  const { data, error, status } = useLoad<{ items: Endpoint[] }>(query("/weft/v1/endpoints", { namespace, service: name }), 3000);
  const identity = useLoad<Identity>(may({ verb: "get", resource: "identities" }) ? "/weft/v1/identity" : null, 15_000).data;
  const items = data?.items ?? [];
  const busiest = Math.max(1e-9, ...items.map((item) => item.traffic?.rps ?? 0));
  const columns: Column<Endpoint>[] = [
    { name: "Instance", head: true, by: (item) => item.workload ?? item.address, cell: (item) => item.workload ?? item.address },
    { name: "State", by: (item) => item.health, cell: (item) => <Badge health={item.health === "ready" ? "ok" : "warn"}>{item.health}</Badge> },
    { name: "Load", descending: true, by: (item) => item.traffic?.rps, cell: (item) => <Meter share={(item.traffic?.rps ?? 0) / busiest} text={rate(item.traffic?.rps)} /> },
    { name: "Success", number: true, by: (item) => item.traffic?.success, cell: (item) => percent(item.traffic?.success) },
    { name: "p99", number: true, descending: true, by: (item) => item.traffic?.p99Ms, cell: (item) => ms(item.traffic?.p99Ms) },
    { name: "Breakers", by: (item) => item.openBreakers, cell: (item) => (item.openBreakers > 0 ? <Badge health="warn" icon="breaker">{item.openBreakers} open</Badge> : "closed") },
    { name: "mTLS", cell: (item) => <Icon name={item.mtls ? "lock" : "unlock"} tone={item.mtls ? "ok" : "warn"} label={item.mtls ? "yes" : "no"} /> },
    { name: "Certificate", by: (item) => identity?.sidecars[item.workload ?? ""]?.notAfter, cell: (item) => {
      const held = identity?.sidecars[item.workload ?? ""];
      return held ? `ends ${relative(held.notAfter)}` : NONE;
    } },
    { name: "Address", cell: (item) => <code>{item.address}</code> },
    { name: "Zone", by: (item) => item.zone, cell: (item) => item.zone ?? NONE },
  ];
  return (
    <Panel title="Instances" aside={<span class="dim">{data ? plural(items.length, "instance") : ""}</span>}>
      {error && !data ? <div class="body"><Failed error={error} status={status} what="instances" /></div> : null}
      {items.length > 0 ? <Table label="Instances" columns={columns} rows={items} keyOf={(item) => `${item.workload ?? ""} ${item.address} ${item.port}`} /> : data ? (
        <Empty icon="services" title="No instance yet" command={`weft run --service ${name} -n ${namespace} --port 8080:http -- PROGRAM`}>Calls are answered with 503 until one is ready.</Empty>
      ) : null}
    </Panel>
  );
}

export function Routes({ namespace, name }: Of) {
  const { data, error, status } = useLoad<{ items: RouteItem[] }>(query("/weft/v1/routes", { namespace, service: name }), 3000);
  return (
    <Panel title="Routes">
      {error && !data ? <div class="body"><Failed error={error} status={status} what="routes" /></div> : null}
      {data?.items.map((item) => <RouteOf key={`${item.port} ${item.route ?? ""} ${item.clients ?? ""}`} item={item} namespace={namespace} />)}
      {data?.items.length === 0 ? <p class="body dim">No port, so no routes.</p> : null}
    </Panel>
  );
}

function RouteOf({ item, namespace }: { item: RouteItem; namespace: string }) {
  const plural = item.kind ? `${item.kind.toLowerCase()}s` : "";
  const [room, own] = item.route?.split("/") ?? [namespace, ""];
  const traffic = new Map(item.traffic.map((row) => [row.service, row]));
  return (
    <div class="body route">
      <p class="row">
        <b>Port {item.port}</b><span class="chip">{item.protocol}</span>
        {item.route && plural ? <a href={to(`/policies/${plural}/${room ?? ""}/${own ?? ""}`)}>{item.kind} {item.route}</a> : <span class="dim">no route attached: calls go to its own instances</span>}
        {item.clients ? <span class="dim">for callers of {item.clients}</span> : null}
      </p>
      <ul class="rules">
        {item.rules.map((rule) => (
          <li key={rule.index}>
            <div class="rule">
              <span>{rule.matches.length > 0 ? rule.matches.map((match) => <code key={match} class="chip">{match}</code>) : <code class="chip">any call</code>}</span>
              <span class="dim">{limits(rule)}</span>
            </div>
            <ul>
              {rule.backends.map((backend, index) => {
                const row = traffic.get(backend.service ?? "");
                return (
                  <li key={index} class="backend">
                    <Meter share={backend.share} text={percent(backend.share)} health={backend.unresolved ? "bad" : "ok"} />
                    <span>{backend.unresolved ? <span class="tone-bad">{backend.unresolved}</span> : <>{backend.service}:{backend.port}</>}</span>
                    <span class="dim">{row ? `${rate(row.rps)} · ${percent(row.success)} · p99 ${ms(row.p99Ms)}` : "no calls"}</span>
                  </li>
                );
              })}
            </ul>
          </li>
        ))}
      </ul>
    </div>
  );
}

function limits(rule: RouteRule): string {
  const parts = [`${rule.retries} ${rule.retries === 1 ? "retry" : "retries"}`, rule.requestTimeoutMs === null ? "no timeout" : `timeout ${ms(rule.requestTimeoutMs)}`];
  if (rule.backendRequestTimeoutMs !== null) parts.push(`${ms(rule.backendRequestTimeoutMs)} a try`);
  return [...parts, ...rule.filters].join(" · ");
}

export function PoliciesInForce({ service }: { service: string }) {
  const namespace = service.slice(0, service.indexOf("/"));
  const { found } = useObjects(POLICY_KINDS, namespace);
  const items = (found ?? []).filter(({ object, kind }) => concerns(object, kind, service));
  const columns: Column<Found>[] = [
    { name: "Policy", head: true, by: ({ object }) => object.metadata.name, cell: ({ object, kind }) => <a href={to(`/policies/${kind.plural}/${namespace}/${object.metadata.name}`)}>{object.metadata.name}</a> },
    { name: "Kind", by: ({ kind }) => kind.kind, cell: ({ kind }) => kind.kind },
    { name: "State", cell: ({ object, kind }) => <ObjectState found={{ object, kind }} /> },
    { name: "Says", wrap: true, cell: ({ object }) => Object.keys(object.spec ?? {}).filter((key) => !["targetRefs", "parentRefs", "selector"].includes(key)).join(", ") },
  ];
  return (
    <Panel title="Policies in force" aside={<span class="dim">{found ? plural(items.length, "object") : ""}</span>}>
      {items.length > 0 ? <Table label="Policies in force" columns={columns} rows={items} keyOf={({ object, kind }) => `${kind.plural} ${object.metadata.name}`} /> : found ? <p class="body dim">None: the defaults of the mesh hold.</p> : null}
    </Panel>
  );
}

/** Whether an object is in force, and on how many sidecars. */
export function ObjectState({ found: { object, kind } }: { found: Found }) {
  const state = stateOf(object, kind);
  return (
    <span class="row nowrap" title={state.message}>
      <Badge health={state.health}>{state.word}</Badge>
      {state.held ? <span class="dim">{state.held[0]} of {plural(state.held[1], "sidecar")}</span> : null}
    </span>
  );
}

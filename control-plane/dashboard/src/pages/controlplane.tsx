// The control plane itself: replicas, streams, how fast changes arrive, what was refused, the checks, and what was asked of the API.
import { fleet } from "../api/live";
import { useLoad } from "../api/load";
import { may } from "../api/rights";
import type { Check, ControlPlane as Document, FleetDocument } from "../api/types";
import { bytes, clock, count, ms, NONE, plural, span } from "../format";
import type { Health } from "../health";
import { Icon } from "../ui/icons";
import { Badge, Equivalent, Failed, Head, HealthIcon, Panel, Waiting } from "../ui/parts";
import { Table, type Column } from "../ui/table";

export function ControlPlane() {
  const { data, error, status } = useLoad<Document>("/weft/v1/controlplane", 3000);
  return (
    <>
      <Head title="Control plane" sub={data ? `Version ${data.version}` : "What pushes configuration and identity to the sidecars"} />
      {error && !data ? <Failed error={error} status={status} what="the control plane" /> : null}
      {!data && !error ? <Waiting what="the control plane" /> : null}
      {data ? <Facts data={data} /> : null}
      {data && data.refusals.length > 0 ? <Refusals data={data} /> : null}
      <Checks />
      {data ? <div class="columns"><Replicas data={data} /><Innards data={data} /></div> : null}
      <Sidecars />
      <Asked />
      <Equivalent commands={["weft check", "weft version", "weft admin audit", "weft diagnose"]} />
    </>
  );
}

function Facts({ data }: { data: Document }) {
  const late = Math.max(0, fleet.value?.waiting ?? 0);
  return (
    <dl class="tiles">
      <div class="tile"><dt><Icon name="services" />Sidecars</dt><dd class="value">{count(data.connected)}</dd><dd class="note">{plural(data.streams, "stream")} open</dd></div>
      <div class="tile" data-health={late > 0 ? "warn" : "ok"}><dt><Icon name="policies" />Generation</dt><dd class="value">{data.generation}</dd><dd class="note">{late > 0 ? `${late} wait for it` : "every sidecar holds it"}</dd></div>
      <div class="tile"><dt><Icon name="traffic" />Convergence</dt><dd class="value">{ms(data.convergence?.p50Ms)}</dd><dd class="note">p99 {ms(data.convergence?.p99Ms)}, change to all</dd></div>
      <div class="tile" data-health={data.refusals.length > 0 ? "bad" : "ok"}><dt><Icon name={data.refusals.length > 0 ? "bad" : "ok"} />Refused</dt><dd class="value">{data.refusals.length}</dd><dd class="note">by sidecars, now</dd></div>
      <div class="tile"><dt><Icon name="control" />Replicas</dt><dd class="value">{data.replicas.length || 1}</dd><dd class="note">{data.replicas.length > 1 ? "one leads" : "stands alone"}</dd></div>
    </dl>
  );
}

function Refusals({ data }: { data: Document }) {
  const columns: Column<Document["refusals"][number]>[] = [
    { name: "Sidecar", head: true, by: (item) => item.workload, cell: (item) => item.workload },
    { name: "Resource", by: (item) => item.resource, cell: (item) => <code>{item.resource}</code> },
    { name: "Why", wrap: true, cell: (item) => item.error },
  ];
  return <Panel title="Refused by sidecars" aside={<Badge health="bad">{plural(data.refusals.length, "refusal")}</Badge>}><Table label="Refusals" columns={columns} rows={data.refusals} keyOf={(item) => `${item.workload} ${item.resource}`} /></Panel>;
}

const RESULT: Record<string, Health> = { ok: "ok", failed: "bad", warning: "warn", skipped: "idle" };

function Checks() {
  const { data, error, status } = useLoad<{ checks: Check[] }>("/weft/v1/check", 10_000);
  if (error && !data) return <Failed error={error} status={status} what="the checks" />;
  if (!data) return null;
  const healthOf = (check: Check): Health => RESULT[check.result] ?? (check.ok ? "ok" : "bad");
  const categories = [...new Set(data.checks.map(({ category }) => category))];
  const failing = data.checks.filter((check) => ["bad", "warn"].includes(healthOf(check))).length;
  return (
    <Panel title="Checks" aside={<Badge health={failing > 0 ? "bad" : "ok"}>{failing > 0 ? `${failing} of ${data.checks.length} need a look` : `${data.checks.length} looked at, all well`}</Badge>}>
      <div class="checks">
        {categories.map((category) => (
          <section key={category} aria-label={category}>
            <h3>{category.replaceAll("-", " ")}</h3>
            <ul>
              {data.checks.filter((check) => check.category === category).map((check) => (
                <li key={check.name}>
                  <HealthIcon health={healthOf(check)} label={check.result} />
                  <div>{check.name}{check.detail ? <span class="dim">: {check.detail}</span> : null}{check.hint ? <p class="small">{check.hint}</p> : null}</div>
                </li>
              ))}
            </ul>
          </section>
        ))}
      </div>
    </Panel>
  );
}

function Replicas({ data }: { data: Document }) {
  const columns: Column<Document["replicas"][number]>[] = [
    { name: "Replica", head: true, by: (item) => item.name, cell: (item) => item.name ?? "this one" },
    { name: "Role", cell: (item) => <Badge health={item.leader ? "ok" : "idle"}>{item.leader ? "leads" : "stands by"}</Badge> },
    { name: "Address", cell: (item) => (item.address ? <code>{item.address}</code> : NONE) },
  ];
  return (
    <Panel title="Replicas">
      {data.replicas.length > 0 ? <Table label="Replicas" columns={columns} rows={data.replicas} keyOf={(item) => item.name ?? ""} /> : <p class="body dim">One, which keeps its objects for itself. Several share an etcd: <code>weft up --store etcd</code>.</p>}
    </Panel>
  );
}

/** Plain facts of the store and of the process, whatever they are. */
function Innards({ data }: { data: Document }) {
  const of = (part: Record<string, unknown> | null) => Object.entries(part ?? {}).filter((entry): entry is [string, string | number | boolean] => ["string", "number", "boolean"].includes(typeof entry[1]));
  return (
    <Panel title="Store and process">
      <dl class="body facts">
        {[...of(data.store), ...of(data.process)].map(([name, value]) => [<dt key={`${name} name`}>{words(name)}</dt>, <dd key={name}>{figure(name, value)}</dd>])}
      </dl>
    </Panel>
  );
}

const words = (name: string) => name.replace(/(Bytes|Seconds|Ms)$/, "").replace(/([a-z])([A-Z])/g, (_, a: string, b: string) => `${a} ${b.toLowerCase()}`).replace(/^./, (first) => first.toUpperCase());

function figure(name: string, value: string | number | boolean): string {
  if (typeof value === "boolean") return value ? "yes" : "no";
  if (typeof value === "string") return value || NONE;
  if (name.endsWith("Bytes")) return bytes(value);
  if (name.endsWith("Seconds")) return span(value);
  return name.endsWith("Ms") ? ms(value) : value.toString();
}

type Workload = FleetDocument["workloads"][number];

function Sidecars() {
  const { data, error, status } = useLoad<FleetDocument>("/weft/v1/fleet", 5000);
  if (error && !data) return <Failed error={error} status={status} what="sidecars" />;
  if (!data) return null;
  const state = ({ sidecar, meshed }: Workload): Health => (sidecar ? (sidecar.ready && !sidecar.draining ? "ok" : "warn") : meshed ? "bad" : "idle");
  const word = ({ sidecar, meshed }: Workload) => (sidecar ? (sidecar.draining ? "drains" : sidecar.ready ? "connected" : "not ready") : meshed ? "away" : "no sidecar");
  const columns: Column<Workload>[] = [
    { name: "Workload", head: true, by: (item) => item.workload, cell: (item) => item.workload },
    { name: "Sidecar", by: word, cell: (item) => <Badge health={state(item)}>{word(item)}</Badge> },
    { name: "Version", by: (item) => item.sidecar?.version, cell: (item) => item.sidecar?.version ?? NONE },
    { name: "Connected", number: true, by: (item) => item.sidecar?.connectedSeconds, cell: (item) => span(item.sidecar?.connectedSeconds) },
    { name: "Last report", number: true, by: (item) => item.sidecar?.lastReportSeconds, cell: (item) => (item.sidecar?.lastReportSeconds == null ? NONE : `${span(item.sidecar.lastReportSeconds)} ago`) },
    { name: "Clock ahead", number: true, by: (item) => item.sidecar?.clockAheadMs, cell: (item) => (item.sidecar?.clockAheadMs == null ? NONE : `${item.sidecar.clockAheadMs} ms`) },
    { name: "Account", by: (item) => item.serviceAccount, cell: (item) => item.serviceAccount || NONE },
  ];
  return <Panel title="Sidecars" aside={<span class="dim">{plural(data.workloads.length, "workload")}</span>}><Table label="Sidecars" columns={columns} rows={data.workloads} keyOf={(item) => item.workload} most={50} /></Panel>;
}

interface AuditRecord {
  time: string;
  user?: string;
  verb?: string;
  resource?: string;
  namespace?: string;
  name?: string;
  code?: number;
}

function Asked() {
  const allowed = may({ verb: "list", resource: "auditrecords" });
  const { data } = useLoad<{ items: AuditRecord[] }>(allowed ? "/weft/v1/audit?last=50" : null, 10_000);
  if (!data) return null;
  const columns: Column<AuditRecord>[] = [
    { name: "Time", cell: (item) => clock(item.time) },
    { name: "Who", head: true, by: (item) => item.user, cell: (item) => item.user ?? NONE },
    { name: "What", by: (item) => item.verb, cell: (item) => `${item.verb ?? ""} ${item.resource ?? ""}` },
    { name: "Object", by: (item) => item.name, cell: (item) => [item.namespace, item.name].filter(Boolean).join("/") || NONE },
    { name: "Answer", number: true, by: (item) => item.code, cell: (item) => <span class={(item.code ?? 0) >= 400 ? "tone-bad" : ""}>{item.code ?? NONE}</span> },
  ];
  return <Panel title="Asked of the API" aside={<span class="dim">writes, commands and refusals, newest first</span>}><Table label="Audit record" columns={columns} rows={[...data.items].reverse()} keyOf={(item) => `${item.time} ${item.verb ?? ""} ${item.name ?? ""}`} most={15} /></Panel>;
}

// How the mesh is at a glance: problems first, with what to do; then every service.
import type { ComponentChildren } from "preact";
import { connection, fleet, history, mesh, problems, total } from "../api/live";
import { useLoad } from "../api/load";
import type { FleetDocument, Problem } from "../api/types";
import { ms, NONE, percent, plural, rate, span } from "../format";
import { health, type Health } from "../health";
import { namespace } from "../router";
import { Icon, type IconName } from "../ui/icons";
import { Badge, Command, Empty, Equivalent, Head, Panel, ServiceLink, Spark, Waiting } from "../ui/parts";
import { ServicesTable, worstFirst } from "../ui/services-table";

function Tile({ name, icon, value, note, state, spark }: { name: string; icon: IconName; value: string; note: ComponentChildren; state?: Health; spark?: ComponentChildren }) {
  return (
    <div class="tile" data-health={state}>
      <dt><Icon name={icon} />{name}</dt>
      <dd class="value">{value}</dd>
      <dd class="note">{note}</dd>
      {spark}
    </div>
  );
}

function Tiles() {
  const now = mesh.value;
  // Where the stream does not say how many sidecars there are.
  const asked = useLoad<FleetDocument>(fleet.value ? null : "/weft/v1/fleet", 5000).data;
  const meshed = asked?.workloads.filter((workload) => workload.meshed).length;
  const connected = fleet.value?.connected ?? asked?.xds.connected ?? null;
  if (!now) return null;
  const all = total(now);
  const past = history.value.get("") ?? [];
  const success = health(all.success);
  const waiting = fleet.value?.waiting ?? 0;
  const services = [...now.services.values()];
  const called = services.filter((row) => row.calls > 0).length;
  return (
    <dl class="tiles">
      <Tile name="Calls" icon="traffic" value={rate(all.rps)} note={`${called} of ${plural(services.length, "service")} called`} spark={<Spark values={past.map((point) => point.rps)} floor={0} />} />
      <Tile name="Success" icon={success === "idle" ? "idle" : success} state={success} value={percent(all.success)} note={all.retries > 0 ? `${rate(all.retries)} retried` : "no retries"} spark={<Spark values={past.map((point) => point.success)} health={success} />} />
      <Tile name="Slowest p99" icon="control" value={ms(all.p99)} note={all.slowest ? <ServiceLink name={all.slowest.service} /> : "no calls"} />
      <Tile name="mTLS" icon={all.mtls !== null && all.mtls < 1 ? "unlock" : "lock"} state={all.mtls !== null && all.mtls < 1 ? "warn" : "ok"} value={percent(all.mtls)} note="of calls, both sides known" />
      <Tile name="Sidecars" icon="services" state={waiting > 0 ? "warn" : "ok"} value={connected === null ? NONE : meshed === undefined ? connected.toString() : `${connected} of ${meshed}`} note={waiting > 0 ? `${waiting} wait for configuration` : "connected, up to date"} />
    </dl>
  );
}

export function ProblemList({ items }: { items: Problem[] }) {
  return (
    <ul class="problems">
      {items.map((problem) => (
        <li key={`${problem.kind} ${problem.name} ${problem.fact}`}>
          <Icon name={problem.severity === "error" ? "bad" : "warn"} tone={problem.severity === "error" ? "bad" : "warn"} label={problem.severity} />
          <div>
            <h3>{problem.fact}</h3>
            <p class="about">
              <span>{problem.kind === "service" ? <ServiceLink name={problem.name} /> : problem.name}</span>
              {problem.suffers?.length ? <span>suffers: {problem.suffers.map((name, index) => <>{index > 0 ? ", " : ""}<ServiceLink name={name} /></>)}</span> : null}
              {problem.since ? <span>for {span(Date.now() / 1000 - problem.since)}</span> : null}
            </p>
            {problem.hint ? <p class="hint">{problem.hint}</p> : null}
            {problem.command ? <Command text={problem.command} /> : null}
          </div>
        </li>
      ))}
    </ul>
  );
}

function Problems() {
  const items = problems.value;
  if (items === null) return null;
  const errors = items.filter((item) => item.severity === "error").length;
  return (
    <Panel title="Problems" aside={items.length > 0 ? <Badge health={errors > 0 ? "bad" : "warn"}>{errors > 0 ? plural(errors, "error") : plural(items.length, "warning")}</Badge> : <Badge health="ok">none</Badge>}>
      {items.length > 0 ? <ProblemList items={items} /> : <p class="body dim">Every service that is called answers, every sidecar is connected and up to date, and every policy is in force.</p>}
    </Panel>
  );
}

export function Overview() {
  const now = mesh.value;
  const of = namespace.value;
  const where = of ? ` -n ${of}` : "";
  const rows = now ? worstFirst(now.services.values()) : [];
  return (
    <>
      <Head title="Overview" sub={of ? `Namespace ${of}, the last ten seconds` : "The whole mesh, the last ten seconds"} />
      {!now && connection.value !== "denied" ? <Waiting what="the mesh" /> : null}
      <Tiles />
      <Problems />
      {now ? (
        <Panel title="Services" aside={<span class="dim">{plural(rows.length, "service")}, worst first</span>}>
          {rows.length > 0 ? <ServicesTable rows={rows} seconds={now.windowSeconds} /> : (
            <Empty icon="services" title="No services yet" command="weft run --service web --port 8080:http -- python3 -m http.server 8080">Any program joins the mesh with a sidecar beside it.</Empty>
          )}
        </Panel>
      ) : null}
      <Equivalent commands={[`weft stat${where}`, "weft check"]} />
    </>
  );
}

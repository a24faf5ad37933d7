// One service: golden signals over time, who calls it and whom it calls, instances, routes, and the policies in force.
import { useMemo } from "preact/hooks";
import { query } from "../api/client";
import { mesh, problems, type Mesh } from "../api/live";
import { useLoad } from "../api/load";
import type { Row, Series, SeriesItem } from "../api/types";
import { count, ms, percent, rate, split } from "../format";
import { healthOf } from "../health";
import { parameter, set, to } from "../router";
import { Chart } from "../ui/chart";
import { Icon } from "../ui/icons";
import { Badge, Empty, Equivalent, Failed, Head, HealthIcon, Panel, Segmented, ServiceLink } from "../ui/parts";
import { Table, type Column } from "../ui/table";
import { ProblemList } from "./overview";
import { Instances, PoliciesInForce, Routes } from "./service-parts";

const WINDOWS = [["2m", "2 min"], ["10m", "10 min"], ["1h", "1 h"], ["6h", "6 h"], ["24h", "24 h"]] as const;

export function Service({ service }: { service: string }) {
  const [namespace, name] = split(service);
  const now = mesh.value;
  const row = now?.services.get(service);
  const own = (problems.value ?? []).filter((problem) => problem.name === service || problem.suffers?.includes(service));
  return (
    <>
      <Head
        title={service} crumbs={<><a href={to("/services")}>Services</a><span aria-hidden="true">/</span><span>{namespace}</span></>}
        sub={row ? <span class="row"><Badge health={healthOf(row)} />{row.openBreakers > 0 ? <Badge health="warn" icon="breaker">{row.openBreakers} open</Badge> : null}<span>{row.readyEndpoints ?? "–"} of {row.endpoints ?? "–"} instances ready</span></span> : undefined}
      >
        <a class="button" href={to("/topology", { focus: service })}><Icon name="topology" /> In the topology</a>
        <a class="button" href={to("/traffic", { namespace, service: name })}><Icon name="traffic" /> Tap</a>
        <a class="button" href={to("/policies/new", { service })}><Icon name="plus" /> Policy</a>
      </Head>
      {now && !row ? <div class="panel"><Empty icon="services" title="There is no such service" command={`weft get services -n ${namespace}`} /></div> : null}
      {own.length > 0 ? <section class="panel" aria-label="Problems"><ProblemList items={own} /></section> : null}
      <Signals namespace={namespace} name={name} />
      {now ? (
        <div class="columns">
          <Neighbours now={now} title="Called by" rows={[...now.edges.values()].filter((edge) => edge.service === service)} other={(edge) => edge.source ?? ""} />
          <Neighbours now={now} title="Calls" rows={[...now.edges.values()].filter((edge) => edge.source === service)} other={(edge) => edge.service} />
        </div>
      ) : null}
      <Instances namespace={namespace} name={name} />
      <Routes namespace={namespace} name={name} />
      <PoliciesInForce service={service} />
      <Equivalent commands={[`weft stat ${name} -n ${namespace}`, `weft endpoints ${name} -n ${namespace}`, `weft routes ${name} -n ${namespace}`]} />
    </>
  );
}

function Signals({ namespace, name }: { namespace: string; name: string }) {
  const chosen = parameter("window");
  const window = WINDOWS.find(([value]) => value === chosen)?.[0] ?? "10m";
  const isShort = window === "2m" || window === "10m";
  const { data, error, status } = useLoad<Series>(query("/weft/v1/series", { about: "service", namespace, service: name, window }), isShort ? 5000 : 30_000);
  return (
    <Panel title="Golden signals" aside={<><span class="dim small">{data?.from === "prometheus" ? "from Prometheus" : ""}</span><Segmented label="Over which time" value={window} options={WINDOWS} onPick={(value) => set({ window: value === "10m" ? "" : value })} /></>}>
      <div class="body">
        {error && !data ? <Failed error={error} status={status} what="figures over this time" /> : null}
        {data ? <Charts series={data} service={`${namespace}/${name}`} /> : error ? null : <div class="charts-waiting" role="status">Reading figures …</div>}
      </div>
    </Panel>
  );
}

const KEYS = ["rps", "success", "p50Ms", "p95Ms", "p99Ms", "failures", "retries"] as const;

function Charts({ series, service }: { series: Series; service: string }) {
  const item = series.items.find((item) => item.service === service) ?? series.items[0];
  const { times, values } = useMemo(() => {
    const length = item?.rps.length ?? 0;
    const none: Record<(typeof KEYS)[number], (number | null)[]> = { rps: [], success: [], p50Ms: [], p95Ms: [], p99Ms: [], failures: [], retries: [] };
    const values = KEYS.reduce<Pick<SeriesItem, (typeof KEYS)[number]>>((all, key) => ({ ...all, [key]: item?.[key] ?? [] }), none);
    return { times: Array.from({ length }, (_, step) => series.begins + step * series.stepSeconds), values };
  }, [series]);
  const each = (of: (number | null)[]) => of.map((value) => (value === null ? null : value / series.stepSeconds));
  const lowest = Math.min(1, ...values.success.filter((value) => value !== null));
  return (
    <div class="charts">
      <div><h3>Calls a second</h3><Chart label="Calls a second" times={times} format={rate} lines={[{ name: "calls", tone: "series-1", values: values.rps, fill: true }, { name: "failed", tone: "bad", values: each(values.failures) }]} /></div>
      <div><h3>Success</h3><Chart label="Success" times={times} format={percent} from={Math.min(0.9, Math.floor(lowest * 10) / 10)} to={1} lines={[{ name: "success", tone: "ok", values: values.success, fill: true }]} /></div>
      <div><h3>Latency</h3><Chart label="Latency" times={times} format={ms} lines={[{ name: "p50", tone: "series-1", values: values.p50Ms }, { name: "p95", tone: "series-2", values: values.p95Ms }, { name: "p99", tone: "series-3", values: values.p99Ms }]} /></div>
      <div><h3>Retries a second</h3><Chart label="Retries a second" times={times} format={rate} lines={[{ name: "retries", tone: "warn", values: each(values.retries), fill: true }]} /></div>
    </div>
  );
}

function Neighbours({ now, title, rows, other }: { now: Mesh; title: string; rows: Row[]; other: (row: Row) => string }) {
  const columns: Column<Row>[] = [
    { name: title, head: true, by: other, cell: (row) => <><HealthIcon health={healthOf(row)} /> {now.services.has(other(row)) ? <ServiceLink name={other(row)} /> : <span class="name" title={other(row)}>{other(row)}</span>}</> },
    { name: "Rate", number: true, descending: true, by: (row) => row.rps, cell: (row) => rate(row.rps) },
    { name: "Success", number: true, by: (row) => row.success, cell: (row) => <span class={`tone-${healthOf(row)}`}>{percent(row.success)}</span> },
    { name: "p99", number: true, descending: true, by: (row) => row.p99Ms, cell: (row) => ms(row.p99Ms) },
    { name: "mTLS", number: true, by: (row) => row.mtls, cell: (row) => (row.mtls !== null && row.mtls >= 1 ? <Icon name="lock" tone="ok" label="every call" /> : percent(row.mtls)) },
  ];
  return (
    <Panel title={title} aside={<span class="dim">{count(rows.length)}</span>}>
      {rows.length > 0 ? <Table label={title} columns={columns} rows={[...rows].sort((a, b) => b.rps - a.rps)} keyOf={(row) => `${row.source ?? ""} ${row.service}`} most={12} /> : <p class="body dim">Nobody in the last ten seconds.</p>}
    </Panel>
  );
}

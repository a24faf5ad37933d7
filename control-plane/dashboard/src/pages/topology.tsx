// Who calls whom, live: as a picture, or as the table that `weft edges` prints.
import { useMemo, useRef, useState } from "preact/hooks";
import { connection, mesh, problems } from "../api/live";
import type { Row } from "../api/types";
import { ms, percent, plural, rate } from "../format";
import { healthOf } from "../health";
import { namespace, parameter, set } from "../router";
import { Stage } from "../topology/stage";
import { graphOf, learn, type Known } from "../topology/graph";
import { Picked } from "../topology/side";
import { Icon } from "../ui/icons";
import { Empty, Equivalent, Head, HealthIcon, Notice, Segmented, ServiceLink, Waiting } from "../ui/parts";
import { Table, type Column } from "../ui/table";
import "../styles/topology.css";

/** Beyond so many services groups are shown first. */
const READABLE = 60;

export function Topology() {
  const now = mesh.value;
  const of = namespace.value;
  const known = useRef<{ of: string; known: Known } | null>(null);
  if (known.current?.of !== of) known.current = { of, known: { nodes: new Set(), edges: new Map() } };
  if (now) learn(known.current.known, now);
  const seen = known.current.known;
  const [opened, open] = useState<ReadonlySet<string>>(new Set());
  const [picked, pick] = useState("");
  const table = parameter("view") === "table";
  const focus = parameter("focus");
  const reach = parameter("reach") === "2" ? 2 : 1;
  const chosen = parameter("by");
  const grouped = chosen === "group" || (chosen !== "service" && seen.nodes.size > READABLE);
  const graph = useMemo(
    () => (now ? graphOf(now, seen, problems.value ?? [], { grouped, open: opened, focus, reach }) : { nodes: [], edges: [], total: 0 }),
    [now, seen, problems.value, grouped, opened, focus, reach],
  );
  const services = [...seen.nodes].sort();
  const isEmpty = now !== null && seen.edges.size === 0;
  const focusOn = (service: string) => {
    pick("");
    set({ focus: service });
  };
  return (
    <>
      <Head title="Topology" sub={now ? `${plural(seen.nodes.size, "node")}, ${plural(seen.edges.size, "edge")}${focus ? `; shown: near ${focus}` : grouped ? ", by group" : ""}` : "Who calls whom"}>
        <label class="focus">
          <span class="visually-hidden">Only what is near a service</span>
          <input list="focus-services" placeholder="Near a service …" value={focus} onChange={(event) => {
            const value = event.currentTarget.value.trim();
            if (value === "" || seen.nodes.has(value)) focusOn(value);
          }} />
          <datalist id="focus-services">{services.map((name) => <option key={name} value={name} />)}</datalist>
        </label>
        {focus ? (
          <>
            <Segmented label="How far" value={reach.toString()} options={[["1", "1 call"], ["2", "2 calls"]]} onPick={(value) => set({ reach: value })} />
            <button type="button" class="button" onClick={() => set({ focus: "", reach: "" })}>Whole mesh</button>
          </>
        ) : (
          <Segmented label="What is a node" value={grouped ? "group" : "service"} options={[["service", "Services"], ["group", "Groups"]]} onPick={(value) => {
            pick("");
            open(new Set());
            set({ by: value });
          }} />
        )}
        <Segmented label="How" value={table ? "table" : "graph"} options={[["graph", <><Icon name="topology" /> Graph</>], ["table", <><Icon name="table" /> Table</>]]} onPick={(value) => set({ view: value === "table" ? value : "" })} />
      </Head>
      {!now && connection.value !== "denied" ? <Waiting what="the mesh" /> : null}
      {now?.omitted["edges"] ? <Notice health="warn">{plural(now.omitted["edges"], "edge")} are not told at once: choose a namespace.</Notice> : null}
      {isEmpty ? (
        <div class="panel"><Empty icon="topology" title="Nobody calls anybody yet" command="weft run -- curl -sS http://web:8080/">Edges appear with the first calls between programs that have sidecars.</Empty></div>
      ) : now && table ? (
        <div class="panel"><EdgeTable rows={[...now.edges.values()].filter((row) => !focus || row.source === focus || row.service === focus)} /></div>
      ) : now ? (
        <div class="map">
          <Stage graph={graph} picked={picked} onPick={pick} />
          <Legend />
          <Picked id={picked} graph={graph} onPick={pick} onFocus={focusOn} onOpen={(group) => {
            pick("");
            open(new Set([...opened, group]));
          }} />
        </div>
      ) : null}
      <Equivalent commands={[`weft edges${of ? ` -n ${of}` : ""}`, `weft top${of ? ` -n ${of}` : ""}`]} />
    </>
  );
}

function Legend() {
  return (
    <ul class="key" aria-label="What lines mean">
      <li><i class="thick" /> wider: more calls</li>
      <li><i class="bad" /> failing</li>
      <li><i class="warn" /> degraded</li>
      <li><i class="idle" /> no calls now</li>
      <li><Icon name="lock" /> mTLS</li>
    </ul>
  );
}

function EdgeTable({ rows }: { rows: Row[] }) {
  const columns: Column<Row>[] = [
    { name: "Source", head: true, by: (row) => row.source, cell: (row) => <><HealthIcon health={healthOf(row)} /> {row.source}</> },
    { name: "Destination", by: (row) => row.service, cell: (row) => <ServiceLink name={row.service} /> },
    { name: "Rate", number: true, descending: true, by: (row) => row.rps, cell: (row) => rate(row.rps) },
    { name: "Success", number: true, by: (row) => row.success, cell: (row) => <span class={`tone-${healthOf(row)}`}>{percent(row.success)}</span> },
    { name: "p50", number: true, descending: true, by: (row) => row.p50Ms, cell: (row) => ms(row.p50Ms) },
    { name: "p95", number: true, descending: true, by: (row) => row.p95Ms, cell: (row) => ms(row.p95Ms) },
    { name: "p99", number: true, descending: true, by: (row) => row.p99Ms, cell: (row) => ms(row.p99Ms) },
    { name: "Retries", number: true, descending: true, by: (row) => row.retries, cell: (row) => row.retries },
    { name: "mTLS", number: true, by: (row) => row.mtls, cell: (row) => percent(row.mtls) },
    { name: "Open", number: true, descending: true, by: (row) => row.openBreakers, cell: (row) => row.openBreakers },
  ];
  return <Table label="Edges" columns={columns} rows={rows} keyOf={(row) => `${row.source ?? ""} ${row.service}`} />;
}

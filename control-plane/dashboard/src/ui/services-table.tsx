// The table of services, as `weft stat` prints it, what fares worst first.
import { history } from "../api/live";
import type { Row } from "../api/types";
import { healthOf, type Health } from "../health";
import { ms, NONE, percent, rate } from "../format";
import { HealthIcon, ServiceLink, Spark } from "./parts";
import { Table, type Column } from "./table";

const WORSE: Record<Health, number> = { bad: 0, warn: 1, ok: 2, idle: 3 };

export function worstFirst(rows: Iterable<Row>): Row[] {
  return [...rows].sort((a, b) => WORSE[healthOf(a)] - WORSE[healthOf(b)] || a.service.localeCompare(b.service, "en", { numeric: true }));
}

const called = (row: Row, value: number | null | undefined) => (row.calls > 0 ? (value ?? null) : null);

const tone = (row: Row) => (row.calls > 0 ? `tone-${healthOf(row)}` : "");

export function ServicesTable({ rows, seconds, label = "Services" }: { rows: Row[]; seconds: number; label?: string }) {
  const past = history.value;
  const columns: Column<Row>[] = [
    { name: "Service", head: true, by: (row) => row.service, cell: (row) => <><HealthIcon health={healthOf(row)} />{" "}<ServiceLink name={row.service} /></> },
    { name: "Ready", number: true, by: (row) => row.readyEndpoints, cell: (row) => <Ready row={row} /> },
    { name: "Rate", number: true, descending: true, by: (row) => called(row, row.rps), cell: (row) => rate(called(row, row.rps)) },
    { name: "Trend", cell: (row) => <Spark values={(past.get(row.service) ?? []).map((point) => point.rps)} floor={0} health={healthOf(row)} /> },
    { name: "Success", number: true, by: (row) => row.success, cell: (row) => <span class={tone(row)}>{percent(row.success)}</span> },
    { name: "p50", number: true, descending: true, by: (row) => row.p50Ms, cell: (row) => ms(row.p50Ms) },
    { name: "p95", number: true, descending: true, by: (row) => row.p95Ms, cell: (row) => ms(row.p95Ms) },
    { name: "p99", number: true, descending: true, by: (row) => row.p99Ms, cell: (row) => ms(row.p99Ms) },
    { name: "mTLS", number: true, by: (row) => row.mtls, cell: (row) => percent(row.mtls) },
    { name: "Retries", number: true, descending: true, by: (row) => called(row, row.retries), cell: (row) => rate(called(row, row.retries / Math.max(seconds, 0.001))) },
    { name: "Open", number: true, descending: true, by: (row) => row.openBreakers, cell: (row) => (row.openBreakers > 0 ? <span class="tone-warn">{row.openBreakers}</span> : 0) },
  ];
  return <Table label={label} columns={columns} rows={rows} keyOf={(row) => row.service} />;
}

function Ready({ row }: { row: Row }) {
  if (row.endpoints === undefined) return <>{NONE}</>;
  const ready = row.readyEndpoints ?? 0;
  return <span class={ready === 0 ? "tone-bad" : ready < row.endpoints ? "tone-warn" : ""}>{ready} of {row.endpoints}</span>;
}

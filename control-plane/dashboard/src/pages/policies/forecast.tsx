// What a change would do to the calls that were seen.
import type { Plan } from "../../api/types";
import { percent, plural, rate, span } from "../../format";
import type { Health } from "../../health";
import { Badge, Notice } from "../../ui/parts";
import { Table, type Column } from "../../ui/table";

type Change = Plan["changes"][number];

const HEALTH: Record<Change["kind"], Health> = { denied: "bad", failing: "bad", limited: "warn", rerouted: "idle", allowed: "ok" };

export function Forecast({ plan }: { plan: Plan }) {
  const columns: Column<Change>[] = [
    { name: "Becomes", cell: (change) => <Badge health={HEALTH[change.kind]} icon={change.kind === "rerouted" ? "right" : HEALTH[change.kind]}>{change.kind}</Badge> },
    { name: "Calls", head: true, cell: (change) => `${change.source} → ${change.destination}` },
    { name: "Which", cell: (change) => <code>{change.method ?? "any"} {change.path ?? "/*"}</code> },
    { name: "Share", number: true, descending: true, by: (change) => change.share, cell: (change) => percent(change.share) },
    { name: "Rate", number: true, descending: true, by: (change) => change.rps, cell: (change) => rate(change.rps) },
    { name: "Before, after", wrap: true, cell: (change) => `${change.before} → ${change.after}` },
    { name: "By", cell: (change) => change.policy ?? "–" },
  ];
  const unknown = Array.isArray(plan.unknown) ? (plan.unknown as unknown[]) : [];
  return (
    <div class="stack">
      {plan.wouldDeny ? <Notice health="bad">Calls that are made now would be denied.</Notice> : plan.changes.length === 0 ? <Notice health="ok">None of the {plural(plan.calls, "call")} seen in {span(plan.windowSeconds)} would be treated otherwise.</Notice> : null}
      {plan.changes.length > 0 ? <div class="panel"><Table label="Forecast" columns={columns} rows={plan.changes} keyOf={(change) => JSON.stringify(change)} most={30} /></div> : null}
      {unknown.length > 0 ? <Notice health="warn">Not judged: {unknown.map((item) => (typeof item === "string" ? item : JSON.stringify(item))).join("; ")}</Notice> : null}
    </div>
  );
}

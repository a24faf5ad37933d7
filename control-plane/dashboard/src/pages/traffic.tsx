// Calls as they happen: by filter, held still to be read, and each with its tries and its decision.
import { useEffect, useState } from "preact/hooks";
import { mesh } from "../api/live";
import { may } from "../api/rights";
import type { Call } from "../api/types";
import { clock, count, ms, NONE, shell } from "../format";
import type { Health } from "../health";
import { namespace, parameter } from "../router";
import { calls, close, dropped, held, KEPT, message, NO_FILTER, open, release, state, total, type Filter, type Seen } from "../traffic/tap";
import { Detail } from "../traffic/detail";
import { Icon } from "../ui/icons";
import { Badge, Empty, Equivalent, Head, Notice, Panel } from "../ui/parts";
import "../styles/traffic.css";

export function healthOfCall(call: Call): Health {
  if (call.decision?.allowed === false) return "bad";
  if (call.grpcStatus !== null) return call.grpcStatus === 0 ? "ok" : "bad";
  if (call.status === null) return call.reason ? "bad" : "idle";
  return call.status >= 500 ? "bad" : call.status >= 400 ? "warn" : "ok";
}

/** Whether it reached a peer: what the caller's own sidecar answered went neither with mTLS nor without. */
export const isSent = (call: Call): boolean => call.direction === "inbound" || call.attempts.length > 0;

export const outcome = (call: Call): string => (call.grpcStatus !== null ? `gRPC ${call.grpcStatus}` : (call.status?.toString() ?? call.reason ?? NONE));

export function Traffic() {
  const first = [...(mesh.value?.services.keys() ?? [])].sort()[0]?.split("/")[0] ?? "";
  const [filter, set] = useState<Filter>({ ...NO_FILTER, namespace: namespace.value, service: parameter("service") });
  const of = filter.namespace || namespace.value || first;
  const [picked, pick] = useState<Seen | null>(null);
  const allowed = of ? may({ verb: "get", resource: "workloads", subresource: "tap", namespace: of }) : null;
  const isOpen = state.value === "open" || state.value === "opening";
  useEffect(() => close, []);
  const start = (event?: Event) => {
    event?.preventDefault();
    pick(null);
    void open({ ...filter, namespace: of });
  };
  const field = (name: keyof Filter) => ({ value: filter[name], onInput: (event: { currentTarget: { value: string } }) => set({ ...filter, [name]: event.currentTarget.value }) });
  const services = [...(mesh.value?.services.keys() ?? [])].filter((name) => name.startsWith(`${of}/`)).map((name) => name.slice(of.length + 1));
  return (
    <>
      <Head title="Traffic" sub="Calls as they happen, without bodies; secrets in headers are left out">
        {isOpen ? (
          <>
            <button type="button" class="button" aria-pressed={held.value} onClick={() => (held.value ? release() : (held.value = true))}><Icon name={held.value ? "play" : "pause"} /> {held.value ? "Go on" : "Hold"}</button>
            <button type="button" class="button" onClick={close}><Icon name="close" /> Stop</button>
          </>
        ) : null}
      </Head>
      <Panel title="What to show" aside={allowed === false ? <Badge health="warn">needs the right get workloads/tap</Badge> : null}>
        <form class="body form" onSubmit={start}>
          <label class="field"><span>Namespace</span><input required placeholder={of || "shop"} {...field("namespace")} value={filter.namespace || of} /></label>
          <label class="field"><span>Service</span><input list="tap-services" placeholder="any" {...field("service")} /></label>
          <label class="field"><span>From</span><input placeholder="any caller" {...field("source")} /></label>
          <label class="field"><span>To</span><input placeholder="any" {...field("destination")} /></label>
          <label class="field"><span>Direction</span><select value={filter.direction} onChange={(event) => set({ ...filter, direction: event.currentTarget.value })}><option value="">both sides</option><option value="inbound">inbound</option><option value="outbound">outbound</option></select></label>
          <label class="field"><span>Method</span><input placeholder="any" {...field("method")} /></label>
          <label class="field"><span>Path</span><input placeholder="/items/*" {...field("path")} /></label>
          <label class="field"><span>Status</span><input placeholder="503 or 5xx" {...field("status")} /></label>
          <label class="field"><span>Reason</span><input placeholder="denied, timeout …" {...field("reason")} /></label>
          <label class="field"><span>At most, a second</span><input type="number" min="1" max="1000" {...field("perSecond")} /></label>
          <label class="field"><span>For, seconds</span><input type="number" min="1" max="600" {...field("seconds")} /></label>
          <button type="submit" class="button primary" disabled={allowed === false || !of} title={allowed === false ? `Your role does not let you tap in ${of}` : ""}><Icon name="play" /> {isOpen ? "Start anew" : "Start"}</button>
          <datalist id="tap-services">{services.map((name) => <option key={name} value={name} />)}</datalist>
        </form>
      </Panel>
      <Said of={of} />
      {calls.value.length > 0 ? (
        <div class="tapped">
          <Panel title="Calls" aside={<Tally />}><Calls picked={picked} pick={pick} /></Panel>
          {picked ? <Detail seen={picked} onClose={() => pick(null)} /> : null}
        </div>
      ) : state.value === "open" ? (
        <div class="panel"><Empty icon="traffic" title="Listening">No call that fits has ended yet.</Empty></div>
      ) : state.value === "closed" ? (
        <div class="panel"><Empty icon="traffic" title="No tap is open" command={`weft tap -n ${of || "shop"}`}>Start one: it shows each call with its tries and with the policy that decided, and never slows a call.</Empty></div>
      ) : null}
      <Equivalent commands={[command(filter, of)]} />
    </>
  );
}

function command(filter: Filter, of: string): string {
  const flags: [string, string][] = [["--from", filter.source], ["--to", filter.destination], ["--method", filter.method], ["--path", filter.path], ["--status", filter.status], ["--reason", filter.reason], ["--direction", filter.direction]];
  const given = flags.filter(([, value]) => value).map(([flag, value]) => ` ${flag} ${shell(value)}`);
  return `weft tap${filter.service ? ` ${shell(filter.service)}` : ""} -n ${shell(of || "NAMESPACE")}${given.join("")}`;
}

function Said({ of }: { of: string }) {
  switch (state.value) {
    case "absent":
      return <Notice role="status">This control plane has no tap. A newer one has.</Notice>;
    case "refused":
      return <Notice health="warn" role="alert">You may not tap in {of}: {message.value}</Notice>;
    case "failed":
      return <Notice health="bad" role="alert">The tap broke off: {message.value}</Notice>;
    case "ended":
      return <Notice role="status">The tap has ended{message.value ? `: ${message.value}` : ""}. What it showed stays.</Notice>;
    default:
      return null;
  }
}

function Tally() {
  const lost = [...dropped.value].filter(([, amount]) => amount > 0);
  return (
    <span class="row small dim">
      {held.value ? <Badge health="warn" icon="pause">held</Badge> : null}
      <span>{count(total.value)} seen{total.value > KEPT ? `, the last ${KEPT} kept` : ""}</span>
      {lost.length > 0 ? <Badge health="warn">{lost.map(([by, amount]) => `${count(amount)} dropped by ${by.replace(/([A-Z])/g, (letter) => ` ${letter.toLowerCase()}`)}`).join(", ")}</Badge> : null}
    </span>
  );
}

/** Rows that are drawn. */
const SHOWN = 200;

function Calls({ picked, pick }: { picked: Seen | null; pick: (seen: Seen) => void }) {
  return (
    <div class="scroll calls" tabIndex={0} role="region" aria-label="Calls">
      <table>
        <thead><tr><th scope="col">Time</th><th scope="col">Result</th><th scope="col">Call</th><th scope="col">From</th><th scope="col">To</th><th scope="col" class="number">Took</th><th scope="col" class="number">Tries</th><th scope="col"><span class="visually-hidden">mTLS</span></th></tr></thead>
        <tbody>
          {calls.value.slice(0, SHOWN).map((seen) => {
            const { call } = seen;
            return (
              <tr key={seen.id} class={picked?.id === seen.id ? "picked-row" : ""} onClick={() => pick(seen)}>
                <td class="mono">{clock(call.time, true)}</td>
                <td><Badge health={healthOfCall(call)}>{outcome(call)}</Badge></td>
                <th scope="row"><button type="button" class="call" onClick={() => pick(seen)} aria-pressed={picked?.id === seen.id}><code>{call.method ?? call.protocol} {call.path ?? ""}</code></button></th>
                <td>{call.source ?? "outside"}</td>
                <td>{call.destination ?? call.authority ?? NONE}</td>
                <td class="number">{ms(call.durationMs)}</td>
                <td class="number">{Math.max(1, call.attempts.length)}</td>
                <td>{isSent(call) ? <Icon name={call.mtls ? "lock" : "unlock"} tone={call.mtls ? "ok" : "warn"} label={call.mtls ? "mTLS" : "no mTLS"} /> : NONE}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
    </div>
  );
}

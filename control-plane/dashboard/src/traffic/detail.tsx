// One call: its tries in time, who decided, its headers and sizes, its trace.
import { bytes, clock, ms, NONE } from "../format";
import { healthOfCall, isSent, outcome } from "../pages/traffic";
import { Icon } from "../ui/icons";
import { Badge, Copy } from "../ui/parts";
import type { Seen } from "./tap";

export function Detail({ seen: { call }, onClose }: { seen: Seen; onClose: () => void }) {
  const length = Math.max(call.durationMs, 0.001);
  let begun = 0;
  return (
    <aside class="panel detail" aria-label="The call">
      <header><h2><code>{call.method ?? call.protocol} {call.path ?? ""}</code></h2><button type="button" class="button plain square" aria-label="Close" onClick={onClose}><Icon name="close" /></button></header>
      <div class="body stack">
        <div class="row"><Badge health={healthOfCall(call)}>{outcome(call)}</Badge>{call.reason ? <span class="chip">{call.reason}</span> : null}<span class="dim">{clock(call.time, true)}, took {ms(call.durationMs)}</span></div>
        <section aria-label="Tries">
          <h3>{call.attempts.length > 1 ? `${call.attempts.length} tries` : "One try"}</h3>
          <ol class="tries">
            {call.attempts.map((attempt, index) => {
              const left = Math.min(100, (begun / length) * 100);
              begun += attempt.durationMs;
              const bad = attempt.reason !== null || (attempt.status ?? 0) >= 500;
              return (
                <li key={index}>
                  <span class="row"><Badge health={bad ? "bad" : "ok"}>{attempt.status ?? attempt.reason ?? NONE}</Badge><span>{attempt.endpoint ?? NONE}</span><span class="dim">{ms(attempt.durationMs)}{attempt.reason ? `, ${attempt.reason}` : ""}</span></span>
                  <span class="time" aria-hidden="true"><i data-health={bad ? "bad" : "ok"} style={{ left: `${left}%`, width: `${Math.max(1, Math.min(100 - left, (attempt.durationMs / length) * 100))}%` }} /></span>
                </li>
              );
            })}
          </ol>
        </section>
        {call.decision ? (
          <section aria-label="Decision">
            <h3>Authorization</h3>
            <p class="row"><Badge health={call.decision.allowed ? "ok" : "bad"}>{call.decision.allowed ? "allowed" : "denied"}</Badge>{call.decision.policy ? <span>{call.decision.policy} {call.decision.rule ?? ""}</span> : <span class="dim">no policy decided</span>}</p>
          </section>
        ) : null}
        <dl class="facts">
          <dt>From</dt><dd>{call.source ?? "outside the mesh"}{call.sourceIdentity ? <><br /><code class="small">{call.sourceIdentity}</code></> : null}</dd>
          <dt>To</dt><dd>{call.destination ?? NONE}{call.destinationIdentity ? <><br /><code class="small">{call.destinationIdentity}</code></> : null}</dd>
          <dt>Seen by</dt><dd>{call.workload}, {call.direction}</dd>
          <dt>Instance</dt><dd>{call.endpoint ?? NONE}</dd>
          <dt>Authority</dt><dd>{call.authority ?? NONE}</dd>
          <dt>Protocol</dt><dd>{call.protocol}{isSent(call) ? (call.mtls ? ", over mTLS" : ", without mTLS") : ", sent to nobody"}</dd>
          <dt>Route</dt><dd>{call.route ?? "none attached"}</dd>
          <dt>Bytes</dt><dd>{bytes(call.bytesSent)} sent, {bytes(call.bytesReceived)} received</dd>
          {call.traceId ? <><dt>Trace</dt><dd class="row"><code>{call.traceId}</code><Copy text={call.traceId} label="Copy the trace id" /></dd></> : null}
          {call.requestId ? <><dt>Request id</dt><dd><code>{call.requestId}</code></dd></> : null}
        </dl>
        <Headers title="Request headers" of={call.requestHeaders} />
        <Headers title="Response headers" of={call.responseHeaders} />
      </div>
    </aside>
  );
}

function Headers({ title, of }: { title: string; of: [string, string][] }) {
  if (of.length === 0) return null;
  return (
    <details>
      <summary>{title} ({of.length})</summary>
      <dl class="headers">{of.map(([name, value], index) => [<dt key={`${index} name`}><code>{name}</code></dt>, <dd key={index}><code>{value}</code></dd>])}</dl>
    </details>
  );
}

// What would become of a call, and which route and policy decide: the sidecars' own core is asked, nothing is sent.
import { useState } from "preact/hooks";
import { post, query, said } from "../../api/client";
import { mesh } from "../../api/live";
import { ms, percent, shell, split } from "../../format";
import { namespace, to } from "../../router";
import { Icon } from "../../ui/icons";
import { Badge, Equivalent, Head, Meter, Notice, Panel } from "../../ui/parts";

interface Admission {
  mtls: boolean;
  tlsMode: string | null;
  tlsSource: string;
  allowed: boolean;
  reason: string;
  policy: string | null;
  rule: string | null;
  audit: string | null;
  rateLimits: string[];
  endpoints: string[];
}

interface Explanation {
  from: string | null;
  to: string;
  protocol: string;
  rule: { route: string; index: number; name: string; requestTimeoutMs: number | null; backendRequestTimeoutMs: number | null; retries: number } | null;
  outcome: { kind: string; status?: number; location?: string };
  faults: boolean;
  fallback: string | null;
  backends: { target: string; resolved: boolean; share: number; path?: string; host?: string; ready: number; endpoints: number; admissions: Admission[] }[];
  allowed: boolean | null;
}

const METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"];

export function Explain() {
  const [from, setFrom] = useState("");
  const [target, setTo] = useState("");
  const [method, setMethod] = useState("GET");
  const [path, setPath] = useState("/");
  const [headers, setHeaders] = useState("");
  const [answer, set] = useState<Explanation | null>(null);
  const [error, fail] = useState("");
  const [busy, work] = useState(false);
  const now = mesh.value;
  const names = new Set([...(now?.services.keys() ?? []), ...[...(now?.edges.values() ?? [])].flatMap((row) => row.source ?? [])]);
  const lines = headers.split("\n").map((line) => line.trim()).filter(Boolean);
  const run = async (event: Event): Promise<void> => {
    event.preventDefault();
    work(true);
    fail("");
    try {
      const pairs = lines.map((line): [string, string] => {
        const colon = line.indexOf(":");
        if (colon < 1) throw new Error(`a header is written as "name: value": ${line}`);
        return [line.slice(0, colon).trim(), line.slice(colon + 1).trim()];
      });
      set(await post<Explanation>(query("/weft/v1/explain", { namespace: namespace.value }), { from, to: target, method, path, headers: pairs }));
    } catch (reason) {
      set(null);
      fail(said(reason));
    } finally {
      work(false);
    }
  };
  const command = `weft explain${from ? ` --from ${shell(from)}` : ""} --to ${shell(target || "SERVICE")} ${method} ${shell(path)}${lines.map((line) => ` -H ${shell(line)}`).join("")}`;
  return (
    <>
      <Head title="Explain a call" crumbs={<><a href={to("/policies")}>Policies</a><span aria-hidden="true">/</span><span>explain</span></>} sub="What would become of it, and which route and policy decide. Nothing is sent." />
      <Panel title="The call">
        <form class="body form" onSubmit={(event) => void run(event)}>
          <label class="field double"><span>From: workload, service, account or SPIFFE id</span><input list="explain-names" value={from} placeholder="nobody of the mesh" onInput={(event) => setFrom(event.currentTarget.value)} /></label>
          <label class="field double"><span>To: service or host, with :port</span><input list="explain-names" required value={target} placeholder="shop/payments" onInput={(event) => setTo(event.currentTarget.value)} /></label>
          <label class="field"><span>Method</span><select value={method} onChange={(event) => setMethod(event.currentTarget.value)}>{METHODS.map((one) => <option key={one}>{one}</option>)}</select></label>
          <label class="field"><span>Path and query</span><input value={path} onInput={(event) => setPath(event.currentTarget.value)} /></label>
          <label class="field double"><span>Headers, one a line</span><textarea rows={1} placeholder="x-user: ann" value={headers} onInput={(event) => setHeaders(event.currentTarget.value)} /></label>
          <button type="submit" class="button primary" disabled={busy}>{busy ? "Asking …" : "Explain"}</button>
          <datalist id="explain-names">{[...names].sort().map((name) => <option key={name} value={name} />)}</datalist>
        </form>
      </Panel>
      {error ? <Notice health="bad" role="alert">{error}</Notice> : null}
      <div aria-live="polite">{answer ? <Answer answer={answer} /> : null}</div>
      <Equivalent commands={[command]} />
    </>
  );
}

function Answer({ answer }: { answer: Explanation }) {
  const forwarded = answer.outcome.kind === "forwarded";
  const good = forwarded ? answer.allowed !== false : answer.outcome.kind !== "noRoute";
  const word = answer.outcome.kind === "noRoute" ? "no rule matches: 404" : answer.outcome.kind === "redirected" ? `redirected with ${answer.outcome.status ?? ""} to ${answer.outcome.location ?? ""}` : answer.outcome.kind === "preflight" ? "answered as a CORS preflight" : answer.allowed === null ? "reaches no endpoint: 503" : answer.allowed ? "allowed" : "denied";
  return (
    <Panel title="What becomes of it" aside={<Badge health={good && answer.allowed !== null ? "ok" : forwarded && answer.allowed === null ? "warn" : good ? "ok" : "bad"}>{word}</Badge>}>
      <div class="body stack">
        <dl class="facts">
          <dt>From</dt><dd>{answer.from ? <code>{answer.from}</code> : "somebody without an identity"}</dd>
          <dt>To</dt><dd>{answer.to} <span class="chip">{answer.protocol}</span></dd>
          <dt>Route</dt>
          <dd>{answer.rule ? <>{answer.rule.route === "default" ? "none attached" : <RouteLink route={answer.rule.route} />}{answer.rule.route === "default" ? "" : `, rule ${answer.rule.name || answer.rule.index}`}; {answer.rule.requestTimeoutMs === null ? "no timeout" : `timeout ${ms(answer.rule.requestTimeoutMs)}`}, {answer.rule.retries} retries</> : "no rule matches"}</dd>
          {answer.faults ? <><dt>Faults</dt><dd>may be injected</dd></> : null}
          {answer.fallback ? <><dt>Fallback</dt><dd>{answer.fallback}</dd></> : null}
        </dl>
        {answer.backends.map((backend) => (
          <section key={backend.target} class="outcome" aria-label={backend.target}>
            <p class="row"><Meter share={backend.share} text={percent(backend.share)} health={backend.resolved ? "ok" : "bad"} /><b>{backend.target}</b><span class="dim">{backend.ready} of {backend.endpoints} instances ready{backend.path ? `, path ${backend.path}` : ""}{backend.host ? `, host ${backend.host}` : ""}</span></p>
            <ul class="conditions">
              {backend.admissions.map((admission) => (
                <li key={admission.endpoints.join()}>
                  <Badge health={admission.allowed ? "ok" : "bad"}>{admission.allowed ? "allowed" : "denied"}</Badge>
                  <div>
                    <p>by {admission.endpoints.join(", ")}: {admission.reason}</p>
                    <p class="small dim"><Icon name={admission.mtls ? "lock" : "unlock"} /> {admission.mtls ? "over mTLS" : "without mTLS"}{admission.tlsMode ? ` (${admission.tlsMode}: ${admission.tlsSource || "the mesh's default"})` : ""}{admission.rateLimits.length > 0 ? `; rate limits: ${admission.rateLimits.join(", ")}` : ""}{admission.audit ? `; watched by ${admission.audit}` : ""}</p>
                    {admission.policy ? <PolicyLink name={admission.policy} /> : null}
                  </div>
                </li>
              ))}
            </ul>
          </section>
        ))}
      </div>
    </Panel>
  );
}

function RouteLink({ route }: { route: string }) {
  const [room, name] = split(route);
  return <a href={to(`/policies/httproutes/${room}/${name}`)}>{route}</a>;
}

function PolicyLink({ name }: { name: string }) {
  const [room, own] = split(name);
  return <a class="small" href={to(`/policies/authorizationpolicies/${room}/${own}`)}>AuthorizationPolicy {name}</a>;
}

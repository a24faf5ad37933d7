// Whom the mesh trusts: roots and their rotation, the certificate of every sidecar by when it ends, other meshes, revocations, join tokens.
import { useLoad } from "../api/load";
import type { Certificate, Identity as Document, Resource, ResourceList } from "../api/types";
import { clock, moment, plural, relative, unix } from "../format";
import type { Health } from "../health";
import { kindOf } from "../objects/kinds";
import { conditionsOf } from "../objects/state";
import { namespace, to } from "../router";
import { Icon } from "../ui/icons";
import { Badge, Empty, Equivalent, Failed, Head, Meter, Notice, Panel, Waiting } from "../ui/parts";
import { Table, type Column } from "../ui/table";

interface Held {
  workload: string;
  root: string;
  notBefore: number;
  notAfter: number;
  serial: string;
}

/** How near the end a certificate is: it is renewed at half of its life. */
function ending(notBefore: number, notAfter: number, now = Date.now() / 1000): Health {
  const left = (notAfter - now) / Math.max(1, notAfter - notBefore);
  return left <= 0 ? "bad" : left < 0.25 ? "warn" : "ok";
}

const ENDING: Record<Health, string> = { ok: "valid", warn: "should be renewed", bad: "ended", idle: "" };

export function Identity() {
  const { data, error, status } = useLoad<Document>("/weft/v1/identity", 5000);
  return (
    <>
      <Head title="Identity" sub={data ? <>Trust domain <code>{data.trustDomain}</code></> : "Whom the mesh trusts"} />
      {error && !data ? <Failed error={error} status={status} what="identities" /> : null}
      {!data && !error ? <Waiting what="identities" /> : null}
      {data ? <Facts data={data} /> : null}
      {data ? <Rotation data={data} /> : null}
      {data ? <Roots data={data} /> : null}
      {data ? <Certificates data={data} /> : null}
      <Federated />
      <Revoked />
      <Tokens />
      <Equivalent commands={["weft identity show", "weft identity revoked", "weft identity audit", "weft token list"]} />
    </>
  );
}

function Facts({ data }: { data: Document }) {
  const held = Object.values(data.sidecars);
  const states = held.map(({ notBefore, notAfter }) => ending(notBefore, notAfter));
  const bad = states.filter((state) => state === "bad").length;
  const late = states.filter((state) => state === "warn").length;
  const first = Math.min(...data.roots.map((root) => unix(root.notAfter) ?? Infinity));
  const next = held.length > 0 ? Math.min(...held.map(({ notAfter }) => notAfter)) : null;
  return (
    <dl class="tiles">
      <div class="tile" data-health={bad > 0 ? "bad" : late > 0 ? "warn" : "ok"}><dt><Icon name="identity" />Certificates</dt><dd class="value">{held.length}</dd><dd class="note">{bad > 0 ? `${bad} ended` : late > 0 ? `${late} should have been renewed` : "all valid, renewed in time"}</dd></div>
      <div class="tile"><dt><Icon name="control" />Next to end</dt><dd class="value">{next === null ? "–" : relative(next)}</dd><dd class="note">renewed at half of its life</dd></div>
      <div class="tile"><dt><Icon name="lock" />Roots trusted</dt><dd class="value">{data.roots.length}</dd><dd class="note">the first ends {relative(Number.isFinite(first) ? first : null)}</dd></div>
      <div class="tile"><dt><Icon name="policies" />Rotation</dt><dd class="value">{data.rotation ? "under way" : "none"}</dd><dd class="note">{data.rotation ? "see below" : "one root signs"}</dd></div>
    </dl>
  );
}

function Rotation({ data }: { data: Document }) {
  if (!data.rotation) return null;
  const all = Object.values(data.sidecars);
  const of = (have: number) => <Meter share={all.length > 0 ? have / all.length : 1} text={`${have} of ${plural(all.length, "sidecar")}`} health={have < all.length ? "warn" : "ok"} />;
  const believe = all.filter(({ trusted }) => trusted.includes(data.signing)).length;
  const reissued = all.filter(({ root }) => root === data.signing).length;
  const facts = Object.entries(data.rotation).filter(([, value]) => typeof value === "string" || typeof value === "number");
  return (
    <Panel title="Rotation of the root">
      <dl class="body facts">
        {facts.map(([name, value]) => [<dt key={`${name} name`}>{name}</dt>, <dd key={name}>{String(value)}</dd>])}
        <dt>Believe the signing root</dt><dd>{of(believe)}</dd>
        <dt>Hold its certificate</dt><dd>{of(reissued)}</dd>
      </dl>
    </Panel>
  );
}

const short = (hash: string) => <code title={hash}>{hash.slice(0, 16)}</code>;

function Roots({ data }: { data: Document }) {
  const columns: Column<Certificate>[] = [
    { name: "Root", head: true, cell: (root) => short(root.spkiSha256) },
    { name: "State", cell: (root) => (root.spkiSha256 === data.signing ? <Badge health="ok">signs</Badge> : <Badge health="idle">trusted</Badge>) },
    { name: "Subject", cell: (root) => root.subject },
    { name: "Key", cell: (root) => root.key },
    { name: "Ends", by: (root) => unix(root.notAfter), cell: (root) => <span title={moment(root.notAfter)}>{relative(unix(root.notAfter))}</span> },
    { name: "Certificates", number: true, cell: (root) => Object.values(data.sidecars).filter((held) => held.root === root.spkiSha256).length },
  ];
  return <Panel title="Roots"><Table label="Roots" columns={columns} rows={data.roots} keyOf={(root) => root.sha256} /></Panel>;
}

function Certificates({ data }: { data: Document }) {
  const of = namespace.value;
  const rows = Object.entries(data.sidecars).map(([workload, held]): Held => ({ workload, ...held })).filter(({ workload }) => !of || workload.startsWith(`${of}/`)).sort((a, b) => a.notAfter - b.notAfter);
  const columns: Column<Held>[] = [
    { name: "Workload", head: true, by: (held) => held.workload, cell: (held) => held.workload },
    { name: "State", by: (held) => held.notAfter, cell: (held) => {
      const state = ending(held.notBefore, held.notAfter);
      return <Badge health={state}>{ENDING[state]}</Badge>;
    } },
    { name: "Life", cell: (held) => {
      const share = (Date.now() / 1000 - held.notBefore) / Math.max(1, held.notAfter - held.notBefore);
      return <Meter share={share} text={`${Math.max(0, Math.floor(share * 100))} % over`} health={ending(held.notBefore, held.notAfter)} />;
    } },
    { name: "Ends", by: (held) => held.notAfter, cell: (held) => <span title={moment(held.notAfter)}>{relative(held.notAfter)}</span> },
    { name: "Issued", by: (held) => held.notBefore, cell: (held) => <span title={moment(held.notBefore)}>{relative(held.notBefore)}</span> },
    { name: "Root", by: (held) => held.root, cell: (held) => short(held.root) },
    { name: "Serial", cell: (held) => <code>{held.serial}</code> },
  ];
  return (
    <Panel title="Certificates of sidecars" aside={<span class="dim">the first to end first</span>}>
      {rows.length > 0 ? <Table label="Certificates" columns={columns} rows={rows} keyOf={(held) => held.workload} most={100} /> : <Empty icon="identity" title="No sidecar has a certificate" command="weft run --service web --port 8080:http -- PROGRAM">A sidecar gets one when it joins, and renews it by itself.</Empty>}
    </Panel>
  );
}

function Federated() {
  const kind = kindOf("federatedtrustdomains");
  const { data, error, status } = useLoad<ResourceList>("/apis/weft.mesh/v1alpha1/federatedtrustdomains", 15_000);
  const columns: Column<Resource>[] = [
    { name: "Trust domain", head: true, by: (item) => item.metadata.name, cell: (item) => <a href={to(`/policies/${kind?.plural ?? ""}/${item.metadata.name}`)}>{item.metadata.name}</a> },
    { name: "State", cell: (item) => conditionsOf(item).map(({ condition }) => <Badge key={condition.type} health={condition.status === "True" ? "ok" : "bad"}>{condition.type}</Badge>) },
  ];
  return (
    <Panel title="Other meshes that are believed">
      {error && !data ? <div class="body"><Failed error={error} status={status} what="other trust domains" /></div> : null}
      {data && data.items.length > 0 ? <Table label="Other meshes" columns={columns} rows={data.items} keyOf={(item) => item.metadata.name} /> : data ? <p class="body dim">None. A FederatedTrustDomain makes this mesh believe the identities of another; <code>weft identity bundle</code> prints the one of this mesh.</p> : null}
    </Panel>
  );
}

interface Revocation {
  serial?: string;
  identity?: string;
  reason?: string;
  until?: string | number;
  [name: string]: unknown;
}

function Revoked() {
  const { data, error, status } = useLoad<{ items: Revocation[] }>("/weft/v1/identity/revocations", 15_000);
  if (error && status === 403) return null;
  return (
    <Panel title="Revoked" aside={data ? <span class="dim">{plural(data.items.length, "certificate")}</span> : null}>
      {error && !data ? <div class="body"><Failed error={error} status={status} what="revocations" /></div> : null}
      {data && data.items.length > 0 ? (
        <ul class="conditions">{data.items.slice(0, 100).map((item, index) => <li key={index}><Badge health="bad">revoked</Badge><div><code>{item.serial ?? item.identity ?? ""}</code> <span class="dim">{item.reason ?? ""}</span></div></li>)}</ul>
      ) : data ? <p class="body dim">None that has not ended by itself. Whoever must go at once: <code>weft identity revoke</code>.</p> : null}
    </Panel>
  );
}

interface Token {
  id: string;
  namespace: string;
  serviceAccount: string;
  services: string[];
  used: number;
  uses: number | null;
  expiresAt: string;
  createdAt: string;
}

function Tokens() {
  const of = namespace.value;
  const { data, error, status } = useLoad<{ items: Token[] }>(`/weft/v1/tokens${of ? `?namespace=${encodeURIComponent(of)}` : ""}`, 15_000);
  if (error && status === 403) return <Notice>Join tokens are for those who may list them.</Notice>;
  const columns: Column<Token>[] = [
    { name: "Token", head: true, cell: (token) => <code>{token.id}</code> },
    { name: "Joins as", by: (token) => `${token.namespace}/${token.serviceAccount}`, cell: (token) => `${token.namespace}/${token.serviceAccount}` },
    { name: "Services", wrap: true, cell: (token) => token.services.join(", ") || "–" },
    { name: "Used", number: true, by: (token) => token.used, cell: (token) => (token.uses === null ? token.used : `${token.used} of ${token.uses}`) },
    { name: "Ends", by: (token) => unix(token.expiresAt), cell: (token) => <span title={clock(token.expiresAt)}>{relative(unix(token.expiresAt))}</span> },
  ];
  return (
    <Panel title="Join tokens" aside={<span class="dim">without their secrets</span>}>
      {error && !data ? <div class="body"><Failed error={error} status={status} what="join tokens" /></div> : null}
      {data && data.items.length > 0 ? <Table label="Join tokens" columns={columns} rows={data.items} keyOf={(token) => token.id} most={20} /> : data ? <p class="body dim">None: <code>weft token create</code> makes one.</p> : null}
    </Panel>
  );
}

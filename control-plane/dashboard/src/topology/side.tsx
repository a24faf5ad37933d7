// Beside the picture: the figures of what is picked, and the way on from there.
import { mesh, type Mesh } from "../api/live";
import { ms, percent, rate } from "../format";
import { Icon } from "../ui/icons";
import { Badge, Command, ServiceLink } from "../ui/parts";
import { toService } from "../router";
import type { Edge, Graph, Node } from "./graph";

interface Doing {
  graph: Graph;
  onPick: (id: string) => void;
  onFocus: (service: string) => void;
  onOpen: (group: string) => void;
}

export function Picked({ id, ...doing }: { id: string } & Doing) {
  const node = doing.graph.nodes.find((node) => node.id === id);
  const edge = doing.graph.edges.find((edge) => edge.id === id);
  if (!node && !edge) return null;
  return (
    <aside class="picked" aria-label="What is picked">
      <button type="button" class="button plain square close" aria-label="Close" onClick={() => doing.onPick("")}><Icon name="close" /></button>
      {node ? <NodeFacts node={node} {...doing} /> : edge ? <EdgeFacts edge={edge} {...doing} /> : null}
    </aside>
  );
}

const mtls = (share: number | null) => (share === null ? "–" : share >= 1 ? <><Icon name="lock" tone="ok" /> every call</> : <><Icon name="unlock" tone="warn" /> {percent(share)} of calls</>);

function NodeFacts({ node, graph, onPick, onFocus, onOpen }: { node: Node } & Doing) {
  const callers = graph.edges.filter((edge) => edge.to === node.id);
  const callees = graph.edges.filter((edge) => edge.from === node.id);
  const now = mesh.value;
  const row = now?.services.get(node.id);
  return (
    <>
      <h2>{node.kind === "group" ? node.name : node.id}</h2>
      <div class="row">
        <Badge health={node.health} />
        {node.mark === "cause" ? <Badge health="bad">errors begin here</Badge> : node.mark === "suffers" ? <Badge health="warn">suffers</Badge> : null}
        {node.openBreakers > 0 ? <Badge health="warn" icon="breaker">breaker open</Badge> : null}
      </div>
      <dl class="facts">
        <dt>Calls</dt><dd>{rate(node.success === null ? null : node.rps)}</dd>
        <dt>Success</dt><dd>{percent(node.success)}</dd>
        <dt>p99</dt><dd>{ms(node.p99)}</dd>
        {row ? <><dt>Ready</dt><dd>{row.readyEndpoints ?? "–"} of {row.endpoints ?? "–"}</dd><dt>mTLS</dt><dd>{mtls(row.mtls)}</dd></> : null}
      </dl>
      {node.kind === "group" ? (
        <>
          <button type="button" class="button" onClick={() => onOpen(node.name)}>Show its {node.members.length} services</button>
          <Members names={node.members} now={now} />
        </>
      ) : (
        <div class="row">
          {node.kind === "service" ? <a class="button primary" href={toService(node.id)}>Open service</a> : null}
          <button type="button" class="button" onClick={() => onFocus(node.id)}>Only what is near</button>
        </div>
      )}
      <Edges title="Called by" edges={callers} of={(edge) => edge.from} onPick={onPick} />
      <Edges title="Calls" edges={callees} of={(edge) => edge.to} onPick={onPick} />
    </>
  );
}

function Members({ names, now }: { names: string[]; now: Mesh | null }) {
  return (
    <ul class="edges">
      {names.slice(0, 12).map((name) => <li key={name}><ServiceLink name={name} /><span>{rate(now?.services.get(name)?.rps)}</span></li>)}
      {names.length > 12 ? <li class="dim">and {names.length - 12} more</li> : null}
    </ul>
  );
}

const clean = (id: string) => id.replace(/^group:/, "");

function Edges({ title, edges, of, onPick }: { title: string; edges: Edge[]; of: (edge: Edge) => string; onPick: (id: string) => void }) {
  if (edges.length === 0) return null;
  return (
    <>
      <h3>{title}</h3>
      <ul class="edges">
        {[...edges].sort((a, b) => b.rps - a.rps).slice(0, 14).map((edge) => (
          <li key={edge.id}>
            <button type="button" class="button plain" onClick={() => onPick(edge.id)}>{clean(of(edge))}</button>
            <span class={edge.calls > 0 ? `tone-${edge.health}` : "dim"}>{edge.calls > 0 ? `${rate(edge.rps)} · ${percent(edge.success)}` : "no calls"}</span>
          </li>
        ))}
        {edges.length > 14 ? <li class="dim">and {edges.length - 14} more</li> : null}
      </ul>
    </>
  );
}

function EdgeFacts({ edge, graph, onPick }: { edge: Edge } & Doing) {
  const isService = (id: string) => graph.nodes.some((node) => node.id === id && node.kind === "service");
  return (
    <>
      <h2>{clean(edge.from)} <Icon name="right" label="calls" /> {clean(edge.to)}</h2>
      <div class="row"><Badge health={edge.health} />{edge.openBreakers > 0 ? <Badge health="warn" icon="breaker">breaker open</Badge> : null}</div>
      <dl class="facts">
        <dt>Calls</dt><dd>{rate(edge.calls > 0 ? edge.rps : null)}</dd>
        <dt>Success</dt><dd>{percent(edge.success)}</dd>
        <dt>p99</dt><dd>{ms(edge.p99)}</dd>
        <dt>Retries</dt><dd>{edge.retries}</dd>
        <dt>mTLS</dt><dd>{mtls(edge.mtls)}</dd>
      </dl>
      <div class="row">
        <button type="button" class="button" onClick={() => onPick(edge.from)}>{clean(edge.from)}</button>
        <button type="button" class="button" onClick={() => onPick(edge.to)}>{clean(edge.to)}</button>
      </div>
      {isService(edge.to) ? <Command text={`weft explain --from ${edge.from} --to ${edge.to} GET /`} /> : null}
    </>
  );
}

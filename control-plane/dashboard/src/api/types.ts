// What the API says, as far as the pages read it. `null` is no data.

/** Golden numbers of a row of `stat`. */
export interface Numbers {
  calls: number;
  rps: number;
  success: number | null;
  successBeforeRetries: number | null;
  p50Ms: number | null;
  p95Ms: number | null;
  p99Ms: number | null;
  failures: number;
  retries: number;
  mtls: number | null;
  /** Calls that were sent to no peer, of which `mtls` knows nothing. */
  unsent: number;
  attempts: number;
  failedAttempts: number;
  bytesSent: number;
  bytesReceived: number;
  tcpConnections: number;
}

/** A service, an edge (`source`), an endpoint or a route. Names are `namespace/name`. */
export interface Row extends Numbers {
  service: string;
  source?: string;
  endpoint?: string;
  route?: string;
  openBreakers: number;
  breakerOpenings: number;
  readyEndpoints?: number;
  endpoints?: number;
}

export interface Breaker {
  backend: string;
  endpoint?: string;
  state?: string;
  workload?: string;
  [name: string]: unknown;
}

/** `GET stat`, and the events `stat` of `live`. */
export interface StatDocument {
  windowSeconds?: number;
  detailSeconds?: number;
  services?: Row[];
  edges?: Row[];
  endpoints?: Row[];
  routes?: Row[];
  breakers?: Breaker[];
  dropped?: number;
  omitted?: Record<string, number>;
  full?: boolean;
  gone?: Partial<Record<"services" | "edges" | "endpoints" | "routes", (string | string[])[]>>;
}

export interface Problem {
  severity: "error" | "warning";
  kind: string;
  name: string;
  fact: string;
  suffers?: string[];
  since: number | null;
  hint?: string | null;
  command?: string | null;
  docs?: string | null;
}

/** The event `fleet`. */
export interface FleetState {
  connected: number;
  streams: number;
  generation: number;
  waiting: number;
}

export interface SeriesItem {
  service: string;
  source?: string;
  endpoint?: string;
  route?: string;
  rps: (number | null)[];
  success: (number | null)[];
  p50Ms: (number | null)[];
  p95Ms: (number | null)[];
  p99Ms: (number | null)[];
  failures: (number | null)[];
  retries: (number | null)[];
}

export interface Series {
  stepSeconds: number;
  begins: number;
  from: "memory" | "prometheus";
  items: SeriesItem[];
  omitted?: number;
}

export interface RouteBackend {
  service: string | null;
  port: number | null;
  share: number;
  unresolved: string | null;
  weight: number;
}

export interface RouteRule {
  index: number;
  name: string | null;
  matches: string[];
  filters: string[];
  backends: RouteBackend[];
  requestTimeoutMs: number | null;
  backendRequestTimeoutMs: number | null;
  retries: number;
}

export interface RouteItem {
  service: string;
  port: number;
  protocol: string;
  kind: string | null;
  route: string | null;
  clients: string | null;
  rules: RouteRule[];
  traffic: Row[];
}

export interface Endpoint {
  service: string;
  workload: string | null;
  address: string;
  port: number;
  health: string;
  identity: string | null;
  mtls: boolean;
  zone: string | null;
  weight: number;
  openBreakers: number;
  traffic: Numbers | null;
}

export interface Sidecar {
  workload: string;
  version: string;
  ready: boolean;
  draining: boolean;
  connectedSeconds: number;
  lastReportSeconds: number | null;
  clockAheadMs: number | null;
}

export interface FleetDocument {
  workloads: { workload: string; serviceAccount: string; address: string; phase: string | null; meshed: boolean; sidecar: Sidecar | null }[];
  xds: Record<"connected" | "generation" | "streams" | "resources" | "resourcesSent" | "responsesRefused", number>;
}

export interface Check {
  category: string;
  name: string;
  detail: string;
  result: "ok" | "failed" | "skipped" | "warning";
  ok: boolean;
  hint: string | null;
  docs: string | null;
}

export interface Certificate {
  subject: string;
  issuer: string;
  serial: string;
  notBefore: string;
  notAfter: string;
  key: string;
  sha256: string;
  spkiSha256: string;
}

export interface Identity {
  trustDomain: string;
  roots: Certificate[];
  signing: string;
  rotation: { phase?: string; [name: string]: unknown } | null;
  sidecars: Record<string, { root: string; trusted: string[]; notBefore: number; notAfter: number; serial: string }>;
}

export interface Condition {
  type: string;
  status: string;
  reason: string;
  message: string;
  lastTransitionTime?: string;
  observedGeneration?: number;
}

/** An object of the API. */
export interface Resource {
  apiVersion?: string;
  kind?: string;
  metadata: {
    name: string;
    namespace?: string;
    generation?: number;
    resourceVersion?: string;
    creationTimestamp?: string;
    labels?: Record<string, string>;
    annotations?: Record<string, string>;
    managedFields?: unknown;
    uid?: string;
  };
  spec?: Record<string, unknown>;
  status?: {
    conditions?: Condition[];
    parents?: { parentRef?: { kind?: string; name?: string; namespace?: string }; conditions?: Condition[] }[];
    [name: string]: unknown;
  };
}

export interface ResourceList {
  items: Resource[];
  metadata?: { continue?: string; resourceVersion?: string };
}

/** An event `call` of `tap`. */
export interface Call {
  time: string | number;
  direction: string;
  workload: string;
  source: string | null;
  sourceIdentity: string | null;
  destination: string | null;
  destinationIdentity: string | null;
  endpoint: string | null;
  protocol: string;
  method: string | null;
  authority: string | null;
  path: string | null;
  status: number | null;
  grpcStatus: number | null;
  reason: string | null;
  route: string | null;
  durationMs: number;
  attempts: { endpoint: string | null; durationMs: number; status: number | null; reason: string | null }[];
  retries: number;
  bytesSent: number;
  bytesReceived: number;
  mtls: boolean;
  decision: { allowed: boolean; policy: string | null; rule: string | null } | null;
  traceId: string | null;
  requestId: string | null;
  requestHeaders: [string, string][];
  responseHeaders: [string, string][];
}

/** `POST plan`. */
export interface Plan {
  windowSeconds: number;
  calls: number;
  changes: {
    kind: "denied" | "allowed" | "rerouted" | "limited" | "failing";
    source: string;
    destination: string;
    method: string | null;
    path: string | null;
    calls: number;
    rps: number;
    share: number;
    before: string;
    after: string;
    policy: string | null;
  }[];
  edges: { source: string; destination: string; calls: number; deniedShare: number; reroutedShare: number; limitedShare: number; allowedShare: number }[];
  wouldDeny: boolean;
  objects: { kind: string; name: string; change: string; problems: unknown[] }[];
  unknown: unknown;
}

/** `GET controlplane`. */
export interface ControlPlane {
  version: string;
  replicas: { name: string | null; address: string | null; leader: boolean }[];
  streams: number;
  connected: number;
  generation: number;
  convergence: { p50Ms: number | null; p99Ms: number | null; last?: unknown[] } | null;
  refusals: { workload: string; resource: string; error: string }[];
  store: Record<string, unknown> | null;
  process: Record<string, unknown> | null;
}

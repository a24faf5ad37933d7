// The kinds that pages show, and where their objects are.
import { query } from "../api/client";

export interface Kind {
  kind: string;
  plural: string;
  group: string;
  version: string;
  namespaced: boolean;
  /** Routes and policies: what says how calls are carried. */
  about: "route" | "policy" | "mesh" | "object";
  what: string;
}

const weft = (kind: string, plural: string, what: string, about: Kind["about"] = "policy", namespaced = true): Kind => ({ kind, plural, group: "weft.mesh", version: "v1alpha1", namespaced, about, what });
const gateway = (kind: string, plural: string, what: string): Kind => ({ kind, plural, group: "gateway.networking.k8s.io", version: "v1", namespaced: true, about: "route", what });
const core = (kind: string, plural: string, what: string, namespaced = true): Kind => ({ kind, plural, group: "", version: "v1", namespaced, about: "object", what });

export const KINDS: Kind[] = [
  gateway("HTTPRoute", "httproutes", "splits, rewrites, redirects, mirrors and times out HTTP calls"),
  gateway("GRPCRoute", "grpcroutes", "splits gRPC calls by service and method"),
  gateway("TCPRoute", "tcproutes", "splits connections"),
  gateway("TLSRoute", "tlsroutes", "splits TLS connections by the name asked for"),
  weft("TrafficPolicy", "trafficpolicies", "balances, retries, breaks, checks and injects faults"),
  weft("RateLimitPolicy", "ratelimitpolicies", "limits how often a service may be called"),
  weft("AuthorizationPolicy", "authorizationpolicies", "says who may call whom"),
  weft("RequestAuthentication", "requestauthentications", "reads the tokens of end users"),
  weft("MeshTLS", "meshtlses", "says where mutual TLS is insisted on"),
  weft("MeshSettings", "meshsettings", "defaults of the whole mesh", "mesh", false),
  weft("FederatedTrustDomain", "federatedtrustdomains", "another mesh whose identities are believed", "mesh", false),
  { ...gateway("ReferenceGrant", "referencegrants", "lets routes of other namespaces refer here"), about: "object" },
  weft("Workload", "workloads", "an instance with its sidecar", "object"),
  core("Service", "services", "a name, its ports and its endpoints"),
  core("ServiceAccount", "serviceaccounts", "an identity"),
  core("Namespace", "namespaces", "a room for names", false),
];

/** Those of whose objects one asks whether they are in force. */
export const POLICY_KINDS = KINDS.filter(({ about }) => about === "route" || about === "policy");

export const kindOf = (plural: string): Kind | undefined => KINDS.find((kind) => kind.plural === plural);
export const kindNamed = (name: string, apiVersion: string): Kind | undefined => KINDS.find((kind) => kind.kind === name && apiVersionOf(kind) === apiVersion);
export const apiVersionOf = ({ group, version }: Kind): string => (group ? `${group}/${version}` : version);

/** The address of a kind's objects, or of one. */
export function apiPath(kind: Kind, namespace: string, name = "", parameters: Record<string, string> = {}): string {
  const root = kind.group ? `/apis/${kind.group}/${kind.version}` : `/api/${kind.version}`;
  const room = kind.namespaced && namespace ? `/namespaces/${encodeURIComponent(namespace)}` : "";
  return query(`${root}${room}/${kind.plural}${name ? `/${encodeURIComponent(name)}` : ""}`, parameters);
}

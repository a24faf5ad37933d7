// What people write most, ready to be changed.

export interface Template {
  name: string;
  what: string;
  yaml: (namespace: string, service: string) => string;
}

const weft = (kind: string, name: string, namespace: string, service: string, spec: string) =>
  `apiVersion: weft.mesh/v1alpha1\nkind: ${kind}\nmetadata:\n  name: ${name}\n  namespace: ${namespace}\nspec:\n  targetRefs:\n    - kind: Service\n      name: ${service}\n${spec}`;

export const TEMPLATES: Template[] = [
  {
    name: "Canary", what: "a share of the calls goes to another release",
    yaml: (namespace, service) => `apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata:
  name: ${service}
  namespace: ${namespace}
spec:
  parentRefs:
    - group: ""
      kind: Service
      name: ${service}
  rules:
    - backendRefs:
        - name: ${service}-v1
          port: 80
          weight: 95
        - name: ${service}-v2
          port: 80
          weight: 5
`,
  },
  { name: "Retries and timeout", what: "failed tries are made again, within a time", yaml: (namespace, service) => weft("TrafficPolicy", service, namespace, service, "  retry:\n    attempts: 2\n    codes: [502, 503, 504]\n    methods: [GET]\n  timeouts:\n    request: 5s\n") },
  { name: "Circuit breaker", what: "an instance that fails gets no calls for a while", yaml: (namespace, service) => weft("TrafficPolicy", service, namespace, service, "  circuitBreaker:\n    consecutiveFailures: 5\n    baseOpen: 5s\n    maxOpen: 1m\n") },
  { name: "Rate limit", what: "how often each caller may call", yaml: (namespace, service) => weft("RateLimitPolicy", service, namespace, service, "  limits:\n    - name: each-caller\n      keys:\n        - identity: true\n      requests: 20\n      per: 1s\n      burst: 40\n") },
  { name: "Allow callers", what: "only these may call; all others are denied", yaml: (namespace, service) => weft("AuthorizationPolicy", service, namespace, service, "  action: Allow\n  rules:\n    - name: callers\n      from:\n        - serviceAccounts: [storefront]\n      to:\n        - methods: [GET]\n") },
  { name: "Deny callers", what: "these may not call, whatever else allows it", yaml: (namespace, service) => weft("AuthorizationPolicy", `${service}-deny`, namespace, service, "  action: Deny\n  rules:\n    - name: strangers\n      from:\n        - notNamespaces: [" + namespace + "]\n") },
  { name: "Fault", what: "some calls fail or are slow, to see what callers do", yaml: (namespace, service) => weft("TrafficPolicy", `${service}-chaos`, namespace, service, "  faults:\n    - abort:\n        status: 503\n        percent: 20\n") },
];

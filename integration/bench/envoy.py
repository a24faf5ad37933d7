"""Envoy in two hops: a static configuration a side, equivalent to what the other systems do. Two ways between the sides for HTTP/1.1 clients: HTTP/1.1 (what Envoy
does by default for them, and the base of every ratio) and HTTP/2 (`envoy-h2`, an extra). HTTP/2 and gRPC clients get an HTTP/2 hop."""

import json

from rig import PROXY_CPU, TARGET, TRUST_DOMAIN, Failure, Process, accepts, answers, free_port, wait_for

TYPE = "type.googleapis.com/envoy."


def http_options(protocol):
    kind = f"{TYPE}extensions.upstreams.http.v3.HttpProtocolOptions"
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {"@type": kind, "explicit_http_config": {f"{protocol}_protocol_options": {}}}}


class Envoy:
    name, title = "envoy", "Envoy"
    features = ("HTTP/1.1 hop for HTTP/1.1 clients, HTTP/2 hop for HTTP/2 and gRPC, one TLS connection a client connection for TCP; least-request balancing, outlier "
                "detection, retries, timeouts, statistics, request ids, JSON access log of every call (buffered file); peers verified by chain and SPIFFE prefix; session "
                "resumption by default")
    h2_features = "the same processes, an HTTP/2 hop for HTTP/1.1 clients"

    def __init__(self, folder, upstreams, certificates):
        folder.mkdir()
        program = TARGET / "tools" / "envoy" / "bin" / "envoy"
        if not program.exists():
            raise Failure(f"{program} is missing: run integration/setup bench")
        self.folder, self.certificates, self.upstreams = folder, certificates, upstreams
        kinds = ["http", "http-h2", "h2", "grpc", "tcp"]
        # Where the application calls, and where the server's side listens for it.
        self.ports = {kind: free_port() for kind in [*kinds, "plain"]}
        tunnels = {kind: free_port() for kind in kinds}
        self.ports["tls"] = tunnels["tcp"]
        self.hosts = {}
        server, client = [], []
        for kind in kinds:
            hop = "http" if kind == "http" else "http2"
            origin = upstreams["http" if kind.startswith("http") else kind]
            if kind == "tcp":
                server.append(self.tcp(f"in-{kind}", tunnels[kind], origin, inner=self.tls("DownstreamTlsContext", "web", require_client_certificate=True)))
                client.append(self.tcp(f"out-{kind}", self.ports[kind], tunnels[kind], outer=self.tls("UpstreamTlsContext", "client", sni="web.shop")))
                continue
            alpn = "h2" if hop == "http2" else "http/1.1"
            server.append(self.http(f"in-{kind}", tunnels[kind], origin, "http" if kind.startswith("http") else "http2",
                                    inner=self.tls("DownstreamTlsContext", "web", alpn, require_client_certificate=True)))
            client.append(self.http(f"out-{kind}", self.ports[kind], tunnels[kind], hop, outer=self.tls("UpstreamTlsContext", "client", alpn, sni="web.shop")))
        client.append(self.tcp("out-plain", self.ports["plain"], upstreams["tcp"]))
        self.inbound = self.start(program, "web", server)
        self.again = lambda: self.start(program, "client", client)
        self.outbound = self.again()
        self.processes = [self.outbound, self.inbound]
        wait_for("an answer through Envoy", lambda: [p.check() for p in self.processes] and answers(self.ports["http"]))

    def tls(self, context, name, alpn=None, **more):
        at = self.certificates / name
        common = {"tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
                  "tls_certificates": [{"certificate_chain": {"filename": str(at / "cert.pem")}, "private_key": {"filename": str(at / "key.pem")}}],
                  "validation_context": {"trusted_ca": {"filename": str(at / "roots.pem")}, "match_typed_subject_alt_names": [
                      {"san_type": "URI", "matcher": {"prefix": f"spiffe://{TRUST_DOMAIN}/"}}]}}
        if alpn:
            common["alpn_protocols"] = [alpn]
        return {"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": f"{TYPE}extensions.transport_sockets.tls.v3.{context}", "common_tls_context": common, **more}}

    def access_log(self, name, fields):
        return [{"name": "file", "typed_config": {"@type": f"{TYPE}extensions.access_loggers.file.v3.FileAccessLog",
                                                  "path": str(self.folder / f"{name}-access.log"), "log_format": {"json_format": fields}}}]

    def listener(self, name, port, filters, inner):
        chain = {"filters": filters}
        if inner:
            chain["transport_socket"] = inner
        return {"name": name, "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}, "filter_chains": [chain]}

    def cluster(self, name, port, outer, options=None):
        cluster = {"name": name, "type": "STATIC", "lb_policy": "LEAST_REQUEST", "connect_timeout": "1s", "outlier_detection": {"consecutive_5xx": 5},
                   "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
                       {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}}]}]}}
        if outer:
            cluster["transport_socket"] = outer
        if options:
            cluster["typed_extension_protocol_options"] = options
        return cluster

    def http(self, name, listen, origin, hop, inner=None, outer=None):
        fields = {"time": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%REQ(:PATH)%", "status": "%RESPONSE_CODE%", "duration": "%DURATION%",
                  "upstream": "%UPSTREAM_HOST%", "id": "%REQ(X-REQUEST-ID)%"}
        manager = {"@type": f"{TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", "stat_prefix": name, "codec_type": "AUTO",
                   "generate_request_id": True, "access_log": self.access_log(name, fields),
                   "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {"@type": f"{TYPE}extensions.filters.http.router.v3.Router"}}],
                   "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [{
                       "match": {"prefix": "/"}, "route": {"cluster": name, "timeout": "0s" if "grpc" in name else "15s", "retry_policy": {
                           "retry_on": "connect-failure,refused-stream,reset-before-request", "num_retries": 2}}}]}]}}
        return (self.listener(name, listen, [{"name": "hcm", "typed_config": manager}], inner), self.cluster(name, origin, outer, http_options(hop)))

    def tcp(self, name, listen, origin, inner=None, outer=None):
        fields = {"time": "%START_TIME%", "duration": "%DURATION%", "upstream": "%UPSTREAM_HOST%", "sent": "%BYTES_SENT%", "received": "%BYTES_RECEIVED%"}
        proxy = {"@type": f"{TYPE}extensions.filters.network.tcp_proxy.v3.TcpProxy", "stat_prefix": name, "cluster": name,
                 "access_log": self.access_log(name, fields), "max_connect_attempts": 3}
        return (self.listener(name, listen, [{"name": "tcp", "typed_config": proxy}], inner), self.cluster(name, origin, outer))

    def start(self, program, side, pairs):
        at = self.folder / f"{side}.json"
        at.write_text(json.dumps({"static_resources": {"listeners": [l for l, _ in pairs], "clusters": [c for _, c in pairs]}}, indent=1))
        return Process(PROXY_CPU, [program, "-c", at, "--concurrency", "1", "--disable-hot-restart", "-l", "error"], self.folder / f"{side}.log")

    def configuration(self):
        return {f"{side}.json": (self.folder / f"{side}.json").read_text() for side in ("client", "web")}

    def client_certificate(self):
        at = self.certificates / "client"
        return at / "cert.pem", at / "key.pem", at / "roots.pem"

    def starts(self):
        self.outbound.stop()
        yield "configuration file", lambda: lambda: (self.again(), self.ports["http"])

    def stop(self):
        for process in self.processes:
            process.stop()


class EnvoyH2:
    """The same two processes, seen through the listener with an HTTP/2 hop."""

    name, title, features = "envoy-h2", "Envoy, HTTP/2 hop", Envoy.h2_features

    def __init__(self, envoy):
        self.envoy, self.processes = envoy, envoy.processes
        self.ports, self.hosts = {"http": envoy.ports["http-h2"]}, {}

    def stop(self):
        pass

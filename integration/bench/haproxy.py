"""HAProxy in two hops."""

from rig import PROXY_CPU, Failure, Process, answers, free_port, program, wait_for


class Haproxy:
    name, title = "haproxy", "HAProxy"
    features = ("HTTP/1.1 hop for HTTP/1.1 clients, HTTP/2 hop for HTTP/2 and gRPC, one TLS connection a client connection for TCP; least-connections balancing, retries with "
                "redispatch, statistics, request ids, access log of every call (one write each); peers verified by chain; session resumption by default; splicing for plain TCP")

    def __init__(self, folder, upstreams, certificates):
        folder.mkdir()
        haproxy = program("haproxy")
        if not haproxy:
            raise Failure("haproxy is missing: run integration/setup bench")
        self.folder, self.certificates = folder, certificates
        kinds = ["http", "h2", "grpc", "tcp"]
        self.ports = {kind: free_port() for kind in [*kinds, "plain"]}
        tunnels = {kind: free_port() for kind in kinds}
        self.ports["tls"] = tunnels["tcp"]
        self.hosts = {}
        client = self.write("client", self.ports, tunnels, outer=True, plain=upstreams["tcp"])
        server = self.write("web", tunnels, upstreams, inner=True)
        self.again = lambda: self.start(haproxy, client)
        self.inbound, self.outbound = self.start(haproxy, server), self.again()
        self.processes = [self.outbound, self.inbound]
        wait_for("an answer through HAProxy", lambda: [p.check() for p in self.processes] and answers(self.ports["http"]))

    def start(self, haproxy, at):
        with open(self.folder / f"{at.stem}-access.log", "ab") as lines:
            return Process(PROXY_CPU, [haproxy, "-db", "-f", at], self.folder / f"{at.stem}.log", out=lines)

    def write(self, side, listen, origin, inner=False, outer=False, plain=None):
        at = self.certificates / side
        accept = f" ssl crt {at}/both.pem ca-file {at}/roots.pem verify required ssl-min-ver TLSv1.3" if inner else ""
        dial = f" ssl crt {at}/both.pem ca-file {at}/roots.pem verify required sni str(web.shop) ssl-min-ver TLSv1.3" if outer else ""
        text = """
global
  nbthread 1
  maxconn 4096
  log stdout format raw local0
  tune.ssl.default-dh-param 2048
defaults
  mode http
  log global
  balance leastconn
  retries 2
  retry-on conn-failure
  option redispatch
  option splice-auto
  option http-keep-alive
  http-reuse always
  unique-id-format %{+X}o%ci:%cp_%fi:%fp_%Ts_%rt:%pid
  timeout connect 1s
  timeout client 1h
  timeout server 1h
"""
        for kind in ("http", "h2", "grpc"):
            h2 = kind != "http"
            bind = (f"{accept} alpn {'h2' if h2 else 'http/1.1'}" if inner else " proto h2" if h2 else "")
            server = f"{dial} alpn {'h2' if h2 else 'http/1.1'}" if outer else " proto h2" if h2 else ""
            text += f"""frontend {kind}
  bind 127.0.0.1:{listen[kind]}{bind}
  option httplog
  unique-id-header X-Request-ID
  default_backend {kind}
backend {kind}
  {'timeout server 15s' if kind != 'grpc' else ''}
  server one 127.0.0.1:{origin[kind]}{server}
"""
        text += f"listen tcp\n  mode tcp\n  option tcplog\n  bind 127.0.0.1:{listen['tcp']}{accept}\n  server one 127.0.0.1:{origin['tcp']}{dial}\n"
        if plain:
            text += f"listen plain\n  mode tcp\n  option tcplog\n  bind 127.0.0.1:{listen['plain']}\n  server one 127.0.0.1:{plain}\n"
        file = self.folder / f"{side}.cfg"
        file.write_text(text)
        return file

    def configuration(self):
        return {f"{side}.cfg": (self.folder / f"{side}.cfg").read_text() for side in ("client", "web")}

    def client_certificate(self):
        at = self.certificates / "client"
        return at / "cert.pem", at / "key.pem", at / "roots.pem"

    def starts(self):
        self.outbound.stop()
        yield "configuration file", lambda: lambda: (self.again(), self.ports["http"])

    def stop(self):
        for process in self.processes:
            process.stop()

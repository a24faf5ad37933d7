"""nginx in two hops. Debian's nginx cannot speak HTTP/2 to an upstream except by grpc_pass: HTTP/2 clients therefore get an HTTP/1.1 hop and an HTTP/1.1 upstream."""

from rig import PROXY_CPU, Failure, Process, answers, free_port, program, wait_for

MODULE = "/usr/lib/nginx/modules/ngx_stream_module.so"


class Nginx:
    name, title = "nginx", "nginx"
    # What arrives as another kind of request than it was sent as.
    counted = {"h2": "http"}
    features = ("HTTP/1.1 hop with pooled connections (also for HTTP/2 clients), HTTP/2 hop for gRPC, one TLS connection a client connection for TCP; least-connections "
                "balancing, next-upstream retries, request ids, access log of every call (64 KiB buffer); peers verified by chain, the server also by name; session "
                "resumption by default; no statistics beyond a status page")

    def __init__(self, folder, upstreams, certificates):
        folder.mkdir()
        nginx = program("nginx")
        if not nginx:
            raise Failure("nginx is missing: run integration/setup bench")
        self.folder, self.certificates = folder, certificates
        kinds = ["http", "h2", "grpc", "tcp"]
        self.ports = {kind: free_port() for kind in [*kinds, "plain"]}
        tunnels = {kind: free_port() for kind in kinds}
        self.ports["tls"] = tunnels["tcp"]
        self.hosts = {}
        origin = {**upstreams, "h2": upstreams["http"]}
        client = self.write("client", self.ports, tunnels, outer=True, plain=upstreams["tcp"])
        server = self.write("web", tunnels, origin, inner=True)
        start = lambda at: Process(PROXY_CPU, [nginx, "-c", at, "-p", folder, "-e", folder / "error.log"], folder / f"{at.stem}.log")
        self.again = lambda: start(client)
        self.inbound, self.outbound = start(server), start(client)
        self.processes = [self.outbound, self.inbound]
        wait_for("an answer through nginx", lambda: [p.check() for p in self.processes] and answers(self.ports["http"]))

    def write(self, side, listen, origin, inner=False, outer=False, plain=None):
        at = self.certificates / side
        server_tls = lambda cache: (f"ssl_certificate {at}/cert.pem; ssl_certificate_key {at}/key.pem; ssl_client_certificate {at}/roots.pem; ssl_verify_client on; "
                      f"ssl_protocols TLSv1.3; ssl_session_cache shared:{cache}:4m;") if inner else ""

        def client_tls(prefix):
            if not outer:
                return ""
            name = prefix.replace("stream", "proxy")
            on = "proxy_ssl on; " if prefix == "stream" else ""
            return (f"{on}{name}_ssl_certificate {at}/cert.pem; {name}_ssl_certificate_key {at}/key.pem; {name}_ssl_trusted_certificate {at}/roots.pem; "
                    f"{name}_ssl_verify on; {name}_ssl_name web.shop; {name}_ssl_server_name on; {name}_ssl_protocols TLSv1.3;")
        ssl = " ssl" if inner else ""
        scheme, grpc = ("https", "grpcs") if outer else ("http", "grpc")
        pools = "\n".join(f"  upstream {kind} {{ least_conn; server 127.0.0.1:{origin[kind]}; keepalive 256; keepalive_requests 100000000; }}"
                          for kind in ("http", "h2", "grpc"))
        headers = 'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header X-Request-ID $request_id; proxy_set_header Host $host;'
        h2 = " http2" if not inner else ""
        stream = f"""
  upstream tcp {{ least_conn; server 127.0.0.1:{origin['tcp']}; }}
  server {{ listen 127.0.0.1:{listen['tcp']}{ssl} backlog=4096; proxy_pass tcp; {server_tls('tcp')} {client_tls('stream')} }}"""
        if plain:
            stream += f"\n  server {{ listen 127.0.0.1:{listen['plain']} backlog=4096; proxy_pass 127.0.0.1:{plain}; }}"
        text = f"""
load_module {MODULE};
daemon off; master_process off; worker_processes 1; pid {self.folder}/{side}.pid; error_log {self.folder}/{side}-error.log error;
worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{
  log_format line escape=json '{{"time":"$time_iso8601","method":"$request_method","path":"$uri","status":$status,"duration":$request_time,"upstream":"$upstream_addr","id":"$request_id"}}';
  access_log {self.folder}/{side}-access.log line buffer=64k flush=1s;
  keepalive_requests 100000000; http2_max_concurrent_streams 256;
  client_body_temp_path {self.folder}; proxy_temp_path {self.folder}; fastcgi_temp_path {self.folder}; uwsgi_temp_path {self.folder}; scgi_temp_path {self.folder};
  proxy_next_upstream error timeout; proxy_next_upstream_tries 3; proxy_connect_timeout 1s; proxy_read_timeout 15s;
{pools}
  server {{ listen 127.0.0.1:{listen['http']}{ssl} backlog=4096; {server_tls('http')}
    location / {{ proxy_pass {scheme}://http; {headers} {client_tls('proxy')} }} }}
  server {{ listen 127.0.0.1:{listen['h2']}{ssl}{h2} backlog=4096; {server_tls('http')}
    location / {{ proxy_pass {scheme}://h2; {headers} {client_tls('proxy')} }} }}
  server {{ listen 127.0.0.1:{listen['grpc']}{ssl} http2 backlog=4096; {server_tls('http')} client_max_body_size 0; grpc_read_timeout 1h; grpc_send_timeout 1h; client_body_timeout 1h;
    location / {{ grpc_pass {grpc}://grpc; grpc_set_header X-Request-ID $request_id; {client_tls('grpc')} }} }}
}}
stream {{
  log_format line escape=json '{{"time":"$time_iso8601","duration":$session_time,"upstream":"$upstream_addr","sent":$bytes_sent,"received":$bytes_received}}';
  access_log {self.folder}/{side}-tcp-access.log line buffer=64k flush=1s; proxy_connect_timeout 1s;{stream}
}}
"""
        file = self.folder / f"{side}.conf"
        file.write_text(text)
        return file

    def configuration(self):
        return {f"{side}.conf": (self.folder / f"{side}.conf").read_text() for side in ("client", "web")}

    def client_certificate(self):
        at = self.certificates / "client"
        return at / "cert.pem", at / "key.pem", at / "roots.pem"

    def starts(self):
        self.outbound.stop()
        yield "configuration file", lambda: lambda: (self.again(), self.ports["http"])

    def stop(self):
        for process in self.processes:
            process.stop()

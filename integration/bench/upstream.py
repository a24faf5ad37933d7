"""The application behind every system: `weft-load serve` on the load's CPU, which answers HTTP/1.1, HTTP/2, gRPC and TCP exchanges and counts what it answered."""

import http.client
import json
import os
import pathlib

from rig import LOAD_CPU, TARGET, Failure, Process, answers, free_port, program, say, wait_for

# Name of the counts of each kind of load on the status page.
COUNTS = {"http": "http1", "http-h2": "http1", "h2": "http2", "grpc": "grpc", "tcp": "tcp", "plain": "tcp"}


def load_program():
    """`weft-load`, the load generator and upstream of this repository."""
    path = pathlib.Path(os.environ.get("WEFT_LOAD", TARGET / "release" / "weft-load"))
    if not path.exists():
        raise Failure(f"{path} is missing: run cargo build --release -p weft-load")
    return path


class Serve:
    """One process of `weft-load serve`."""

    def __init__(self, folder, name, kinds):
        out = folder / f"{name}.json"
        words = [word for kind in (*kinds, "status") for word in (f"--{kind}", "127.0.0.1:0")]
        with open(out, "wb") as sink:
            self.process = Process(LOAD_CPU, [load_program(), "serve", *words], folder / f"{name}.log", out=sink)

        def listening():
            self.process.check()
            return out.read_text().endswith("\n") and json.loads(out.read_text().splitlines()[0])
        self.ports = {kind: int(at.rsplit(":", 1)[1]) for kind, at in wait_for("the upstream", listening).items()}
        self.page = http.client.HTTPConnection("127.0.0.1", self.ports["status"], timeout=10)

    def counts(self):
        try:
            self.page.request("GET", "/")
            return json.loads(self.page.getresponse().read())
        except (OSError, http.client.HTTPException, ValueError) as error:
            self.page.close()
            raise Failure(f"the upstream's status page: {error}") from None


class Upstream:
    """Everything that is called. gRPC has a process of its own, since a port has one declared protocol in a mesh."""

    def __init__(self, folder):
        folder.mkdir()
        self.main, self.grpc = Serve(folder, "main", ("http1", "http2", "tcp")), Serve(folder, "grpc", ("http2",))
        self.ports = {"http": self.main.ports["http1"], "h2": self.main.ports["http2"], "grpc": self.grpc.ports["http2"], "tcp": self.main.ports["tcp"]}

    def requests(self, kind):
        """Requests of this kind answered so far."""
        serve = self.grpc if kind == "grpc" else self.main
        return serve.counts()[COUNTS[kind]]["requests"]


class Direct:
    """No proxy at all: what latency is added to."""

    name, title, features = "direct", "no proxy", "the load generator calls the upstream itself"

    def __init__(self, upstream):
        self.processes, self.ports, self.hosts = [], dict(upstream.ports), {}

    def stop(self):
        pass


class PlainUpstream:
    """nginx, where weft-load is not built: only what wrk and h2load can drive."""

    def __init__(self, folder):
        folder.mkdir()
        nginx = program("nginx")
        if not nginx:
            raise Failure("nginx is missing: run integration/setup bench")
        self.ports = {kind: free_port() for kind in ("http", "h2", "grpc", "tcp")}
        status, answer = free_port(), f'return 200 "{"x" * 1024}";'
        configuration = folder / "nginx.conf"
        configuration.write_text(f"""
daemon off; master_process off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log error; worker_rlimit_nofile 65536;
events {{ worker_connections 16384; }}
http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 1h; http2_max_concurrent_streams 1024; client_body_temp_path {folder};
  proxy_temp_path {folder}; fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{self.ports['http']} backlog=4096; location / {{ {answer} }} }}
  server {{ listen 127.0.0.1:{self.ports['h2']} http2 backlog=4096; location / {{ {answer} }} }}
  server {{ listen 127.0.0.1:{self.ports['grpc']} http2 backlog=4096; location / {{ default_type application/grpc; add_trailer grpc-status 0 always; {answer} }} }}
  server {{ listen 127.0.0.1:{self.ports['tcp']} backlog=4096; location / {{ {answer} }} }}
  server {{ listen 127.0.0.1:{status}; location / {{ stub_status; }} }} }}""")
        self.process = Process(LOAD_CPU, [nginx, "-c", configuration, "-p", folder, "-e", folder / "error.log"], folder / "nginx.out")
        wait_for("the upstream", lambda: self.process.check() or answers(self.ports["http"]))
        self.page = http.client.HTTPConnection("127.0.0.1", status, timeout=10)
        self.asked = 0

    def requests(self, _kind):
        self.page.request("GET", "/")
        self.asked += 1
        return int(self.page.getresponse().read().decode().split("\n")[2].split()[2]) - self.asked


def make(folder):
    """The upstream; without weft-load, one that is enough for a part of the scenarios."""
    try:
        load_program()
    except Failure as failure:
        say(f"bench: {failure}; going on with what wrk and h2load can measure")
        return PlainUpstream(folder)
    return Upstream(folder)

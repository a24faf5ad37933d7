"""The application behind every system: `weft-load serve` on the load's CPU, which answers HTTP/1.1, HTTP/2, gRPC and TCP exchanges and counts what it answered."""

import http.client
import json
import os
import pathlib

from rig import LOAD_CPU, TARGET, Failure, Process, wait_for

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

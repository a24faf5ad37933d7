"""Weft as a user starts it: `weft up`, Services and a join token for each side, and two sidecars from a settings file each.

The control plane runs on the load's CPU: it is not what is measured. Both sidecars keep their defaults; the access log is on. `file_mode` runs the same pair from
resource files instead, for a machine without the `weft` program.
"""

import itertools
import json
import os
import pathlib
import re

from rig import LOAD_CPU, PROXY_CPU, TARGET, TRUST_DOMAIN, Failure, Process, answers, free_port, run, wait_for

# Port of the Service for each kind of load.
SERVICE_PORTS = {"http": 80, "h2": 81, "grpc": 82, "tcp": 83}
PROTOCOLS = {"http": "http", "h2": "http2", "grpc": "grpc", "tcp": "tcp"}
APP_PROTOCOLS = {"http": "http", "h2": "kubernetes.io/h2c", "grpc": "grpc", "tcp": "tcp"}


def proxy_program():
    """What is shipped, unless told otherwise."""
    path = pathlib.Path(os.environ.get("WEFT_PROXY", TARGET / "dist" / "weft-proxy"))
    if not path.exists():
        raise Failure(f"{path} is missing: run make dist")
    return path


def weft_program():
    """The control plane's program: a release build, or whatever build there is (it is not measured)."""
    candidates = [os.environ.get("WEFT"), TARGET / "release" / "weft", TARGET / "debug" / "weft"]
    for path in candidates:
        if path and pathlib.Path(path).exists():
            return path
    raise Failure("the weft program is missing: run cargo build --release --bin weft, or use --file-mode")


class ControlPlane:
    """`weft up` with the shop's Services."""

    def __init__(self, folder, upstreams):
        folder.mkdir()
        self.folder, self.data, self.program = folder, folder / "data", weft_program()
        self.process = Process(LOAD_CPU, [self.program, "up", "--data-dir", self.data, "--grpc", "127.0.0.1:0", "--api", "127.0.0.1:0",
                                          "--trust-domain", TRUST_DOMAIN], folder / "up.log")

        def endpoints():
            self.process.check()
            at = self.data / "endpoints.json"
            return at.exists() and (self.data / "kubeconfig").exists() and json.loads(at.read_text() or "null")
        self.grpc = wait_for("weft up", endpoints)["grpc"]
        self.apply([
            {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}},
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"}, "spec": {"ports": [
                {"name": k, "port": p, "targetPort": k, "appProtocol": APP_PROTOCOLS[k]} for k, p in SERVICE_PORTS.items()]}},
            # A workload without a sidecar: it is called in plaintext.
            {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "bare", "namespace": "shop"}, "spec": {"ports": [
                {"name": "tcp", "port": 83, "targetPort": "tcp", "appProtocol": "tcp"}]}},
            {"apiVersion": "weft.mesh/v1alpha1", "kind": "Workload", "metadata": {"name": "bare-1", "namespace": "shop"}, "spec": {
                "serviceAccount": "bare", "address": "127.0.0.1", "services": ["bare"],
                "ports": [{"name": "tcp", "port": upstreams["tcp"], "protocol": "tcp"}]}},
        ])

    def weft(self, *words, stdin=None):
        return run([self.program, *words], env={**os.environ, "KUBECONFIG": str(self.data / "kubeconfig")}, input=stdin, deadline=30)

    def apply(self, objects):
        wait_for("weft apply", lambda: self.weft("apply", "-f", "-", stdin="".join(f"---\n{json.dumps(o)}\n" for o in objects)) or True)

    def token(self, account, services, uses=None):
        at = self.folder / f"{account}-token"
        words = [w for s in services for w in ("--service", s)]
        self.weft("token", "create", "-n", "shop", "--service-account", account, *words, "-o", at)
        return at


class Weft:
    name, title = "weft", "Weft"
    features = ("HBONE hop (CONNECT streams over a few warm mTLS connections; native HTTP/2 for HTTP/2 and gRPC); peak-EWMA balancing, breaker, retries with a "
                "budget, timeouts, connection limits, authorization by exact SPIFFE id, metrics, request ids and trace propagation, JSON access log of every call; "
                "post-quantum hybrid key exchange preferred; no session resumption")

    def __init__(self, folder, upstreams, certificates, file_mode=False, workers=1):
        folder.mkdir()
        self.folder, self.upstreams, self.certificates, self.workers = folder, upstreams, certificates, workers
        self.mesh = None if file_mode else ControlPlane(folder / "mesh", upstreams)
        self.ports = {"tcp": free_port(), "plain": free_port()}
        self.hosts = {kind: f"web.shop:{port}" for kind, port in SERVICE_PORTS.items()}
        self.hosts["http"] = "web.shop"
        self.inbound, ready = self.start("web")
        self.tunnel = ready["tunnel"]
        self.ports["tls"] = int(self.tunnel.rsplit(":", 1)[1])
        self.outbound, ready = self.start("client")
        self.processes = [self.outbound, self.inbound]
        port = int(ready["outbound"].rsplit(":", 1)[1])
        self.ports.update(http=port, h2=port, grpc=port)
        wait_for("an answer through Weft", lambda: [p.check() for p in self.processes] and answers(port))

    def settings(self, name, port=0):
        state = self.folder / name
        listen = "127.0.0.1:0"
        settings = {
            "workload": {"namespace": "shop", "serviceAccount": name, "name": name}, "stateDir": str(state),
            "outbound": {"listen": f"127.0.0.1:{port}"}, "inbound": {"tunnel": listen}, "admin": {"listen": listen},
            "accessLog": {"path": str(self.folder / f"{name}-access.log")}}
        if self.workers != 1:
            settings["workers"] = self.workers
        if name == "web":
            settings["workload"]["services"] = ["web"]
            settings["workload"]["ports"] = [{"name": k, "port": self.upstreams[k], "protocol": PROTOCOLS[k]} for k in SERVICE_PORTS]
        elif name == "client":
            settings["outbound"]["tcp"] = [{"listen": f"127.0.0.1:{self.ports['tcp']}", "host": "web.shop:83"},
                                           {"listen": f"127.0.0.1:{self.ports['plain']}", "host": "bare.shop:83"}]
        if self.mesh:
            settings["controlPlane"] = {"address": self.mesh.grpc}
        return settings

    def prepare(self, name, port=0):
        """Writes what a sidecar is started with: the command."""
        state, at = self.folder / name, self.folder / f"{name}-settings.json"
        state.mkdir(mode=0o700, exist_ok=True)
        settings = self.settings(name, port)
        words = [proxy_program(), "--config", at]
        if self.mesh:
            if not (state / "identity.pem").exists():
                settings["joinTokenFile"] = str(self.mesh.token(name, ["web"] if name == "web" else []))
        else:
            resources = self.folder / f"{name}.json"
            resources.write_text(json.dumps(self.resources(name), indent=1))
            words += ["--resources", resources, "--certificates", self.certificates / name]
        at.write_text(json.dumps(settings, indent=1))
        (state / "ready.json").unlink(missing_ok=True)
        return words

    def launch(self, name, words):
        return Process(PROXY_CPU, words, self.folder / f"{name}.log")

    def start(self, name):
        state, process = self.folder / name, self.launch(name, self.prepare(name))

        def ready():
            process.check()
            at = state / "ready.json"
            found = json.loads(at.read_text()) if at.exists() else None
            return found and answers(int(found["admin"].rsplit(":", 1)[1]), "/ready") and found
        return process, wait_for("a ready sidecar", ready)

    def starts(self):
        """Ways to start the client's side: label and a function that prepares one and gives a function that begins it."""
        if not self.mesh:
            self.outbound.stop()
            yield "resource file", lambda: self.beginning("client")
            return
        count = itertools.count(1)
        # Each time a workload that the mesh has never seen, with a token made beforehand.
        yield "new workload, control plane on the same host", lambda: self.beginning(f"caller-{next(count)}")
        # What was learned is written a second later.
        kept = self.folder / "client" / "last-known-good"
        wait_for("a last-known-good configuration", lambda: kept.exists() and b"shop/web:80/0" in kept.read_bytes())
        self.outbound.stop()
        yield "known workload, control plane on the same host", lambda: self.beginning("client")
        self.mesh.process.stop()
        yield "last-known-good, control plane away", lambda: self.beginning("client")

    def beginning(self, name):
        port = free_port()
        words = self.prepare(name, port)
        return lambda: (self.launch(name, words), port)

    def resources(self, name):
        """What a control plane would push, for --file-mode."""
        settings = {"trustDomain": TRUST_DOMAIN, "domain": "cluster.local"}
        identity = f"spiffe://{TRUST_DOMAIN}/ns/shop/sa/web"
        wire = {"http": "PROTOCOL_HTTP1", "h2": "PROTOCOL_HTTP2", "grpc": "PROTOCOL_GRPC", "tcp": "PROTOCOL_TCP"}
        if name == "web":
            return {"settings": settings, "inbound": {"workload": "shop/web", "identity": identity, "ports": [{
                "port": self.upstreams[k], "authorities": [f"127.0.0.1:{self.upstreams[k]}"], "serverNames": [f"{p}.web.shop.svc.cluster.local"],
                "local": f"127.0.0.1:{self.upstreams[k]}", "protocol": wire[k], "service": "shop/web"} for k, p in SERVICE_PORTS.items()]}}
        meshed = lambda k, p: {"tunnel": self.tunnel, "identity": identity, "serverName": f"{p}.web.shop.svc.cluster.local"}
        slices = [("shop/web", k, p, meshed(k, p)) for k, p in SERVICE_PORTS.items()] + [("shop/bare", "tcp", 83, {})]
        service = lambda name, ports: {"name": f"shop/{name}", "hostnames": [name, f"{name}.shop"], "ports": [
            {"port": p, "protocol": wire[k], "frontend": {}, "backend": {"slices": [f"shop/{name}:{p}/0"]}} for k, p in ports]}
        return {"settings": settings,
                "services": [service("web", SERVICE_PORTS.items()), service("bare", [("tcp", 83)])],
                "endpoints": [{"name": f"{s}:{p}/0", "endpoints": [{"uid": s, "address": "127.0.0.1", "port": self.upstreams[k],
                                                                     "health": "HEALTH_READY", "weight": 1, **more}]} for s, k, p, more in slices]}

    def configuration(self):
        return {at.name: at.read_text() for at in sorted(self.folder.glob("*-settings.json"))}

    def client_certificate(self):
        """Certificate, key and roots with which another client may call the inbound listener."""
        if not self.mesh:
            at = self.certificates / "client"
            return at / "cert.pem", at / "key.pem", at / "roots.pem"
        # What the client's own sidecar holds: its key, its chain, and the mesh's root.
        blocks = re.findall(r"-----BEGIN ([A-Z ]+)-----\n(.*?)-----END", (self.folder / "client" / "identity.pem").read_text(), re.S)
        pem = lambda kind, wanted: "".join(f"-----BEGIN {kind}-----\n{body}-----END {kind}-----\n" for body in wanted)
        certificates = [body for kind, body in blocks if kind == "CERTIFICATE"]
        at = self.folder / "handshake"
        at.mkdir(mode=0o700, exist_ok=True)
        (at / "key.pem").write_text(pem("PRIVATE KEY", [body for kind, body in blocks if kind == "PRIVATE KEY"]))
        (at / "cert.pem").write_text(pem("CERTIFICATE", certificates[:-1]))
        (at / "roots.pem").write_text(pem("CERTIFICATE", certificates[-1:]))
        return at / "cert.pem", at / "key.pem", at / "roots.pem"

    def stop(self):
        for process in [*self.processes, *([self.mesh.process] if self.mesh else [])]:
            process.stop()

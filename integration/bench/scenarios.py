"""The scenarios whose figure is CPU: what is sent, what is counted, in which unit. Each gives one sample for one system at a time."""

import math
import time

import load
from load import call, span, weft_load
from rig import Failure

WARM = 0.5


def cpu(processes):
    return sum(p.cpu_seconds() for p in processes)


def rss(system):
    return [p.rss_kib() for p in system.processes]


class Scenario:
    """What all have: a key, a title, a unit, the kind of port they need, and the system that ratios are taken to."""

    base, quick, unit, rate, most_cycles = "envoy", False, "µs per request", "requests/s", 1000

    def __init__(self, key, title, kind, **more):
        self.key, self.title, self.kind = key, title, kind
        self.__dict__.update(more)

    def suits(self, system):
        return self.kind in system.ports and bool(system.processes)

    def counted(self, bench, system):
        """Requests of this kind that the upstream has answered."""
        return bench.upstream.requests(getattr(system, "counted", {}).get(self.kind, self.kind))


class ClosedLoop(Scenario):
    """CPU of the proxies over requests that the upstream counted, in the middle of a closed loop."""

    complaint = staticmethod(load.weft_load_complaint)

    def sample(self, bench, system, seconds):
        for process in system.processes:
            process.check()
        # wrk and h2load take whole seconds.
        length = math.ceil(seconds + WARM + 0.1)
        running = load.Load(bench.folder, self.command(bench, system, length), length)
        try:
            time.sleep(WARM)
            used, count, begin = cpu(system.processes), self.counted(bench, system), time.monotonic()
            time.sleep(seconds)
            used, count, duration = cpu(system.processes) - used, self.counted(bench, system) - count, time.monotonic() - begin
        finally:
            text = running.end()
        complaint = self.complaint(text)
        if complaint or count < 50:
            raise Failure(f"{count} requests counted upstream; {complaint}")
        return {"value": used / count * 1e6, "perSecond": count / duration, "busy": used / duration, "rssKiB": rss(system)}


def http1(key, title, connections, **more):
    return ClosedLoop(key, title, "http", complaint=load.wrk_complaint, command=lambda b, s, t: load.wrk(s, connections, t), **more)


def http2(key, title, connections, streams, **more):
    return ClosedLoop(key, title, "h2", complaint=load.h2load_complaint, command=lambda b, s, t: load.h2load(s, "h2", connections, streams, t), **more)


def grpc(key, title, connections, streams, **more):
    def command(bench, system, seconds):
        message = bench.folder / "message"
        if not message.exists():
            message.write_bytes(bytes([0, 0, 0, 4, 0]) + b"x" * 1024)
        return load.h2load(system, "grpc", connections, streams, seconds, ("content-type: application/grpc", "te: trailers"), message)
    return ClosedLoop(key, title, "grpc", complaint=load.h2load_complaint, command=command, **more)


def grpc_stream(key, title, connections, streams):
    return ClosedLoop(key, title, "grpc", unit="µs per message", rate="messages/s", command=lambda b, s, t: weft_load(
        "closed", *call(s, "grpc", "grpc-stream"), "--connections", connections, "--streams", streams, "--duration", span(t)))


def churn(key, title, concurrency):
    return ClosedLoop(key, title, "http", command=lambda b, s, t: weft_load(
        "closed", *call(s, "http", "http1"), "--connections", concurrency, "--churn", "--sources", 250, "--duration", span(t)))


def tcp_churn(key, title, concurrency):
    return ClosedLoop(key, title, "tcp", unit="µs per connection", rate="connections/s", command=lambda b, s, t: weft_load(
        "tcp", "--target", f"127.0.0.1:{s.ports['tcp']}", "--connections", concurrency, "--churn", "--sources", 250, "--down", 1024, "--up", 128, "--duration", span(t)))


class Bulk(Scenario):
    """CPU seconds per GB (10⁹ bytes) of downloads over a few connections, the whole run counted."""

    unit, rate = "CPU s/GB", "MB/s"

    def command(self, _bench, system, seconds):
        return weft_load("tcp", "--target", f"127.0.0.1:{system.ports[self.kind]}", "--connections", 4, "--down", "16m", "--duration", span(seconds))

    def sample(self, bench, system, seconds):
        processes = system.processes[:self.proxies]
        used, begin = cpu(processes), time.monotonic()
        found = load.result(load.Load(bench.folder, self.command(bench, system, seconds), seconds).end())
        used, duration = cpu(processes) - used, time.monotonic() - begin
        if found["errors"]["total"] or not found["bytes"]:
            raise Failure(f"errors {found['errors']}")
        return {"value": used / found["bytes"] * 1e9, "perSecond": found["bytesPerSecond"] / 1e6, "busy": used / duration, "rssKiB": rss(system)}


class Handshake(Scenario):
    """CPU of the server's side per new mutual TLS 1.3 connection with one tiny opaque exchange, which shows that the client's certificate was accepted: the same
    client for all, nothing resumed. With Weft the exchange travels in a CONNECT stream, which is what its own sidecars open."""

    unit, rate = "µs per connection", "connections/s"

    def sample(self, bench, system, seconds):
        server = system.processes[1:]
        cert, key, roots = system.client_certificate()
        how = (["--alpn", "h2", "--sni", "83.web.shop.svc.cluster.local", "--after", "connect-bytes", "--authority", f"127.0.0.1:{bench.upstream.ports['tcp']}"]
               if system.name == "weft" else ["--sni", "web.shop", "--after", "bytes"])
        used = cpu(server)
        found = load.result(load.Load(bench.folder, weft_load(
            "handshake", "--target", f"127.0.0.1:{system.ports['tls']}", "--cert", cert, "--key", key, "--roots", roots, *how,
            "--connections-in-all", 1_000_000, "--concurrency", 4, "--duration", span(seconds), *self.flags), seconds).end())
        used = cpu(server) - used
        if found["errors"]["total"] or found["requests"] < 20:
            raise Failure(f"{found['requests']} connections, errors {found['errors']}")
        return {"value": used / found["requests"] * 1e6, "perSecond": found["perSecond"], "group": found["group"], "suite": found["suite"], "rssKiB": rss(system)}


ALL = [
    http1("http1-64", "HTTP/1.1 mesh, 64 connections", 64, quick=True),
    http1("http1-8", "HTTP/1.1 mesh, 8 connections", 8, quick=True),
    http2("http2", "HTTP/2 mesh, 4 connections of 16 streams", 4, 16, quick=True),
    http2("http2-one", "HTTP/2 mesh, 1 connection of 64 streams", 1, 64),
    grpc("grpc", "gRPC unary, 4 connections of 16 streams, 1 KiB each way", 4, 16, quick=True),
    grpc_stream("grpc-stream", "gRPC streaming, 64 streams on 4 connections, 1 KiB messages back and forth", 4, 16),
    churn("churn-http", "HTTP/1.1, a new client connection for each request", 16),
    tcp_churn("churn-tcp", "opaque TCP, a new client connection for each exchange of 1 KiB", 16),
    Handshake("handshake", "cold mTLS connection, server's side", "tls", flags=[]),
    Handshake("handshake-classic", "cold mTLS connection, server's side, client without the post-quantum hybrid", "tls", flags=["--classic"]),
    Bulk("tcp-plain", "TCP download through one proxy, plain, 4 connections", "plain", proxies=1, quick=True),
    Bulk("tcp-mtls", "TCP download through two proxies, mTLS, 4 connections", "tcp", proxies=2, quick=True),
]

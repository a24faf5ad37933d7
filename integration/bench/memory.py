"""Memory of a fresh pair of each system: idle, with idle client connections, under load."""

import subprocess
import time

import load
from load import call, weft_load
from rig import Failure, wait_for
from stats import median

CONNECTIONS = 1000


class Memory:
    key, title, quick = "memory", "Memory", False

    def run(self, bench):
        out = {}
        for name in bench.systems:
            if name in ("envoy-h2", "direct"):
                continue
            with bench.attempting(f"memory, {name}"):
                with bench.fresh(name) as system:
                    out[name] = self.measure(bench, system)
        return out

    def measure(self, bench, system):
        settle = lambda: time.sleep(1.0) or [p.rss_kib() for p in system.processes]
        idle = settle()
        holder = load.Load(bench.folder, weft_load("idle", *call(system, "http", "http1"), "--connections", CONNECTIONS, "--hold", "60s"), 60, stdin=subprocess.PIPE)
        try:
            wait_for("idle connections", lambda: holder.text().endswith("\n") or holder.process.check(), 30)
            held = settle()
        finally:
            holder.process.child.stdin.close()
            opened = load.result(holder.end())
        if opened["ready"] < CONNECTIONS or opened["lost"]:
            raise Failure(f"{opened['ready']} of {CONNECTIONS} connections were opened, {opened['lost']} were lost")
        busy = bench.scenario("http1-64").sample(bench, system, 3.0)["rssKiB"]
        after = settle()
        return {"idleKiB": idle, "perConnectionKiB": (held[0] - idle[0]) / CONNECTIONS, "busyKiB": busy, "afterKiB": after}

    def table(self, bench, result):
        lines = ["| Memory (RSS, MiB: client's side, server's side) | idle | under load, 64 connections | after it | client's side, KiB per idle client connection |", "| --- " * 5 + "|"]
        mib = lambda kib: ", ".join(f"{k / 1024:.1f}" for k in kib)
        for name, row in result.items():
            lines.append(f"| {bench.title(name)} | {mib(row['idleKiB'])} | {mib(row['busyKiB'])} | {mib(row['afterKiB'])} | {row['perConnectionKiB']:.1f} |")
        return "\n".join(lines)


class Start:
    """From the start of the client's side proxy to its first answered request, its port known beforehand, the server's side running."""

    key, title, quick = "start", "Start to first answer", False

    def run(self, bench):
        out = {}
        for name in bench.systems:
            if name in ("envoy-h2", "direct"):
                continue
            with bench.attempting(f"start, {name}"):
                with bench.fresh(name) as system:
                    for label, prepare in system.starts():
                        out[f"{name}, {label}"] = [self.measure(bench, system, prepare) for _ in range(max(bench.options.cycles, 3))]
        return out

    def measure(self, bench, system, prepare):
        """`prepare` gives a function that starts a proxy: the process and the port of its HTTP/1.1 listener."""
        process, port = prepare()()
        try:
            text = load.Load(bench.folder, weft_load("first", "--target", f"127.0.0.1:{port}", "--since", process.started, "--authority", load.host(system, "http")), 30).end()
            return load.result(text)["sinceMs"]
        finally:
            process.stop()

    def table(self, bench, result):
        lines = ["| Start of the client's side to its first answered request | median | all |", "| --- " * 3 + "|"]
        for name, values in result.items():
            system, label = name.split(", ", 1)
            lines.append(f"| {bench.title(system)}, {label} | {median(values):.1f} ms | {', '.join(f'{v:.1f}' for v in values)} |")
        return "\n".join(lines)


ALL = [Memory(), Start()]

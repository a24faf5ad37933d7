"""One bad receiver, or bulk, beside small calls: `weft-load fairness` against each system, with the proxies' memory watched meanwhile."""

import threading

import load
from load import call, weft_load
from rig import Failure
from stats import interval, median

PHASES = ("stalled", "slow", "bulk")
# Bytes a second of all downloads: a part of what a proxy can do, since beside a CPU that is full everything is slow.
BULK_RATE = "64m"


class Peak:
    """The most memory that a system's processes held together while this was open."""

    def __init__(self, system):
        self.system, self.most, self.over = system, 0, threading.Event()
        self.before = self.now()
        self.thread = threading.Thread(target=self.watch, daemon=True)

    def now(self):
        return sum(p.rss_kib() for p in self.system.processes)

    def watch(self):
        while not self.over.wait(0.1):
            try:
                self.most = max(self.most, self.now())
            except (OSError, TypeError):
                return

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join(5)

    @property
    def grown_mib(self):
        return max(0, self.most - self.before) / 1024


class Fairness:
    """Small calls at 500/s on 64 streams (HTTP/1.1: connections); phases take turns, and each is compared with the calls alone in the same cycle."""

    quick = False

    def __init__(self, key, title, kind, protocol, flags=()):
        self.key, self.title, self.kind, self.protocol, self.flags = key, title, kind, protocol, flags

    def run(self, bench):
        out = {}
        for name, system in bench.systems.items():
            if self.kind not in system.ports or not system.processes or name == "envoy-h2":
                continue
            with bench.attempting(f"{self.key}, {name}"):
                out[name] = self.measure(bench, system)
        return out

    def measure(self, bench, system):
        # Whoever is judged gets more turns, since a tenth is asked after; those that are not even compared with get fewer. Short ones: what is compared is then seen in the same
        # mood of the machine.
        turns = {"weft": 6 * bench.options.cycles, "envoy": 2 * bench.options.cycles}
        cycles, phase = turns.get(system.name, min(bench.options.cycles, 6)), 0.4
        with Peak(system) as peak:
            # A phase in which nothing is answered is a result too.
            text = load.Load(bench.folder, weft_load("fairness", *call(system, self.kind, self.protocol), "--phase", load.span(phase), "--cycles", cycles, "--bulk-rate", BULK_RATE,
                                                     "--timeout", "3s", *self.flags), cycles * 4 * (phase + 3) + 10).end(fine=(0, 1))
        found = load.result(text)
        alone = [c["alone"]["p50"] for c in found["cycles"] if c["alone"]["p50"]]
        if not alone:
            raise Failure(f"no call was answered: {found['phases']['alone']['errors']}")
        out = {"grownMiB": peak.grown_mib, "aloneP50": median(alone)}
        for name in PHASES:
            pairs = [(c[name], c["alone"]["p50"]) for c in found["cycles"] if name in c and c["alone"]["p50"]]
            ratios = [seen["p50"] / base for seen, base in pairs if seen["p50"]]
            answered, seen = len(ratios) == len(pairs), found["phases"][name]
            out[name] = {"p50": median(ratios) if answered else None, "interval": list(interval(ratios)) if answered else None, "errors": seen["errors"],
                         "otherBytes": seen["otherBytes"]}
        return out

    @staticmethod
    def cell(row):
        if row["p50"] is None:
            return "no call answered in time"
        errors = f", {row['errors']['total']} errors" if row["errors"]["total"] else ""
        return f"× {row['p50']:.2f} ({row['interval'][0]:.2f}–{row['interval'][1]:.2f}){errors}"

    def table(self, bench, result):
        lines = [f"| {self.title} | alone, p50 | beside a stalled receiver | beside a slow receiver | beside four downloads of 64 MiB/s together | these, MB | memory grown, both proxies |",
                 "| --- " * 7 + "|"]
        for name, row in result.items():
            cells = " | ".join(self.cell(row[p]) for p in PHASES)
            lines.append(f"| {bench.title(name)} | {row['aloneP50']:.0f} µs | {cells} | {row['bulk']['otherBytes'] / 1e6:,.0f} | {row['grownMiB']:.1f} MiB |")
        return "\n".join(lines)


ALL = [
    Fairness("fair-http2", "64 streams of one HTTP/2 connection, small calls' p50", "h2", "http2"),
    Fairness("fair-http1", "64 HTTP/1.1 connections, small calls' p50", "http", "http1"),
]

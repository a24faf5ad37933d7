"""Open loops: calls leave on a schedule and are timed from when they should have left. CPU per request at a modest rate, and the latency that proxies add."""

import time

import load
from load import call, span, weft_load
from rig import Failure
from scenarios import WARM, Scenario, cpu, rss
from stats import interval, median

CONNECTIONS = 64
QUANTILES = ("p50", "p99", "p999")


class OpenLoop(Scenario):
    """HTTP/1.1 at a given rate. The figure is CPU per request; latencies are kept beside it, also of a direct call."""

    def suits(self, system):
        return self.kind in system.ports

    def rate_for(self, _bench, _system):
        return self.calls

    def sample(self, bench, system, seconds):
        rate = self.rate_for(bench, system)
        seconds = max(seconds, self.at_least)
        length = seconds + 2 * WARM
        running = load.Load(bench.folder, weft_load("open", *call(system, "http", "http1"), "--rate", f"{rate:.1f}", "--connections", CONNECTIONS,
                                                    "--warmup", span(WARM), "--duration", span(seconds + WARM)), length)
        try:
            time.sleep(WARM + 0.2)
            used, count, begin = cpu(system.processes), self.counted(bench, system), time.monotonic()
            time.sleep(seconds - 0.2)
            used, count, duration = cpu(system.processes) - used, self.counted(bench, system) - count, time.monotonic() - begin
        finally:
            text = running.end()
        complaint = load.weft_load_complaint(text)
        if complaint or count < 50:
            raise Failure(f"{count} requests counted upstream; {complaint}")
        found = load.result(text)
        return {"value": used / count * 1e6, "perSecond": count / duration, "rate": rate, "busy": used / duration, "rssKiB": rss(system),
                "latency": {q: found["latencyUs"][q] for q in QUANTILES}, "late": {q: found["lateUs"][q] for q in QUANTILES}}


class HalfLoad(OpenLoop):
    """Each system at half of what it did in the closed loop of the same run."""

    suits = Scenario.suits

    def rate_for(self, bench, system):
        known = bench.saturation.get(system.name)
        if known is None:
            runs = [r["perSecond"] for r in bench.samples.get("http1-64", {}).get(system.name, []) if r]
            if not runs:
                runs = [bench.scenario("http1-64").sample(bench, system, 1.0)["perSecond"]]
            known = bench.saturation[system.name] = median(runs)
        return known / 2


def latencies(bench, scenario):
    """Per system: median quantiles over rounds, what they are beyond a direct call's of the same round, and the ratio of that to the base's."""
    samples = bench.samples.get(scenario.key, {})
    direct, base = samples.get("direct", []), samples.get(scenario.base, [])
    out = {}
    for name, runs in samples.items():
        good = [r for r in runs if r]
        if not good:
            continue
        row = {q: median(r["latency"][q] for r in good) for q in QUANTILES}
        row["rate"], row["lateP99"] = median(r["rate"] for r in good), median(r["late"]["p99"] for r in good)
        added = lambda r, d: r["latency"]["p50"] - d["latency"]["p50"]
        each = [added(r, d) for r, d in zip(runs, direct) if r and d]
        if name != "direct" and each:
            row["addedP50"] = median(each)
            ratios = [added(r, d) / added(b, d) for r, b, d in zip(runs, base, direct) if r and b and d and added(b, d) > 0]
            if ratios:
                row["addedRatio"], row["addedInterval"] = median(ratios), list(interval(ratios))
        out[name] = row
    return out


def table(bench, scenario):
    rows = latencies(bench, scenario)
    lines = [f"| {scenario.title}: latency from the intended send time | calls/s | p50 | added p50 | × Envoy's (95 % interval) | p99 | p99.9 |", "| --- " * 7 + "|"]
    for name, row in rows.items():
        ratio = f"{row['addedRatio']:.2f} ({row['addedInterval'][0]:.2f}–{row['addedInterval'][1]:.2f})" if "addedRatio" in row else "–"
        extra = f"{row['addedP50']:.0f} µs" if "addedP50" in row else "–"
        lines.append(f"| {bench.title(name)} | {row['rate']:,.0f} | {row['p50']:.0f} µs | {extra} | {ratio} | {row['p99']:.0f} µs | {row['p999']:.0f} µs |")
    return "\n".join(lines), rows


ALL = [
    OpenLoop("http1-1000", "HTTP/1.1 mesh, open loop of 1,000 requests/s on 64 connections", "http", calls=1000.0, at_least=3.0),
    HalfLoad("http1-half", "HTTP/1.1 mesh, open loop at half of each system's own saturation", "http", at_least=2.0, most_cycles=5),
]

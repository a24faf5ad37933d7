"""The bars: what Weft must reach, each with the figure of this run and whether it passes. A ratio passes by the upper bound of its interval."""

import latency
from stats import interval, median


def against(samples, other):
    """Ratio of Weft's samples to another system's, cycle by cycle."""
    each = [a["value"] / b["value"] for a, b in zip(samples.get("weft", []), samples.get(other, [])) if a and b]
    return (median(each), interval(each)) if each else None


def row(name, limit, figure, bound, text, better="≤"):
    passes = None if bound is None else (bound <= limit if better == "≤" else bound < limit if better == "<" else bound >= limit)
    return {"bar": name, "limit": limit, "direction": better, "figure": figure, "bound": bound, "text": text, "pass": passes}


def ratio(name, limit, found, better="≤"):
    if not found:
        return row(name, limit, None, None, "not measured", better)
    figure, (low, high) = found
    return row(name, limit, figure, low if better == "≥" else high, f"{figure:.2f} ({low:.2f}–{high:.2f})", better)


def absolute(name, limit, figure, unit, better="≤", digits=1):
    return row(name, limit, figure, figure, "not measured" if figure is None else f"{figure:.{digits}f} {unit}", better)


CPU = [  # scenario, what it is called, limit to Envoy, limit to nginx and HAProxy
    ("http1-64", "CPU per request, HTTP/1.1 mesh, 64 connections", 0.22, {"nginx": 0.7, "haproxy": 0.7}),
    ("http1-8", "CPU per request, HTTP/1.1 mesh, 8 connections", 0.30, {}),
    ("http1-1000", "CPU per request, HTTP/1.1 mesh, 1,000 requests/s", 0.45, {}),
    ("http2", "CPU per request, HTTP/2 mesh, 4 connections of 16 streams", 0.27, {}),
    ("http2-one", "CPU per request, HTTP/2 mesh, 1 connection of 64 streams", 0.27, {}),
    ("grpc", "CPU per call, gRPC unary", 0.38, {"haproxy": 1.0}),
    ("churn-http", "CPU per request, a new client connection each, HTTP", 0.30, {}),
    ("churn-tcp", "CPU per connection, opaque TCP over the warm hop", 0.40, {}),
    ("handshake", "CPU per cold mTLS connection, server's side", 1.0, {}),
    ("tcp-plain", "CPU s/GB, TCP, plain", 0.40, {}),
    ("tcp-mtls", "CPU s/GB, TCP, mTLS", 0.97, {}),
]


def evaluate(bench, chosen):
    """The bars of what this run measured."""
    keys, out, results = {s.key for s in chosen}, [], bench.results
    for key, name, limit, others in CPU:
        samples = bench.samples.get(key, {})
        if key not in keys:
            continue
        out.append(ratio(f"{name}, × Envoy", limit, against(samples, "envoy")))
        for other, most in others.items():
            out.append(ratio(f"{name}, × {bench.title(other)}", most, against(samples, other), "<" if most == 1.0 else "≤"))
    if "http1-1000" in keys:
        found = latency.latencies(bench, bench.scenario("http1-1000")).get("weft", {})
        out.append(ratio("added p50 at 1,000 requests/s, × Envoy's", 0.45, (found["addedRatio"], found["addedInterval"]) if "addedRatio" in found else None))
    fairness(results, keys, out)
    if "memory" in keys:
        found = results.get("memory", {}).get("weft", {})
        out.append(absolute("idle memory of a sidecar (the larger of two)", 8.0, max(found["idleKiB"]) / 1024 if found else None, "MiB"))
        out.append(absolute("memory per idle client connection", 10.0, found.get("perConnectionKiB"), "KiB"))
    if "start" in keys:
        for label, limit in (("last-known-good, control plane away", 20.0), ("new workload, control plane on the same host", 150.0)):
            values = results.get("start", {}).get(f"weft, {label}")
            out.append(absolute(f"start to first answer, {label}", limit, median(values) if values else None, "ms"))
    if "workers" in keys:
        found = results.get("workers") or None
        out.append(ratio("a second worker, × the throughput of one", 1.6, (found["ratio"], found["interval"]) if found else None, "≥"))
    if "syscalls" in keys:
        figure = results.get("syscalls", {}).get("weft", {}).get("http1-64")
        out.append(absolute("system calls of the pair per HTTP/1.1 request, 64 connections", 5.0, figure, ""))
    if "soak" in results:
        found = results["soak"]
        last = absolute("memory in the last quarter of the soak, × the second quarter's", 1.05, max(side["growth"] for side in found["sides"].values()), "", digits=3)
        if found["seconds"] < 300:
            # What a pool or an allocator takes once looks like growth in a short one.
            last.update({"pass": None, "text": f"{last['text'].strip()} (under 5 minutes: not judged)"})
        out.append(last)
    return out


def fairness(results, keys, out):
    for key, name in (("fair-http2", "64 streams of an HTTP/2 connection"), ("fair-http1", "64 HTTP/1.1 connections")):
        if key not in keys:
            continue
        found = results.get(key, {}).get("weft")
        for phase, words, limit in (("stalled", "a stalled receiver", 1.10), ("slow", "a slow receiver", 1.10), ("bulk", "bulk", 1.5)):
            title = f"calls' p50 beside {words}, × alone, {name}"
            if found and found[phase]["p50"] is None:
                out.append({**row(title, limit, None, None, "no call answered in time"), "pass": False})
            else:
                out.append(ratio(title, limit, (found[phase]["p50"], found[phase]["interval"]) if found else None))
        # Two sidecars, each at most a connection's windows of 16 MiB a direction.
        out.append(absolute(f"memory grown meanwhile, both sidecars, {name}", 64.0, found["grownMiB"] if found else None, "MiB"))


def table(rows):
    lines = ["| bar | limit | this run | |", "| --- | --- | --- | --- |"]
    for r in rows:
        verdict = "–" if r["pass"] is None else "**PASS**" if r["pass"] else "**FAIL**"
        lines.append(f"| {r['bar']} | {r['direction']} {r['limit']:g} | {r['text'].strip()} | {verdict} |")
    return "\n".join(lines)

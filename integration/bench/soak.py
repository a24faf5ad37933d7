"""A long run of mixed load on Weft, with churn, resets and aborted calls, and what the sidecars' memory does meanwhile."""

import os
import pathlib
import time

import load
from load import weft_load
from rig import say
from stats import median, slope


def descriptors(process):
    return len(list(pathlib.Path(f"/proc/{process.pid}/fd").iterdir()))


def state(system):
    return {"rssKiB": [p.rss_kib() for p in system.processes], "descriptors": [descriptors(p) for p in system.processes]}


def run(bench, seconds):
    """Two generators at a time, HTTP/1.1 with TCP and HTTP/2 with gRPC; memory is read once a second (at least 60 times)."""
    system = bench.systems["weft"]
    before = state(system)
    targets = [["--http1", f"127.0.0.1:{system.ports['http']}", "--tcp", f"127.0.0.1:{system.ports['tcp']}", "--authority", load.host(system, "http")],
               ["--http2", f"127.0.0.1:{system.ports['h2']}", "--authority", load.host(system, "h2")]]
    running = []
    for number, flags in enumerate(targets):
        folder = bench.folder / f"soak-{number}"
        folder.mkdir()
        running.append(load.Load(folder, weft_load("soak", *flags, "--duration", load.span(seconds), "--seed", number + 1), seconds))
    begin, points, pause = time.monotonic(), [], min(1.0, seconds / 60)
    next_word = begin + 30
    while time.monotonic() - begin < seconds:
        for process in (*system.processes, *(r.process for r in running)):
            process.check()
        points.append((time.monotonic() - begin, [p.rss_kib() for p in system.processes]))
        if time.monotonic() > next_word:
            next_word += 30
            say(f"soak: {points[-1][0]:.0f} of {seconds:.0f} s, RSS {points[-1][1]} KiB")
        time.sleep(pause)
    loads = [load.result(r.end()) for r in running]
    # What was open ends, buffers are given back.
    time.sleep(5)
    after = state(system)
    out = {"seconds": seconds, "before": before, "after": after, "points": [[round(t, 1), *r] for t, r in points], "sides": {},
           "actions": {}, "failed": {}, "errors": {}, "requests": sum(found["requests"] for found in loads)}
    for found in loads:
        for field in ("actions", "failed", "errors"):
            for name, count in found[field].items():
                out[field][name] = out[field].get(name, 0) + count
    quarter = len(points) // 4
    for side, name in enumerate(("client", "server")):
        second = median(r[side] for _, r in points[quarter:2 * quarter])
        last = median(r[side] for _, r in points[-quarter:])
        out["sides"][name] = {"secondQuarterKiB": second, "lastQuarterKiB": last, "growth": last / second, "mostKiB": max(r[side] for _, r in points),
                              "slopeKiBPerMinute": slope([(t / 60, r[side]) for t, r in points[len(points) // 2:]])}
    return out


def table(result):
    marks = [0, 0.1, 0.25, 0.5, 0.75, 1.0]
    at = lambda share: result["points"][min(int(share * len(result["points"])), len(result["points"]) - 1)]
    lines = [f"Soak of {result['seconds']:.0f} s: {result['requests']:,} actions ({', '.join(f'{n} {c:,}' for n, c in sorted(result['actions'].items()))}); "
             f"errors {result['errors']}, failed {result['failed']}.", "",
             "| RSS, KiB | before | " + " | ".join(f"{m:.0%}" for m in marks) + " | 5 s after | 2nd quarter, median | last quarter, median | slope in the second half, KiB/min | descriptors before, after |",
             "| --- " * (len(marks) + 7) + "|"]
    for side, (name, row) in enumerate(result["sides"].items()):
        values = [result["before"]["rssKiB"][side], *(at(m)[side + 1] for m in marks), result["after"]["rssKiB"][side], row["secondQuarterKiB"], row["lastQuarterKiB"]]
        lines.append(f"| Weft, {name}'s side | " + " | ".join(f"{v:,.0f}" for v in values) + f" | {row['slopeKiBPerMinute']:+.1f} | "
                     f"{result['before']['descriptors'][side]}, {result['after']['descriptors'][side]} |")
    return "\n".join(lines)


def duration():
    """BENCH_SOAK: seconds, or with a unit; ten minutes without."""
    text = os.environ.get("BENCH_SOAK") or "10m"
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1])
    return float(text[:-1]) * unit if unit else float(text)

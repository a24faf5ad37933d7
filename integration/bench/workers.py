"""What a second worker gives. One CPU for all proxies cannot show it, so every worker thread gets a small share of that CPU by a cgroup quota: load and upstream,
on the other CPU, are then never the limit, and a worker more is a share more."""

import os
import pathlib

from rig import Failure, say
from stats import interval, median

SHARE = 0.1
PERIOD = 50_000


def cpu_controller():
    """Folder of the writable cgroup v1 cpu controller."""
    for line in pathlib.Path("/proc/mounts").read_text().splitlines():
        _, at, kind, flags, *_ = line.split()
        if kind == "cgroup" and "cpu" in flags.split(",") and os.access(at, os.W_OK):
            return pathlib.Path(at)
    raise Failure("needs the cgroup v1 cpu controller, writable, to give each worker thread its own share of a CPU")


class Shares:
    """A group for each worker thread of the processes."""

    def __init__(self, processes, workers):
        root, self.groups = cpu_controller(), []
        for process in processes:
            threads = [t for t, name in process.threads().items() if name.startswith("weft-worker")]
            if len(threads) != workers:
                raise Failure(f"{len(threads)} worker threads instead of {workers}: {process.threads()}")
            for thread in threads:
                group = root / f"weft-bench-{os.getpid()}-{thread}"
                try:
                    group.mkdir()
                    self.groups.append(group)
                    (group / "cpu.cfs_period_us").write_text(str(PERIOD))
                    (group / "cpu.cfs_quota_us").write_text(str(int(PERIOD * SHARE)))
                    (group / "tasks").write_text(str(thread))
                except OSError as error:
                    self.remove()
                    raise Failure(f"{group}: {error}") from None

    def remove(self):
        for group in self.groups:
            try:
                for thread in (group / "tasks").read_text().split():
                    (group.parent / "tasks").write_text(thread)
                group.rmdir()
            except OSError as error:
                say(f"bench: {group}: {error}")
        self.groups = []


class Workers:
    key, title, quick = "workers", "A second worker", False

    def run(self, bench):
        if "weft" not in bench.systems:
            return {}
        with bench.attempting("workers, weft"):
            scenario, runs = bench.scenario("http1-64"), {1: [], 2: []}
            with bench.fresh("weft") as one, bench.fresh("weft", workers=2) as two:
                pairs = {1: one, 2: two}
                # Connections between the sides are made before the shares are small.
                for pair in pairs.values():
                    scenario.sample(bench, pair, 0.5)
                shares, used = [], {1: [], 2: []}
                try:
                    for count, pair in pairs.items():
                        shares.append(Shares(pair.processes, count))
                    for cycle in range(max(bench.options.cycles, 3)):
                        for count in (1, 2) if cycle % 2 else (2, 1):
                            before = self.used(pairs[count])
                            runs[count].append(scenario.sample(bench, pairs[count], 1.4)["perSecond"])
                            used[count].append([[round(t - b, 3) for b, t in zip(*each)] for each in zip(before, self.used(pairs[count]))])
                finally:
                    for share in shares:
                        share.remove()
            each = [b / a for a, b in zip(runs[1], runs[2])]
            return {"perSecond": {count: median(values) for count, values in runs.items()}, "runs": runs,
                    # Seconds of each worker of the client's side, then of the server's: whether connections were spread over them.
                    "workerSeconds": used, "ratio": median(each), "interval": list(interval(each)),
                    "isolation": f"each worker thread in a cgroup with {SHARE:.0%} of the proxies' CPU (quota {int(PERIOD * SHARE)} µs in {PERIOD} µs), both sidecars alike"}
        return {}

    @staticmethod
    def used(system):
        return [[process.thread_seconds(t) for t, name in sorted(process.threads().items()) if name.startswith("weft-worker")] for process in system.processes]

    def table(self, bench, result):
        if not result:
            return "**A second worker: not measured**, see below."
        one, two = (result["perSecond"].get(n, result["perSecond"].get(str(n))) for n in (1, 2))
        spread = result["workerSeconds"].get(2, result["workerSeconds"].get("2"))[-1]
        words = ", ".join(f"{side} {' and '.join(f'{s:.2f}' for s in seconds)}" for side, seconds in zip(("client's side", "server's side"), spread))
        return (f"| Weft, HTTP/1.1 mesh at 64 connections; {result['isolation']} | requests/s | × one worker (95 % interval) |\n| --- | --- | --- |\n"
                f"| `workers: 1` | {one:,.0f} | 1.00 |\n| `workers: 2` | {two:,.0f} | {result['ratio']:.2f} ({result['interval'][0]:.2f}–{result['interval'][1]:.2f}) |\n\n"
                f"CPU seconds of the two workers in the last sample: {words}.")


ALL = [Workers()]

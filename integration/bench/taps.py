"""What open taps cost: CPU per HTTP/1.1 request of a pair at 10,000 a second, with three taps open beside none, in turn on the same pair."""

import json
import time

import load
from latency import CONNECTIONS
from load import call, span, weft_load
from rig import LOAD_CPU, Failure, Process, wait_for
from scenarios import WARM, cpu
from stats import interval, median

RATE = 10_000
ROUNDS = 12
SECONDS = 2.0
# Everything, one side's, and one that no call matches: what is shown is bounded by --max-rps.
TAPS = (["--max-rps", "100"], ["web", "--direction", "inbound", "--max-rps", "1000"], ["--status", "5xx"])


class Taps:
    key, title, quick = "taps", "What open taps cost", False

    def open(self, bench, system):
        opened = []
        for n, words in enumerate(TAPS):
            log = bench.folder / f"tap-{n}.out"
            log.unlink(missing_ok=True)
            opened.append(Process(LOAD_CPU, [system.mesh.program, "tap", "-n", "shop", *words], log,
                                  env={"KUBECONFIG": str(system.mesh.data / "kubeconfig")}))
        for tap in opened:
            wait_for("an open tap", lambda tap=tap: tap.check() or tap.tail(100_000).startswith("TIME"))
        return opened

    def sample(self, bench, system):
        length = SECONDS + 2 * WARM
        running = load.Load(bench.folder, weft_load("open", *call(system, "http", "http1"), "--rate", f"{RATE:.1f}", "--connections", CONNECTIONS,
                                                    "--warmup", span(WARM), "--duration", span(SECONDS + WARM)), length)
        count = lambda: bench.upstream.requests("http")
        try:
            time.sleep(WARM + 0.2)
            used, begun, begin = cpu(system.processes), count(), time.monotonic()
            time.sleep(SECONDS - 0.2)
            used, done, duration = cpu(system.processes) - used, count() - begun, time.monotonic() - begin
        finally:
            text = running.end()
        complaint = load.weft_load_complaint(text)
        if complaint or done < 50:
            raise Failure(f"{done} requests counted upstream; {complaint}")
        return {"microseconds": used / done * 1e6, "perSecond": done / duration, "p99": load.result(text)["latencyUs"]["p99"]}

    def run(self, bench):
        with bench.fresh("weft", file_mode=False) as system:
            off, on, summary = [], [], []
            self.sample(bench, system)
            for turn in range(ROUNDS):
                for with_taps in ((False, True) if turn % 2 == 0 else (True, False)):
                    opened = self.open(bench, system) if with_taps else []
                    (on if with_taps else off).append(self.sample(bench, system))
                    for tap in opened:
                        tap.child.send_signal(2)
                        tap.child.wait(10)
                        summary.append(tap.tail(400).strip().splitlines()[-1])
                        tap.stop()
            ratios = [a["microseconds"] / b["microseconds"] for a, b in zip(on, off)]
            mid = lambda runs, key: median(run[key] for run in runs)
            return {"ratio": median(ratios), "interval": interval(ratios), "off": mid(off, "microseconds"), "on": mid(on, "microseconds"),
                    "perSecond": mid(on, "perSecond"), "p99": [mid(off, "p99"), mid(on, "p99")], "said": summary[-len(TAPS):]}

    def table(self, _bench, result):
        low, high = result["interval"]
        return "\n".join([
            f"| Weft, HTTP/1.1 mesh, {result['perSecond']:.0f} requests a second | µs per request | p99 of a call, µs |", "| --- | --- | --- |",
            f"| no tap open | {result['off']:.1f} | {result['p99'][0]:.0f} |", f"| three taps open | {result['on']:.1f} | {result['p99'][1]:.0f} |", "",
            f"With taps × {result['ratio']:.3f} (95 % interval {low:.3f}–{high:.3f}). What they said at the end: {json.dumps(result['said'])}"])


ALL = [Taps()]

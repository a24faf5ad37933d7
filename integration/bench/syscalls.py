"""System calls of both proxies per request, counted by the kernel's tracepoint with `perf stat` in the middle of a closed loop."""

import os
import re
import subprocess
import time

import load
from rig import Failure, program
from scenarios import WARM

SCENARIOS = ("http1-64", "http1-8", "http2", "grpc")
SECONDS = 1.4


class Syscalls:
    key, title, quick = "syscalls", "System calls", False

    def run(self, bench):
        perf = program("perf")
        if not perf:
            bench.failures["syscalls"] = "perf is missing: install linux-perf (Debian) to count system calls"
            return {}
        out = {}
        for key in SCENARIOS:
            scenario = bench.scenario(key)
            for name, system in bench.systems.items():
                if scenario.suits(system):
                    with bench.attempting(f"syscalls, {key}, {name}"):
                        out.setdefault(name, {})[key] = self.measure(bench, perf, scenario, system)
        return out

    def measure(self, bench, perf, scenario, system):
        length = 3
        running = load.Load(bench.folder, scenario.command(bench, system, length), length)
        try:
            time.sleep(WARM)
            count = scenario.counted(bench, system)
            pids = ",".join(str(p.pid) for p in system.processes)
            done = subprocess.run([perf, "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", pids, "sleep", str(SECONDS)], capture_output=True, text=True,
                                  timeout=30, env={**os.environ, "LC_ALL": "C"})
            count = scenario.counted(bench, system) - count
        finally:
            running.end()
        found = re.search(r"^(\d+),.*raw_syscalls:sys_enter", done.stderr, re.M)
        if done.returncode or not found or count < 50:
            raise Failure(f"perf stat: {done.stderr.strip()[-300:]}")
        return int(found[1]) / count

    def table(self, bench, result):
        titles = " | ".join(bench.scenario(k).title for k in SCENARIOS)
        lines = [f"| System calls of both proxies per request | {titles} |", "| --- " * (len(SCENARIOS) + 1) + "|"]
        for name, row in result.items():
            lines.append(f"| {bench.title(name)} | " + " | ".join(f"{row[k]:.1f}" if k in row else "–" for k in SCENARIOS) + " |")
        return "\n".join(lines)


ALL = [Syscalls()]

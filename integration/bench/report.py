"""What a run says: Markdown for people, JSON for programs."""

import json
import os
import pathlib
import platform
import re
import subprocess
import time

import bars
import latency
import soak
from rig import LOAD_CPU, PROXY_CPU, ROOT, TARGET, program
from stats import interval, median
from weft import proxy_program


def ratios(runs, base):
    """Per cycle, so that a mood of the machine cancels out."""
    return [r["value"] / b["value"] for r, b in zip(runs, base) if r and b]


def figures(bench, scenario):
    """Per system: median, ratio to the base and its interval."""
    samples = bench.samples.get(scenario.key, {})
    base, out = samples.get(scenario.base, []), {}
    for name, runs in samples.items():
        good = [r for r in runs if r]
        if not good or name == "direct":
            continue
        row = {"median": median(r["value"] for r in good), "samples": [r and round(r["value"], 4) for r in runs], "perSecond": median(r["perSecond"] for r in good),
               "rssKiB": good[-1]["rssKiB"], "busy": median(r["busy"] for r in good) if "busy" in good[0] else None}
        each = ratios(runs, base)
        if each:
            row["ratio"], row["interval"] = median(each), list(interval(each))
        if "group" in good[0]:
            row["group"], row["suite"] = good[-1]["group"], good[-1]["suite"]
        out[name] = row
    return out


def text_of(figure):
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}"


def table(bench, scenario):
    rows = figures(bench, scenario)
    groups = any("group" in row for row in rows.values())
    lines = [f"| {scenario.title} | {scenario.unit} | × Envoy (95 % interval) | {scenario.rate} |" + (" key exchange, suite |" if groups else ""),
             "| --- " * (5 if groups else 4) + "|"]
    for name, row in rows.items():
        ratio = f"{row['ratio']:.2f} ({row['interval'][0]:.2f}–{row['interval'][1]:.2f})" if "ratio" in row else "–"
        lines.append(f"| {bench.title(name)} | {text_of(row['median'])} | {ratio} | {row['perSecond']:,.0f} |" + (f" {row['group']}, {row['suite']} |" if groups else ""))
    return "\n".join(lines), rows


def first_line(words):
    try:
        done = subprocess.run([*map(str, words)], capture_output=True, text=True, timeout=10)
        return (done.stdout + done.stderr).strip().splitlines()[0]
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return "missing"


def layout_of(proxy):
    """How the sidecar was built, as integration/dist leaves it beside the program."""
    at = proxy.with_name("weft-proxy.layout")
    return at.read_text().strip() if at.exists() else "build not known"


def versions():
    commit = first_line(["git", "-C", ROOT, "describe", "--always", "--dirty"])
    envoy = first_line([TARGET / "tools" / "envoy" / "bin" / "envoy", "--version"])
    found = re.search(r"/(\d+\.\d+\.\d+)/", envoy)
    return {"weft": commit, "layout": layout_of(proxy_program()), "envoy": found[1] if found else envoy, "nginx": first_line([program("nginx") or "nginx", "-v"]),
            "haproxy": first_line([program("haproxy") or "haproxy", "-v"]), "h2load": first_line([program("h2load") or "h2load", "--version"])}


def machine():
    text = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*: (.*)", text)
    memory = re.search(r"MemTotal:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text())
    return {"cpu": model[1] if model else platform.machine(), "cpus": os.cpu_count(), "memoryGiB": round(int(memory[1]) / 2 ** 20), "kernel": platform.release()}


def layout():
    return (f"CPU {LOAD_CPU}: load generators, upstream, Weft's control plane; CPU {PROXY_CPU}: both proxies of a pair, one worker each. Loopback. "
            f"TLS 1.3 between the two proxies, ECDSA P-256 certificates on both sides, both verified. TCP congestion control of new sockets: {congestion_control()}.")


def congestion_control():
    try:
        return pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip()
    except OSError:
        return "unknown"


def write(bench, chosen, specials):
    where, seen = machine(), versions()
    document = {"machine": where, "versions": seen, "layout": layout(), "mode": bench.options.mode, "seconds": round(time.time() - bench.began), "cycles": bench.options.cycles,
                "secondsEach": bench.options.seconds, "weftFrom": "resource files" if bench.options.file_mode else "weft up and join tokens",
                "scenarios": {}, "missing": bench.missing, "failures": bench.failures}
    others, stolen = bench.neighbours.shares()
    document["otherProcesses"], document["stolen"] = round(others, 4), round(stolen, 4)
    rows = bars.evaluate(bench, [*chosen, *specials])
    parts = [f"# Weft beside its peers, {time.strftime('%Y-%m-%d %H:%M', time.gmtime(bench.began))} UTC",
             f"{where['cpus']} CPUs ({where['cpu']}), {where['memoryGiB']} GiB, Linux {where['kernel']}. {layout()}",
             f"{bench.options.cycles} interleaved cycles, {bench.options.seconds:g} s a sample, {document['seconds']} s in all. Weft {seen['weft']} ({seen['layout']}; from {document['weftFrom']}), "
             f"Envoy {seen['envoy']}, {seen['nginx']}, {seen['haproxy']}. Read ratios, not microseconds. "
             f"Other processes took {others:.0%} of the machine's CPU time meanwhile, the hypervisor {stolen:.0%}" + (": **not a quiet machine**." if others > 0.1 else ".")]
    for name, why in bench.missing.items():
        parts.append(f"**Missing: {name}.** {why}")
    if rows:
        parts.append("## Bars\n\n" + bars.table(rows))
    parts.append("## Figures")
    for scenario in chosen:
        text, figures_of = table(bench, scenario)
        parts.append(text)
        document["scenarios"][scenario.key] = {"title": scenario.title, "unit": scenario.unit, "systems": figures_of}
        if isinstance(scenario, latency.OpenLoop):
            text, document["scenarios"][scenario.key]["latency"] = latency.table(bench, scenario)
            parts.append(text)
    for special in specials:
        if bench.results.get(special.key):
            parts.append(special.table(bench, bench.results[special.key]))
    if "soak" in bench.results:
        parts.append(soak.table(bench.results["soak"]))
    for place, why in bench.failures.items():
        parts.append(f"**Not measured: {place}.** {why}")
    document.update(bars=rows, results=bench.results)
    parts.append("## Systems\n\n" + "\n".join(f"- {s.title}: {s.features}." for s in bench.systems.values()))
    document["systems"] = {n: {"title": s.title, "features": s.features, "configuration": bench.configurations.get(n, {})} for n, s in bench.systems.items()}
    annex = [f"### {bench.title(name)}, {file}\n\n```\n{text.strip()}\n```" for name, files in bench.configurations.items() for file, text in files.items()]
    folder = TARGET / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(parts)
    print(f"{text}\n\nConfigurations are at the end of {folder}/report.md, everything is in {folder}/report.json.", flush=True)
    (folder / "report.md").write_text(text + "\n\n## Configurations\n\n" + "\n\n".join(annex) + "\n")
    (folder / "report.json").write_text(json.dumps(document, indent=1))

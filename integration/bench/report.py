"""What a run says: Markdown for people, JSON for programs."""

import json
import os
import platform
import time

from rig import TARGET
from stats import interval, median


def ratios(runs, base):
    """Per cycle, so that a mood of the machine cancels out."""
    return [r["value"] / b["value"] for r, b in zip(runs, base) if r and b]


def figures(bench, scenario):
    """Per system: median, ratio to the base and its interval."""
    samples = bench.samples.get(scenario.key, {})
    base, out = samples.get(scenario.base, []), {}
    for name, runs in samples.items():
        good = [r for r in runs if r]
        if not good:
            continue
        row = {"median": median(r["value"] for r in good), "samples": [r and round(r["value"], 4) for r in runs],
               "perSecond": median(r["perSecond"] for r in good), "rssKiB": good[-1].get("rssKiB")}
        each = ratios(runs, base)
        if each:
            row["ratio"], row["interval"] = median(each), list(interval(each))
        out[name] = row
    return out


def text_of(figure):
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}"


def table(bench, scenario):
    rows = figures(bench, scenario)
    lines = [f"| {scenario.title} | {scenario.unit} | × Envoy (95 % interval) | {scenario.rate} |", "| --- | --- | --- | --- |"]
    for name, row in rows.items():
        ratio = f"{row['ratio']:.2f} ({row['interval'][0]:.2f}–{row['interval'][1]:.2f})" if "ratio" in row else "–"
        lines.append(f"| {bench.systems[name].title} | {text_of(row['median'])} | {ratio} | {row['perSecond']:,.0f} |")
    return "\n".join(lines), rows


def write(bench, chosen):
    parts, scenarios = [], {}
    for scenario in chosen:
        text, rows = table(bench, scenario)
        parts.append(text)
        scenarios[scenario.key] = {"title": scenario.title, "unit": scenario.unit, "systems": rows}
    for name, why in bench.missing.items():
        parts.append(f"**Missing: {name}.** {why}")
    for where, why in bench.failures.items():
        parts.append(f"**Not measured: {where}.** {why}")
    folder = TARGET / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    text = "\n\n".join(parts) + "\n"
    print(text)
    (folder / "report.md").write_text(text)
    (folder / "report.json").write_text(json.dumps({
        "machine": platform.uname()._asdict(), "cpus": os.cpu_count(), "seconds": round(time.time() - bench.began), "cycles": bench.options.cycles,
        "secondsEach": bench.options.seconds, "scenarios": scenarios, "missing": bench.missing, "failures": bench.failures}, indent=1))

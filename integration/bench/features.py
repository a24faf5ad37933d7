"""What features of the sidecar cost: CPU per HTTP/1.1 request of a pair with one of them switched, beside a pair with everything as it comes, in the same cycles."""

from rig import TRUST_DOMAIN
from stats import interval, median
from weft import Weft

CYCLES = 5
SECONDS = 1.4


class Variant(Weft):
    """A pair from resource files in which one thing is different."""

    def __init__(self, folder, upstreams, certificates, settings=None, resources=None):
        self.more_settings, self.more_resources = settings, resources
        super().__init__(folder, upstreams, certificates, file_mode=True)

    def settings(self, name, port=0):
        settings = super().settings(name, port)
        return {**settings, **(self.more_settings or {})}

    def resources(self, name):
        resources = super().resources(name)
        if self.more_resources:
            self.more_resources(name, resources)
        return resources


def policies(name, resources):
    """Ten ALLOW policies of which only the last admits the client, by identity, method and path."""
    if name != "web":
        return
    rule = lambda who, path: {"from": [{"identities": [f"spiffe://{TRUST_DOMAIN}/ns/shop/sa/{who}"]}],
                              "to": [{"methods": ["GET", "POST"], "paths": [path]}]}
    for port in resources["inbound"]["ports"]:
        if port["protocol"] != "PROTOCOL_TCP":
            port["authorization"] = [{"name": f"shop/policy-{n}", "action": "ACTION_ALLOW", "rules": [
                rule("client" if n == 9 else f"other-{n}", "/*" if n == 9 else f"/private-{n}/*")]} for n in range(10)]


VARIANTS = {
    "as it comes, access log of every call": {},
    "access log off": {"settings": {"accessLog": {"path": "off"}}},
    "ten authorization policies": {"resources": policies},
}


class Features:
    key, title, quick = "features", "What features cost", False

    def run(self, bench):
        scenario, pairs, samples = bench.scenario("http1-64"), {}, {}
        try:
            for n, (label, more) in enumerate(VARIANTS.items()):
                pairs[label] = Variant(bench.folder / f"features-{n}", bench.upstream.ports, bench.certificates, **more)
            for cycle in range(CYCLES):
                turn = cycle % len(pairs)
                for label in [*pairs][turn:] + [*pairs][:turn]:
                    samples.setdefault(label, []).append(scenario.sample(bench, pairs[label], SECONDS)["value"])
        finally:
            for pair in pairs.values():
                pair.stop()
        base = samples[next(iter(VARIANTS))]
        ratios = {label: [a / b for a, b in zip(samples[label], base)] for label in VARIANTS}
        return {label: {"microseconds": median(samples[label]), "ratio": median(ratios[label]), "interval": interval(ratios[label])} for label in VARIANTS}

    def table(self, _bench, result):
        lines = ["| Weft, HTTP/1.1 mesh, 64 connections | µs per request | × as it comes (95 % interval) |", "| --- | --- | --- |"]
        for label, row in result.items():
            low, high = row["interval"]
            lines.append(f"| {label} | {row['microseconds']:.1f} | {row['ratio']:.2f} ({low:.2f}–{high:.2f}) |")
        return "\n".join(lines)


ALL = [Features()]

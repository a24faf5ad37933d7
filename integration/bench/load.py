"""The load generators: how each is called, and what its output says went wrong."""

import json
import re
import subprocess

from rig import LOAD_CPU, Failure, Process, program
from upstream import load_program


class Load:
    """A load generator that runs for a while, pinned to the load's CPU."""

    def __init__(self, folder, command, seconds, **more):
        self.seconds, self.out = seconds, folder / "load.out"
        self.errors = folder / "load.err"
        for path in (self.out, self.errors):
            path.unlink(missing_ok=True)
        with open(self.out, "wb") as sink:
            self.process = Process(LOAD_CPU, command, self.errors, out=sink, **more)

    def text(self):
        return self.out.read_text(errors="replace")

    def end(self, fine=(0,)):
        """Waits for its end and gives its standard output; exit codes other than `fine` are failures."""
        try:
            code = self.process.child.wait(self.seconds + 30)
        except subprocess.TimeoutExpired:
            raise Failure(f"{self.process.name} did not end within {self.seconds + 30:.0f} s: {self.process.tail(500)}") from None
        finally:
            self.process.stop()
        if code not in fine:
            raise Failure(f"{self.process.name} ended with {code}: {(self.text() + self.process.tail())[-1500:].strip()}")
        return self.text()


def need(name, package):
    path = program(name)
    if not path:
        raise Failure(f"{name} is missing (Debian package {package}): run integration/setup bench")
    return path


def host(system, kind):
    return system.hosts.get(kind, "web.shop")


def wrk(system, connections, seconds):
    return [need("wrk", "wrk"), "-t1", f"-c{connections}", f"-d{seconds:.0f}s", "-H", f"Host: {host(system, 'http')}", f"http://127.0.0.1:{system.ports['http']}/"]


def wrk_complaint(text):
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    if bad:
        return f"{bad[1]} answers were not 200"
    return errors[0] if errors and sum(map(int, errors.groups())) else None


def h2load(system, kind, connections, streams, seconds, headers=(), data=None):
    command = [need("h2load", "nghttp2-client"), f"-c{connections}", f"-m{streams}", "-t1", "-D", f"{seconds:.0f}",
               f"--connect-to=127.0.0.1:{system.ports[kind]}", "-w30", "-W30"]
    for header in headers:
        command += ["-H", header]
    if data:
        command += ["-d", data]
    return [*command, f"http://{host(system, kind)}/{'shop.Echo/Call' if kind == 'grpc' else ''}"]


def h2load_complaint(text):
    found = re.search(r"requests: .* (\d+) failed, (\d+) errored, (\d+) timeout", text)
    codes = re.search(r"status codes: (\d+) 2xx, (\d+) 3xx, (\d+) 4xx, (\d+) 5xx", text)
    if not found or not codes:
        return f"h2load said: {text[-300:]}"
    bad = sum(map(int, found.groups())) + sum(int(n) for n in codes.groups()[1:])
    return f"{found[0]}; {codes[0]}" if bad else None


def weft_load(mode, *words):
    return [load_program(), mode, *map(str, words)]


def call(system, kind, protocol, *words):
    """The flags of one kind of call to a system."""
    return ["--protocol", protocol, "--target", f"127.0.0.1:{system.ports[kind]}", "--authority", host(system, kind), *words]


def span(seconds):
    return f"{round(seconds * 1000)}ms"


def result(text):
    """The last line of weft-load's output."""
    try:
        return json.loads(text.strip().splitlines()[-1])
    except (IndexError, ValueError):
        raise Failure(f"weft-load said: {text[-500:]}") from None


def weft_load_complaint(text):
    """At most one call in a thousand may fail: a benchmark of errors measures nothing."""
    found = result(text)
    errors = found["errors"]["total"]
    done = found.get("total", found.get("requests", 0))
    return f"errors {found['errors']} beside {done} answers" if errors * 1000 > done else None

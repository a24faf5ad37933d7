"""What every part of the benchmark stands on: pinned child processes, free ports, waits with a deadline, and a clean end.

Nothing here knows a scenario or a system. Processes are stopped by their own ids, at exit and on any signal that can be caught.
"""

import atexit
import os
import pathlib
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
TRUST_DOMAIN = "weft.local"
DEADLINE = 20.0
LOAD_CPU, PROXY_CPU = 0, 1


class Failure(Exception):
    """One system or scenario cannot be measured; the rest goes on."""


def say(text):
    print(text, file=sys.stderr, flush=True)


_given = set()


def free_port():
    """A free loopback port below the ephemeral range's churn, never the same twice."""
    while True:
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        if port not in _given:
            _given.add(port)
            return port


def wait_for(what, check, deadline=DEADLINE, pause=0.02):
    end = time.monotonic() + deadline
    while time.monotonic() < end:
        value = check()
        if value:
            return value
        time.sleep(pause)
    raise Failure(f"{what} did not happen within {deadline:.0f} s")


def program(name):
    """Path of a program, also from where daemons live; None when the machine has none."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/local/bin")


def reread(path):
    """Has a program's file read again when it is next run. What a build has just written lies in the page cache in larger pieces than what was read, and a process that
    touches one page of a piece is counted as holding all of it."""
    with open(path, "rb") as file:
        os.fsync(file)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run(command, deadline=60, **more):
    """A short command to its end: its standard output."""
    command = [*map(str, command)]
    try:
        # On our own CPU, which is the load's.
        done = subprocess.run(command, capture_output=True, text=True, timeout=deadline, **more)
    except subprocess.TimeoutExpired:
        raise Failure(f"{command[0]} did not end within {deadline:.0f} s") from None
    if done.returncode:
        raise Failure(f"{' '.join(command)} ended with {done.returncode}: {(done.stderr + done.stdout)[-2000:]}")
    return done.stdout


def answers(port, path="/", host="web.shop"):
    """Whether a GET is answered with 200."""
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host})
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        return opener.open(request, timeout=2).status == 200
    except OSError:
        return False


def accepts(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
        return True
    except OSError:
        return False


_children = []


class Process:
    """A child pinned to one CPU, stopped by its own id."""

    def __init__(self, cpu, command, log, env=None, out=None, **more):
        self.name, self.log = pathlib.Path(str(command[0])).name, pathlib.Path(log)
        more.setdefault("stdin", subprocess.DEVNULL)
        with open(log, "ab") as sink:
            own = os.sched_getaffinity(0)
            # A child inherits where we are allowed to run: no program in between that would cost it time.
            os.sched_setaffinity(0, {cpu})
            try:
                self.started = time.time_ns()
                self.child = subprocess.Popen([*map(str, command)], stdout=out or sink, stderr=sink, start_new_session=True,
                                              env={**os.environ, **(env or {})}, **more)
            finally:
                os.sched_setaffinity(0, own)
        _children.append(self)
        try:
            # Where the scheduler weighs sessions before processes, this one's session gets the priority that we have ourselves.
            pathlib.Path(f"/proc/{self.pid}/autogroup").write_text(str(os.getpriority(os.PRIO_PROCESS, 0)))
        except OSError:
            pass

    @property
    def pid(self):
        return self.child.pid

    def threads(self):
        """Thread ids and names."""
        found = {}
        for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir():
            try:
                found[int(task.name)] = (task / "comm").read_text().strip()
            except OSError:
                pass
        return found

    def thread_seconds(self, thread):
        """User and system time of a thread, from the scheduler's own clock (nanoseconds); 0 when it is gone."""
        try:
            return int(pathlib.Path(f"/proc/{self.pid}/task/{thread}/schedstat").read_text().split()[0]) / 1e9
        except OSError:
            return 0.0

    def cpu_seconds(self):
        """That of all threads of the process."""
        return sum(self.thread_seconds(task.name) for task in pathlib.Path(f"/proc/{self.pid}/task").iterdir())

    def rss_kib(self):
        text = pathlib.Path(f"/proc/{self.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", text)[1])

    def running(self):
        return self.child.poll() is None

    def check(self):
        if not self.running():
            raise Failure(f"{self.name} ended with {self.child.returncode}: {self.tail().strip()}")

    def tail(self, size=2000):
        return self.log.read_text(errors="replace")[-size:] if self.log.exists() else ""

    def stop(self, gently=0.0):
        """SIGTERM and a wait where asked for, then SIGKILL to what it started."""
        if self.running() and gently:
            self.child.terminate()
            try:
                self.child.wait(gently)
            except subprocess.TimeoutExpired:
                pass
        if self.running():
            try:
                os.killpg(self.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.child.wait()
        if self in _children:
            _children.remove(self)


def stop_all():
    for process in reversed(_children[:]):
        process.stop()


def raise_priority():
    """Ahead of whatever else runs on the machine, where that is allowed; everything we start inherits it."""
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -15)
    except PermissionError:
        say("bench: without root nothing keeps other processes out of the way")


def clean_up_at_the_end():
    """Every way out but SIGKILL stops what was started."""
    atexit.register(stop_all)

    def leave(number, _frame):
        raise SystemExit(128 + number)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)


class Neighbours:
    """How much of the machine was taken by what is not ours while this lived."""

    def __init__(self):
        self.begin = self.now()

    @staticmethod
    def now():
        user, nice, system, idle, wait, irq, soft, steal = map(int, pathlib.Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
        tick = os.sysconf("SC_CLK_TCK")
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = ended.ru_utime + ended.ru_stime + time.process_time() + sum(p.cpu_seconds() for p in _children if p.running())
        busy = user + nice + system + irq + soft
        return {"busy": busy / tick, "all": (busy + idle + wait + steal) / tick, "steal": steal / tick, "own": own}

    def shares(self):
        """Of all CPU time: what other processes took, and what the hypervisor did."""
        spent = {name: value - self.begin[name] for name, value in self.now().items()}
        return max(0.0, spent["busy"] - spent["own"]) / spent["all"], spent["steal"] / spent["all"]

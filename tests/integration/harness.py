"""Real nodes on this machine, for the integration tests.

A test is a function `name(mesh_or_place)` in a *_test.py file here; its name is the claim. It starts nodes through the
same commands that people use, waits on conditions with a deadline, and leaves no process and no file: nodes are ended by
their process ids, die with this program whatever happens to it, and live below one temporary folder.

    with Place(build) as place:
        mesh = place.mesh("ashburn", "berlin", "cairo")
        job = mesh["ashburn"].weir("submit", "spin", "--items", "10", "--json").json
"""
import contextlib
import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

PR_SET_PDEATHSIG = 1
# A sanitizer build is some ten times slower, and two clones may test at once.
PATIENCE = 4 if os.environ.get("CI") else 2
libc = ctypes.CDLL(None, use_errno=True)


class Failed(Exception):
    """A claim did not hold."""


class Skipped(Exception):
    """The claim can't be tried on this machine; says why."""


def expect(condition, what):
    if not condition:
        raise Failed(what)


def wait_until(what, condition, timeout_s=15):
    """Returns the condition's first true value. What it last said is part of the failure."""
    deadline = time.monotonic() + timeout_s * PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failed("not within %d s: %s" % (timeout_s * PATIENCE, what() if callable(what) else what))
        time.sleep(0.05)


def die_with_parent():
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class Answer:
    """What a command said."""

    def __init__(self, arguments, code, out, error):
        self.arguments, self.code, self.out, self.error = arguments, code, out, error

    @property
    def json(self):
        try:
            return json.loads(self.out)
        except ValueError:
            raise Failed("`weir %s` printed no JSON: %r %r" % (" ".join(self.arguments), self.out, self.error)) from None

    def __str__(self):
        return "`weir %s` ended with %d, said %r %r" % (" ".join(self.arguments), self.code, self.out[-600:],
                                                       self.error[-600:])


class Place:
    """A temporary folder, the program under test, and every process started from it."""

    def __init__(self, build):
        self.build = os.path.abspath(build)
        self.program = os.path.join(self.build, "weir")
        self.processes = []
        self.mounts = []
        self.sanitized = b"__asan_init" in open(self.program, "rb").read() if os.path.exists(self.program) else False

    def __enter__(self):
        self.folder = tempfile.mkdtemp(prefix="weir-test-")
        os.chmod(self.folder, 0o711)  # a test as another user must reach the sockets below
        return self

    def __exit__(self, *_):
        for process in self.processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGCONT)
                process.kill()
            process.wait()
        for mount in self.mounts:
            subprocess.run(["umount", "-l", mount], check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, *names):
        return os.path.join(self.folder, *names)

    def start(self, arguments, **options):
        process = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, preexec_fn=die_with_parent, **options)
        self.processes.append(process)
        return process

    def weir(self, *arguments, code=0, stdin="", env=None, user=None, timeout_s=60, program=None):
        """Runs a command to its end and expects its exit code; None expects nothing. `program`: of another build."""
        arguments = [str(a) for a in arguments]
        as_user = {"user": user, "group": user, "extra_groups": []} if user is not None else {}
        try:
            done = subprocess.run([program or self.program, *arguments], input=stdin, capture_output=True, text=True,
                                  env={**os.environ, "NO_COLOR": "1", **(env or {})}, timeout=timeout_s * PATIENCE,
                                  errors="replace", preexec_fn=die_with_parent, **as_user)
        except subprocess.TimeoutExpired as late:
            raise Failed("`weir %s` did not end within %d s: %r" % (
                " ".join(arguments), timeout_s * PATIENCE, late.stderr)) from None
        answer = Answer(arguments, done.returncode, done.stdout, done.stderr)
        if code is not None:
            expect(done.returncode == code, "%s, not with %d" % (answer, code))
        return answer

    def found(self, first_site="ashburn", federation="rivers", *options):
        """A federation and its first node, running."""
        node = Node(self, first_site)
        self.weir("init", "--federation", federation, "--site", first_site, "--name", first_site, "--data", node.data,
                  *options)
        return node.start()

    def mesh(self, *sites, **settings):
        """Nodes of these sites, joined and seeing each other."""
        nodes = {sites[0]: Node(self, sites[0], **settings)}
        first = nodes[sites[0]]
        self.weir("init", "--federation", "rivers", "--site", sites[0], "--name", sites[0], "--data", first.data)
        first.start()
        for site in sites[1:]:
            nodes[site] = self.join(first, site, **settings)
        for node in nodes.values():
            node.wait_states({site: "up" for site in sites})
        return nodes

    def join(self, inviter, site, *invite_options, **settings):
        node = Node(self, site, **settings)
        token = inviter.weir("invite", "--site", site, *invite_options).out.strip().split("\n")[-1]
        self.weir("join", token, "--name", site, "--data", node.data)
        return node.start()


class Node:
    """One site's node: its folder, its settings, and its process while it runs."""

    def __init__(self, place, name, **settings):
        self.place, self.name = place, name
        self.data = place.path(name)
        self.log = place.path(name + ".log")
        self.settings = {"network.bind": "127.0.0.1", "network.advertise": "127.0.0.1", "network.control_port": 0,
                         "network.bulk_port": 0, "network.join_port": 0, "http.port": 0, "work.cpu_slots": 2,
                         "work.cuda_devices": 0, "log.level": "debug", "api.socket": self.socket}
        self.settings.update({key.replace("__", "."): value for key, value in settings.items()})
        self.program = place.program  # may be set to that of another build
        self.environment = None  # ours
        self.process = None

    @property
    def socket(self):
        return os.path.join(self.place.folder, self.name + ".sock")

    def launch(self, **options):
        """Starts the process without waiting for it to serve."""
        arguments = [self.program, "node", "--data", self.data]
        for key, value in self.settings.items():
            arguments += ["--set", "%s=%s" % (key, value)]
        with open(self.log, "ab") as log:
            self.process = self.place.start(arguments, stdout=log, stderr=log, **{"env": self.environment, **options})
        return self

    def start(self):
        """Starts it and waits until it serves. Ports that were free the first time are kept for the next start; should some
        connection of this machine have got one of them meanwhile, its end is waited for."""
        what = lambda: "%s serves; its log ends:\n%s" % (self.name, self.log_end())
        self.launch()
        try:
            wait_until(what, self.serves, 30)
        except Failed:
            if "the port is in use" not in self.log_end(1):
                raise
            wait_until("the ports of %s are free" % self.name, self.ports_are_free, 90)
            self.launch()
            wait_until(what, self.serves, 30)
        status = self.status()
        for key in ("control", "bulk", "join"):
            if status.get(key):
                self.settings["network.%s_port" % key] = status[key].rpartition(":")[2]
        return self

    def ports_are_free(self):
        for key, port in self.settings.items():
            if key.startswith("network.") and key.endswith("_port"):
                with socket.socket() as tried:
                    tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        tried.bind(("127.0.0.1", int(port)))
                    except OSError:
                        return False
        return True

    def serves(self):
        if self.process.poll() is not None:
            raise Failed("the node of %s ended with code %d; its log ends:\n%s" % (
                self.name, self.process.returncode, self.log_end()))
        return self.weir("gossip", "--json", code=None).code == 0

    def weir(self, *arguments, **options):
        command, rest = arguments[0], arguments[1:]
        return self.place.weir(command, "--node", self.socket, *rest, **options)

    def call(self, op, **fields):
        """One call of the local API, for what no command shows."""
        return api_call(self.socket, {"op": op, **fields})

    def status(self):
        return self.call("status")

    def nodes(self):
        return {row["name"]: row for row in self.weir("nodes", "--json").json["nodes"]}

    def states(self):
        return {name: row["state"] for name, row in self.nodes().items()}

    def wait_states(self, wanted, timeout_s=20):
        def holds():
            seen = self.states()
            return all(seen.get(name) == state for name, state in wanted.items())
        wait_until(lambda: "%s sees %s; it sees %s" % (self.name, wanted, self.states()), holds, timeout_s)

    def counters(self, part):
        return self.weir("gossip", "--stats", "--json").json[part]

    def count(self, part, name):
        return self.counters(part)[name]

    def job(self, job):
        return self.call("job", job=job)["job"]

    def wait_job(self, job, state="done", timeout_s=60):
        def reached():
            if api_answer(self.socket, {"op": "job", "job": job}).get("exit") == 6:
                return False  # its journal has no home just now
            now = self.job(job)["state"]
            expect(now == state or now not in ("failed", "cancelled", "done"),
                   "job %s is %s: %s" % (job[:8], now, self.job(job).get("error")))
            return now == state
        wait_until(lambda: "job %s is %s; it is %s" % (job[:8], state, self.job(job)), reached, timeout_s)
        return self.job(job)

    def submit(self, kernel, *arguments, **options):
        return self.weir("submit", kernel, *arguments, **options)

    def submit_detached(self, kernel, *arguments):
        answer = self.weir("submit", kernel, "--detach", "--json", *arguments).json
        return answer.get("job") if isinstance(answer.get("job"), str) else answer["job"]["id"]

    def signal(self, number):
        os.kill(self.process.pid, number)

    def kill(self):
        self.signal(signal.SIGKILL)
        self.process.wait()

    def stop(self, timeout_s=45):
        """As an init system does it. Returns the exit code."""
        self.signal(signal.SIGTERM)
        return self.wait_end(timeout_s)

    def wait_end(self, timeout_s=45):
        try:
            return self.process.wait(timeout_s * PATIENCE)
        except subprocess.TimeoutExpired:
            raise Failed("the node of %s did not end; its log ends:\n%s" % (self.name, self.log_end())) from None

    def children(self, program):
        """Process ids of this node's children that run `program`."""
        found = []
        try:
            with open("/proc/%d/task/%d/children" % (self.process.pid, self.process.pid), encoding="ascii") as listed:
                pids = listed.read().split()
        except OSError:
            return []
        for pid in pids:
            with contextlib.suppress(OSError), open("/proc/%s/cmdline" % pid, "rb") as line:
                if program.encode() in line.read():
                    found.append(int(pid))
        return found

    def memory_kb(self):
        with open("/proc/%d/status" % self.process.pid, encoding="ascii") as status:
            return next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))

    def descriptors(self):
        return len(os.listdir("/proc/%d/fd" % self.process.pid))

    def log_end(self, lines=15):
        with contextlib.suppress(OSError), open(self.log, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-lines:])
        return "(no log)"

    def log_text(self):
        with open(self.log, encoding="utf-8", errors="replace") as log:
            return log.read()


def api_call(path, request):
    """One request that succeeds, and its final answer."""
    answer = api_answer(path, request)
    expect(answer.get("ok"), "%s: %s" % (request, answer))
    return answer


def api_answer(path, request):
    """One request and its final answer over the Unix socket (node/api.h)."""
    import struct
    with socket.socket(socket.AF_UNIX) as wire:
        wire.settimeout(30 * PATIENCE)
        wire.connect(path)
        body = json.dumps(request).encode()
        wire.sendall(struct.pack("<IB", len(body), ord("J")) + body)
        while True:
            head = receive(wire, 5)
            count, kind = struct.unpack("<IB", head)
            answer = receive(wire, count)
            if kind != ord("J"):
                continue
            answer = json.loads(answer)
            if not answer.get("more"):
                return answer


def receive(wire, count):
    data = bytearray()
    while len(data) < count:
        piece = wire.recv(count - len(data))
        if not piece:
            raise Failed("the node closed its API socket")
        data += piece
    return bytes(data)


def run_test(name, test, build):
    """Runs one test in a place of its own; returns 0 (it held), 1 (it didn't) or 2 (skipped), and the line that says so."""
    began = time.monotonic()
    place = Place(build)
    try:
        with place:
            try:
                test(place)
            except BaseException:
                keep(place, name)
                raise
        result, note = 0, ""
    except Skipped as reason:
        result, note = 2, ": %s" % reason
    except Failed as reason:
        result, note = 1, ": %s" % reason
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the test itself is wrong: a failure like any other, with its line
        result, note = 1, ": %s\n%s" % (error, traceback.format_exc())
    return result, "%s %s (%.1f s)%s" % (("ok  ", "FAIL", "skip")[result], name, time.monotonic() - began, note)


def keep(place, name):
    """With WEIR_KEEP=FOLDER, what a failed test's nodes left is copied there."""
    if os.environ.get("WEIR_KEEP"):
        shutil.copytree(place.folder, os.path.join(os.environ["WEIR_KEEP"], name), dirs_exist_ok=True,
                        ignore=shutil.ignore_patterns("*.sock"))

"""Five sites on one machine, each in a network namespace of its own, with its disk on a small tmpfs.

The calling process must be in network and mount namespaces of its own (chaos.py enters them): its network is the hub
between the sites, and its mounts vanish with it. Site i has the address 10.99.i.2, and only the hub for a neighbour. What
it advertises is 10.98.0.i, where the proxy (proxy.py) listens in the hub; by the address that dials the proxy knows whose
connection it is, so that every ordered pair of sites has its own delay, stalls and cuts.
"""
import json
import os
import shutil
import subprocess
import sys
import threading
import time

from harness import Failed, die_with_parent, wait_until

HERE = os.path.dirname(os.path.abspath(__file__))

NAMES = ("ashburn", "berlin", "cairo", "dublin", "osaka")
PORTS = (7700, 7701, 7702)
DISK_BYTES = 192 << 20
RESTART_AFTER_S = 1.0  # a node that ends by itself is started again after so long, as an init system does


def run(*arguments):
    subprocess.run(arguments, check=True, stdin=subprocess.DEVNULL)


def one_way_delays(rng):
    """Milliseconds by (from, to): round trips of 10 to 150 ms."""
    delays = {}
    for a in range(len(NAMES)):
        for b in range(a):
            round_trip = rng.randint(10, 150)
            delays[a, b] = rng.randint(round_trip // 3, round_trip * 2 // 3)
            delays[b, a] = round_trip - delays[a, b]
    return delays


class Network:
    """Namespaces, addresses, and the proxy between them."""

    def __init__(self):
        run("ip", "link", "set", "lo", "up")
        self.holders = []
        for index in range(len(NAMES)):
            run("ip", "address", "add", "10.98.0.%d/32" % (index + 1), "dev", "lo")
            # Somebody must live in a namespace for it to last while its node is dead.
            holder = subprocess.Popen(["unshare", "--net", "sleep", "infinity"], preexec_fn=die_with_parent,
                                      stdin=subprocess.DEVNULL)
            self.holders.append(holder)
            own = os.readlink("/proc/self/ns/net")
            wait_until("a namespace", lambda: os.readlink("/proc/%d/ns/net" % holder.pid) != own)
            self.wire(index, holder.pid)
        self.proxy = subprocess.Popen([sys.executable, os.path.join(HERE, "proxy.py")], stdin=subprocess.PIPE,
                                      stdout=subprocess.PIPE, text=True, preexec_fn=die_with_parent)
        self.lock = threading.Lock()
        self.say({"sites": [{"listen": "10.98.0.%d" % (i + 1), "target": "10.99.%d.2" % (i + 1),
                             "source": "10.99.%d.2" % (i + 1), "ports": PORTS} for i in range(len(NAMES))]})
        if self.proxy.stdout.readline() != "ready\n":
            raise Failed("the proxy did not start")

    def wire(self, index, pid):
        inside = ["nsenter", "--net=/proc/%d/ns/net" % pid]
        outer, subnet = "site%d" % index, "10.99.%d" % (index + 1)
        run("ip", "link", "add", outer, "type", "veth", "peer", "name", "wan", "netns", str(pid))
        run("ip", "address", "add", subnet + ".1/24", "dev", outer)
        run("ip", "link", "set", outer, "up")
        run(*inside, "ip", "link", "set", "lo", "up")
        run(*inside, "ip", "address", "add", subnet + ".2/24", "dev", "wan")
        run(*inside, "ip", "link", "set", "wan", "up")
        run(*inside, "ip", "route", "add", "default", "via", subnet + ".1")

    def say(self, rule):
        with self.lock:
            self.proxy.stdin.write(json.dumps(rule) + "\n")
            self.proxy.stdin.flush()

    def delay(self, a, b, ms):
        self.say({"delay": [a, b], "ms": ms})

    def hold(self, a, b, on):
        self.say({"hold": [a, b], "on": on})

    def reset(self, a, b):
        self.say({"reset": [a, b]})

    def heal(self):
        for a in range(len(NAMES)):
            for b in range(len(NAMES)):
                if a != b:
                    self.hold(a, b, False)

    def close(self):
        self.proxy.stdin.close()
        self.proxy.wait()
        for holder in self.holders:
            holder.kill()
            holder.wait()


class Site:
    """A node with its disk. It is `wanted` up, and then kept up by a watcher, or it isn't."""

    def __init__(self, run_folder, index, network, build, preload):
        self.index, self.name = index, NAMES[index]
        self.build = build
        self.disk = os.path.join(run_folder, self.name)
        self.data = os.path.join(self.disk, "data")
        self.log = os.path.join(run_folder, self.name + ".log")
        self.socket = os.path.join(run_folder, self.name + ".sock")
        self.fault = os.path.join(run_folder, self.name + ".sync-fault")
        self.filler = os.path.join(self.disk, "filler")
        self.snapshot = os.path.join(run_folder, self.name + ".snapshot")
        self.inside = ["nsenter", "--net=/proc/%d/ns/net" % network.holders[index].pid]
        self.environment = {**os.environ, "LD_PRELOAD": preload, "WEIR_CHAOS_SYNC_FAULT": self.fault, "NO_COLOR": "1"}
        self.process = None
        self.wanted = False
        self.ended_by_itself = []  # exit codes,
        self.away = []  # and from when until when it was gone for that, by the wall clock
        self.lock = threading.RLock()
        os.makedirs(self.disk)
        run("mount", "-t", "tmpfs", "-o", "size=%d,mode=0755" % DISK_BYTES, "weir-chaos", self.disk)

    def weir(self, *arguments, timeout_s=60):
        """A command inside the site's network, which must succeed; returns its output."""
        done = subprocess.run([*self.inside, os.path.join(self.build, "weir"), *arguments], capture_output=True,
                              text=True, timeout=timeout_s, preexec_fn=die_with_parent,
                              env={**os.environ, "NO_COLOR": "1"})
        if done.returncode != 0:
            raise Failed("weir %s ended with %d: %s" % (" ".join(arguments), done.returncode, done.stderr))
        return done.stdout

    def launch(self):
        settings = {"network.bind": "10.99.%d.2" % (self.index + 1), "network.advertise": "10.98.0.%d" % (self.index + 1),
                    "http.port": "off", "work.cpu_slots": 1, "work.cuda_devices": 0, "log.level": "debug",
                    "api.socket": self.socket, "store.state_map": "64MiB", "store.blobs_map": "64MiB",
                    "store.cache": "32MiB", "tenants.uid-%d" % os.getuid(): "people"}  # one tenant at all sites: keys are the mesh's
        command = [*self.inside, os.path.join(self.build, "weir"), "node", "--data", self.data]
        for key, value in settings.items():
            command += ["--set", "%s=%s" % (key, value)]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            env=self.environment, preexec_fn=die_with_parent)

    def start(self):
        with self.lock:
            self.wanted = True
            if self.process is None or self.process.poll() is not None:
                self.launch()

    def kill(self):
        """SIGKILL; it stays down until it is started."""
        with self.lock:
            self.wanted = False
            if self.process is not None:
                if self.process.poll() is None:
                    self.process.kill()
                self.process.wait()

    def signal(self, number):
        with self.lock:
            if self.process is not None and self.process.poll() is None:
                os.kill(self.process.pid, number)

    def keep_up(self):
        """Called now and then by the watcher."""
        with self.lock:
            if not self.wanted or self.process is None or self.process.poll() is None:
                return
            self.ended_by_itself.append(self.process.returncode)
            self.process = None
        ended = time.time()
        time.sleep(RESTART_AFTER_S)
        with self.lock:
            self.away.append((ended, time.time()))
            if self.wanted and self.process is None:
                self.launch()

    def serves(self):
        """Whether the node answers now."""
        try:
            self.weir("gossip", "--json", "--node", self.socket, timeout_s=5)
            return True
        except (Failed, subprocess.TimeoutExpired):
            return False

    def fill(self, on):
        """Takes all room that is left on the disk, or gives it back."""
        if not on:
            if os.path.exists(self.filler):
                os.unlink(self.filler)
            return
        with open(self.filler, "wb", buffering=0) as filler:
            block = bytes(1 << 16)
            while len(block) >= 4096:
                try:
                    filler.write(block)
                except OSError:
                    block = block[:len(block) // 2]

    def fail_syncs(self, on):
        if on:
            open(self.fault, "w", encoding="ascii").close()
        elif os.path.exists(self.fault):
            os.unlink(self.fault)

    def take_snapshot(self):
        """The data folder as it is while the node is down."""
        shutil.rmtree(self.snapshot, ignore_errors=True)
        shutil.copytree(self.data, self.snapshot)

    def put_snapshot_back(self):
        shutil.rmtree(self.data)
        shutil.copytree(self.snapshot, self.data)


def watch(sites, stopped):
    while not stopped.wait(0.2):
        for site in sites:
            site.keep_up()


def federate(sites):
    """The sites' nodes, joined and running."""
    first = sites[0]
    first.weir("init", "--federation", "chaos", "--site", first.name, "--name", first.name, "--data", first.data)
    first.start()
    wait_until("the first site serves", first.serves, 30)
    for site in sites[1:]:
        token = first.weir("invite", "--site", site.name, "--node", first.socket).strip().split("\n")[-1]
        site.weir("join", token, "--name", site.name, "--data", site.data)
        site.start()
    for site in sites:
        wait_until(site.name + " serves", site.serves, 30)
        wait_until(site.name + " sees all", lambda: sees(site) == set(NAMES), 60)


def sees(site):
    """Names of the members that a site believes up."""
    try:
        rows = json.loads(site.weir("nodes", "--json", "--node", site.socket, timeout_s=10))["nodes"]
    except (Failed, subprocess.TimeoutExpired):
        return set()
    return {row["name"] for row in rows if row["state"] == "up"}

#!/usr/bin/python3
"""make bench-members: how soon 30 real nodes see one of them die, and what they cost at rest, beside 30 serf agents.

    members.py [--nodes N] [--runs N] [--settle SECONDS] [--only weir,serf] [--build FOLDER]

All run in turn in a network namespace of this program's own, so that the loopback's counter there holds their traffic
and nobody else's. Each set of processes settles, is measured at rest, and then loses one node at a time: by SIGKILL
(`detect`: a process that crashed; its connections are reset) and by SIGSTOP (`silent_detect`: a machine that froze or
was cut off; nothing is reset). The clock runs from the signal until the last of the others has logged that the node is
gone; after that each of them is asked and must say so. Processes are told apart by name, never by their order.

Writes build/sim/members.json, which `make sim-report` takes into its report. Nothing passes or fails by its time; a node
that is not seen as gone within a minute, or not back after it was started again, fails.
"""
import argparse
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import time

import local_mesh
from figures import Report, cpu_seconds, family, machine, memory_mb

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))

NODES = 30
RUNS = 5
SETTLE_S = 30
REST_S = 30
PAUSE_S = 5  # between one death and the next, once all are back
DETECT_TIMEOUT_S = 60
BACK_TIMEOUT_S = 60
POLL_S = 0.01
INSIDE = "WEIR_BENCH_NAMESPACE"


class WeirNodes:
    """A federation of sites with one node each, without slots, started as a user would."""

    key = "weir"

    def __init__(self, tools, count):
        self.mesh = local_mesh.Mesh(tools.weir, tools.folder("members_weir"), [0] * count)

    def __enter__(self):
        self.mesh.__enter__()
        return self

    def __exit__(self, *error):
        self.mesh.__exit__(*error)

    @property
    def members(self):
        return {node.site: node for node in self.mesh.nodes}

    def pid(self, name):
        return self.members[name].process.pid

    def log(self, name):
        return self.members[name].log

    def gone_line(self, line, name):
        return f" node={name} " in line and " state=down " in line

    def restart(self, name):
        self.members[name].process.wait()
        self.members[name].start()

    def states(self, name):
        api = self.members[name].api()
        rows = api.call("nodes")["nodes"]
        api.close()
        return {row["name"]: row["state"] for row in rows}

    def sees_gone(self, name, gone):
        return self.states(name).get(gone) == "down"

    def sees_all(self, name):
        states = self.states(name)
        return len(states) == len(self.members) and set(states.values()) == {"up"}


class SerfAgent:
    def __init__(self, folder, name, first):
        self.name = name
        self.port, self.rpc_port = local_mesh.free_ports(2)
        self.first = first or self
        self.log = f"{folder}/{name}.log"

    def start(self):
        command = ["serf", "agent", f"-node={self.name}", f"-bind=127.0.0.1:{self.port}",
                   f"-rpc-addr=127.0.0.1:{self.rpc_port}"]
        if self.first is not self:
            command.append(f"-retry-join=127.0.0.1:{self.first.port}")
        self.process = local_mesh.start(command, self.log)

    def count(self, status):
        """Names of the members that this agent shows in that state."""
        done = subprocess.run(["serf", "members", f"-rpc-addr=127.0.0.1:{self.rpc_port}", f"-status={status}",
                               "-format=json"], capture_output=True, text=True, timeout=30)
        return {row["name"] for row in json.loads(done.stdout)["members"]} if done.returncode == 0 else set()


class SerfAgents:
    """Agents with serf's defaults: the timing of its profile `lan`, and no encryption."""

    key = "serf"

    def __init__(self, tools, count):
        self.folder = tools.folder(f"members_{self.key}")
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        self.members = {}
        for index in range(count):
            name = f"site{index}"
            self.members[name] = SerfAgent(self.folder, name, self.members.get("site0"))

    def __enter__(self):
        for agent in self.members.values():
            agent.start()
            time.sleep(0.1)
        for name in self.members:
            local_mesh.wait_until(f"{name} to see all", lambda name=name: self.sees_all(name), BACK_TIMEOUT_S)
        return self

    def __exit__(self, *_):
        for agent in self.members.values():
            if agent.process.poll() is None:
                agent.process.kill()
            local_mesh.stop(agent.process)
        shutil.rmtree(self.folder, ignore_errors=True)

    def pid(self, name):
        return self.members[name].process.pid

    def log(self, name):
        return self.members[name].log

    def gone_line(self, line, name):
        return f"EventMemberFailed: {name} " in line

    def restart(self, name):
        self.members[name].process.wait()
        self.members[name].start()

    def sees_gone(self, name, gone):
        return gone in self.members[name].count("failed")

    def sees_all(self, name):
        return len(self.members[name].count("alive")) == len(self.members)


CONTENDERS = {each.key: each for each in (WeirNodes, SerfAgents)}


# ---- At rest


def loopback_bytes():
    """Bytes ever sent over this namespace's loopback, IP headers included."""
    with open("/proc/net/dev") as lines:
        for line in lines:
            device, _, counters = line.partition(":")
            if device.strip() == "lo":
                return int(counters.split()[8])
    raise RuntimeError("this namespace has no loopback")


def measure_rest(report, nodes):
    families = [family(nodes.pid(name)) for name in nodes.members]
    cpu_before = [sum(map(cpu_seconds, pids)) for pids in families]
    bytes_before, begin = loopback_bytes(), time.monotonic()
    time.sleep(REST_S)
    bytes_after, seconds = loopback_bytes(), time.monotonic() - begin
    cpu_after = [sum(map(cpu_seconds, pids)) for pids in families]
    report.add(f"{nodes.key}_bytes_per_s", [(bytes_after - bytes_before) / seconds / len(families)])
    report.add(f"{nodes.key}_cpu_percent", [100 * (b - a) / seconds for a, b in zip(cpu_before, cpu_after)])
    report.add(f"{nodes.key}_rss_mb", [memory_mb(pids[0], "Rss") for pids in families])
    report.add(f"{nodes.key}_pss_mb", [sum(memory_mb(pid, "Pss") for pid in pids) for pids in families])


# ---- One dies


class Tail:
    """The lines that a log gains from now on."""

    def __init__(self, path):
        self.file = open(path, encoding="utf-8", errors="replace")
        self.file.seek(0, os.SEEK_END)
        self.rest = ""

    def lines(self):
        *whole, self.rest = (self.rest + self.file.read()).split("\n")
        return whole

    def close(self):
        self.file.close()


def wait_gone(nodes, victim, signal_number):
    """Sends the signal; returns the milliseconds until each of the others logged that the victim is gone, sorted."""
    tails = {name: Tail(nodes.log(name)) for name in nodes.members if name != victim}
    begin = time.monotonic()
    os.kill(nodes.pid(victim), signal_number)
    seen = []
    while tails:
        now = time.monotonic()
        for name in list(tails):
            if any(nodes.gone_line(line, victim) for line in tails[name].lines()):
                seen.append(1000 * (now - begin))
                tails.pop(name).close()
        if now - begin > DETECT_TIMEOUT_S:
            raise RuntimeError(f"{nodes.key}: {', '.join(tails)} did not see {victim} go within {DETECT_TIMEOUT_S} s")
        time.sleep(POLL_S)
    for name in nodes.members:
        if name != victim and not nodes.sees_gone(name, victim):
            raise RuntimeError(f"{nodes.key}: {name} logged that {victim} is gone and does not show it")
    return seen


def wait_back(nodes):
    for name in nodes.members:
        local_mesh.wait_until(f"{name} to see all again", lambda name=name: nodes.sees_all(name), BACK_TIMEOUT_S)
    time.sleep(PAUSE_S)


def crash(nodes, victim):
    seen = wait_gone(nodes, victim, signal.SIGKILL)
    nodes.restart(victim)
    return seen


def freeze(nodes, victim):
    try:
        return wait_gone(nodes, victim, signal.SIGSTOP)
    finally:
        os.kill(nodes.pid(victim), signal.SIGCONT)


def measure_deaths(report, nodes, draw):
    for how, word in ((crash, "detect"), (freeze, "silent_detect")):
        seen = []
        for _ in range(report.runs_wanted):
            seen.append(how(nodes, draw.choice(list(nodes.members)[1:])))
            wait_back(nodes)
        report.add(f"{nodes.key}_{word}_ms", [times[-1] for times in seen])
        report.add(f"{nodes.key}_{word}_half_ms", [statistics.median(times) for times in seen])


# ---- All of it


class Tools:
    def __init__(self, build):
        self.build, self.weir = build, f"{build}/weir"

    def folder(self, name):
        return f"{self.build}/bench/{name}"


def enter_namespace():
    """Starts this program again in a network namespace of its own, as root or as anyone who may make user namespaces."""
    if os.environ.get(INSIDE):
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        return
    os.environ[INSIDE] = "1"
    options = ["--net"] if os.geteuid() == 0 else ["--map-root-user", "--net"]
    os.execvp("unshare", ["unshare", *options, sys.executable, os.path.abspath(__file__), *sys.argv[1:]])


def serf_version():
    done = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", "serf"], capture_output=True, text=True)
    return done.stdout or None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--runs", type=int, default=RUNS, help="deaths of each kind")
    parser.add_argument("--settle", type=float, default=SETTLE_S, help="seconds before they are measured at rest")
    parser.add_argument("--only", default=",".join(CONTENDERS), help="one of them: weir or serf")
    parser.add_argument("--seed", type=int, default=1, help="draws the victims")
    parser.add_argument("--build", default=f"{ROOT}/build", help="where weir is")
    options = parser.parse_args()
    wanted = options.only.split(",")
    for key in wanted:
        if key not in CONTENDERS:
            parser.error(f"no '{key}' to compare; there are {', '.join(CONTENDERS)}")
    enter_namespace()
    local_mesh.stop_on_signals()
    tools = Tools(os.path.abspath(options.build))
    report, failed = Report(options.runs), []
    about = {**machine(), "nodes": options.nodes, "serf": serf_version()}
    for key in wanted:
        if key == "serf" and not shutil.which("serf"):
            print(f"{key}: serf is not installed (packaging/deps bench): left out", flush=True)
            continue
        print(f"{key}:", flush=True)
        try:
            with CONTENDERS[key](tools, options.nodes) as nodes:
                time.sleep(options.settle)
                measure_rest(report, nodes)
                measure_deaths(report, nodes, random.Random(options.seed))
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            failed.append(key)
            print(f"members: {key}: {error}", file=sys.stderr, flush=True)
    about["load_at_end"] = os.getloadavg()[0]
    os.makedirs(f"{tools.build}/sim", exist_ok=True)
    with open(f"{tools.build}/sim/members.json", "w") as out:
        json.dump({**report.figures, "runs": report.runs, "range": report.spread, "machine": about, "failed": failed},
                  out, indent=1)
        out.write("\n")
    return 1 if failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

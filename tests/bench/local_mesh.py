"""Nodes on this machine for the benchmarks, started as a user would start them, and their local API.

Every process is ended by its own id when the program ends, whatever the reason.
"""
import atexit
import contextlib
import json
import os
import random
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

HEADER = struct.Struct("<IB")
DATA_BYTES_MAX = 1 << 20
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 10

processes = []


def start(command, log):
    """Starts a process in a session of its own, so that Ctrl-C reaches only us; it is ended when we end."""
    with open(log, "ab") as output:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                                   start_new_session=True)
    processes.append(process)
    return process


def stop(process):
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    if process in processes:
        processes.remove(process)


@atexit.register
def stop_all():
    for process in processes:
        if process.poll() is None:
            process.terminate()
    for process in list(processes):
        stop(process)


def stop_on_signals():
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))


def below_ephemeral():
    """Ports that the kernel gives to nobody by itself, in an order of our own: two runs at once rarely meet."""
    with open("/proc/sys/net/ipv4/ip_local_port_range", encoding="ascii") as bounds:
        ports = list(range(10000, int(bounds.read().split()[0])))
    random.shuffle(ports)
    return iter(ports)


PORTS = below_ephemeral()


def free_ports(count):
    """Ports that nobody has now, and that no connection to elsewhere takes before their node has started."""
    ports = []
    while len(ports) < count:
        port = next(PORTS)
        with contextlib.suppress(OSError), socket.socket() as tried:
            tried.bind(("127.0.0.1", port))
            ports.append(port)
    return ports


def wait_until(what, condition, timeout_s=START_TIMEOUT_S):
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    raise RuntimeError(f"{what}: not within {timeout_s} s")


class Api:
    """One connection to a node's local API (node/api.h says how it is framed)."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(600)
        self.socket.connect(path)
        self.buffer = bytearray()

    def close(self):
        self.socket.close()

    def send(self, kind, payload):
        self.socket.sendall(HEADER.pack(len(payload), ord(kind)) + payload)

    def receive(self):
        while True:
            if len(self.buffer) >= HEADER.size:
                count, kind = HEADER.unpack_from(self.buffer)
                end = HEADER.size + count
                if len(self.buffer) >= end:
                    payload = bytes(self.buffer[HEADER.size:end])
                    del self.buffer[:end]
                    return chr(kind), payload
            piece = self.socket.recv(1 << 20)
            if not piece:
                raise RuntimeError("the node closed the connection")
            self.buffer += piece

    def answer(self):
        """The final object of a call; those streamed before it are dropped."""
        while True:
            _, payload = self.receive()
            reply = json.loads(payload)
            if reply.get("more"):
                continue
            if not reply.get("ok"):
                raise RuntimeError(reply.get("error", "the node refused without a reason"))
            return reply

    def stream(self, op, **fields):
        """Every object of a call, the final one last."""
        self.send("J", json.dumps({"op": op, **fields}).encode())
        while True:
            reply = json.loads(self.receive()[1])
            if not reply.get("more") and not reply.get("ok"):
                raise RuntimeError(reply.get("error", "the node refused without a reason"))
            yield reply
            if not reply.get("more"):
                return

    def call(self, op, **fields):
        self.send("J", json.dumps({"op": op, **fields}).encode())
        return self.answer()

    def put(self, data):
        self.send("J", json.dumps({"op": "blob.put", "bytes": len(data)}).encode())
        for offset in range(0, len(data), DATA_BYTES_MAX):
            self.send("D", data[offset:offset + DATA_BYTES_MAX])
        return self.answer()["blob"]

    def get(self, blob):
        left = self.call("blob.get", blob=blob)["bytes"]
        data = bytearray()
        while len(data) < left:
            data += self.receive()[1]
        return bytes(data)

    def finish(self, job):
        """Waits until a job is final and returns its last state."""
        last = self.call("watch", job=job)["job"]
        if last["state"] != "done":
            raise RuntimeError(f"job {job[:8]} is {last['state']}: {last.get('error')}")
        return last


class Node:
    def __init__(self, mesh, index, slots):
        self.weir = mesh.weir
        self.site = f"site{index}"
        self.data = f"{mesh.folder}/{self.site}"
        self.log = f"{mesh.folder}/{self.site}.log"
        self.slots = slots
        self.more_settings = mesh.more_settings
        self.ports = free_ports(3)
        self.process = None

    @property
    def settings(self):
        control, bulk, join = self.ports
        return {"network.bind": "127.0.0.1", "network.advertise": "127.0.0.1", "network.control_port": control,
                "network.bulk_port": bulk, "network.join_port": join, "api.socket": f"{self.data}/api.sock",
                "http.port": 0, "work.cpu_slots": self.slots, "work.cuda_devices": 0, **self.more_settings}

    def run(self, *arguments):
        done = subprocess.run([self.weir, *arguments], capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            raise RuntimeError(f"weir {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout.strip()

    def start(self):
        assignments = [part for key, value in self.settings.items() for part in ("--set", f"{key}={value}")]
        self.process = start([self.weir, "node", "--data", self.data, *assignments], self.log)
        wait_until(f"the node of {self.site} to answer; see {self.log}", self.answers)

    def answers(self):
        if self.process.poll() is not None:
            raise RuntimeError(f"the node of {self.site} ended; see {self.log}")
        try:
            api = self.api()
            api.call("status")
            api.close()
            return True
        except OSError:
            return False

    def api(self):
        return Api(f"{self.data}/api.sock")


class Mesh:
    """A federation of len(slots) sites with one node each; slots[i] is the number of CPU slots of node i."""

    def __init__(self, weir, folder, slots, settings=None):
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder, mode=0o700)
        self.weir, self.folder, self.more_settings = weir, folder, settings or {}
        self.nodes = [Node(self, index, count) for index, count in enumerate(slots)]

    def __enter__(self):
        first = self.nodes[0]
        first.run("init", "--federation", "bench", "--site", first.site, "--name", first.site, "--data", first.data)
        first.start()
        for node in self.nodes[1:]:
            token = first.run("invite", "--site", node.site, "--node", f"{first.data}/api.sock")
            token_file = f"{self.folder}/token"
            with open(os.open(token_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
                out.write(token)
            node.run("join", "--token-file", token_file, "--name", node.site, "--data", node.data)
            node.start()
        api = first.api()
        slots = sum(node.slots for node in self.nodes)

        def complete():
            nodes = api.call("nodes")["nodes"]
            up = [node for node in nodes if node["state"] == "up"]
            return len(up) == len(self.nodes) and sum(node["slots"] for node in up) == slots

        wait_until("every node to be up", complete)
        api.close()
        return self

    def __exit__(self, *_):
        for node in self.nodes:
            if node.process and node.process.poll() is None:
                node.process.terminate()
        for node in self.nodes:
            if node.process:
                stop(node.process)
        shutil.rmtree(self.folder, ignore_errors=True)

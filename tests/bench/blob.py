"""The part `blob` of bench.py: 1 GiB from one node to another, and what a death of either end in the middle costs.

The floor is measured in the same run by bulk_floor.c: what CURVE costs both ends for messages of 1 MiB, and what one
BLAKE2b costs. A blob is digested once at each end: the sender never serves bytes that it has not checked, and the
receiver believes nobody. So `blob_floor_cpu_s_per_gb` is CURVE and two digests. What writing a file of that size costs is
measured, too, since the receiver must: where a virtual machine's memory was never touched before, that is 2 s per GB,
and else a tenth of it.
"""
import json
import os
import subprocess
import threading
import time

from figures import cpu_seconds, family, memory_mb
from local_mesh import Mesh, wait_until

MIB = 1 << 20
BLOB_MIB = 1024


class Floor:
    def __init__(self, tools):
        done = subprocess.run([f"{tools.build}/bench/tools/bulk_floor", str(BLOB_MIB)], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip())
        row = json.loads(done.stdout)
        self.gbps, self.curve, self.blake2b = (row[key] for key in (
            "curve_gbps", "curve_cpu_s_per_gb", "blake2b_cpu_s_per_gb"))
        self.cpu = self.curve + 2 * self.blake2b
        self.file = file_cpu_s_per_gb(f"{tools.build}/bench/floor")


def file_cpu_s_per_gb(path):
    piece = os.urandom(MIB)
    with open(path, "wb", buffering=0) as out:
        before = time.thread_time()
        for _ in range(BLOB_MIB):
            out.write(piece)
        os.fdatasync(out.fileno())
        cpu = time.thread_time() - before
    os.unlink(path)
    return cpu / (BLOB_MIB * MIB / 1e9)


def bulk(api):
    return api.call("gossip", stats=True)["bulk"]


def put_fresh(node, api):
    """A blob that nobody has, from a file as a user would put it. Returns its id."""
    path = f"{node.data}/../blob"
    with open(path, "wb") as out:
        for _ in range(BLOB_MIB // 16):
            out.write(os.urandom(16 * MIB))
    blob = node.run("blob", "put", path, "--node", f"{node.data}/api.sock")
    os.unlink(path)
    return blob


def fetch(api, blob):
    """Has the node fetch it; nothing of it is sent to us."""
    reply = api.call("blob.get", blob=blob, count=0)
    if reply["bytes"] != 0:
        raise RuntimeError(f"blob: {reply}")


class Pings:
    """Round trips on the control socket, as `weir ping` measures them, until told to stop."""

    def __init__(self, node, other):
        self.api, self.other, self.ms, self.stopped = node.api(), other.site, [], False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        while not self.stopped:
            for reply in self.api.stream("ping", node=self.other, count=1):
                if "rtt_us" in reply:
                    self.ms.append(reply["rtt_us"] / 1e3)
            time.sleep(0.01)

    def stop(self):
        self.stopped = True
        self.thread.join()
        self.api.close()
        return sorted(self.ms)


def bench_blob(report, tools):
    floors = []
    with Mesh(tools.weir, tools.folder("blob"), [0, 0], {"store.cache": "6GiB"}) as mesh:
        sender, receiver = mesh.nodes
        send_api, receive_api = sender.api(), receiver.api()

        def run():
            floors.append(Floor(tools))
            blob = put_fresh(sender, send_api)
            pids = [node.process.pid for node in mesh.nodes]
            memory = [memory_mb(pid, "Private_Dirty") for pid in pids]
            peak = list(memory)
            before = sum(cpu_seconds(pid) for pid in pids)
            pings = Pings(sender, receiver)
            stop = threading.Event()

            def watch():
                while not stop.wait(0.02):
                    for i, pid in enumerate(pids):
                        peak[i] = max(peak[i], memory_mb(pid, "Private_Dirty"))

            watcher = threading.Thread(target=watch)
            watcher.start()
            begin = time.perf_counter()
            fetch(receive_api, blob)
            seconds = time.perf_counter() - begin
            stop.set()
            watcher.join()
            cpu = sum(cpu_seconds(pid) for pid in pids) - before
            rtts = pings.stop()
            gb = BLOB_MIB * MIB / 1e9
            send_api.call("blob.rm", blob=blob)
            receive_api.call("blob.rm", blob=blob)
            return {"blob_gbps": 8 * gb / seconds, "blob_cpu_s_per_gb": cpu / gb,
                    "blob_cpu_to_floor": cpu / gb / floors[-1].cpu,
                    "blob_cpu_to_floor_and_file": cpu / gb / (floors[-1].cpu + floors[-1].file),
                    "blob_gbps_to_curve": 8 * gb / seconds / floors[-1].gbps,
                    "blob_peak_extra_mb": max(p - m for p, m in zip(peak, memory)),
                    "blob_control_rtt_p50_ms": rtts[len(rtts) // 2], "blob_control_rtt_max_ms": rtts[-1]}

        rows = report.repeat(run)
        for key in rows[0]:
            report.add(key, [row[key] for row in rows])
        report.add("blob_floor_cpu_s_per_gb", [floor.cpu for floor in floors])
        report.add("curve_cpu_s_per_gb", [floor.curve for floor in floors])
        report.add("file_cpu_s_per_gb", [floor.file for floor in floors])
        report.add("curve_gbps", [floor.gbps for floor in floors])
        report.add("blake2b_cpu_s_per_gb", [floor.blake2b for floor in floors])
        send_api.close()
        receive_api.close()
        report.add("resume_waste_bytes", [waste(mesh, who) for who in (receiver, sender)])


def waste(mesh, victim):
    """Bytes that were sent and not kept when `victim` is killed in the middle and started again."""
    sender, receiver = mesh.nodes
    send_api = sender.api()
    blob = put_fresh(sender, send_api)
    total = BLOB_MIB * MIB
    start = [bulk(send_api)["served_bytes"], bulk(receiver.api())["fetched_bytes"]]
    command = [mesh.weir, "blob", "get", blob, "/dev/null", "--node", f"{receiver.data}/api.sock"]
    getting = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    watched, served = receiver.api(), 0
    while bulk(watched)["fetched_bytes"] - start[1] < total // 2:
        served = bulk(send_api)["served_bytes"] - start[0]
    served = bulk(send_api)["served_bytes"] - start[0]
    victim.process.kill()
    victim.process.wait()
    victim.start()
    if victim is receiver:
        getting.wait()  # it says that its node is gone
        served = bulk(send_api)["served_bytes"] - start[0]
        api = receiver.api()
        wait_until("the sender to be up", lambda: any(
            row["state"] == "up" and not row["self"] for row in api.call("nodes")["nodes"]))
        getting = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if getting.wait() != 0:
        raise RuntimeError(f"blob: it did not come after all: {getting.stderr.read().decode()}")
    api = sender.api()
    served = bulk(api)["served_bytes"] - start[0] if victim is receiver else served + bulk(api)["served_bytes"]
    for node in (sender, receiver):
        node.api().call("blob.rm", blob=blob)
    return max(0, served - total)

"""How soon an owner has a device back, while an endless kernel runs on it for another site."""
import contextlib
import os
import signal

from figures import family
from local_mesh import Mesh, wait_until

RECLAIMS = 200
SHARD_S = 1000  # far longer than all of it takes


def worker_of(node):
    """0 while there is none, or its command line can't be read yet."""
    for pid in family(node.process.pid)[1:]:
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as line:
            if b"--serve" in line.read():
                return pid
    return 0


def percentile(values, permille):
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * permille // 1000) - 1)]


GPU_WORKER = """#!/bin/sh
case "$1" in
--list) "{real}" --list | head -n 1
    echo '{{"device":"cuda:0","kind":"cuda","index":0,"name":"scripted","memory_bytes":1,"compute":"9.0"}}' ;;
--serve) shift 2; exec "{real}" --serve --device=cpu:0 "$@" ;;
*) exec "{real}" "$@" ;;
esac
"""


def scripted_gpu(mesh, tools):
    """A node whose only device is a CPU core that the watcher takes for a GPU: what is on it, a library says by a script."""
    worker, script = f"{mesh.folder}/worker", f"{mesh.folder}/gpu.script"
    os.chmod(mesh.folder, 0o711)  # a worker in its sandbox is nobody here
    with open(worker, "w") as out:
        out.write(GPU_WORKER.format(real=tools.worker))
    os.chmod(worker, 0o755)
    tell_gpu(script)
    os.environ["WEIR_NVML"], os.environ["WEIR_NVML_SCRIPT"] = f"{tools.build}/tests/nvml_script.so", script
    return {"work.worker": worker, "work.cuda_devices": 1}, script


def tell_gpu(script, *lines):
    with open(script + ".new", "w") as out:
        out.write("\n".join(["gpu 0 memory 4 utilisation 0", *lines]) + "\n")
    os.rename(script + ".new", script)


def reclaim_times(owner, device, listens, name="cpu:0", script=None):
    """Milliseconds from each claim until the worker was gone with its memory. A worker that is stopped hears no stop
    word, like a kernel that never looks: it is killed when its grace is over."""
    times_ms = []
    while len(times_ms) < RECLAIMS:
        wait_until("the shard to run", lambda: owner.call("devices")["devices"][0]["in_hand"] > 0)
        wait_until("a worker", lambda: worker_of(device))
        if script:  # its memory is in use as long as it lives
            tell_gpu(script, f"holder 0 {worker_of(device)} 70000")
        if not listens:
            os.kill(worker_of(device), signal.SIGSTOP)
        row = owner.call("reclaim", device=name)["devices"][0]
        if row["state"] != "owned" or owner.call("devices")["devices"][0]["in_hand"] > 0:
            raise RuntimeError(f"the device is not its owner's: {row}")
        times_ms.append(row["reclaim_ms"])
        owner.call("release", device=name, now=True)
    return times_ms


def endless(home):
    return home.run("submit", "spin", "--detach", "--node", f"{home.data}/api.sock", "--items", f"{4 * SHARD_S}",
                    "--shard-items", f"{SHARD_S}", "--param", "us=1000000", "--cache", "off").split()[-1]


def bench_reclaim(report, tools):
    with Mesh(tools.weir, tools.folder("reclaim"), [0, 1]) as mesh:
        home, lender = mesh.nodes
        job = endless(home)
        owner = lender.api()
        for key, listens in (("reclaim_p99_ms", False), ("reclaim_listening_p99_ms", True)):
            times_ms = reclaim_times(owner, lender, listens)
            report.add(key, [percentile(times_ms, 990)])
            report.add(key.replace("p99", "p50"), [percentile(times_ms, 500)])
        owner.close()
        home.run("cancel", "--node", f"{home.data}/api.sock", job)
    if os.path.exists(f"{tools.build}/tests/nvml_script.so"):
        bench_scripted(report, tools)


def bench_scripted(report, tools):
    """The same on a scripted GPU: free is what the watcher has seen free."""
    mesh = Mesh(tools.weir, tools.folder("reclaim-gpu"), [0])
    settings, script = scripted_gpu(mesh, tools)
    node = mesh.nodes[0]
    node.more_settings = settings
    node.slots = 0
    with contextlib.ExitStack() as stack:
        node.run("init", "--federation", "bench", "--site", node.site, "--name", node.site, "--data", node.data)
        stack.callback(mesh.__exit__)
        node.start()
        owner = node.api()
        wait_until("the GPU to be seen", lambda: owner.call("devices")["devices"][0]["memory_bytes"])
        endless(node)
        times_ms = reclaim_times(owner, node, False, "cuda:0", script)
        report.add("reclaim_scripted_gpu_p99_ms", [percentile(times_ms, 990)])
        report.add("reclaim_scripted_gpu_p50_ms", [percentile(times_ms, 500)])
        owner.close()

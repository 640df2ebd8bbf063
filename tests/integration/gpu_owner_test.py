"""The owner of a GPU comes first: what the watcher sees there, told by a library that plays the driver's by a script.

The GPU is a CPU core: a script stands before weir-worker, lists one GPU and starts a CPU worker for it. What the node knows
of the GPU it knows from the watcher alone, as with a real one.
"""
import os
import re
import signal
import subprocess
import threading
import time

from harness import Node, Skipped, expect, wait_until
from owner_test import ENDLESS, devices, states, wait_lent

WORKER = """#!/bin/sh
case "$1" in
--list) "{real}" --list | head -n 1
    echo '{{"device":"cuda:0","kind":"cuda","index":0,"name":"a scripted GPU","memory_bytes":1,"compute":"9.0","processors":1}}' ;;
--serve) shift 2; exec "{real}" --serve --device=cpu:0 "$@" ;;
*) exec "{real}" "$@" ;;
esac
"""


class Gpu:
    """What the library says of the GPU."""

    def __init__(self, place):
        self.place, self.path = place, place.path("gpu.script")
        self.say()
        self.worker = place.path("worker-with-gpu")
        with open(self.worker, "w", encoding="ascii") as out:
            out.write(WORKER.format(real=os.path.join(place.build, "weir-worker")))
        os.chmod(self.worker, 0o755)
        library = os.path.join(place.build, "tests", "nvml_script.so")
        if not os.path.exists(library):
            raise Skipped("this build has no " + library)
        self.environment = {**os.environ, "WEIR_NVML": library, "WEIR_NVML_SCRIPT": self.path}

    def say(self, *lines, memory=4, utilisation=0):
        """Replaces the script at one stroke."""
        with open(self.path + ".new", "w", encoding="ascii") as out:
            out.write("\n".join(["gpu 0 memory %d utilisation %d" % (memory, utilisation), *lines]) + "\n")
        os.rename(self.path + ".new", self.path)

    def stranger(self):
        """A process that is nobody's of ours."""
        return self.place.start(["/bin/sleep", "600"]).pid


def lend(place, gpu, name="berlin", home=None, **environment):
    """A node with the GPU and nothing else."""
    node = Node(place, name, work__cpu_slots=0, work__cuda_devices=1, work__worker=gpu.worker)
    node.environment = {**gpu.environment, **environment}
    if home is None:
        place.weir("init", "--federation", "rivers", "--site", name, "--name", name, "--data", node.data)
    else:
        token = home.weir("invite", "--site", name).out.strip().split("\n")[-1]
        place.weir("join", token, "--name", name, "--data", node.data)
    return node.start()


def doctor_of(node, check):
    """The row of one check, and how weir doctor ended."""
    said = node.weir("doctor", "--json", code=None)
    return {row["check"]: row for row in said.json["checks"]}.get(check), said.code


def watch_of(node):
    return node.call("devices")["watch"]


def wait_watched(node):
    wait_until(lambda: "the watcher speaks: %s" % watch_of(node), lambda: watch_of(node)["running"])
    wait_until(lambda: "it is seen: %s" % devices(node), lambda: devices(node)["cuda:0"]["memory_bytes"])


def wait_state(node, state, timeout_s=15):
    wait_until(lambda: "cuda:0 is %s: %s" % (state, devices(node)), lambda: states(node)["cuda:0"] == state, timeout_s)
    return devices(node)["cuda:0"]


def log_lines(node, pattern):
    return [line for line in node.log_text().splitlines() if re.search(pattern, line)]


def a_foreign_program_takes_the_gpu_from_running_work(place):
    gpu = Gpu(place)
    node = lend(place, gpu)
    wait_watched(node)
    job = node.submit_detached("spin", *ENDLESS)
    wait_lent(node, "cuda:0")
    worker = wait_until("a worker runs", lambda: node.children("--serve"))
    gpu.say("process 0 %d 300" % worker[0], memory=300)
    time.sleep(1)
    expect(states(node)["cuda:0"] == "lent", "our own worker claimed it: %s" % devices(node))
    stranger = gpu.stranger()
    gpu.say("process 0 %d 300" % worker[0], "process 0 %d 900" % stranger, memory=1200)
    wait_until("the worker is killed", lambda: not node.children("--serve"))
    row = devices(node)["cuda:0"]
    expect(row["cause"] == "process" and row["who"] == "sleep (%d)" % stranger, row)
    # The driver still lists our process, with its memory: nothing is free before that is gone.
    time.sleep(0.6)
    expect(states(node)["cuda:0"] == "reclaim", devices(node))
    gpu.say("process 0 %d 900" % stranger, memory=900)
    row = wait_state(node, "owned")
    expect(row["reclaim_ms"] >= 500, row)
    expect("its owner claimed cuda:0 (process)" in node.weir("explain", job).out, node.weir("explain", job).out)
    expect(node.nodes()["berlin"]["slots"] == 0, node.nodes())
    gpu.say()
    wait_state(node, "cooling")
    node.weir("release", "--now")
    wait_state(node, "lent")
    node.weir("cancel", job)


def memory_and_load_of_nobody_claim_an_idle_gpu(place):
    gpu = Gpu(place)
    node = lend(place, gpu)
    wait_watched(node)
    gpu.say(memory=3000)
    expect(wait_state(node, "owned")["cause"] == "memory in use", devices(node))
    gpu.say()
    wait_state(node, "cooling")
    gpu.say(utilisation=60)
    expect(wait_state(node, "owned")["cause"] == "it computes", devices(node))


def monitoring_takes_nothing_back(place):
    gpu = Gpu(place)
    monitor = place.path("nvidia-smi")
    os.symlink("/bin/sleep", monitor)
    pid = place.start([monitor, "600"]).pid
    node = lend(place, gpu)
    wait_watched(node)
    job = node.submit_detached("spin", *ENDLESS)
    wait_lent(node, "cuda:0")
    for _ in range(4):
        gpu.say("process 0 %d 10" % pid, memory=14)
        time.sleep(0.4)
        gpu.say()
        time.sleep(0.4)
    expect(devices(node)["cuda:0"]["reclaims"] == 0 and states(node)["cuda:0"] == "lent", devices(node))
    node.weir("cancel", job)


def an_open_of_the_device_file_only_holds_new_work_back(place):
    gpu = Gpu(place)
    file = place.path("nvidia0")
    with open(file, "w", encoding="ascii"):
        pass
    node = lend(place, gpu, WEIR_WATCH_FILE=file)
    wait_watched(node)
    expect(doctor_of(node, "GPU watcher")[0]["state"] == "ok", doctor_of(node, "GPU watcher"))
    row, code = doctor_of(node, "GPU opens")
    expect(code == 0, "no open events are no failure")
    expect(row["state"] == ("ok" if watch_of(node)["opens"] else "off") and bool(row["fix"]) != watch_of(node)["opens"], row)
    if not watch_of(node)["opens"]:
        expect("can't be watched" in watch_of(node)["why"], watch_of(node))
        raise Skipped("no open events: " + watch_of(node)["why"])
    wait_until("it is not held", lambda: not devices(node)["cuda:0"]["held"])
    with open(file, "rb"):
        wait_until("an open holds it", lambda: devices(node)["cuda:0"]["held"], 3)
    wait_until("half a second later it is lent again", lambda: not devices(node)["cuda:0"]["held"])
    expect(devices(node)["cuda:0"]["reclaims"] == 0, devices(node))
    # Who opens it and is seen there within half a second has claimed it.
    with open(file, "rb"):
        gpu.say("process 0 %d 900" % gpu.stranger(), memory=900)
        began = time.monotonic()
        wait_state(node, "owned", 5)
    expect(time.monotonic() - began < 2, "it took %.1f s" % (time.monotonic() - began))


AS_USER = """#!/bin/sh
exec setpriv --reuid=12345 --regid=12345 --clear-groups --inh-caps=+sys_admin --ambient-caps=+sys_admin \
    "{program}" "$@"
"""


def power_of(pid):
    """The sets of capabilities of a process that hold CAP_SYS_ADMIN; the bounding set only limits."""
    with open("/proc/%d/status" % pid, encoding="ascii") as status:
        rows = dict(line.rstrip().split(":\t", 1) for line in status if line.startswith("Cap"))
    return [name for name, bits in rows.items() if name != "CapBnd" and int(bits, 16) >> 21 & 1]


def the_capability_for_open_events_is_given_up_at_the_start(place):
    """Only what hears of opens is made with it; the node and all that it starts do without, new watchers too."""
    gpu = Gpu(place)
    file = place.path("nvidia0")
    with open(file, "w", encoding="ascii"):
        pass
    program = place.path("weir-with-power")
    with open(program, "w", encoding="ascii") as out:
        out.write(AS_USER.format(program=place.program))
    os.chmod(program, 0o755)
    if subprocess.run([program, "version"], capture_output=True, check=False).returncode != 0:
        raise Skipped("giving another user a capability needs root")
    os.chmod(place.folder, 0o777)
    node = Node(place, "berlin", work__cpu_slots=0, work__cuda_devices=1, work__worker=gpu.worker)
    node.environment = {**gpu.environment, "WEIR_WATCH_FILE": file}
    place.weir("init", "--federation", "rivers", "--site", "berlin", "--name", "berlin", "--data", node.data)
    subprocess.run(["chown", "-R", "12345:12345", node.data], check=True)
    node.program = program
    node.start()
    wait_watched(node)
    if not watch_of(node)["opens"]:
        raise Skipped("no open events: " + watch_of(node)["why"])
    watcher = node.children("--watch")[0]
    for _ in range(2):
        held = {pid: power_of(pid) for pid in [node.process.pid, *node.children("weir")]}
        expect(not any(held.values()) and len(held) > 1, "it was kept: %s" % held)
        wait_until("it is not held", lambda: not devices(node)["cuda:0"]["held"])
        with open(file, "rb"):
            wait_until("an open holds it", lambda: devices(node)["cuda:0"]["held"], 3)
        if node.children("--watch") == [watcher]:
            os.kill(watcher, signal.SIGKILL)
            wait_until("there is another watcher", lambda: node.children("--watch") not in ([], [watcher]), 20)
            wait_watched(node)
            expect(watch_of(node)["opens"], watch_of(node))


def a_reclaim_returns_when_the_memory_is_seen_free(place):
    gpu = Gpu(place)
    node = lend(place, gpu)
    wait_watched(node)
    job = node.submit_detached("spin", *ENDLESS)
    wait_lent(node, "cuda:0")
    gpu.say(memory=9000)
    said = []
    caller = threading.Thread(target=lambda: said.append(node.weir("reclaim", "cuda:0", "--json").json))
    caller.start()
    wait_until("the worker is gone", lambda: not node.children("--serve"))
    time.sleep(0.7)
    expect(not said and states(node)["cuda:0"] == "reclaim", "%s %s" % (said, devices(node)))
    gpu.say()
    caller.join(20)
    expect(said and said[0]["devices"][0]["state"] == "owned", said)
    node.weir("cancel", job)


def a_gpu_that_vanishes_is_at_fault_and_the_node_lives(place):
    gpu = Gpu(place)
    node = lend(place, gpu)
    wait_watched(node)
    for xid in (31, 94, 63, 92):  # a bad access, an error in one program's memory, what was mended: none of the GPU's
        gpu.say("xid 0 %d" % xid)
        time.sleep(0.6)  # two looks
        expect(states(node)["cuda:0"] == "spare", "Xid %d: %s" % (xid, devices(node)))
    gpu.say("lost 0")
    wait_state(node, "fault")
    expect(len(log_lines(node, "device=cuda:0 state=fault reason=.*vanished")) == 1, log_lines(node, "cuda:0"))
    expect(node.nodes()["berlin"]["fault"] == "device", node.nodes())
    for check in [doctor_of(node, "cuda:0")[0]["detail"], node.weir("nodes", "-v").out]:
        expect("vanished" in check, check)
    gpu.say()
    wait_state(node, "cooling")
    expect(doctor_of(node, "cuda:0")[0]["state"] == "ok", doctor_of(node, "cuda:0"))
    gpu.say("xid 0 79")
    wait_state(node, "fault")
    row, code = doctor_of(node, "cuda:0")
    expect(row["state"] == "bad" and "Xid 79" in row["detail"] and row["fix"] and code == 1, row)
    expect("Xid 79" in node.weir("nodes", "-v").out, node.weir("nodes", "-v").out)
    expect("restart this node" in row["fix"], row)
    gpu.say()  # nobody tells whether it was reset: neither silence nor a new watcher does
    watchers = node.children("--watch")
    os.kill(watchers[0], signal.SIGKILL)
    wait_until("there is another watcher", lambda: node.children("--watch") not in ([], watchers), 20)
    wait_watched(node)  # its first line and its first look come together
    expect(states(node)["cuda:0"] == "fault", devices(node))
    expect(len(log_lines(node, "Xid 79")) == 1, log_lines(node, "cuda:0"))
    node.stop()
    node.start()
    wait_watched(node)
    wait_until("it is lent again", lambda: states(node)["cuda:0"] in ("spare", "cooling"), 20)
    expect(doctor_of(node, "cuda:0")[0]["state"] == "ok", doctor_of(node, "cuda:0"))


def a_driver_that_hangs_or_crashes_takes_the_watcher_only(place):
    gpu = Gpu(place)
    node = lend(place, gpu)
    wait_watched(node)
    gpu.say("hang")
    wait_until("the watcher is killed", lambda: log_lines(node, "said nothing for 3 s"), 10)
    wait_until("nothing new is started unseen", lambda: devices(node)["cuda:0"]["held"], 10)
    row, code = doctor_of(node, "GPU watcher")
    expect(row["state"] == "bad" and "nothing new is started" in row["detail"] and row["fix"] and code == 1, row)
    gpu.say("crash")
    wait_until("it crashes", lambda: log_lines(node, "the watcher of the GPUs died of signal 11"), 20)
    gpu.say()
    wait_until("it is back", lambda: watch_of(node)["running"] and not devices(node)["cuda:0"]["held"], 30)
    expect(node.process.poll() is None, "the node died")


def without_a_driver_that_can_be_asked_one_line_says_so(place):
    gpu = Gpu(place)
    cases = [({"WEIR_NVML": "/nonexistent.so"}, "NVML is missing"), ({"WEIR_NVML": "libm.so.6"}, "too old"),
             ({}, "can't be started: Driver Not Loaded")]
    gpu.say("open 9")
    for number, (environment, text) in enumerate(cases):
        node = lend(place, gpu, "site%d" % number, **environment)
        wait_until(lambda: "%r is told; the log ends:\n%s" % (text, node.log_end()), lambda: log_lines(node, text))
        wait_until("it is lent as told", lambda: not devices(node)["cuda:0"]["held"])
        time.sleep(1.5)  # the second try
        expect(len(log_lines(node, "event=watch")) == 1, log_lines(node, "event=watch"))
        row, code = doctor_of(node, "GPU watcher")
        expect(row["state"] == "off" and text in row["detail"] and "libnvidia-ml" in row["fix"], row)
        expect(code == 0, "what the node does without is no failure")
        node.stop()


def two_nodes_do_not_lend_one_gpu(place):
    gpu = Gpu(place)
    first = lend(place, gpu)
    wait_watched(first)
    second = lend(place, gpu, "cairo", first)
    expect(states(second)["cuda:0"] == "owned" and devices(second)["cuda:0"]["cause"] == "another node", devices(second))
    expect(len(log_lines(second, "another node of this machine lends it")) == 1, second.log_end())
    expect(doctor_of(second, "cuda:0")[0]["state"] == "off", doctor_of(second, "cuda:0"))
    expect(first.nodes()["cairo"]["slots"] == 0 and first.nodes()["berlin"]["slots"] == 1, first.nodes())
    other = lend(place, gpu, "dublin", first, CUDA_VISIBLE_DEVICES="1")  # its cuda:0 is another GPU
    expect(states(other)["cuda:0"] != "owned", devices(other))
    first.stop()
    wait_state(second, "cooling", 25)


TESTS = [a_foreign_program_takes_the_gpu_from_running_work, memory_and_load_of_nobody_claim_an_idle_gpu,
         monitoring_takes_nothing_back, an_open_of_the_device_file_only_holds_new_work_back,
         a_reclaim_returns_when_the_memory_is_seen_free,
         the_capability_for_open_events_is_given_up_at_the_start, a_gpu_that_vanishes_is_at_fault_and_the_node_lives,
         a_driver_that_hangs_or_crashes_takes_the_watcher_only, without_a_driver_that_can_be_asked_one_line_says_so,
         two_nodes_do_not_lend_one_gpu]
ALONE = TESTS  # a GPU is lent once per machine

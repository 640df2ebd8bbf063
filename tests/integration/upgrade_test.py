"""Two builds in one mesh: that of the version of the protocol before ours works beside this one."""
import json
import os
import subprocess
import sys

from harness import Failed, Node, Skipped, expect, wait_until
from mesh_test import SPIN, SPIN_ITEMS, expect_marks
from operations_test import Load
from takeover_test import repeated

SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "older_build.py")
BUILD_S = 900
OLD, NEW = ("ashburn", "cairo"), ("berlin", "dublin")
ALL = OLD + NEW


def older_program():
    done = subprocess.run([sys.executable, SCRIPT], capture_output=True, text=True, timeout=BUILD_S, check=False)
    if done.returncode == 77:
        raise Skipped(done.stderr.strip())
    if done.returncode != 0:
        raise Failed(done.stderr.strip())
    return os.path.join(done.stdout.strip(), "weir")


def protocols(program):
    """The lowest and the highest that a program speaks."""
    said = subprocess.run([program, "version", "--json"], capture_output=True, text=True, check=True)
    answer = json.loads(said.stdout)
    return answer["protocol_min"], answer["protocol_max"]


def wait_all_up(nodes):
    for node in nodes.values():
        node.wait_states({name: "up" for name in nodes}, 45)


def mixed_mesh(place, older):
    """ashburn is of the older build and founds it; berlin joins as this build, cairo as the older, dublin as this."""
    nodes = {name: Node(place, name, work__cpu_slots=1) for name in ALL}
    for name in OLD:
        nodes[name].program = older
    first = nodes["ashburn"]
    place.weir("init", "--federation", "rivers", "--site", first.name, "--name", first.name, "--data", first.data,
               program=older)
    first.start()
    for name in ("berlin", "cairo", "dublin"):
        token = first.weir("invite", "--site", name).out.strip().split("\n")[-1]
        place.weir("join", token, "--name", name, "--data", nodes[name].data, program=nodes[name].program)
        nodes[name].start()
    wait_all_up(nodes)
    return nodes


def spin_digest(node):
    return node.weir("kernels", "spin", "--json").json["digest"]


def run_job(home, nodes):
    """Done with the right bytes, by nodes whose kernel is the home's, and by more than one of them."""
    able = {node.name for node in nodes.values() if spin_digest(node) == spin_digest(home)}
    done = home.wait_job(home.submit_detached("spin", *SPIN), timeout_s=90)
    expect(done["done"] == SPIN_ITEMS, "shards are missing: %s" % done)
    ran = {row["name"] for row in done["by_node"] if row["shards"] > 0}
    expect(ran <= able and len(ran) > 1, "shards ran at %s; %s have the kernel" % (ran, able))
    expect_marks(home, done["id"])
    return able


def an_older_build_works_beside_this_one(place):
    """They join each other, agree per link on what both speak, do each other's work, and see each other die."""
    older = older_program()
    (old_min, old_max), (new_min, new_max) = protocols(older), protocols(place.program)
    expect(new_min <= old_max and old_min <= new_max, "this build shares no version with %s" % older)
    nodes = mixed_mesh(place, older)
    for name in NEW:
        rows = nodes[name].nodes()
        for other in ALL:
            wanted = min(old_max, new_max) if other in OLD else new_max
            expect(rows[other]["protocol"] == wanted, "%s speaks %s with %s, not %d" % (
                name, rows[other]["protocol"], other, wanted))
    for name in ("ashburn", "berlin"):
        run_job(nodes[name], nodes)
    answer = repeated(nodes["berlin"])  # what was done at once is kept by the other that knows the question
    expect(answer.json["replicas"] == 2 and not answer.error, answer)
    for node in nodes.values():
        expect(node.count("transport", "refused_bad_frame") == 0, "%s could not read a frame" % node.name)
        expect(node.count("admission", "penalties") == 0, "%s shut somebody out" % node.name)
    told = nodes["berlin"].weir("jobs", "--mesh", "--json")  # those of the other build can't tell theirs
    expect(len(told.json["jobs"]) == 3 and told.json["silent"] == 2 and "2 nodes did not answer" in told.error, told)
    nodes["cairo"].kill()
    for name in ("ashburn", "berlin", "dublin"):
        nodes[name].wait_states({"cairo": "down"}, 20)


def a_mesh_is_upgraded_node_by_node(place):
    """Each older node is stopped and started as this build in its data folder, while clients at the others submit. No job
    fails or is wrong; journals have copies at those alone that can keep them, three once there are three."""
    older = older_program()
    nodes = mixed_mesh(place, older)
    with Load([nodes[name] for name in NEW], 2) as load:
        def goes_on():
            before = load.count()
            wait_until("jobs go on", lambda: load.problems or load.count() > before + 2, 60)
        goes_on()
        for name in OLD:
            expect(nodes[name].stop() == 0, "%s ended with %s:\n%s" % (name, nodes[name].process.returncode,
                                                                    nodes[name].log_end()))
            nodes[name].program = place.program
            nodes[name].start()
            wait_all_up(nodes)
            goes_on()
    load.check()
    copies = [said["replicas"] for said in load.jobs.values()]
    expect(copies[0] == len(NEW) and copies[-1] == 3, "copies of the journals: %s" % copies)
    newest = protocols(place.program)[1]

    def agreed():
        return all(row["protocol"] == newest for row in nodes["berlin"].nodes().values())
    wait_until(lambda: "all speak %d: %s" % (newest, nodes["berlin"].nodes()), agreed, 30)
    expect(run_job(nodes["ashburn"], nodes) == set(ALL), "not all have the same kernels after the upgrade")


TESTS = [an_older_build_works_beside_this_one, a_mesh_is_upgraded_node_by_node]
ALONE = TESTS

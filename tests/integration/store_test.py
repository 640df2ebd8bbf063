"""What an operator does with a node's disk: back it up while it works, take it back, and what is refused."""
import os
import shutil

from harness import expect
from mesh_test import SPIN, SPIN_ITEMS, THREE, expect_marks, wait_running


def a_backup_is_taken_at_work_and_taken_back(place):
    mesh = place.mesh(*THREE)
    home = mesh["ashburn"]
    first = home.submit_detached("spin", "--items", "3", "--shard-items", "1", "--param", "us=1000", "--cache", "off")
    home.wait_job(first)
    job = home.submit_detached("spin", *SPIN)
    wait_running(home, mesh["berlin"], job)
    copy = place.path("copy")
    said = home.weir("store", "backup", copy, "--json").json
    expect(said["path"] == copy, "%s" % said)
    expect(os.stat(copy).st_mode & 0o777 == 0o700, "the backup may be read by others")
    again = home.weir("store", "backup", copy, code=1)
    expect("exists" in again.error.lower(), "%s" % again)
    home.wait_job(job, timeout_s=90)

    refused = place.weir("node", "--data", copy, "--set", "network.bind=127.0.0.1", "--set", "network.control_port=0",
                         "--set", "network.bulk_port=0", "--set", "network.join_port=0", "--set", "http.port=off", code=None)
    expect(refused.code == 1 and "is a backup" in refused.error and "weir store restore" in refused.error, "%s" % refused)
    sound = place.weir("store", "check", "--data", copy, "--json").json
    expect(sound["sound"] and sound["jobs"] == 2, "%s" % sound)

    home.kill()
    shutil.move(home.data, home.data + ".lost")
    place.weir("store", "restore", copy, "--data", home.data)
    sound = place.weir("store", "check", "--data", home.data, "--json").json
    expect(sound["sound"], "%s" % sound)
    home.start()
    for node in mesh.values():
        node.wait_states({site: "up" for site in THREE}, 60)
    expect_marks(home, first, 3)
    home.wait_job(job, timeout_s=90)  # as of the backup it was not done: it goes on from there
    expect_marks(home, job, SPIN_ITEMS)


def what_is_no_backup_or_no_place_for_one_is_refused(place):
    mesh = place.mesh("ashburn", "berlin")
    copy = place.path("copy")
    mesh["ashburn"].weir("store", "backup", copy)
    mesh["berlin"].kill()
    there = place.weir("store", "restore", copy, "--data", mesh["berlin"].data, code=1)
    expect("has a store already" in there.error, "%s" % there)
    shutil.rmtree(os.path.join(mesh["berlin"].data, "store"))
    other = place.weir("store", "restore", copy, "--data", mesh["berlin"].data, code=1)
    expect("another node's" in other.error, "%s" % other)
    expect(not os.path.exists(os.path.join(mesh["berlin"].data, "store")), "a refused restore left a store")
    none = place.weir("store", "restore", place.path("nothing"), "--data", place.path("new"), code=1)
    expect("is no backup" in none.error, "%s" % none)
    nowhere = mesh["ashburn"].weir("store", "backup", place.path("missing", "copy"), code=1)
    expect("missing" in nowhere.error, "%s" % nowhere)
    left = [name for name in os.listdir(place.folder) if name.endswith(".partial")]
    expect(not left, "left behind: %s" % left)
    usage = place.weir("store", "backup", code=2)
    expect("needs a path" in usage.error, "%s" % usage)


TESTS = [a_backup_is_taken_at_work_and_taken_back, what_is_no_backup_or_no_place_for_one_is_refused]

"""What an operator does with a node's disk: back it up while it works, take it back, and what is refused."""
import contextlib
import os
import random
import shutil
import signal
import subprocess

import lmdb
import numpy

from harness import Failed, Node, Skipped, expect, wait_until
from mesh_test import (SPIN, SPIN_ITEMS, THREE, expect_marks, fill_disk, small_disk, spin_marks,
                       wait_running)
from refusal_test import rot


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
    expect(sound["sound"] and sound["journals_kept"] >= 1 and sound["journal_rows"] >= 2, "%s" % sound)

    home.kill()
    shutil.move(home.data, home.data + ".lost")
    place.weir("store", "restore", copy, "--data", home.data)
    sound = place.weir("store", "check", "--data", home.data, "--json").json
    expect(sound["sound"], "%s" % sound)
    home.start()
    for node in mesh.values():
        node.wait_states({site: "up" for site in THREE}, 60)
    expect_marks(home, first, 3)
    # As of the backup it was not done; the others went on with it, or it goes on once they agree whose it is.
    collected = place.path("collected.npy")
    wait_until("the job is handed out by the restored node", lambda: home.weir(
        "submit", "--reattach", job, "--output", "mark=" + collected, code=None, timeout_s=60).code == 0, 120)
    expect(numpy.array_equal(numpy.load(collected).reshape(-1), spin_marks(SPIN_ITEMS)), "the job's bytes are wrong")


def a_backup_goes_to_another_kind_of_file_system_and_back(place):
    node = place.mesh("ashburn")["ashburn"]
    large = place.path("large")
    with open(large, "wb") as out:
        out.write(os.urandom(3 << 20))
    blob = node.weir("blob", "put", large).out.strip()
    small_disk(place, "other-disk", "64m")
    copy = place.path("other-disk", "copy")
    node.weir("store", "backup", copy)
    expect(node.stop() == 0, node.log_end())
    shutil.rmtree(node.data)
    place.weir("store", "restore", copy, "--data", node.data)
    expect(place.weir("store", "check", "--data", node.data, "--json").json["sound"], "what came back is not sound")
    node.start()
    node.weir("blob", "get", blob, place.path("back"))
    with open(large, "rb") as one, open(place.path("back"), "rb") as other:
        expect(one.read() == other.read(), "other bytes came back")


def a_new_store_without_room_is_refused(place):
    """As after a damaged one was moved away, on a disk that filled meanwhile."""
    member = place.mesh("ashburn")["ashburn"]
    expect(member.stop() == 0, member.log_end())
    small_disk(place, "full", "4m")
    data = place.path("full")
    for folder in ("keys", "federation"):
        shutil.copytree(os.path.join(member.data, folder), os.path.join(data, folder))
    ballast = fill_disk(place, "full", 64 << 10)
    start_fails(place, data, "no room for a new store", data)
    os.unlink(ballast)
    member.data = data
    member.start()


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
    running = place.weir("store", "restore", mesh["ashburn"].data, "--data", place.path("new"), code=1)
    expect("a node is at work in" in running.error, "%s" % running)
    foreign = copy_of(place, copy, "foreign")
    shutil.rmtree(os.path.join(foreign, "store"))
    shutil.copytree(os.path.join(mesh["ashburn"].data, "store"), os.path.join(foreign, "store"))
    shutil.rmtree(os.path.join(foreign, "keys"))
    shutil.copytree(os.path.join(mesh["berlin"].data, "keys"), os.path.join(foreign, "keys"))
    strange = place.weir("store", "restore", foreign, "--data", place.path("new"), code=1)
    expect("than the keys beside it" in strange.error, "%s" % strange)
    damaged = copy_of(place, copy, "damaged")
    os.truncate(os.path.join(damaged, "store", "state", "data.mdb"), 20000)
    hurt = place.weir("store", "restore", damaged, "--data", place.path("new"), code=1)
    expect("damaged" in hurt.error, "%s" % hurt)
    expect(not os.listdir(place.path("new")), "a refused restore left %s" % os.listdir(place.path("new")))
    nowhere = mesh["ashburn"].weir("store", "backup", place.path("missing", "copy"), code=1)
    expect("missing" in nowhere.error, "%s" % nowhere)
    left = [name for name in os.listdir(place.folder) if name.endswith(".partial")]
    expect(not left, "left behind: %s" % left)
    usage = place.weir("store", "backup", code=2)
    expect("needs a path" in usage.error, "%s" % usage)


def stopped_member(place):
    """The data folder of a node that has done some jobs and was stopped, and that of another of its mesh."""
    mesh = place.mesh("ashburn", "berlin")
    for number in range(4):
        job = mesh["ashburn"].submit_detached("spin", "--items", "20", "--shard-items", "1", "--param", "us=100", "--key",
                                              "job %d" % number)
        mesh["ashburn"].wait_job(job)
    for node in mesh.values():
        expect(node.stop() == 0, node.log_end())
    return mesh["ashburn"].data, mesh["berlin"].data


def copy_of(place, data, name):
    path = place.path(name)
    shutil.copytree(data, path)
    return path


def start_fails(place, data, *words):
    """`weir node` ends with 1 and one line that has these words."""
    node = Node(place, os.path.basename(data))
    node.launch()
    code = node.wait_end(30)
    said = [line for line in node.log_text().strip().split("\n") if line.startswith("weir: ")]
    expect(code == 1 and len(said) == 1, "it ended with %s and said: %s" % (code, node.log_end()))
    for word in words:
        expect(word in said[0], "no %r in: %s" % (word, said[0]))


def check_fails(place, data, *words):
    checked = place.weir("store", "check", "--data", data, code=1)
    for word in words:
        expect(word in checked.out + checked.error, "no %r in: %s" % (word, checked))


def a_damaged_store_is_refused_in_words(place):
    data, other = stopped_member(place)
    for name, side, keep in (("half", "state", None), ("page", "state", 5000), ("blobs-half", "blobs", None)):
        path = copy_of(place, data, name)
        file = os.path.join(path, "store", side, "data.mdb")
        os.truncate(file, keep or os.path.getsize(file) // 2)
        start_fails(place, path, file, "damaged", "backup")
        check_fails(place, path, file, "damaged")
    path = copy_of(place, data, "garbage")
    with open(os.path.join(path, "store", "state", "data.mdb"), "wb") as file:
        file.write(b"no database" * 9000)
    start_fails(place, path, "store/state", "not an LMDB file")
    path = copy_of(place, data, "no-blobs")
    shutil.rmtree(os.path.join(path, "store", "blobs"))
    check_fails(place, path, "its output 'mark' is missing")
    path = copy_of(place, data, "others-blobs")
    shutil.rmtree(os.path.join(path, "store", "blobs"))
    shutil.copytree(os.path.join(other, "store", "blobs"), os.path.join(path, "store", "blobs"))
    start_fails(place, path, "store/blobs", "another store")
    path = copy_of(place, data, "others-store")
    shutil.rmtree(os.path.join(path, "store"))
    shutil.copytree(os.path.join(other, "store"), os.path.join(path, "store"))
    start_fails(place, path, "another node", "keys")
    check_fails(place, path, "another node")


def flipped_bits_never_crash_a_node(place):
    """It starts, or says why not; `store check` finds something, or nothing that is in use was hit."""
    data, _ = stopped_member(place)
    for seed in range(8):
        print("seed %d" % seed, flush=True)
        draw = random.Random(seed)
        path = copy_of(place, data, "flip%d" % seed)
        file = os.path.join(path, "store", draw.choice(("state", "blobs")), "data.mdb")
        with open(file, "r+b") as bits:
            for _ in range(draw.choice((1, 20, 300))):
                at = draw.randrange(os.path.getsize(file))
                bits.seek(at)
                byte = bits.read(1)[0] ^ 1 << draw.randrange(8)
                bits.seek(at)
                bits.write(bytes([byte]))
        checked = place.weir("store", "check", "--data", path, code=None)
        expect(checked.code in (0, 1), "%s" % checked)
        node = Node(place, os.path.basename(path))
        try:
            node.start()
        except Failed:
            expect(node.process.returncode == 1 and checked.code == 1, "%s\n%s" % (checked, node.log_end()))
            expect("weir: " in node.log_text(), node.log_end())
        else:
            expect(node.stop() == 0, node.log_end())


def a_folder_that_cannot_be_written_is_refused(place):
    data, _ = stopped_member(place)
    mounted = place.path("mounted")
    os.makedirs(mounted)
    if subprocess.run(["mount", "--bind", data, mounted], capture_output=True, check=False).returncode != 0:
        raise Skipped("mounting needs root")
    place.mounts.append(mounted)
    subprocess.run(["mount", "-o", "remount,bind,ro", mounted], check=True)
    start_fails(place, mounted, "Read-only file system")


def a_committed_result_that_rots_is_computed_again(place):
    """Its home has the one copy of the journal; outputs with zeros in the place of a lost result would be wrong."""
    home = place.mesh("ashburn", work__cpu_slots=1)["ashburn"]
    items, part = 200000, 5000  # 20,000 bytes a shard: kept as blobs
    job = home.submit_detached("spin", "--items", str(items), "--shard-items", str(part), "--param", "us=20", "--cache", "off",
                               "--replicas", "1")
    wait_until("some shards are done", lambda: home.job(job)["done"] >= 3)
    home.kill()
    marks = spin_marks(items).tobytes()
    for shard in range(items // part):
        with contextlib.suppress(Failed):
            rot(home, "of shard %d" % shard, marks[4 * part * shard + 8000:4 * part * shard + 8064])
            break
    else:
        raise Failed("no result is in the store")
    home.start()
    home.wait_job(job, timeout_s=90)
    expect("a committed output cannot be read" in home.log_text(), "the damage was not seen: %s" % home.log_end())
    expect_marks(home, job, items)


def a_store_of_a_newer_format_is_refused(place):
    """Written by a later version: this one touches nothing and says which is older."""
    node = place.mesh("ashburn")["ashburn"]
    expect(node.stop() == 0, node.log_end())
    environment = lmdb.open(os.path.join(node.data, "store", "state"), max_dbs=32)
    with environment.begin(write=True) as txn:
        table = environment.open_db(b"store", txn=txn)
        now = int.from_bytes(txn.get(b"schema", db=table), "little")
        txn.put(b"schema", (now + 1).to_bytes(4, "little"), db=table)
    environment.close()
    start_fails(place, node.data, "format %d" % (now + 1), "up to %d" % now, "older than the data")
    checked = place.weir("store", "check", "--data", node.data, code=None)
    expect(checked.code != 0 and "older than the data" in checked.error, "%s" % checked)
    environment = lmdb.open(os.path.join(node.data, "store", "state"), max_dbs=32)
    with environment.begin(write=True) as txn:
        txn.put(b"schema", now.to_bytes(4, "little"), db=environment.open_db(b"store", txn=txn))
    environment.close()
    node.start()


def a_full_state_map_holds_up_and_loses_nothing(place):
    """The least map there may be, and a job whose journal is larger: it waits, says so, and goes on in a larger map."""
    too_small = place.found("berlin")
    too_small.stop()
    too_small.settings["store.state_map"] = "15MiB"
    too_small.launch()
    expect(too_small.wait_end(30) == 2 and "16" in too_small.log_end(1), "a map below the least: " + too_small.log_end())
    node = place.mesh("ashburn", store__state_map="16MiB", work__cpu_slots=1)["ashburn"]
    rows = numpy.random.default_rng(9).integers(0, 256, (1_000_000, 8), dtype=numpy.uint8)
    numpy.save(place.path("rows.npy"), rows)
    job = node.submit_detached("noop", "--input", "data=" + place.path("rows.npy"), "--split", "data", "--shard-items", "1",
                               "--cache", "off", "--replicas", "1")
    wait_until("the job is stalled", lambda: node.job(job).get("stalled"), 90)
    expect("state=full" in node.log_text() and "store.state_map" in node.log_text(), node.log_end())
    expect(node.nodes()["ashburn"]["fault"] == "disk", node.nodes())
    done = node.job(job)["done"]
    expect(0 < done < len(rows), "%s" % node.job(job))
    other = place.start([place.program, "submit", "spin", "--node", node.socket, "--items", "2", "--replicas", "1"],
                        stderr=subprocess.PIPE, text=True)
    said = other.stderr.readline()
    expect("full" in said, "a submit says %r" % said)
    other.send_signal(signal.SIGINT)
    other.wait(20)
    node.kill()
    node.settings["store.state_map"] = "64MiB"
    node.start()
    wait_until("the job goes on", lambda: node.job(job)["state"] != "preparing", 60)
    expect(node.job(job)["done"] >= done, "shards were lost: %d of %d" % (node.job(job)["done"], done))
    node.wait_job(job, timeout_s=120)
    path = place.path("sums.npy")
    node.weir("submit", "--reattach", job, "--output", "sum=" + path, timeout_s=60)
    sums = numpy.full(len(rows), 0xCBF29CE484222325, dtype=numpy.uint64)
    for column in range(rows.shape[1]):
        sums = (sums ^ rows[:, column]) * numpy.uint64(0x100000001B3)
    expect(numpy.array_equal(numpy.load(path).reshape(-1), sums), "the sums are wrong")


TESTS = [a_store_of_a_newer_format_is_refused, a_full_state_map_holds_up_and_loses_nothing,
         a_committed_result_that_rots_is_computed_again, a_backup_is_taken_at_work_and_taken_back,
         a_backup_goes_to_another_kind_of_file_system_and_back, a_new_store_without_room_is_refused, what_is_no_backup_or_no_place_for_one_is_refused,
         a_damaged_store_is_refused_in_words, flipped_bits_never_crash_a_node, a_folder_that_cannot_be_written_is_refused]

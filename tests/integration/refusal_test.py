"""Requests and starts that cannot succeed: each gives one line that says what, where and what to do, the right exit code, and leaves nothing behind."""
import os
import re
import shutil
import socket
import time

import numpy

from harness import Node, expect, wait_until

FAILED, USAGE, NONE, UNREACHABLE = 1, 2, 3, 4
UNKNOWN_BLOB = "ab" * 32
FILE_BLOB_BYTES = 3 << 20  # more than the store keeps inside of its index
COLUMNS = 256
PREFIX_TWINS = ("job4", "job102")  # keys of tenant ashburn whose jobs have ids that begin alike


# ---- Help

HUGE = """#include "weir_kernel.h"

extern "C" __global__ void huge(weir_items items, float *y)
{
    if (weir_item() < items.count)
        y[weir_item()] = 1;
}
"""
HUGE_MANIFEST = """[kernel]
name = huge
item = thread
[output y]
type = float32
shape = items, 2000000000
"""


class Problems:
    """What did not hold in a table of cases: all of it is told at once."""

    def __init__(self):
        self.found = []

    def add(self, what):
        self.found.append(what)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        if kind is None:
            expect(not self.found, "%d cases are wrong:\n    " % len(self.found) + "\n    ".join(self.found))


def check_refusal(problems, answer, code, *says):
    """One line on standard error with all of `says` in it, nothing on standard output, and the exit code."""
    lines = answer.error.splitlines()
    if answer.code != code:
        problems.add("%s, not with %d" % (answer, code))
    elif len(lines) != 1 or not lines[0].startswith("weir: ") or answer.out:
        problems.add("%s: not one line on standard error" % answer)
    else:
        for word in says:
            if not re.search(word, lines[0]):
                problems.add("%s: nothing about /%s/" % (answer, word))


def traces(place, node):
    """All files beside the nodes' own, and what the node holds: a refused request changes none of it."""
    files = {name: os.stat(place.path(name)).st_size for name in os.listdir(place.folder)
             if not name.endswith((".log", ".sock")) and os.path.isfile(place.path(name))}
    blobs = {row["blob"] for row in node.weir("blob", "ls", "--json").json["blobs"]}
    jobs = {row["id"] for row in node.weir("jobs", "--json").json["jobs"]}
    return files, blobs, jobs


def check_all(place, node, cases):
    """Runs (arguments, exit code, words...) and compares what was there before and after."""
    before = traces(place, node)
    with Problems() as problems:
        for arguments, code, *says in cases:
            check_refusal(problems, node.weir(*arguments, code=None, timeout_s=15), code, *says)
        after = traces(place, node)
        for name, old, new in zip(("files", "blobs", "jobs"), before, after):
            if old != new:
                problems.add("%s were %r and are %r" % (name, sorted(old), sorted(new)))


def write(place, name, data):
    path = place.path(name)
    with open(path, "wb") as out:
        out.write(data)
    return path


def save(place, name, array):
    numpy.save(place.path(name), array)
    return place.path(name)


def save_base(place):
    return save(place, "base.npy", numpy.arange(20 * COLUMNS, dtype=numpy.int64).reshape(20, COLUMNS).astype(numpy.int8))


def save_words(place, name="words.txt", count=40):
    return write(place, name, b"".join(b"word%d\n" % i for i in range(count)))


def knn(base, query, *more):
    return ("submit", "knn", "--input", "base=" + base, "--input", "query=" + query, "--split", "query", *more)


# ---- Kernels, inputs, parameters


def arrays_by_way_of_the_store_are_checked_too(place):
    """An input that is a blob already is only seen by the node: its refusals are those of the command."""
    node = place.found()
    base = node.weir("blob", "put", save_base(place)).out.strip()
    fortran = node.weir("blob", "put", save(place, "f.npy", numpy.ones((COLUMNS, 4), numpy.int8).T)).out.strip()
    with open(place.path("base.npy"), "rb") as file:
        cut = node.weir("blob", "put", write(place, "cut.npy", file.read()[:-1])).out.strip()
    empty = node.weir("blob", "put", write(place, "empty", b"")).out.strip()
    base, fortran, cut, empty = ("blob:" + blob for blob in (base, fortran, cut, empty))
    check_all(place, node, [
        (knn(base, fortran), USAGE, "query", "Fortran"),
        (knn(base, cut), USAGE, "query", "shorter than its header"),
        (knn(base, empty), USAGE, "query", "empty"),
        (knn(base, base, "--param", "k=21"), USAGE, "k = 21", "20 rows of base"),
        (("submit", "embed", "--input", "text=" + empty, "--format", "text=text"), USAGE, "input text", "no lines"),
        (knn(base, "blob:" + UNKNOWN_BLOB), NONE, "blob abab", "not on this node"),
        (knn(base, "blob:" + UNKNOWN_BLOB[:6]), NONE, "blob ababab: not on this node"),
        (knn(base, "blob:12zz"), USAGE, "64 hex digits, or the first"),
        (knn(base, "blob:" + "1" * 65), USAGE, "64 hex digits"),
        (knn(base, "job:0123/vectors"), NONE, "no job '0123'"),
        (knn(base, "job:0123"), USAGE, "job:ID/OUTPUT"),
    ])


def numbers_that_are_none_are_refused_where_a_kernel_says_so(place):
    node = place.found()
    a = numpy.ones((4, 8), numpy.float32)
    good, right = save(place, "a.npy", a), save(place, "b.npy", numpy.ones((8, 3), numpy.float32))
    cases = []
    before = traces(place, node)
    for name, value in (("nan", numpy.nan), ("inf", numpy.inf), ("minus", -numpy.inf)):
        a[2, 3] = value
        bad = save(place, name + ".npy", a)
        cases.append((("submit", "matmul", "--input", "a=" + bad, "--input", "b=" + right), "input a"))
        cases.append((("submit", "matmul", "--input", "a=" + right.replace("b.npy", "a.npy"), "--input",
                       "b=" + save(place, name + "_b.npy", a.T.copy())), "input b"))
    with Problems() as problems:
        for arguments, where in cases:
            check_refusal(problems, node.weir(*arguments, code=None, timeout_s=15), USAGE, where, "NaN or infinity",
                          "row [23], element [23]", "finite")
        if traces(place, node)[2] != before[2]:
            problems.add("a refused job is listed")
    node.weir("submit", "matmul", "--input", "a=" + good, "--input", "b=" + right, "--output",
              "c=" + place.path("c.npy"), timeout_s=30)
    expect(numpy.array_equal(numpy.load(place.path("c.npy")), numpy.full((4, 3), 8, numpy.float32)), "c is wrong")


# ---- Outputs


def an_output_that_cannot_be_written_is_found_before_any_work(place):
    """Before the upload, too: no blob appears. A file that is there already stays as it was until there is a result."""
    node = place.found()
    words = save_words(place)
    kept = write(place, "kept.npy", b"precious")
    embed = ("submit", "embed", "--input", "text=" + words)
    os.mkdir(place.path("folder"))
    check_all(place, node, [
        ((*embed, "--output", "vectors=" + place.path("nosuch", "x.npy")), USAGE, "output vectors", "nosuch/x.npy",
         "No such file"),
        ((*embed, "--output", "vectors=" + place.path("folder")), USAGE, "folder", "name a file"),
        ((*embed, "--output", "vectors=" + words + "/x.npy"), USAGE, "output vectors"),
        ((*embed, "--output", "vectors=/proc/weir.npy"), USAGE, "output vectors", "/proc/weir.npy"),
        ((*embed, "--output", "vectors="), USAGE, "NAME=FILE"),
        ((*embed, "--output", "nosuch=" + place.path("x.npy")), USAGE, "no output 'nosuch'", "weir kernels embed"),
        ((*embed, "--output", "vectors=" + words), USAGE, "an input of this job"),
        ((*embed, "--output", "vectors=" + place.path("x.npy"), "--output", "vectors=" + place.path("y.npy")), USAGE,
         "given twice"),
        ((*embed, "--output", "vectors=-", "--json"), USAGE, "standard output"),
        ((*embed, "--output", "vectors=" + kept, "--param", "nosuch=1"), USAGE, "nosuch"),
    ])
    with open(kept, "rb") as file:
        expect(file.read() == b"precious", "a file was touched by a job that was refused")
    expect(os.listdir(place.path("folder")) == [], "something was left in the folder: %s" % os.listdir(place.path("folder")))


def an_output_that_fills_its_disk_is_an_error_and_its_result_stays(place):
    node = place.found()
    answer = node.weir("submit", "embed", "--input", "text=" + save_words(place), "--output", "vectors=/dev/full",
                       code=None)
    with Problems() as problems:
        check_refusal(problems, answer, FAILED, "output vectors", "/dev/full", "No space left", "blob:[0-9a-f]{64}")
    blob = re.search("blob:([0-9a-f]{64})", answer.error).group(1)
    node.weir("blob", "get", blob, place.path("vectors.npy"))
    expect(numpy.load(place.path("vectors.npy")).shape == (40, COLUMNS), "the result is not the job's")
    full = os.open("/dev/full", os.O_WRONLY)
    try:
        code = place.start([place.program, "blob", "get", blob, "-", "--node", node.socket], stdout=full).wait(20)
    finally:
        os.close(full)
    expect(code == FAILED, "`weir blob get BLOB - > /dev/full` ended with %d" % code)


# ---- Blobs, jobs, nodes by name


def what_nobody_knows_is_said_to_be_unknown(place):
    node = place.found()
    words = save_words(place)
    ids = [node.submit_detached("spin", "--items", "1", "--param", "us=1", "--key", key) for key in PREFIX_TWINS]
    prefix = ids[0][:4]
    expect(ids[0] != ids[1] and ids[1].startswith(prefix), "these keys no longer give ids that begin alike: %s" % ids)
    for job in ids:
        node.wait_job(job)
    wait_until("the results to be stored", lambda: traces(place, node) == traces(place, node))
    check_all(place, node, [
        (("jobs", "0" * 64), NONE, "no job", "weir jobs"),
        (("jobs", "nosuch"), NONE, "no job 'nosuch'"),
        (("jobs", prefix), USAGE, "'%s'" % prefix, "more|ambiguous"),
        (("logs", "nosuch"), NONE, "no job"),
        (("logs", prefix), USAGE, "more|ambiguous"),
        (("explain", "nosuch"), NONE, "no job"),
        (("cancel", "nosuch"), NONE, "no job"),
        (("cancel", prefix), USAGE, "more|ambiguous"),
        (("submit", "--reattach", "nosuch", "--output", "mark=" + place.path("mark.npy")), NONE, "no job"),
        (("submit", "--reattach", ids[0], "--output", "nosuch=" + place.path("mark.npy")), USAGE, "no output 'nosuch'"),
        (("blob", "get", UNKNOWN_BLOB, place.path("blob.bin")), NONE, "blob abab", "not on this node"),
        (("blob", "get", UNKNOWN_BLOB), NONE, "blob abab"),
        (("blob", "get", "xyz", place.path("blob.bin")), USAGE, "64 hex digits, or the first"),
        (("blob", "get", UNKNOWN_BLOB[:4], place.path("blob.bin")), NONE, "blob abab: not on this node"),
        (("blob", "stat", UNKNOWN_BLOB), NONE, "blob abab"),
        (("blob", "rm", UNKNOWN_BLOB), NONE, "blob abab"),
        (("blob", "put", place.path("absent")), USAGE, "absent", "No such file"),
        (("blob", "put", place.folder), USAGE, "no file"),
        (("blob", "get", UNKNOWN_BLOB, place.path("nosuch", "x")), USAGE, "cannot write", "No such file"),
        (("blob", "get", UNKNOWN_BLOB, place.folder), USAGE, "cannot write", "folder"),
        (("blob", "get", UNKNOWN_BLOB, "/proc/weir"), USAGE, "cannot write '/proc/weir'"),
        (("submit", "embed", "--input", "text=" + words, "--replicas", "6"), USAGE, "replicas", "from 1 to 5"),
        (("blob", "frob", words), USAGE, "put, get"),
        (("ping", "nosuch"), NONE, "nosuch"),
        (("revoke", "nosuch", "--reason", "a test"), NONE, "nosuch"),
        (("invite", "--cancel", "nosuch"), NONE, "weir invite --list"),
    ])
    # How many nodes are up is known when the input is there already; it may be evicted.
    with Problems() as problems:
        check_refusal(problems, node.weir("submit", "embed", "--input", "text=" + words, "--replicas", "3", code=None),
                      FAILED, "too few nodes are up")
    expect(len(node.weir("jobs", "-q").out.split()) == len(ids), "a job that was refused is there")


def ids_are_told_by_as_few_digits_as_tell_them_apart(place):
    """Blobs and jobs, wherever a command takes one. Seventeen of each: at least two begin with the same digit."""
    node = place.found()
    blobs = {node.weir("blob", "put", write(place, "f", b"%d" % i)).out.strip(): b"%d" % i for i in range(17)}
    jobs = [node.submit_detached("spin", "--items", "1", "--param", "us=1", "--cache", "off") for _ in range(17)]
    for job in jobs:
        node.wait_job(job)
    held = sorted(row["blob"] for row in node.weir("blob", "ls", "--json").json["blobs"])
    alike, twins = {}, {}
    for blob in held:
        alike.setdefault(blob[0], []).append(blob)
    for job in jobs:
        twins.setdefault(job[0], []).append(job)
    digit, several = max(alike.items(), key=lambda pair: len(pair[1]))
    job_digit, job_twins = max(twins.items(), key=lambda pair: len(pair[1]))
    expect(len(several) > 1, "no two blobs begin alike: %s" % held)
    for blob, content in blobs.items():
        short = next(blob[:n] for n in range(1, 65) if sum(other.startswith(blob[:n]) for other in held) == 1)
        expect(node.weir("blob", "get", short, "-").out.encode() == content, "%s is not %s" % (short, blob))
        expect(node.weir("blob", "stat", short.upper(), "--json").json["blob"] == blob, "stat %s" % short)
    for job in jobs:
        short = next(job[:n] for n in range(1, 65) if sum(other.startswith(job[:n]) for other in jobs) == 1)
        expect(node.weir("jobs", short, "--json").json["job"]["id"] == job, "%s is not %s" % (short, job))
        expect(node.weir("logs", short).code == 0, "logs")
    fits = "'%s' fits %d blobs" % (digit, len(several))
    check_all(place, node, [
        (("blob", "get", digit, place.path("x")), USAGE, fits, "more of the id"),
        (("blob", "stat", digit), USAGE, fits), (("blob", "rm", digit), USAGE, fits),
        (("submit", "embed", "--input", "text=blob:" + digit), USAGE, fits),
        (("jobs", job_digit), USAGE, "'%s' fits %d jobs" % (job_digit, len(job_twins))),
        (("ping", "1"), NONE, "no node is named '1'", "first 4 digits"),
    ])
    absent = next("%s%x" % (digit, d) for d in range(16) if not any(b.startswith("%s%x" % (digit, d)) for b in held))
    node.weir("blob", "stat", absent, code=NONE)
    words = node.weir("blob", "put", write(place, "w", b"a\nb\n")).out.strip()
    held.append(words)
    short = next(words[:n] for n in range(1, 65) if sum(other.startswith(words[:n]) for other in held) == 1)
    job = node.weir("submit", "embed", "--input", "text=blob:" + short, "--json").json
    expect(job["inputs"][0]["blob"] == words, "the job's input is another blob: %s" % job["inputs"])
    unpinned = next(blob for blob in blobs if not node.weir("blob", "stat", blob, "--json").json["pinned"])
    node.weir("blob", "rm", unpinned[:12])
    node.weir("blob", "stat", unpinned, code=NONE)


def a_node_that_is_not_there_is_unreachable(place):
    stale = place.path("stale.sock")
    with socket.socket(socket.AF_UNIX) as unbound:
        unbound.bind(stale)
    words = save_words(place)
    with Problems() as problems:
        for where in (place.path("nosuch.sock"), place.path("nosuch"), place.folder, words, stale):
            for command in (("nodes",), ("submit", "embed", "--input", "text=" + words), ("jobs",),
                            ("blob", "get", UNKNOWN_BLOB, place.path("x"))):
                check_refusal(problems, place.weir(*command, "--node", where, code=None), UNREACHABLE, re.escape(where))
        check_refusal(problems, place.weir("nodes", code=None, env={"WEIR_NODE": stale}), UNREACHABLE, re.escape(stale))
        if sorted(os.listdir(place.folder)) != ["stale.sock", "words.txt"]:
            problems.add("left behind: %s" % os.listdir(place.folder))


# ---- Configuration and folders


def refused_start(problems, node, *says):
    node.launch()
    code = node.wait_end(20)
    last = node.log_end(1).rstrip()
    if code != FAILED:
        problems.add("%s: ended with %s: %s" % (node.name, code, node.log_end()))
    for word in ("^weir: ", *says):
        if not re.search(word, last):
            problems.add("%s: says %r, nothing about /%s/" % (node.name, last, word))


def a_port_in_use_is_named_with_its_setting(place):
    with socket.socket() as taken, Problems() as problems:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for key in ("network.control_port", "network.bulk_port", "network.join_port", "http.port"):
            node = Node(place, key.replace(".", "_"))
            node.settings[key] = port
            place.weir("init", "--federation", "rivers", "--site", "ashburn", "--data", node.data)
            refused_start(problems, node, "in use", str(port), key.partition(".")[2])
            node.settings[key] = 0
            node.start()  # what did not start holds nothing
            node.kill()


def a_port_that_a_killed_node_still_holds_is_waited_for(place):
    """The join socket's process ends a moment after its node."""
    node = place.found()
    node.stop()
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", int(node.settings["network.join_port"])))
        taken.listen()
        node.launch()
        time.sleep(0.6)
        expect(node.process.poll() is None, "it gave up at once: " + node.log_end())
    wait_until("it serves", node.serves)


def two_nodes_do_not_share_a_folder_or_a_socket(place):
    first = place.found()
    second = Node(place, "second")
    second.data = first.data
    third = Node(place, "third", api__socket=first.socket)
    place.weir("init", "--federation", "lakes", "--site", "ashburn", "--data", third.data)
    with Problems() as problems:
        refused_start(problems, second, re.escape(first.data), "in use by process %d" % first.process.pid, "stop")
        refused_start(problems, third, re.escape(first.socket), "already", "api.socket")
    expect(first.status()["pid"] == first.process.pid, "the first node lost its socket")
    job = first.submit_detached("spin", "--items", "4", "--param", "us=1000", "--cache", "off")
    first.wait_job(job)


def the_copy_stops(mesh, original, copy):
    """Of two processes with one identity the younger ends and says why; the mesh keeps the elder, which goes on working."""
    code = copy.wait_end(40)
    expect(code == FAILED, "the copy ended with %s:\n%s" % (code, copy.log_end()))
    expect(re.search("another process already runs", copy.log_end()), "the copy does not say why:\n%s" % copy.log_end())
    expect(original.process.poll() is None, "the original ended:\n%s" % original.log_end())
    expect(re.search("event=clone", original.log_end()), "the original says nothing:\n%s" % original.log_end())
    for name in ("ashburn", "cairo"):
        mesh[name].wait_states({original.name: "up"}, 60)
    job = original.submit_detached("spin", "--items", "12", "--shard-items", "1", "--param", "us=1000", "--cache", "off")
    done = original.wait_job(job)
    expect(done["done"] == 12, "the original's work is not whole: %s" % done)


def a_copied_identity_beside_its_running_original_stops(place):
    mesh = place.mesh("ashburn", "berlin", "cairo")
    copy = Node(place, "twin", api__socket=place.path("twin.sock"))
    shutil.copytree(mesh["berlin"].data, copy.data)
    copy.launch()
    the_copy_stops(mesh, mesh["berlin"], copy)


def of_two_copies_started_one_after_the_other_the_younger_stops(place):
    mesh = place.mesh("ashburn", "berlin", "cairo")
    original = mesh["berlin"]
    expect(original.stop() == 0, "the original did not stop cleanly:\n%s" % original.log_end())
    copy = Node(place, "twin", api__socket=place.path("twin.sock"))
    shutil.copytree(original.data, copy.data)
    original.launch()
    wait_until("the original serves", original.serves)
    copy.launch()
    the_copy_stops(mesh, original, copy)


# ---- Bytes that rot


def rot(node, blob, needle):
    """Flips a bit of a stopped node's blob, in its file or in the index; returns how many copies were found."""
    found = 0
    for folder, _, names in os.walk(os.path.join(node.data, "store")):
        for name in names:
            path = os.path.join(folder, name)
            with open(path, "r+b") as file:
                data = file.read()
                at = data.find(needle)
                while at >= 0:
                    file.seek(at + len(needle) // 2)
                    file.write(bytes([data[at + len(needle) // 2] ^ 4]))
                    found += 1
                    at = data.find(needle, at + 1)
    expect(found > 0, "blob %s is nowhere in the store" % blob)
    return found


def rotten_blob(place, node, data):
    """A blob of `data` at the node whose stored bytes no longer match its name."""
    blob = node.weir("blob", "put", write(place, "good", data)).out.strip()
    expect(node.stop() == 0, "the node did not stop cleanly:\n%s" % node.log_end())
    rot(node, blob, data[2000:2064])
    node.start()
    return blob


def check_rot(place, node, data):
    blob = rotten_blob(place, node, data)
    with Problems() as problems:
        answer = node.weir("blob", "get", blob, place.path("got"), code=None)
        check_refusal(problems, answer, FAILED, blob[:8], "match|damaged|corrupt")
        if sorted(name for name in os.listdir(place.folder) if name.startswith("got")):
            problems.add("half a blob was left: %s" % os.listdir(place.folder))
    node.weir("blob", "put", place.path("good"))
    node.weir("blob", "get", blob, place.path("again"))
    with open(place.path("again"), "rb") as file:
        expect(file.read() == data, "the blob that was put again is not what comes back")


def a_blob_file_that_does_not_match_its_name_is_not_served(place):
    check_rot(place, place.found(), os.urandom(FILE_BLOB_BYTES))


def a_small_blob_that_does_not_match_its_name_is_not_served(place):
    check_rot(place, place.found(), os.urandom(6000))


def a_job_on_a_rotten_input_fails_and_says_which(place):
    node = place.found()
    random = numpy.random.default_rng(7)
    rows = random.integers(-128, 128, (FILE_BLOB_BYTES // COLUMNS, COLUMNS), dtype=numpy.int8)
    query = save(place, "query.npy", rows[:4])
    blob = rotten_blob(place, node, open(save(place, "rows.npy", rows), "rb").read())
    with Problems() as problems:
        for arguments in (knn("blob:" + blob, query), ("submit", "knn", "--input", "base=" + query, "--input",
                                                       "query=blob:" + blob, "--split", "query")):
            answer = node.weir(*arguments, "--cache", "off", "--param", "k=1", code=None, timeout_s=60)
            if answer.code not in (FAILED, NONE) or not re.search("do not match|not on this node", answer.error):
                problems.add("%s, not as a failure for rotten bytes" % answer)
            for word in (blob[:8], "ashburn", "blob put"):
                if word not in answer.error:
                    problems.add("%s: nothing about %s" % (answer, word))
    check_damage_is_logged(node, blob, "(yes|no)")  # a submit pins its inputs while they are read


def check_damage_is_logged(node, blob, pinned):
    said = "level=error at=%s event=blob blob=%s state=damaged pinned=%s" % (node.name, blob, pinned)
    expect(re.search(said, node.log_text()), "the log of %s says nothing of %s:\n%s" % (node.name, blob[:8], node.log_end()))


def a_damaged_blob_that_a_finished_job_pins_is_told(place):
    """An executor that lost its copy gets another from home; a home that lost an output says so where it is read."""
    mesh = place.mesh("ashburn", "berlin")
    home, executor = mesh["ashburn"], mesh["berlin"]
    rows = numpy.random.default_rng(8).integers(-128, 128, (FILE_BLOB_BYTES // COLUMNS, COLUMNS), dtype=numpy.int8)
    job = home.submit("knn", *("--input", "base=" + save(place, "rows.npy", rows), "--input",
                               "query=" + save(place, "query.npy", rows[:64]), "--split", "query", "--param", "k=1",
                               "--shard-items", "2", "--cache", "off", "--replicas", "1", "--json")).json
    blob = next(row["blob"] for row in job["inputs"] if row["name"] == "base")
    needle = open(place.path("rows.npy"), "rb").read()[2000:2064]
    for node in (home, executor):
        expect(node.stop() == 0, "the node did not stop cleanly:\n%s" % node.log_end())
    rot(home, blob, needle)
    rot(executor, blob, needle)
    for node in (home, executor):
        node.start()
    for node in (home, executor):
        node.wait_states({"ashburn": "up", "berlin": "up"})
    answer = home.weir("blob", "get", blob, place.path("got"), code=FAILED)
    expect(blob[:8] in answer.error, "%s" % answer)
    check_damage_is_logged(home, blob, "yes")
    again = home.submit("knn", "--input", "base=" + place.path("rows.npy"), "--input", "query=" + place.path("query.npy"),
                        "--split", "query", "--param", "k=1", "--shard-items", "2", "--cache", "off", "--replicas", "1",
                        "--json").json
    expect(again["state"] == "done", "%s" % again)
    if any(row["name"] == "berlin" for row in again["by_node"]):
        check_damage_is_logged(executor, blob, "(yes|no)")  # it keeps the job's journal, or not


def a_store_is_checked_and_says_what_is_rotten(place):
    """weir store check: sound after a job, in use while its node runs, and the damaged blob is named."""
    node = place.found("ashburn")
    rows = numpy.random.default_rng(7).integers(-100, 100, (20000, COLUMNS), dtype=numpy.int8)
    path = save(place, "rows.npy", rows)
    node.submit("knn", "--input", "base=" + path, "--input", "query=" + path, "--split", "query", "--param", "k=1")
    busy = place.weir("store", "check", "--data", node.data, code=None)
    expect(busy.code == FAILED and "in use by process" in busy.error, busy)
    expect(node.stop() == 0, "the node did not stop cleanly:\n%s" % node.log_end())
    sound = place.weir("store", "check", "--data", node.data, "--json").json
    expect(sound["sound"] and sound["jobs"] == 1 and sound["blobs"] > 0 and not sound["findings"], sound)
    rot(node, "the rows", open(path, "rb").read()[3000000:3000064])
    rotten = place.weir("store", "check", "--data", node.data, code=None)
    expect(rotten.code == FAILED and "NOT SOUND" in rotten.out and "blob" in rotten.out, rotten)
    nowhere = place.weir("store", "check", "--data", place.path("nowhere"), code=None)
    expect(nowhere.code != 0 and nowhere.error.startswith("weir: "), nowhere)


def what_no_worker_takes_is_refused_with_its_sizes(place):
    """And what this node does not keep of one job: before anything of it is done."""
    node = place.mesh("ashburn", work__job_output="4KiB")["ashburn"]
    kernel = place.path("huge.cu")
    for path, text in ((kernel, HUGE), (place.path("huge.ini"), HUGE_MANIFEST)):
        with open(path, "w", encoding="ascii") as out:
            out.write(text)
    before = len(traces(place, node)[2])
    with Problems() as problems:
        check_refusal(problems, node.submit("--kernel", kernel, "--items", "3", code=None), USAGE, "7.5 GiB", "4.0 GiB", "1 items")
        check_refusal(problems, node.submit("spin", "--items", "1025", code=None), USAGE, "4.0 KiB", "job_output", "ashburn")
        if len(traces(place, node)[2]) != before:
            problems.add("a refused job is listed")
        said = node.submit("spin", "--items", "1024", "--param", "us=1", code=None)
        if said.code != 0:
            problems.add("%s: as much as there may be" % said)


TESTS = [
    what_no_worker_takes_is_refused_with_its_sizes,
    a_store_is_checked_and_says_what_is_rotten,
    arrays_by_way_of_the_store_are_checked_too,
    numbers_that_are_none_are_refused_where_a_kernel_says_so,
    an_output_that_cannot_be_written_is_found_before_any_work,
    an_output_that_fills_its_disk_is_an_error_and_its_result_stays,
    what_nobody_knows_is_said_to_be_unknown,
    ids_are_told_by_as_few_digits_as_tell_them_apart,
    a_node_that_is_not_there_is_unreachable,
    a_port_in_use_is_named_with_its_setting,
    a_port_that_a_killed_node_still_holds_is_waited_for,
    two_nodes_do_not_share_a_folder_or_a_socket,
    a_copied_identity_beside_its_running_original_stops,
    of_two_copies_started_one_after_the_other_the_younger_stops,
    a_blob_file_that_does_not_match_its_name_is_not_served,
    a_small_blob_that_does_not_match_its_name_is_not_served,
    a_job_on_a_rotten_input_fails_and_says_which,
    a_damaged_blob_that_a_finished_job_pins_is_told,
]

"""Bad input from people and programs: one clear error that says what, where and what to do, and nothing half-written."""
import os
import subprocess

import numpy

from harness import Failed, api_call, expect, wait_until

USAGE, NONE, UNREACHABLE, FAILED = 2, 3, 4, 1


def refused(answer, code, *words):
    """One line, `weir: ...`, with these words and this exit code."""
    lines = [line for line in answer.error.splitlines() if line.strip()]
    expect(answer.code == code, "%s: not %d" % (answer, code))
    expect(len(lines) == 1 and lines[0].startswith("weir: "), "%s: not one line of `weir: ...`" % answer)
    expect(answer.out == "", "%s: something on standard output" % answer)
    for word in words:
        expect(word.lower() in answer.error.lower(), "%s: no %r in it" % (answer, word))


def no_jobs(node):
    jobs = node.weir("jobs", "--json").json["jobs"]
    expect(jobs == [], "a refused job was kept: %s" % jobs)


def save(place, name, array):
    path = place.path(name)
    numpy.save(path, array)
    return path


def npy(shape, dtype="'|i1'", order="False", data=b"", version=b"\x01\x00", length=None):
    header = ("{'descr': %s, 'fortran_order': %s, 'shape': %s, }" % (dtype, order, shape)).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    count = len(header) if length is None else length
    return b"\x93NUMPY" + version + count.to_bytes(2, "little") + header + data


def bad_arrays(place):
    """Files that are not the arrays that they claim to be."""
    node = place.mesh("ashburn")["ashburn"]
    good = save(place, "good.npy", numpy.zeros((10, 256), numpy.int8))
    cases = {
        "empty": (b"", "empty"),
        "no array": (b"hello, this is text and not an array at all, however long it may be", "npy"),
        "magic alone": (b"\x93NUMPY", "npy"),
        "version": (npy("(10, 256)", data=bytes(2560), version=b"\x09\x00"), "npy"),
        "cut header": (npy("(10, 256)", length=60000), "npy"),
        "truncated": (npy("(10, 256)", data=bytes(2559)), "shorter"),
        "longer": (npy("(10, 256)", data=bytes(2561)), "longer"),
        "huge claim": (npy("(4611686018427387904, 256)", data=bytes(10)), ""),
        "negative": (npy("(-10, 256)", data=bytes(2560)), ""),
        "fortran": (npy("(10, 256)", order="True", data=bytes(2560)), "ascontiguousarray"),
        "object": (npy("(10, 256)", dtype="'|O'", data=bytes(2560)), ""),
        "big-endian": (npy("(10, 64)", dtype="'>f4'", data=bytes(2560)), ""),
        "structured": (npy("(10,)", dtype="[('a', '<f4')]", data=bytes(40)), ""),
        "no rows": (npy("(0, 256)"), ""),
    }
    for name, (content, word) in cases.items():
        path = place.path(name.replace(" ", "-") + ".npy")
        with open(path, "wb") as out:
            out.write(content)
        answer = node.submit("knn", "--input", "base=" + good, "--input", "query=" + path, "--split", "query", code=None)
        refused(answer, USAGE, "query", word)
    no_jobs(node)


def wrong_inputs_are_refused_before_the_work(place):
    node = place.mesh("ashburn")["ashburn"]
    base = save(place, "base.npy", numpy.zeros((10, 256), numpy.int8))
    query = save(place, "query.npy", numpy.zeros((4, 256), numpy.int8))
    narrow = save(place, "narrow.npy", numpy.zeros((4, 128), numpy.int8))
    flat = save(place, "flat.npy", numpy.zeros(256, numpy.int8))
    real = save(place, "real.npy", numpy.zeros((4, 256), numpy.float64))
    option = save(place, "option.npy", numpy.array([[100, 100, 0.05, 0.2, numpy.nan]]))
    infinite = save(place, "infinite.npy", numpy.array([[numpy.inf, 100, 0.05, 0.2, 1]]))
    b = ("--input", "base=" + base)
    q = ("--input", "query=" + query, "--split", "query")
    cases = [
        (("gemm",), "unknown kernel"),
        (("kn",), "knn"),
        (("knn", *b), "query"),
        (("knn", *q), "base"),
        (("knn", *b, *q, "--input", "extra=" + base), "takes 2 inputs"),
        (("knn", *b, *b, *q), "takes 2 inputs"),
        (("knn", *b, *b), "base"),
        (("knn", *b, "--input", "query=" + real, "--split", "query"), "float64"),
        (("knn", *b, "--input", "query=" + narrow, "--split", "query"), "128"),
        (("knn", *b, "--input", "query=" + flat, "--split", "query"), "query"),
        (("knn", *b, *q, "--split", "base"), "base"),
        (("knn", *b, *q, "--split", "nothing"), "nothing"),
        (("knn", *b, *q, "--param", "k=11"), "k"),
        (("knn", *b, *q, "--param", "k=0"), "k"),
        (("knn", *b, *q, "--param", "k=2000"), "1024"),
        (("knn", *b, *q, "--param", "k=five"), "k"),
        (("knn", *b, *q, "--param", "k=1.5"), "k"),
        (("knn", *b, *q, "--param", "k"), "k"),
        (("knn", *b, *q, "--param", "kay=1"), "kay"),
        (("knn", *b, *q, "--param", "k=1", "--param", "k=2"), "k"),
        (("knn", *b, *q, "--output", "rows=" + place.path("x.npy")), "rows"),
        (("knn", *b, "--input", "query=" + place.path("nowhere.npy"), "--split", "query"), "nowhere.npy"),
        (("knn", *b, "--input", "query=" + place.folder, "--split", "query"), "query"),
        (("knn", *b, "--input", "query", "--split", "query"), "query"),
        (("knn", *b, "--input", "query=blob:12zz", "--split", "query"), "64"),
        (("knn", *b, "--input", "query=job:12", "--split", "query"), "job:"),
        (("montecarlo", "--input", "option=" + option), "nan"),
        (("montecarlo", "--input", "option=" + infinite), "option"),
        (("montecarlo", "--input", "option=" + option, "--param", "paths=10"), "paths"),
        (("spin",), "items"),
        (("spin", "--items", "0"), "items"),
        (("spin", "--items", "-5"), "items"),
        (("spin", "--items", "9999999999999999999999"), "items"),
        (("spin", "--items", "5", "--param", "us=2000000"), "us"),
        (("spin", "--items", "5", "--replicas", "0"), "replicas"),
        (("spin", "--items", "5", "--cache", "never"), "never"),
        (("spin", "--items", "5", "--wat"), "wat"),
        (("spin", "--itmes", "5"), "--items"),
        (("spin", "surplus", "--items", "5"), "surplus"),
        ((), "KERNEL"),
    ]
    wrong = []
    for arguments, word in cases:
        try:
            refused(node.weir("submit", *arguments, code=None), USAGE, word)
        except Failed as reason:
            wrong.append(str(reason))
    expect(not wrong, "%d of %d:\n  %s" % (len(wrong), len(cases), "\n  ".join(wrong)))
    no_jobs(node)


def unknown_ids_match_nothing(place):
    node = place.mesh("ashburn")["ashburn"]
    base = save(place, "base.npy", numpy.zeros((10, 256), numpy.int8))
    nothing = "0" * 64
    for arguments in (("cancel", "00000000"), ("logs", "00000000"), ("explain", "00000000"),
                      ("submit", "--reattach", "00000000"), ("blob", "get", nothing),
                      ("ping", "nobody"), ("jobs", "00000000"),
                      ("submit", "knn", "--input", "base=" + base, "--input", "query=blob:" + nothing, "--split", "query"),
                      ("submit", "knn", "--input", "base=" + base, "--input", "query=job:00000000/index", "--split",
                       "query")):
        refused(node.weir(*arguments, code=None), NONE)
    no_jobs(node)


def an_output_path_is_tried_before_the_work(place):
    node = place.mesh("ashburn")["ashburn"]
    for path in (place.path("no", "such", "folder", "x.npy"), place.folder, "/proc/x.npy"):
        refused(node.submit("spin", "--items", "1", "--output", "mark=" + path, code=None), USAGE, path)
    no_jobs(node)


def an_output_appears_whole_or_not_at_all(place):
    """A command that is interrupted leaves neither the file nor a temporary one; an older file stays."""
    node = place.mesh("ashburn")["ashburn"]
    folder = place.path("out")
    os.mkdir(folder)
    path = os.path.join(folder, "mark.npy")
    with open(path, "wb") as out:
        out.write(b"older")
    submitting = place.start([place.program, "submit", "--node", node.socket, "spin", "--items", "40", "--shard-items",
                              "1", "--param", "us=200000", "--cache", "off", "--output", "mark=" + path],
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    wait_until("the job runs", lambda: any(job["done"] > 0 for job in node.weir("jobs", "--json").json["jobs"]))
    submitting.send_signal(2)
    _, said = submitting.communicate(timeout=20)
    expect(submitting.returncode == 130, "Ctrl-C ended it with %d: %s" % (submitting.returncode, said))
    expect("--reattach" in said, "it doesn't say how to take the job up again: %s" % said)
    with open(path, "rb") as kept:
        expect(kept.read() == b"older", "the older file was touched")
    expect(os.listdir(folder) == ["mark.npy"], "left behind: %s" % os.listdir(folder))
    job = node.weir("jobs", "--json").json["jobs"][0]
    expect(job["state"] == "running", "the job did not go on: %s" % job)
    node.weir("submit", "--reattach", job["id"], "--output", "mark=" + path)
    expect(numpy.load(path).size == 40 and os.listdir(folder) == ["mark.npy"], "the output is not whole")


def a_config_with_a_mistake_names_its_line(place):
    data = place.path("data")
    path = place.path("weir.conf")
    cases = [("[network]\ncontrol_prt = 1\n", ":2", "control_port"), ("[netwrk]\nbind = 1.1.1.1\n", ":2", "network"),
             ("[network]\ncontrol_port = 70000\n", ":2", "control_port"), ("[network]\ncontrol_port = x\n", ":2", "x"),
             ("no section\n", ":1", ""), ("[work]\nhang = soon\n", ":2", "soon"),
             ("[store]\ncache = 1\n", ":2", "cache"), ("[log]\nlevel = loud\n", ":2", "loud"),
             ("[tenants]\nuid-x = y\n", ":2", "uid")]
    for text, line, word in cases:
        with open(path, "w", encoding="ascii") as out:
            out.write(text)
        refused(place.weir("config", "check", path, code=None), USAGE, path + line, word)
        refused(place.weir("node", "--config", path, "--data", data, code=None), USAGE, path + line, word)
    expect(not os.path.exists(data), "a node that did not start left a folder")
    with open(path, "w", encoding="ascii") as out:
        out.write("[network]\ncontrol_port = 1234\n")
    place.weir("config", "check", path)
    refused(place.weir("config", "check", place.path("none.conf"), code=None), USAGE, "none.conf")


def a_node_that_is_not_there_is_unreachable(place):
    for where in (place.path("nothing.sock"), place.folder):
        for command in (("nodes",), ("submit", "spin", "--items", "1"), ("jobs",), ("invite", "--site", "x")):
            refused(place.weir(*command, "--node", where, code=None), UNREACHABLE)
    refused(place.weir("node", "--data", place.path("nowhere"), code=None), FAILED, "nowhere", "weir init")


def wrong_names_are_refused(place):
    data = place.path("data")
    for arguments in (("--federation", "Bad Name", "--site", "a"), ("--federation", "a", "--site", "-x"),
                      ("--federation", "a" * 200, "--site", "a"), ("--site", "a"), ("--federation", "a"),
                      ("--federation", "a", "--site", "a", "--lifetime", "soon")):
        answer = place.weir("init", *arguments, "--data", data, code=None)
        expect(answer.code == USAGE and answer.error.startswith("weir: "), "%s" % answer)
        expect(not os.path.exists(data), "a refused init left a folder")
    place.weir("init", "--federation", "a", "--site", "a", "--data", data)
    again = place.weir("init", "--federation", "a", "--site", "a", "--data", data, code=None)
    refused(again, FAILED, data)


def the_node_checks_what_the_command_would_have(place):
    """A program that talks to the socket itself gets the same refusals."""
    node = place.mesh("ashburn")["ashburn"]
    path = save(place, "data.npy", numpy.zeros((10, 256), numpy.int8))
    blob = node.weir("blob", "put", "--json", path).json["blob"]
    query = {"name": "query", "blob": blob, "format": "npy", "split": True}
    base = {"name": "base", "blob": blob, "format": "npy", "split": False}
    requests = [
        {}, {"op": 5}, {"op": "no.such"}, {"op": "submit"}, {"op": "submit", "kernel": "nothing"},
        {"op": "submit", "kernel": 3}, {"op": "submit", "kernel": "spin", "items": -1},
        {"op": "submit", "kernel": "spin", "items": 0}, {"op": "submit", "kernel": "spin", "items": "many"},
        {"op": "submit", "kernel": "spin", "items": 1 << 62, "shard_items": 1},
        {"op": "submit", "kernel": "knn", "inputs": [base]},
        {"op": "submit", "kernel": "knn", "inputs": [base, query, query]},
        {"op": "submit", "kernel": "knn", "inputs": [base, {**query, "format": "raw", "row_bytes": 0}]},
        {"op": "submit", "kernel": "knn", "inputs": [base, {**query, "format": "jpeg"}]},
        {"op": "submit", "kernel": "knn", "inputs": [base, {**query, "blob": "zz"}]},
        {"op": "submit", "kernel": "knn", "inputs": [base, query], "params": ["k=11"]},
        {"op": "submit", "kernel": "knn", "inputs": [base, query], "params": [5]},
        {"op": "submit", "kernel": "knn", "inputs": {"a": 1}}, {"op": "submit", "kernel": "knn", "inputs": [1, 2]},
        {"op": "job"}, {"op": "job", "job": 5}, {"op": "job", "job": "xyz"}, {"op": "blob.get", "blob": blob, "offset": -1},
        {"op": "blob.get", "blob": blob, "offset": 1 << 60}, {"op": "ping", "node": "ashburn", "count": -3},
        {"op": "invite.create", "site": "Bad Site"}, {"op": "invite.create"}, {"op": "revoke"},
    ]
    for request in requests:
        try:
            said = api_call(node.socket, request)
        except Failed as reason:
            expect("'error'" in str(reason) and "'exit'" in str(reason), "%s: %s" % (request, reason))
            continue
        raise Failed("%s was accepted: %s" % (request, said))
    expect(node.process.poll() is None, "the node ended:\n%s" % node.log_end())
    no_jobs(node)


def a_damaged_blob_is_never_served(place):
    """A bit of a stored file flips: whoever asks for the blob gets an error, not the bytes."""
    node = place.mesh("ashburn")["ashburn"]
    path = save(place, "big.npy", numpy.random.default_rng(5).integers(0, 255, (3, 1 << 20), dtype=numpy.uint8))
    blob = node.weir("blob", "put", "--json", path).json["blob"]
    out = place.path("out")
    node.weir("blob", "get", blob, out)
    with open(path, "rb") as one, open(out, "rb") as two:
        expect(one.read() == two.read(), "a good blob came back different")
    os.unlink(out)
    stored = [os.path.join(folder, name) for folder, _, names in os.walk(os.path.join(node.data, "store", "files"))
              for name in names if name.endswith(blob[4:]) or name == blob]
    expect(len(stored) == 1, "the blob's file: %s" % stored)
    with open(stored[0], "r+b") as file:
        file.seek((2 << 20) + 17)
        byte = file.read(1)
        file.seek(-1, 1)
        file.write(bytes([byte[0] ^ 1]))
    answer = node.weir("blob", "get", blob, out, code=None)
    expect(answer.code not in (0, -6, -11), "%s: damaged bytes were served" % answer)
    expect(not os.path.exists(out) or os.path.getsize(out) == 0, "damaged bytes were written to %s" % out)
    expect(node.count("store", "corrupt") > 0, "it is not counted")


TESTS = [bad_arrays, wrong_inputs_are_refused_before_the_work, unknown_ids_match_nothing,
         an_output_path_is_tried_before_the_work, an_output_appears_whole_or_not_at_all,
         a_config_with_a_mistake_names_its_line, a_node_that_is_not_there_is_unreachable, wrong_names_are_refused,
         the_node_checks_what_the_command_would_have, a_damaged_blob_is_never_served]

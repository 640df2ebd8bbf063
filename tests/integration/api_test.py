"""Programs that use a node's local API themselves, past the checks of the commands; and commands that are interrupted."""
import concurrent.futures
import os
import socket
import struct
import subprocess

import numpy

from harness import Failed, api_call, expect, wait_until


def save(place, name, array):
    path = place.path(name)
    numpy.save(path, array)
    return path


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
    jobs = node.weir("jobs", "--json").json["jobs"]
    expect(jobs == [], "a refused job was kept: %s" % jobs)


def submits_of_one_key_at_one_instant_find_one_job(place):
    """Whoever comes while the first is still being checked gets the first one's answer, be it a refusal."""
    node = place.mesh("ashburn")["ashburn"]
    big = place.path("big.txt")  # large enough that checking it takes longer than all the calls
    with open(big, "wb") as out:
        out.write(b"a word\n" * (4 << 20))
    text = {"name": "text", "blob": node.weir("blob", "put", big).out.strip(), "format": "text", "split": True}
    request = {"op": "submit", "kernel": "embed", "inputs": [text], "key": "once", "cache": "off"}

    def ask(change):
        try:
            return api_call(node.socket, {**request, **change})
        except Failed as reason:
            return str(reason)

    with concurrent.futures.ThreadPoolExecutor(9) as pool:
        answers = list(pool.map(ask, [{}] * 8 + [{"kernel": "spin", "inputs": [], "items": 1}]))
    others = [answer for answer in answers if isinstance(answer, str)]
    expect(len(others) == 1 and "names another job" in others[0], "%s" % others)
    answers = [answer for answer in answers if not isinstance(answer, str)]
    expect(len({answer["job"] for answer in answers}) == 1, "several jobs: %s" % answers)
    expect([answer["existing"] for answer in answers].count(False) == 1, "not one new job: %s" % answers)
    expect(len(node.weir("jobs", "-q").out.split()) == 1, "%s" % node.weir("jobs").out)
    node.weir("cancel", answers[0]["job"])
    refused = {"key": "never", "inputs": [{**text, "format": "npy"}]}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, [refused] * 4))
    expect(all(isinstance(answer, str) and "input 'text'" in answer for answer in answers), "%s" % answers)
    expect(len(node.weir("jobs", "-q").out.split()) == 1, "a refused job is listed: %s" % node.weir("jobs").out)


def one_key_with_rows_of_another_length_is_another_job(place):
    """At its home and at another node, and after its home's restart."""
    mesh = place.mesh("ashburn", "berlin", **{"tenants__uid-%d" % os.getuid(): "geology"})
    home, other = mesh["ashburn"], mesh["berlin"]
    path = place.path("raw")
    with open(path, "wb") as out:
        out.write(bytes(4096))
    blob = home.weir("blob", "put", path).out.strip()
    other.weir("blob", "put", path)

    def submit(node, row_bytes):
        try:
            return api_call(node.socket, {"op": "submit", "kernel": "noop", "key": "rows", "inputs": [
                {"name": "data", "blob": blob, "format": "raw", "row_bytes": row_bytes, "split": True}]})["job"]
        except Failed as reason:
            return str(reason)

    job = submit(home, 64)
    home.wait_job(job)
    for node in (home, other, None, home, other):
        if node is None:
            home.stop()
            home.start()
            other.wait_states({"ashburn": "up"})
            continue
        again = submit(node, 64)
        expect(again == job, "%s: the same request is another job: %s" % (node.name, again))
        said = submit(node, 128)
        expect("names another job" in said, "%s: %s" % (node.name, said))


def broken_frames_end_the_connection_and_no_more(place):
    """Lengths, kinds and JSON that no client sends: refused or cut off; the node serves the next one."""
    node = place.mesh("ashburn")["ashburn"]
    body = b'{"op": "status"}'
    for data in (b"", b"\1", struct.pack("<IB", 0xffffffff, ord("J")), struct.pack("<IB", 17 << 20, ord("J")) + bytes(100),
                 struct.pack("<IB", 4, ord("X")) + b"abcd", struct.pack("<IB", 4, ord("D")) + b"abcd",
                 struct.pack("<IB", 4, ord("J")) + b"nope", struct.pack("<IB", 2, ord("J")) + b"[]",
                 struct.pack("<IB", 4, ord("J")) + b"\xff\xfe\xfd\xfc", struct.pack("<IB", 5000, ord("J")) + b"[" * 5000,
                 struct.pack("<IB", len(body), ord("J")) + body[:-4]):
        with socket.socket(socket.AF_UNIX) as wire:
            wire.settimeout(10)
            wire.connect(node.socket)
            wire.sendall(data)
            wire.shutdown(socket.SHUT_WR)
            while wire.recv(4096):
                pass
    expect(node.status()["name"] == "ashburn", "the node is not well")


TESTS = [an_output_appears_whole_or_not_at_all, the_node_checks_what_the_command_would_have,
         submits_of_one_key_at_one_instant_find_one_job, one_key_with_rows_of_another_length_is_another_job,
         broken_frames_end_the_connection_and_no_more]

"""The `weir` program at its edges: help, mistakes, exit codes, terminals, HTTP, and a mesh by `weir dev`."""
import http.client
import json
import os
import pty
import re
import select
import signal
import subprocess
import time

from harness import Node, PATIENCE, Skipped, die_with_parent, expect, wait_until

COMMANDS = ["init", "invite", "join", "revoke", "key", "node", "dev", "nodes", "gossip", "ping", "drain", "kernel", "kernels",
            "submit", "jobs", "logs", "explain", "cancel", "blob", "cache", "config", "sim", "version", "reclaim", "release",
            "doctor"]
ASKING = [("nodes",), ("gossip",), ("ping", "x"), ("kernels",), ("jobs",), ("blob", "ls"), ("cache",), ("drain",), ("doctor",), ("reclaim",),
          ("release",)]


# ---- Help and mistakes


def help_fits_a_screen_with_an_example(place):
    overview = place.weir("--help").out
    expect_fits("weir --help", overview, 24, 80)
    for command in COMMANDS:
        expect(re.search(r"(^|\s)%s\s" % command, overview), "weir --help does not name " + command)
        said = place.weir(command, "--help")
        expect_fits("weir %s --help" % command, said.out, 23, 80)
        expect(place.weir("help", command).out == said.out, "weir help %s is not its --help" % command)
        expect(command == "sim" or re.search(r"example:\s+.*weir %s" % command, said.out),
               "weir %s --help has no example" % command)
        expect(not said.error, "weir %s --help writes to standard error" % command)


def expect_fits(what, text, lines, columns):
    expect(len(text.splitlines()) <= lines, "%s has %d lines" % (what, len(text.splitlines())))
    wide = [line for line in text.splitlines() if len(line) > columns]
    expect(not wide, "%s is wider than %d columns: %s" % (what, columns, wide))


def mistakes_are_told_with_a_suggestion(place):
    for arguments, part in [
            (["gosip"], "did you mean 'weir gossip'"), (["submti"], "did you mean 'weir submit'"),
            (["frobnicate"], "weir --help"), (["nodes", "--jsonn"], "--json"), (["nodes", "--frobnicate"], "--help"),
            (["nodes", "x"], "one argument too many"), (["ping"], "NODE"), (["ping", "x", "-c"], "needs a value"),
            (["ping", "x", "-c", "0"], "whole number"), (["ping", "x", "-c", "1x"], "whole number"),
            (["nodes", "--json=1"], "takes no value"), (["nodes", "-o", "narrow"], "wide"),
            (["--json", "nodes"], "a command comes first"), (["blob", "frob", "x"], "put"), (["blob", "put"], "blob"), (["config", "frob"], "check"),
            (["node", "--set", "x=1"], "SECTION.KEY=VALUE"), (["node", "--set", "store.cach=1GiB"], "did you mean"),
            (["node", "--config", "/nowhere/weir.conf"], "/nowhere/weir.conf"), (["dev", "--sites", "17"], "16"),
            (["init"], "weir init --help"), (["join"], "token"), (["revoke"], "weir revoke")]:
        said = place.weir(*arguments, code=2)
        expect(part in said.error, "%r is not in: %s" % (part, said))
        expect(said.error.startswith("weir: ") and not said.out, "not an error of ours: %s" % said)
        expect(len(said.error.strip().splitlines()) <= 2, "more than is needed: %s" % said)
    expect(place.weir(code=2).error.startswith("weir lends"), "no arguments do not show the overview")


def without_a_node_commands_say_so(place):
    empty = place.path("empty")
    os.mkdir(empty)
    for arguments in ASKING:
        for where in (empty, place.path("nowhere")):
            said = place.weir(*arguments, "--node", where, code=4)
            expect(where in said.error and not said.out, "not a good reason: %s" % said)
        said = place.weir(*arguments, env={"WEIR_NODE": empty}, code=4)
        expect("$WEIR_NODE" in said.error, "it does not say where it looked: %s" % said)


def a_data_folder_without_a_federation_is_refused(place):
    said = place.weir("node", "--data", place.path("none"), code=1)
    expect("weir init" in said.error or "weir join" in said.error, "no advice: %s" % said)


def a_config_is_checked(place):
    path = place.path("weir.conf")
    with open(path, "w", encoding="utf-8") as out:
        out.write("[store]\ncach_bytes = 1GiB\n")
    said = place.weir("config", "check", path, code=None)
    expect(said.code in (1, 2) and "%s:2: unknown key 'cach_bytes' in [store]" % path in said.error, str(said))
    place.weir("node", "--config", path, code=2)
    place.weir("config", "check", place.path("none.conf"), code=None)
    with open(path, "w", encoding="utf-8") as out:
        out.write(place.weir("config", "dump").out)
    place.weir("config", "check", path)
    expect(place.weir("config", "check", path, "--json").json == {"ok": True, "file": path, "exists": True}, path)
    place.weir("config", "dump", path, "--json").json["config"]["store"]["keep_jobs"].index("7d")


# ---- A running node


def listings_suit_people_and_programs(place):
    mesh = place.mesh("ashburn", "berlin")
    node = mesh["ashburn"]
    table = node.weir("nodes").out
    expect(table.splitlines()[0].split() == "NAME SITE STATE FREE/SLOTS QUEUE RTT SEEN NOTE".split(), table)
    expect(all(len(line) <= 80 for line in table.splitlines()), "wider than 80 columns:\n" + table)
    expect("\033" not in table, "colour without a terminal")
    expect("2 up" in table and "As ashburn sees it" in table, "no summary, or not whose view:\n" + table)
    ids = node.weir("nodes", "-q").out.split()
    rows = node.nodes()
    expect(sorted(ids) == sorted(row["id"] for row in rows.values()), "-q gives other ids")
    for row in rows.values():
        expect(row["protocol_min"] <= row["protocol"] == row["protocol_max"], "one build, and not its latest protocol: %s" % row)
    expect("PROTOCOL" in node.weir("nodes", "-o", "wide").out, "-o wide does not show the protocol")
    for name in ("berlin", rows["berlin"]["id"], rows["berlin"]["id"][:8]):
        said = node.weir("ping", name, "-c", "2")
        expect("2 sent, 2 answered" in said.out, str(said))
    node.weir("ping", "nobody", code=3)
    node.weir("ping", "ashburn", code=2)
    for arguments in (["gossip"], ["gossip", "--stats"], ["cache"], ["blob", "ls"], ["jobs"], ["kernels"]):
        node.weir(*arguments)
        parsed = node.weir(*arguments, "--json").json if "--stats" not in arguments else {"ok": True}
        expect(isinstance(parsed, dict), "weir %s --json is no object" % arguments[0])
    mesh["berlin"].kill()
    node.wait_states({"berlin": "down"})
    table = node.weir("nodes").out
    expect(table.splitlines()[1].startswith("berlin"), "the bad row is not the first:\n" + table)
    expect("1 up, 1 down" in table, table)


def gossip_tells_of_links_and_who_accuses_whom(place):
    sites = ("a-long-name-of-ashburn", "berlin", "cairo", "dublin", "a-long-name-of-edinburgh")
    mesh = place.mesh(*sites)
    node, silent = mesh[sites[0]], mesh["cairo"]

    def measured():
        rows = node.call("gossip")["neighbours"]
        return len(rows) == len(sites) - 1 and all(row["rtt_samples"] > 2 for row in rows) and rows
    for row in wait_until("every link is measured", measured):
        expect(row["link"] == "up" and row["protocol"] >= 1, "a link of a mesh at rest: %s" % row)
        expect(0 < row["rtt_p50_us"] <= row["rtt_p99_us"], "quantiles out of order: %s" % row)
        expect(row["accuses"] == row["accused_by"] == 0, "accusations at rest: %s" % row)
    quiet = node.weir("gossip").out
    expect("accused" not in quiet and "5 members: 5 up." in quiet, quiet)

    silent.signal(signal.SIGSTOP)
    suspicions = wait_until("somebody is accused", lambda: node.call("gossip")["suspicions"])
    shown = on_terminal(place, ["gossip", "--node", node.socket], 80, env={"NO_COLOR": "1"})[1]
    silent.signal(signal.SIGCONT)
    expect([row["name"] for row in suspicions] == ["cairo"], "others than the silent one: %s" % suspicions)
    opinions = suspicions[0]["opinions"]
    expect(sorted(row["name"] for row in opinions) == sorted(set(sites) - {"cairo"}),
           "the opinions are not those of its observers: %s" % opinions)
    accusers = [row for row in opinions if row["accuses"]]
    expect(len(accusers) == suspicions[0]["accusers"] > 0, "%s" % suspicions)
    for row in opinions:
        expect(row["observer"] and row["self"] == (row["name"] == sites[0]), "%s" % row)
        expect(row["said_ms"] is not None or not row["accuses"], "accuses and never spoke: %s" % row)
    expect(all(len(line) <= 80 for line in shown.splitlines()), "wider than 80 columns:\n" + shown)
    said = " ".join(shown[shown.index("WHO SAYS SO"):].split())
    expect(all(name in said for name in set(sites) - {"cairo"}) and "accused by" in said, "not whole:\n" + shown)
    node.wait_states({"cairo": "up"})
    wait_until("nobody is accused", lambda: not node.call("gossip")["suspicions"])


def gossip_tells_how_news_travel(place):
    """Per link: the trees that it carries, round trips, the age of the other's record; of all: how long news take until others
    have them. The table says what the JSON does, and is drawn again with --watch."""
    mesh = place.mesh("ashburn", "berlin", "cairo")
    node = mesh["ashburn"]

    def heard():
        told = node.weir("gossip", "--json").json
        rows = told["neighbours"]
        return (len(rows) == 2 and told["convergence"]["samples"] > 0 and all(
            row["rtt_samples"] > 2 and row["record_age_ms"] is not None for row in rows)) and told
    told = wait_until(lambda: "news were echoed: %s" % node.call("gossip")["convergence"], heard, 60)
    convergence = told["convergence"]
    expect(0 <= convergence["p50_ms"] <= convergence["p99_ms"] and convergence["lost"] >= 0, convergence)
    for row in told["neighbours"]:
        expect(0 < row["rtt_p50_us"] <= row["rtt_p99_us"] and 0 <= row["record_age_ms"] < 60000, row)
        expect(row["trees_from"] + row["trees_to"] + row["lazy"] > 0, "a link for nobody's records: %s" % row)
    out = node.weir("gossip").out
    line = re.search(r"^Convergence: p50 \S+( \S+)?, p99 \S+( \S+)?, by (\d+) echo(es)? of members in turn; (\d+) never came\.$",
                     out, re.M)
    expect(line and int(line.group(3)) >= convergence["samples"] and int(line.group(5)) >= convergence["lost"], out)
    cells = {row[0]: row for row in (text.split() for text in out.splitlines()[1:3])}
    for row in told["neighbours"]:
        cell = cells[row["name"]]
        expect(cell[1:3] == ["up", "up"] and int(cell[3]) + int(cell[4]) > 0 and cell[-2:] == ["0", "0"], out)
    code, shown = on_terminal(place, ["gossip", "--watch", "--node", node.socket], env={"NO_COLOR": "1"},
                              keys=lambda seen: seen.count(b"NEIGHBOUR") >= 2)
    expect(code in (0, 130) and shown.count("\033[H\033[2J") >= 2, "it is not drawn again: %d %r" % (code, shown[-300:]))
    mesh["cairo"].signal(signal.SIGSTOP)

    def accused():
        said = node.weir("gossip", "--json").json
        return any(row["name"] == "berlin" and row["accuses"] for suspicion in said["suspicions"]
                   for row in suspicion["opinions"]) and said
    said = wait_until("berlin accuses somebody", accused, 30)
    mesh["cairo"].signal(signal.SIGCONT)
    rows, suspicion = {row["name"]: row for row in said["neighbours"]}, said["suspicions"][0]
    expect(suspicion["name"] == "cairo" and rows["cairo"]["accused_by"] == suspicion["accusers"] > 0, said)
    expect(rows["berlin"]["accuses"] == 1 and rows["berlin"]["accused_by"] == rows["cairo"]["accuses"] == 0, said)


def transfers_show_how_far_they_are(place):
    """`weir blob put` and `get` draw a bar on a terminal, which is gone when they end; none where nobody looks."""
    node = place.found()
    path, back = place.path("data"), place.path("back")
    with open(path, "wb") as out:
        out.write(os.urandom(48 << 20))
    plain = {"NO_COLOR": "1", "TERM": "xterm"}
    code, shown = on_terminal(place, ["blob", "--node", node.socket, "put", path], env=plain)
    blob = shown.splitlines()[-1].split("\033[K")[-1].strip()
    expect(code == 0 and re.fullmatch("[0-9a-f]{64}", blob), "put ended with %d: %r" % (code, shown[-300:]))
    for verb, name, text in (("sending", path, shown),
                             ("getting", blob[:16], on_terminal(place, ["blob", "--node", node.socket, "get", blob, back],
                                                               env=plain)[1])):
        drawn = re.findall(r"\r\033\[K%s %s  \[(=*)>? *\]  (\S+ \S+) of 48.0 MiB" % (verb, re.escape(name)), text)
        expect(len(drawn) > 1 and drawn[-1] == ("=" * 16, "48.0 MiB"), "%s: %r" % (verb, text[:600]))
        expect(len({bar for bar, _ in drawn}) > 1, "the bar of %s does not move: %s" % (verb, drawn))
        expect(text.rstrip().endswith(blob) or text.endswith("\r\033[K"), "the bar of %s stays: %r" % (verb, text[-200:]))
    with open(back, "rb") as got, open(path, "rb") as sent:
        expect(got.read() == sent.read(), "the bytes differ")
    for arguments in (["put", path], ["get", blob, back]):
        expect(not node.weir("blob", *arguments).error, "a bar where nobody looks")
        expect("sending" not in on_terminal(place, ["blob", "--node", node.socket, *arguments], env={"TERM": "dumb"})[1],
               "a bar on a dumb terminal")


def explain_names_all_sites_and_why_each_has_nothing(place):
    """A job that waits: one site drains, one works for others; and one that is to stay at its site."""
    sites = ("ashburn", "berlin", "cairo")
    mesh = place.mesh(*sites)
    home = mesh["ashburn"]
    own = ("spin", "--items", "1200", "--shard-items", "20", "--cache", "off", "--param", "us=1000000", "--local")
    for node in mesh.values():
        busy = node.submit_detached(*own)
        wait_until("%s works" % node.name, lambda: node.job(busy)["running"] >= 2)
    wait_until("all know that all are busy", lambda: all(row["free"] == 0 for row in home.nodes().values()), 60)
    place.start([place.program, "drain", "--node", mesh["berlin"].socket], stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL)
    taken, has = "every slot is taken by other work", r"has \d+ shards? of this job in hand"
    for more, elsewhere in (((), "(.*%s|%s)" % (taken, has)), (("--local",), "another site, and the job is local$")):
        job = home.submit_detached("spin", "--items", "400", "--shard-items", "1", "--cache", "off", *more)
        wanted = {"ashburn": "(.*%s|%s)" % (taken, has), "berlin": "draining$", "cairo": elsewhere}

        def told():
            rows = home.weir("explain", job, "--json").json["waiting"]
            reasons = {row["name"]: row["reason"] for row in rows}
            return (all(set(row) == {"name", "site", "reason"} for row in rows) and {row["site"] for row in rows} == set(sites)
                    and all(re.match(wanted[name], reasons[name]) for name in sites)
                    and any(taken in reason for reason in reasons.values()))
        wait_until(lambda: "each site's reason is told: %s" % home.weir("explain", job).out, told, 15)
        text = home.weir("explain", job).out
        expect(all(re.search(r"^%s +%s +\S" % (name, name), text, re.M) for name in sites), text)


def blobs_come_back_as_they_went(place):
    node = place.found()
    data = os.urandom(3 << 20) + b"end"
    path, back = place.path("data"), place.path("back")
    for content in (b"", b"x", data):
        with open(path, "wb") as out:
            out.write(content)
        blob = node.weir("blob", "put", path).out.strip()
        expect(re.fullmatch("[0-9a-f]{64}", blob), "not only the id on standard output: %r" % blob)
        node.weir("blob", "get", blob, back)
        with open(back, "rb") as got:
            expect(got.read() == content, "other bytes came back")
        os.unlink(back)
    node.weir("blob", "get", "0" * 64, back, code=3)
    expect(not os.path.exists(back), "a file was left by a blob that is not there")
    said = node.weir("blob", "get", blob, "/nowhere/file", code=None)
    expect(said.code in (1, 2) and "/nowhere" in said.error, str(said))
    node.weir("blob", "put", place.path("none"), code=None)
    piped = node.weir("blob", "put", "-", stdin="hello").out.strip()
    expect(node.weir("blob", "get", piped, "-").out == "hello", "a pipe's bytes changed")
    for odd in ("zz", "", "0" * 65, "../../etc/passwd", "\u00e9" * 64):
        node.weir("blob", "get", odd, back, code=2)
    node.weir("blob", "get", "0" * 63, back, code=3)
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run([place.program, "nodes", "--node", node.socket], stdout=full, stderr=subprocess.PIPE,
                              timeout=60, check=False)
    expect(done.returncode == 1 and b"standard output" in done.stderr, "a full disk is not told: %r" % done.stderr)


def one_data_folder_has_one_node(place):
    node = place.found()
    said = place.weir("node", "--data", node.data, "--set", "api.socket=" + place.path("other.sock"),
                      "--set", "http.port=0", "--set", "network.control_port=0", "--set", "network.bulk_port=0",
                      "--set", "network.join_port=0", "--set", "network.bind=127.0.0.1", code=1)
    expect(node.data in said.error, "it does not say which folder: %s" % said)
    expect(node.weir("nodes").code == 0, "the first node was disturbed")
    node.kill()
    node.start()  # its stale socket is in the way, and is replaced


def odd_requests_do_not_end_the_node(place):
    node = place.found()
    for name in ("x" * 39 + "\u00e9", "\u00e9" * 5000, "\ud7ff" * 300, "a" * 100000, ""):
        for arguments in (["ping", name], ["jobs", name], ["cancel", name], ["explain", name], ["logs", name],
                          ["kernels", name], ["submit", name]):
            said = node.weir(*arguments, code=None)
            expect(said.code in (2, 3), "an odd name gives %s" % str(said)[:600])
    expect(node.process.poll() is None, "the node died:\n" + node.log_end())


def metrics_are_openmetrics(place):
    node = place.found()
    port = node.status()["http"]
    body, kind = get(port, "/metrics")
    expect(kind.startswith("application/openmetrics-text; version=1.0.0"), kind)
    check_openmetrics(body)
    expect(get(port, "/healthz")[0] == "ok\n", "not healthy")
    expect(get(port, "/readyz")[0] == "ready\n", "not ready")
    get(port, "/nothing", 404)
    get(port, "/metrics", 405, "POST")
    idle = [http.client.HTTPConnection("127.0.0.1", port, timeout=5) for _ in range(64)]
    for connection in idle:  # more than are kept; they say nothing
        connection.connect()
    expect(node.weir("nodes").code == 0, "idle HTTP clients keep the node from its work")
    for connection in idle:
        connection.close()
    wait_until("metrics are served again", lambda: try_get(port), 15)


def get(port, path, status=200, method="GET"):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request(method, path)
    answer = connection.getresponse()
    body = answer.read().decode()
    expect(answer.status == status, "%s %s gives %d" % (method, path, answer.status))
    connection.close()
    return body, answer.getheader("Content-Type", "")


def try_get(port):
    try:
        return get(port, "/healthz")
    except OSError:
        return None


SUFFIXES = {"counter": ("_total", "_created"), "gauge": ("",), "info": ("_info",),
            "histogram": ("_bucket", "_count", "_sum", "_created"), "summary": ("", "_count", "_sum", "_created")}


def check_openmetrics(text):
    """The rules of OpenMetrics 1.0 that apply: families together, declared once, suffixes by type, an end."""
    lines = text.split("\n")
    expect(lines[-1] == "" and lines[-2] == "# EOF", "it does not end with # EOF")
    family, kind, families, samples = None, None, set(), set()
    for line in lines[:-2]:
        declared = re.fullmatch(r"# (TYPE|HELP|UNIT) ([a-zA-Z_:][a-zA-Z0-9_:]*)(?: (.*))?", line)
        if declared:
            if declared[2] != family:
                family, kind = declared[2], None
                expect(family not in families, "%s is declared twice" % family)
                families.add(family)
            if declared[1] == "TYPE":
                kind = declared[3]
                expect(kind in SUFFIXES, "%s is of no known type: %s" % (family, kind))
            elif declared[1] == "UNIT":
                expect(family.endswith("_" + declared[3]), "%s does not end with its unit" % family)
            continue
        sample = re.fullmatch(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(\{(?:[a-zA-Z_]\w*="(?:[^"\\\n]|\\[\\n"])*",?)*\})? '
                              r"(-?[0-9.]+(?:e[+-]?[0-9]+)?|NaN|[+-]Inf)", line)
        expect(sample, "not a sample: %r" % line)
        expect(family and kind and sample[1] in [family + suffix for suffix in SUFFIXES[kind]],
               "%r does not belong to %s (%s)" % (line, family, kind))
        key = sample[1] + (sample[2] or "")
        expect(key not in samples, "%s is there twice" % key)
        samples.add(key)
    expect(len(samples) > 20, "only %d samples" % len(samples))


# ---- Terminals


def on_terminal(place, arguments, columns=80, env=None, keys=None):
    """Runs a command on a pseudo-terminal; returns (exit code, what it showed). `keys` is called once it has shown
    something, with a function that types."""
    import fcntl
    import struct
    import termios
    pid, fd = pty.fork()
    if pid == 0:
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        os.environ.pop("NO_COLOR", None)
        os.environ.update(env or {})
        os.execv(place.program, [place.program, *arguments])
    shown, deadline, typed = b"", time.monotonic() + 30 * PATIENCE, False
    while True:
        expect(time.monotonic() < deadline, "weir %s does not end on a terminal: %r" % (arguments, shown[-300:]))
        if keys and shown and not typed and keys(shown):
            os.write(fd, b"\x03")
            typed = True
        if not select.select([fd], [], [], 0.2)[0]:
            continue
        try:
            piece = os.read(fd, 65536)
        except OSError:
            piece = b""
        if not piece:
            break
        shown += piece
    status = os.waitpid(pid, 0)[1]
    os.close(fd)
    return os.waitstatus_to_exitcode(status), shown.decode(errors="replace")


def terminals_get_colour_and_their_width(place):
    node = place.found()
    asking = ["nodes", "--node", node.socket]
    _, shown = on_terminal(place, asking)
    expect("\033[32m" in shown, "no colour on a terminal: %r" % shown)
    _, shown = on_terminal(place, asking, env={"NO_COLOR": "1"})
    expect("\033" not in shown, "colour in spite of NO_COLOR: %r" % shown)
    for columns in (40, 60, 200):
        code, shown = on_terminal(place, asking, columns, env={"NO_COLOR": "1"})
        expect(code == 0, "it fails on %d columns: %r" % (columns, shown))
    for lines in on_terminal(place, asking, 60, env={"NO_COLOR": "1"})[1].splitlines()[:2]:
        expect(len(lines) <= 60, "wider than the terminal: %r" % lines)


def nothing_that_matters_is_cut_at_eighty_columns(place):
    """What kernels do is told in full, and the asked node is still marked when its name is too long."""
    node = Node(place, "a-node-with-a-name-that-is-far-too-long-for-a-column-of-a-table")
    place.weir("init", "--federation", "rivers", "--site", "a-site-with-a-long-name-as-well", "--name", node.name,
               "--data", node.data)
    node.start()
    _, shown = on_terminal(place, ["kernels", "--node", node.socket], 80, env={"NO_COLOR": "1"})
    expect(all(len(line) <= 80 for line in shown.splitlines()) and "\u2026" not in shown, "cut:\n" + shown)
    begins = shown.index("WHAT IT DOES")
    last = " ".join(line[begins:].strip() for line in shown.splitlines()[1:])
    for kernel in node.weir("kernels", "--json").json["kernels"]:
        expect(kernel["help"] in last, "%r is not whole in:\n%s" % (kernel["help"], shown))
    job = node.weir("submit", "spin", "--items", "1000", "--param", "us=0", "--detach").out.strip()
    for arguments in (["kernels", "knn"], ["kernels", "montecarlo"], ["jobs", job]):
        shown = node.weir(*arguments).out
        long = [line for line in shown.splitlines() if len(line) > 80 and not re.match("submitted|NODE|a-node-", line)]
        expect(not long, "wider than a screen: %s" % long)
    example = re.search(r"^example:\n((?:.*\\\n)+.*)", node.weir("kernels", "knn").out, re.M).group(1)
    expect(example.replace("\\\n", "").split()[:3] == ["weir", "submit", "knn"] and "--output index=index.npy" in example,
           "not to be pasted: " + example)
    expect("--split a" in node.weir("kernels", "matmul").out, "matmul's first input is the one to be split")
    _, shown = on_terminal(place, ["nodes", "--node", node.socket], 80, env={"NO_COLOR": "1"})
    expect(re.search(r"^a-node-[a-z-]*\u2026\*  ", shown, re.MULTILINE), "the asked node is not marked:\n" + shown)


def watching_redraws_until_interrupted(place):
    node = place.found()
    code, shown = on_terminal(place, ["nodes", "--watch", "--node", node.socket],
                              keys=lambda seen: seen.count(b"FREE/SLOTS") >= 2)
    expect(code in (0, 130), "--watch ends with %d: %r" % (code, shown[-300:]))
    expect("\033[" in shown, "it does not redraw")


def jobs_come_newest_first_and_say_what_is_not_shown(place):
    node = place.found("ashburn", "rivers")
    ids = []
    for _ in range(25):
        data = place.path("data")
        with open(data, "wb") as file:
            file.write(os.urandom(100))
        ids.insert(0, node.submit_detached("noop", "--input", "data=" + data, "--split", "data"))
        node.wait_job(ids[0])
    for round_of in ("before", "after"):
        listed = node.weir("jobs", "--json").json
        expect([job["id"] for job in listed["jobs"]] == ids, "not the newest first %s a restart" % round_of)
        expect((listed["total"], listed["matching"], listed["counts"]["done"]) == (25, 25, 25), listed["counts"])
        table = node.weir("jobs").out.splitlines()
        expect([line[:8] for line in table[1:19]] == [job[:8] for job in ids[:18]] and
               table[19:] == ["", "25 jobs have their home at this node: 25 done",
                              "7 more are not shown: --all, --limit N, --state STATE"], "\n".join(table))
        expect(len(node.weir("jobs", "--all").out.splitlines()) == 28, "--all does not show all")
        expect(node.weir("jobs", "-q", "--limit", "2").out.split() == ids[:2], "--limit 2 is not the two newest")
        expect(node.weir("jobs", "--json", "--state", "failed").json["matching"] == 0, "failed jobs out of nowhere")
        if round_of == "before":
            node.kill()
            node.start()
    node.weir("jobs", "--limit", "2", "--all", code=2)
    node.weir("jobs", ids[0], "--limit", "2", code=2)
    _, shown = on_terminal(place, ["jobs", "--watch", "--node", node.socket], env={"NO_COLOR": "1"},
                           keys=lambda seen: seen.count(b"MOVED") >= 2)
    frame = shown.split("\033[H\033[2J")[1]
    expect(len(frame.splitlines()) < 24, "a frame of --watch has %d lines" % len(frame.splitlines()))


def explain_groups_what_happened_alike(place):
    node = place.found("ashburn", "rivers")
    job = node.submit_detached("spin", "--items", "300", "--shard-items", "1", "--param", "us=1000", "--cache", "off")
    node.wait_job(job)
    told = node.weir("explain", job, "--json").json
    rows = told["decisions"]
    expect(len(rows) <= 60, "%d rows for 300 shards" % len(rows))
    expect(sum(row["count"] for row in rows if row["why"] == "done") <= 300 and any(row["times"] > 1 for row in rows),
           "not grouped: %s" % rows)
    expect(any("free slot" in row["text"] and ", here" in row["text"] for row in rows), "no reason: %s" % rows)
    expect(told["lost_by_restart"] is False and "is not kept" not in node.weir("explain", job).out, told)
    node.kill()
    node.start()
    expect(node.weir("explain", job, "--json").json["lost_by_restart"], "a restart that lost decisions is not told")
    expect("before the job's home was started, or became its home, is not kept" in node.weir("explain", job).out, "nor in words")
    expect("is not kept" in node.weir("logs", job).out, "nor in the log")


def wide_listings_become_blocks_where_a_line_is_too_narrow(place):
    node = place.found("ashburn", "rivers")
    for what in ("nodes", "jobs"):
        if what == "jobs":
            node.submit("noop", "--input", "data=" + __file__, "--format", "data=raw", "--split", "data")
        _, shown = on_terminal(place, [what, "-o", "wide", "--node", node.socket], 80, env={"NO_COLOR": "1"})
        expect(all(len(line) <= 80 for line in shown.splitlines()) and "\u2026" not in shown, "cut:\n" + shown)
        expect("ashburn" in shown and "STATE " in shown, shown)
        code, shown = on_terminal(place, [what, "-o", "wide", "--node", node.socket], 250, env={"NO_COLOR": "1"})
        expect(re.search(r"^(NAME|ID) .* STATE ", shown), "no table where there is room:\n" + shown)


# ---- weir dev


class Dev:
    def __init__(self, place, *arguments):
        self.process = place.start([place.program, "dev", "--json", "--set", "work.cpu_slots=1", *arguments],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        if not line:
            expect(False, "weir dev did not start: " + self.process.stderr.read())
        self.mesh = json.loads(line)
        self.sites = {site["name"]: site for site in self.mesh["sites"]}

    def pids(self):
        return [site["pid"] for site in self.sites.values()]


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid, encoding="ascii", errors="replace") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def expect_all_gone(dev):
    wait_until(lambda: "all nodes end; left: %s" % [p for p in dev.pids() if alive(p)],
               lambda: not any(alive(pid) for pid in dev.pids()), 20)


def dev_runs_a_mesh_and_leaves_nothing(place):
    dev = Dev(place, "--sites", "3")
    expect(list(dev.sites) == ["ashburn", "dublin", "osaka"], dev.mesh)
    for site in dev.sites.values():
        rows = place.weir("nodes", "--node", site["socket"], "--json").json["nodes"]
        expect(sorted(row["state"] for row in rows) == ["up"] * 3, "not all up at %s: %s" % (site["name"], rows))
        get(site["http"], "/readyz")
        place.weir("nodes", "--node", site["data"])
    os.kill(dev.sites["osaka"]["pid"], signal.SIGKILL)
    wait_until("osaka is down", lambda: {row["name"]: row["state"] for row in place.weir(
        "nodes", "--node", dev.sites["ashburn"]["socket"], "--json").json["nodes"]}["osaka"] == "down", 20)
    expect(not alive(dev.sites["osaka"]["pid"]), "osaka was started again")
    dev.process.terminate()
    expect(dev.process.wait(30 * PATIENCE) == 0, "weir dev ended with %s" % dev.process.returncode)
    expect("osaka" in dev.process.stderr.read(), "it does not report the site that was killed")
    expect_all_gone(dev)
    expect(not os.path.exists(dev.mesh["folder"]), "its folder is still there")


def dev_killed_takes_its_nodes_along(place):
    folder = place.path("dev")
    dev = Dev(place, "--sites", "2", "--data", folder)
    dev.process.kill()
    dev.process.wait()
    expect_all_gone(dev)
    again = Dev(place, "--sites", "2", "--data", folder)  # from what was left
    expect({s["id"] for s in again.sites.values()} == {s["id"] for s in dev.sites.values()}, "other identities")
    again.process.send_signal(signal.SIGINT)
    expect(again.process.wait(30 * PATIENCE) in (0, 130), "weir dev ended with %s" % again.process.returncode)
    expect_all_gone(again)
    expect(os.path.isdir(folder), "the folder that --data named is gone")


def dev_that_cannot_start_says_why(place):
    """And names the log only where it is kept."""
    for keeps in ((), ("--data", place.path("kept"))):
        said = place.weir("dev", "--set", "work.nothing=1", *keeps, code=1)
        expect("site ashburn did not start" in said.error and "work.nothing" in said.error, "%s" % said)
        log = re.search(r"\(see (\S+)\)", said.error)
        expect(os.path.exists(log[1]) if keeps else not log, "%s" % said)


def dev_interrupted_while_it_starts_leaves_nothing(place):
    folder = place.path("early")
    for delay in (0.05, 0.4, 1.0):
        process = subprocess.Popen([place.program, "dev", "--sites", "3", "--data", folder], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL, preexec_fn=die_with_parent)
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        process.wait(40 * PATIENCE)
        wait_until("no node is left of a start that was interrupted", lambda: not of_folder(folder), 20)
    dev = Dev(place, "--sites", "3", "--data", folder)  # what the interrupted ones left is no obstacle
    dev.process.terminate()
    dev.process.wait(30 * PATIENCE)
    expect_all_gone(dev)


def of_folder(folder):
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and alive(int(entry)):
            try:
                with open("/proc/%s/cmdline" % entry, "rb") as line:
                    if folder.encode() in line.read():
                        found.append(int(entry))
            except OSError:
                pass
    return found


# ---- Who may


def another_user_is_denied(place):
    if os.getuid() != 0:
        raise Skipped("needs root to become another user")
    node = place.found()
    said = node.weir("nodes", user=65534, code=5)
    expect("group weir" in said.error, "no advice: %s" % said)
    os.chmod(node.socket, 0o666)
    node.weir("nodes", user=65534, code=5)


TESTS = [help_fits_a_screen_with_an_example, mistakes_are_told_with_a_suggestion, without_a_node_commands_say_so,
         a_data_folder_without_a_federation_is_refused, a_config_is_checked, listings_suit_people_and_programs,
         gossip_tells_of_links_and_who_accuses_whom, gossip_tells_how_news_travel, transfers_show_how_far_they_are,
         explain_names_all_sites_and_why_each_has_nothing,
         jobs_come_newest_first_and_say_what_is_not_shown, explain_groups_what_happened_alike,
         wide_listings_become_blocks_where_a_line_is_too_narrow,
         blobs_come_back_as_they_went, one_data_folder_has_one_node, odd_requests_do_not_end_the_node,
         metrics_are_openmetrics, terminals_get_colour_and_their_width,
         nothing_that_matters_is_cut_at_eighty_columns, watching_redraws_until_interrupted,
         dev_runs_a_mesh_and_leaves_nothing, dev_killed_takes_its_nodes_along,
         dev_interrupted_while_it_starts_leaves_nothing, dev_that_cannot_start_says_why, another_user_is_denied]

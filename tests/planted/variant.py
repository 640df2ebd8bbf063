"""Builds variants of the core: programs in which one file of mesh/ reads differently. Used by planted.py and mutate.py.

A base of objects is compiled once, at -O1 with assertions; a variant compiles the one file again (everything, where it is
a header) and links. Nothing in the tree is touched: the changed text goes to the compiler on its standard input.
"""
import concurrent.futures
import ctypes
import glob
import os
import re
import resource
import shutil
import signal
import subprocess
import threading

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
OUT = os.path.join(ROOT, "build", "sim")
JOBS = len(os.sched_getaffinity(0))
FLAGS = ["-std=c17", "-O1", "-D_GNU_SOURCE", "-w"]
# A bug may ask for anything: of processor time (the whole wait is bounded too) and of address space. A seed takes 2 s at
# most, that of a world of two days 6 s, the unit test of membership 5 s, everything else a fraction of a second.
SEED_CPU_S = 20
UNIT_CPU_S = 120
WAIT_S = 900
MEMORY_BYTES = 4 << 30

UNIT_TESTS = {
    "mesh_executor_test": ["tests/unit/mesh_executor_test.c"],
    "mesh_home_test": ["tests/unit/mesh_home_test.c"],
    "mesh_placement_test": ["tests/unit/mesh_placement_test.c"],
    "mesh_usual_test": ["tests/unit/mesh_usual_test.c"],
    "mesh_bundles_test": ["tests/unit/mesh_bundles_test.c"],
    "mesh_room_test": ["tests/unit/mesh_room_test.c"],
    "mesh_opinions_test": ["tests/unit/mesh_opinions_test.c"],
    "mesh_leader_test": ["tests/unit/mesh_leader_test.c"],
    "mesh_log_test": ["tests/unit/mesh_log_test.c"],
    "mesh_speculation_test": ["tests/unit/mesh_speculation_test.c"],
    "mesh_verify_test": ["tests/unit/mesh_verify_test.c"],
    "mesh_links_test": ["tests/unit/mesh_links_test.c"],
    "mesh_tree_test": ["tests/unit/mesh_tree_test.c"],
    "mesh_tiers_test": ["tests/unit/mesh_tiers_test.c"],
    "mesh_work_test": ["tests/unit/mesh_work_test.c", "tests/unit/mesh_net.c"],
    "mesh_journal_test": ["tests/unit/mesh_journal_test.c", "tests/unit/mesh_net.c"],
    "mesh_membership_test": ["tests/unit/mesh_membership_test.c", "tests/unit/mesh_net.c"],
}

PR_SET_PDEATHSIG = 1


class Unbuildable(Exception):
    """The compiler or the linker refused; what it said."""


def sources(folder):
    return sorted(os.path.relpath(path, ROOT) for path in glob.glob(os.path.join(ROOT, folder, "*.c")))


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


class Base:
    """The objects of the tree as it is, and what is linked from them."""

    def __init__(self, folder, tests):
        self.folder = os.path.join(OUT, folder)
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        self.compiler = os.environ.get("CC", "cc")
        self.mesh = sources("mesh")
        self.programs = {"sim": sources("node/sim") + ["tests/sim/main.c"], **(UNIT_TESTS if tests else {})}
        units = sorted(set(self.mesh).union(*self.programs.values()))
        with concurrent.futures.ThreadPoolExecutor(JOBS) as pool:
            list(pool.map(lambda unit: self.compile(unit, read(unit), self.object(unit)), units))

    def object(self, unit):
        return os.path.join(self.folder, unit.replace("/", "-")[:-2] + ".o")

    def compile(self, unit, text, to, include=None):
        """`include` is a folder whose headers come before the tree's."""
        where = ["-I" + folder for folder in (include, ROOT, os.path.join(ROOT, os.path.dirname(unit))) if folder]
        command = [self.compiler, *FLAGS, *where, "-x", "c", "-c", "-", "-o", to]
        ran = subprocess.run(command, input='# 1 "%s"\n%s' % (unit, text), capture_output=True, text=True,
                             cwd=self.folder)
        if ran.returncode != 0:
            raise Unbuildable(ran.stderr)

    def link(self, program, to, changed=None):
        """`changed` maps units to objects that stand for the base's."""
        objects = [(changed or {}).get(unit) or self.object(unit) for unit in self.programs[program] + self.mesh]
        libraries = [] if program == "sim" else ["-lcmocka"]
        ran = subprocess.run([self.compiler, "-o", to, *objects, *libraries], capture_output=True, text=True, cwd=ROOT)
        if ran.returncode != 0:
            raise Unbuildable(ran.stderr)


class Variant:
    """The core with one file's text changed, in a folder of its own that goes with it."""

    def __init__(self, base, path, text):
        self.base = base
        self.path = path
        self.folder = os.path.join(base.folder, "variant-%d" % threading.get_ident())
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        self.changed = {}
        if path.endswith(".h"):
            self.recompile_all(text)
        else:
            self.changed[path] = os.path.join(self.folder, "changed.o")
            base.compile(path, text, self.changed[path])

    def recompile_all(self, text):
        header = os.path.join(self.folder, "include", self.path)
        os.makedirs(os.path.dirname(header))
        with open(header, "w", encoding="utf-8") as file:
            file.write(text)
        for number, unit in enumerate(sorted(set(self.base.mesh).union(*self.base.programs.values()))):
            self.changed[unit] = os.path.join(self.folder, "changed-%d.o" % number)
            self.base.compile(unit, read(unit), self.changed[unit], os.path.join(self.folder, "include"))

    def differs(self):
        """Whether the compiler made anything else of it."""
        for unit, changed in self.changed.items():
            with open(changed, "rb") as new, open(self.base.object(unit), "rb") as old:
                if new.read() != old.read():
                    return True
        return False

    def program(self, name):
        path = os.path.join(self.folder, name)
        if not os.path.exists(path):
            self.base.link(name, path, self.changed)
        return path

    def close(self):
        shutil.rmtree(self.folder, ignore_errors=True)


def run(command, cpu_s):
    """Returns (exit code, output) of a program that may loop or eat memory; a negative code is the signal that ended it."""
    def bound():
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (cpu_s, cpu_s + 1))
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # it must not outlive a run that is ended

    child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                             stderr=subprocess.STDOUT, start_new_session=True, preexec_fn=bound)
    try:
        output, _ = child.communicate(timeout=WAIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(child.pid, signal.SIGKILL)
        output, _ = child.communicate()
    return child.returncode, output.decode("utf-8", "replace")


def verdict(code, output):
    """In words, what a failed run broke: the simulator's claim, the core's assertion, or how the process ended."""
    claim = re.search(r"^  broken: (.*)$", output, re.M)
    if claim:
        return "claim: " + claim.group(1)
    asserted = re.search(r"([\w./-]+:\d+): (\w+): Assertion `(.*)' failed", output, re.S)
    if asserted:
        return "assertion in %s: %s" % (asserted.group(2), " ".join(asserted.group(3).split()))
    if code in (-signal.SIGXCPU, -signal.SIGKILL):
        return "no end"
    return "signal %d" % -code if code < 0 else "exit code %d" % code


def run_seed(program, seed, world=()):
    """Plays one seed, in a world of these options; returns None if everything held, else the verdict."""
    code, output = run([program, "--seed", str(seed), "--hash-only", *world], SEED_CPU_S)
    return None if code == 0 else verdict(code, output)


def run_unit(program, seed):
    """Runs a unit test with a seed of its own; returns None if it passed, else the claim that failed."""
    code, output = run([program, str(seed)], UNIT_CPU_S)
    if code == 0:
        return None
    claim = re.search(r"^\[  FAILED  \] (\w+)$", output, re.M)
    return "test: " + claim.group(1) if claim else verdict(code, output)

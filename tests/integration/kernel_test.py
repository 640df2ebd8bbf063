"""Kernels of users' own: CUDA C source and a manifest, through the whole mesh, on CPUs."""
import hashlib
import os
import re
import shutil
import subprocess

import numpy

from harness import Node, Skipped, expect, wait_until
from kernels_test import emulated_driver

EXAMPLES = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "kernels", "examples")
HEAD = "[kernel]\nname = bad\n[input x]\ntype = float32\nshape = items\n[output y]\ntype = float32\nshape = items\n"
ENTRY = 'extern "C" __global__ void bad(weir_items items, const float *x, float *y)\n{\n%s\n}\n'


def need_compiler(place):
    """Users' kernels are refused where a layer of the sandbox is missing: nothing to test there."""
    worker = os.path.join(place.build, "weir-worker")
    said = subprocess.run([worker, "--toolkit", "cpu"], capture_output=True, text=True, check=True).stdout
    if '"why"' in said:
        raise Skipped("no users' kernels here: " + said)
    said = subprocess.run([worker, "--sandbox"], capture_output=True, text=True, check=False).stdout
    for line in said.splitlines():
        if '"on":false' in line:
            raise Skipped("no users' kernels here: " + line)


def example(name):
    return os.path.join(EXAMPLES, name + ".cu")


def run(place, node, name, inputs, outputs, *arguments):
    """Submits an example with arrays as inputs; returns its outputs as arrays."""
    given = ["--kernel", example(name)]
    for key, array in inputs.items():
        numpy.save(place.path(key + ".npy"), array)
        given += ["--input", "%s=%s" % (key, place.path(key + ".npy"))]
    for key in outputs:
        given += ["--output", "%s=%s" % (key, place.path("out-" + key + ".npy"))]
    node.weir("submit", *given, *arguments, timeout_s=120)
    return [numpy.load(place.path("out-" + key + ".npy")) for key in outputs]


def same(name, got, wanted):
    expect(got.dtype == wanted.dtype and got.shape == wanted.shape,
           "%s is %s %s, not %s %s" % (name, got.dtype, got.shape, wanted.dtype, wanted.shape))
    expect(got.tobytes() == wanted.tobytes(), "%s differs from its reference: first at %s" % (
        name, numpy.argwhere(numpy.atleast_1d(got != wanted))[:1]))


# ---- References: written from what the kernels promise, not from their code

def tree(parts, combine):
    """Pairs of neighbours, then pairs of pairs: how a mesh combines the shards of a reduced output."""
    parts = list(parts)
    step = 1
    while step < len(parts):
        for i in range(0, len(parts) - step, 2 * step):
            parts[i] = combine(parts[i], parts[i + step])
        step *= 2
    return parts[0]


def sum_of_shard(x):
    """In 256 lanes, then halves onto halves."""
    lanes = numpy.zeros(256)
    for begin in range(0, len(x), 256):
        row = x[begin:begin + 256].astype(numpy.float64)
        lanes[:len(row)] += row
    half = 128
    while half:
        lanes[:half] += lanes[half:2 * half]
        half //= 2
    return lanes[0]


def heat(plate, rate):
    """fmaf rounds once: the product and sum of float32 are exact in float64, but for one rounding of the sum that is far
    below a float32's; so rounding from float64 gives fmaf's bits but for ties, which random numbers don't meet."""
    out = plate.copy()
    here = plate[1:-1, 1:-1]
    around = (plate[1:-1, :-2] + plate[1:-1, 2:]) + (plate[:-2, 1:-1] + plate[2:, 1:-1])
    inner = around - numpy.float32(4) * here
    out[1:-1, 1:-1] = (numpy.float64(numpy.float32(rate)) * inner.astype(numpy.float64) +
                       here.astype(numpy.float64)).astype(numpy.float32)
    return out


def escape(width, height, most, x, y, across):
    pixel = numpy.arange(width * height, dtype=numpy.uint64)
    scale = across / float(width)
    a = x + ((pixel % width).astype(numpy.float64) - 0.5 * width) * scale
    b = y + ((pixel // width).astype(numpy.float64) - 0.5 * height) * scale
    re, im = numpy.zeros_like(a), numpy.zeros_like(a)
    steps = numpy.zeros(len(a), dtype=numpy.uint32)
    for _ in range(most):
        going = re * re + im * im <= 4.0
        if not going.any():
            break
        steps[going] += 1
        re, im = numpy.where(going, re * re - im * im + a, re), numpy.where(going, 2.0 * re * im + b, im)
    return steps


def pull(bodies, own, soft):
    """In float64; the kernel's float32 comes near it."""
    delta = bodies[None, :, :3].astype(numpy.float64) - own[:, None, :].astype(numpy.float64)
    square = (delta ** 2).sum(axis=2) + soft * soft
    return (bodies[None, :, 3, None] * delta * (square ** -1.5)[:, :, None]).sum(axis=1)


def levenshtein(a, b):
    row = list(range(len(b) + 1))
    for i, one in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, other in enumerate(b, 1):
            before, row[j] = row[j], min(before + (one != other), row[j] + 1, row[j - 1] + 1)
    return row[-1]


def words(random, count, width):
    rows = numpy.zeros((count, width), dtype=numpy.uint8)
    for row in rows:
        length = random.integers(0, width + 1)
        row[:length] = random.integers(ord("a"), ord("e"), length)
    return rows


def the_examples_give_what_independent_references_give(place):
    need_compiler(place)
    node = place.mesh("ashburn", "berlin", "cairo")["ashburn"]
    seed = int.from_bytes(os.urandom(4), "little")
    print("seed %d" % seed)
    random = numpy.random.default_rng(seed)
    x = random.standard_normal(100003, dtype=numpy.float32)
    y = random.standard_normal(100003, dtype=numpy.float32)
    out, = run(place, node, "saxpy", {"x": x, "y": y}, ["out"], "--param", "a=3", "--shard-items", "7000")
    same("saxpy", out, numpy.float32(3) * x + y)

    total, low, high = run(place, node, "reduction", {"x": x}, ["total", "lowest", "highest"], "--shard-items", "9001")
    shards = [sum_of_shard(x[i:i + 9001]) for i in range(0, len(x), 9001)]
    same("reduction", total, numpy.array([tree(shards, lambda a, b: a + b)]))
    same("lowest", low, numpy.array([x.min()]))
    same("highest", high, numpy.array([x.max()]))

    data = random.integers(0, 256, 300000).astype(numpy.uint8)
    counts, = run(place, node, "histogram", {"bytes": data}, ["counts"], "--shard-items", "50000")
    same("histogram", counts, numpy.bincount(data, minlength=256).astype(numpy.uint32))

    plate = random.random((100, 333), dtype=numpy.float32)
    after, = run(place, node, "stencil", {"plate": plate}, ["next"], "--items", "100", "--shard-items", "9")
    same("stencil", after, heat(plate, 0.1))

    steps, = run(place, node, "mandelbrot", {}, ["steps"], "--items", str(160 * 120), "--shard-items", "2000", "--param",
                 "width=160", "--param", "height=120", "--param", "most=100")
    same("mandelbrot", steps, escape(160, 120, 100, -0.5, 0.0, 3.0))

    bodies = random.random((300, 4), dtype=numpy.float32)
    force, = run(place, node, "gravity", {"bodies": bodies, "own": bodies[:, :3].copy()}, ["pull"], "--shard-items", "77")
    wanted = pull(bodies, bodies[:, :3], 0.01)
    expect(numpy.abs(force - wanted).max() <= 1e-4 * numpy.abs(wanted).max(), "gravity differs from its reference")

    for width in (1, 55, 56, 64, 200):
        rows = random.integers(0, 256, (50, width)).astype(numpy.uint8)
        digests, = run(place, node, "sha256", {"rows": rows}, ["digests"], "--shard-items", "11")
        hashes = b"".join(hashlib.sha256(row.tobytes()).digest() for row in rows)
        same("sha256", digests, numpy.frombuffer(hashes, dtype=numpy.uint8).reshape(50, 32))

    listed, query = words(random, 70, 12), words(random, 20, 12)
    nearest, away = run(place, node, "distance", {"list": listed, "query": query}, ["nearest", "away"], "--shard-items",
                        "6")
    plain = [[levenshtein(bytes(q).rstrip(b"\0"), bytes(w).rstrip(b"\0")) for w in listed] for q in query]
    same("nearest", nearest, numpy.argmin(plain, axis=1).astype(numpy.int32))
    same("away", away, numpy.min(plain, axis=1).astype(numpy.int32))


def the_examples_compile_for_gpus(place):
    worker = os.path.join(place.build, "weir-worker")
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    compiled = 0
    for name in sorted(os.listdir(EXAMPLES)):
        if not name.endswith(".cu"):
            continue
        path = os.path.join(EXAMPLES, name)
        done = subprocess.run([worker, "--check", path, "--items", "50"], capture_output=True, text=True, check=False)
        expect(done.returncode == 0, "%s: %s %s" % (name, done.stdout, done.stderr))
        compiled += "cuda  compiled" in done.stdout
        if nvcc:
            header = os.path.join(EXAMPLES, "..", "weir_kernel.h")
            done = subprocess.run([nvcc, "--fmad=false", "-std=c++17", "-arch=sm_90", "-ptx", "-include", header, "-I",
                                   os.path.join(EXAMPLES, ".."), path, "-o", place.path("out.ptx")],
                                  capture_output=True, text=True, check=False)
            expect(done.returncode == 0, "nvcc %s: %s" % (name, done.stderr))
            compiled += 1
    if not compiled:
        raise Skipped("neither NVRTC nor nvcc is here")


def check_finds_what_only_a_gpu_would_show(place):
    need_compiler(place)
    guarded = ENTRY % "  if (weir_item() < items.count)\n    y[weir_item()] = x[weir_item()%s];"
    cases = [
        (guarded % "", 0, "ran 1000 items"),
        (guarded % " + 1", 1, "reached past the end of input x"),
        (guarded % " + (3u << 30)", 1, "reached past the end of input x, by 125829"),   # 12 GiB
        (ENTRY % "  y[weir_item()] = x[0];", 1, "begin with `if (weir_item() < items.count)`"),
        (ENTRY % "  __syncthreads(); y[weir_item()] = x[0];", 1, "reached past the end of output y"),
        (ENTRY % "  atomicAdd(&y[0], x[0]);", 1, "atomicAdd takes whole numbers"),
        ("#error \x1b]0;mine\x07 \x9b2J\n" + ENTRY % "", 1, "?]0;mine?"),   # nothing of it reaches the terminal
        (ENTRY % "\n".join("  y[%d] = wrong%d;" % (i, i) for i in range(90)), 1, "lines more"),
    ]
    for source, code, words in cases:
        path = write_kernel(place, source)[1]
        said = place.weir("kernel", "check", path, code=code)
        expect(words in said.out + said.error, "%s\nlacks %r: %s" % (source, words, said))
        expect(not set("\x1b\x07\x9b") & set(said.out + said.error), "control characters: %r" % said.error)
        if words == "atomicAdd takes whole numbers" and "NVRTC" in said.out + said.error:
            expect(said.error.count(words) == 2, "for one target only: %s" % said)
    path = write_kernel(place, ENTRY % "  y[0] = 0;")[1]   # 1000 items are no multiple of 256; 1024 are
    place.weir("kernel", "check", path, "--items", "1024")
    expect("nope.cu" in place.weir("kernel", "check", "nope.cu", code=2).error, "another file is missed first")
    expect("kernel check x.cu" in place.weir("kernel", "x.cu", code=2).error, "the word check is not missed")


def the_examples_give_the_same_bits_as_cuda_code_through_the_mesh(place):
    """NVRTC is real; the driver is the emulated one, which runs the examples' CUDA code on the CPU."""
    need_compiler(place)
    draw = numpy.random.default_rng()
    x, bodies = draw.standard_normal(3000, dtype="f4"), draw.random((200, 4), dtype="f4")
    jobs = [("saxpy", {"x": x, "y": x[::-1].copy()}, ["out"], "--shard-items", "700"),
            ("reduction", {"x": x}, ["total", "lowest", "highest"], "--shard-items", "701"),
            ("histogram", {"bytes": draw.integers(0, 256, 3000).astype("u1")}, ["counts"], "--shard-items", "999"),
            ("stencil", {"plate": draw.random((20, 140), dtype="f4")}, ["next"], "--items", "20", "--shard-items", "3"),
            ("mandelbrot", {}, ["steps"], "--items", "1200", "--shard-items", "500", "--param", "width=40", "--param",
             "height=30"),
            ("gravity", {"bodies": bodies, "own": bodies[:, :3].copy()}, ["pull"], "--shard-items", "77"),
            ("sha256", {"rows": draw.integers(0, 256, (30, 70)).astype("u1")}, ["digests"], "--shard-items", "11")]
    results = {}
    with emulated_driver(place):
        said = subprocess.run([os.path.join(place.build, "weir-worker"), "--toolkit", "cuda"], capture_output=True,
                              text=True, check=True).stdout
        if '"why"' in said:
            raise Skipped(said)
        for site, settings in (("gpu", {"work__cpu_slots": 0, "work__cuda_devices": 1}), ("cpu", {"work__cuda_devices": 0})):
            node = place.mesh(site, **settings)[site]
            for name, inputs, outputs, *arguments in jobs:
                results[site, name] = run(place, node, name, inputs, outputs, *arguments)
            if site == "gpu":
                ptx_is_for_gpus_only(place, node)
            node.stop()
    for name, *_ in jobs:
        for ours, theirs in zip(results["cpu", name], results["gpu", name]):
            same(name, theirs, ours)


def ptx_is_for_gpus_only(place, node):
    with open(place.path("saxpy.ptx"), "w", encoding="utf-8") as out:
        out.write("//\n.version 8.0\n.target sm_90\n.address_size 64\n.visible .entry saxpy(\n)\n{ ret; }\n")
    shutil.copy(os.path.join(EXAMPLES, "saxpy.ini"), place.path("saxpy.ini"))
    arguments = ["--kernel", place.path("saxpy.ptx"), "--input", "x=" + place.path("x.npy"), "--input",
                 "y=" + place.path("x.npy"), "--cache", "off"]
    node.weir("submit", *arguments)
    with open(place.path("saxpy.ptx"), "a", encoding="utf-8") as out:
        out.write(".visible .entry other(\n)\n{ ret; }\n")
    answer = node.weir("submit", *arguments, code=1)
    expect("saxpy.ptx:8: this is a second .entry" in answer.error, str(answer))


# ---- What is wrong with a kernel is said, and the node lives on

def write_kernel(place, source, manifest=HEAD):
    for name, text in (("bad.cu", source), ("bad.ini", manifest)):
        with open(place.path(name), "w", encoding="utf-8") as out:
            out.write(text)
    numpy.save(place.path("x.npy"), numpy.ones(1000, dtype=numpy.float32))
    return ["--kernel", place.path("bad.cu"), "--input", "x=%s:split" % place.path("x.npy")]


REFUSED_AT_ONCE = [
    ("", HEAD, "bad.cu:1: there is no entry"),
    (ENTRY % "" + ENTRY % "", HEAD, "bad.cu:5: this is a second __global__ function"),
    ("#include <stdio.h>\n" + ENTRY % "", HEAD, "bad.cu:1: #include isn't taken"),
    (ENTRY % 'asm("nop");', HEAD, "bad.cu:3: 'asm': assembly isn't taken"),
    (ENTRY % "\n#define J(a, b) a##b\nJ(as, m)(\".incbin \\\"/etc/passwd\\\"\");", HEAD, "bad.cu:4: ## isn't taken"),
    (ENTRY % "y[0] = (float)__builtin_ia32_rdtsc();", HEAD, "bad.cu:3: '__builtin_ia32_rdtsc': built-in functions"),
    (ENTRY % "y[0] = *(new float);", HEAD, "bad.cu:3: 'new': a kernel has no memory of its own"),
    (ENTRY % "  y[0] = expf(x[0]);", HEAD, "bad.cu:3: 'expf': its bits differ from device to device; call weir_expf"),
    (ENTRY % "", HEAD.replace("shape = items", "shape = items d"), "bad.ini:5: commas stand between axes"),
    (ENTRY % "", HEAD.replace("float32", "float"), "bad.ini:4: type must be"),
    (ENTRY % "", HEAD + "[output z]\ntype = int32\nshape = items, n\n", "bad.ini:11: nothing says how long the axis n is"),
    (ENTRY % "", HEAD.replace("name = bad", "name = knn"), "bad.ini:2: knn is a built-in kernel"),
    (ENTRY % "", HEAD.replace("type = float32\nshape = items\n[out", "type = float64\nshape = items\n[out"),
     "input x is float32; it must be float64"),
]

FAIL_THEN = [
    (ENTRY % "  y[0] = z;", HEAD, "bad.cu:3:10: error: 'z' was not declared in this scope"),
    (ENTRY % "  y[0] = erfcf(x[0]);", HEAD, "bad.cu:3:10: error: 'erfcf' was not declared"),
    (ENTRY % "  atomicAdd(&y[0], x[0]);", HEAD, "bad.cu:3:12: error: static assertion failed: atomicAdd takes whole numbers"),
    ('extern "C" __global__ void bad(weir_items, const float *, double *) {}\n', HEAD,
     "the entry does not fit its manifest, which wants: void bad(weir_items items, const float *x, float *y)"),
    ((ENTRY % "").replace("void bad", "void __launch_bounds__(64) bad"), HEAD,
     "bad.cu:1:20: error: static assertion failed: its __launch_bounds__ is not the manifest's block = 256"),
    (ENTRY % "  y[weir_item()] = x[weir_item() + items.count];", HEAD, "reached past the end of input x"),
    (ENTRY % "  y[weir_item()] = x[weir_item() + (1 << 22)];", HEAD, "reached past the end of input x, by 16380 KiB"),
    (ENTRY % "  y[weir_item() - (1 << 20)] = 1;", HEAD, "reached before the beginning of output y, by 4096 KiB"),
    (ENTRY % "  const_cast<float *>(x)[weir_item()] = 1;", HEAD, "wrote to input x"),
    (ENTRY % "  y[weir_item()] = x[(int64_t)weir_item() - 500];", HEAD, "before the beginning of input x"),
    (ENTRY % "  y[weir_item() + items.count] = 1;", HEAD, "reached past the end of output y"),
    (ENTRY % "  *(volatile int *)16 = 1;", HEAD, "reached for memory that is not its own"),
    (ENTRY % "  y[0] = (float)(1000 / ((int)x[weir_item()] - 1));", HEAD, "divided a whole number by zero"),
    (ENTRY % "  volatile float a[4 << 20]; for (int i = 0; i < 4 << 20; i += 99) a[i] = x[0]; y[0] = a[7];", HEAD,
     "too much for local variables"),
    (ENTRY % "  __syncthreads(); volatile float a[1 << 16]; a[0] = a[65535] = x[0]; __syncthreads(); y[0] = a[0];", HEAD,
     "more than 60 KiB of local variables"),
    ("__device__ float big[100 << 20];\n" + ENTRY % "  big[weir_item()] = x[0]; y[0] = big[3];", HEAD,
     "variables take more than 64 MiB"),
    ("__device__ float big[1000 << 20];\n" + ENTRY % "  big[weir_item()] = x[0]; y[0] = big[3];", HEAD,
     "variables are too large"),
    ("template <int a, int b> struct t { static const int v = t<a - 1, b>::v + t<a, b - 1>::v; };\n" +
     ENTRY % "  y[0] = t<1 << 30, 1 << 30>::v;", HEAD, "bad.cu:1:"),
]


def the_failed_shard_has_one_number(place, node):
    """All shards of a bundle fail where the source doesn't compile: the job, its log and its error name the same one."""
    answer = node.weir("submit", *write_kernel(place, ENTRY % "  y[0] = w;"), "--shard-items", "100", code=1, timeout_s=120)
    row = node.weir("jobs", "--json").json["jobs"][0]
    named = re.search(r"shard (\d+) at ", answer.error)
    logs = node.weir("logs", row["id"]).out
    expect(named and "shard %s failed at ashburn, and would anywhere: bad.cu:3:10: error: " % named[1] in logs,
           "%s\n%s" % (answer, logs))
    expect("refused" not in logs, logs)


def a_bad_kernel_fails_with_its_reason_and_the_node_lives_on(place):
    need_compiler(place)
    node = place.found()
    for source, manifest, reason in REFUSED_AT_ONCE:
        answer = node.weir("submit", *write_kernel(place, source, manifest), code=2)
        expect(reason in answer.error, "%s lacks %r" % (answer, reason))
    for source, manifest, reason in FAIL_THEN:
        answer = node.weir("submit", *write_kernel(place, source, manifest), code=1, timeout_s=120)
        expect(reason in answer.error.replace("\u2018", "'"), "%s lacks %r" % (answer, reason))
        row = node.weir("jobs", "--json").json["jobs"][0]
        expect(row["reassigned"] == 0, "nothing of it moved anywhere: %s" % row)
        logs = node.weir("logs", row["id"]).out
        expect(reason in logs, "the log of the job lacks %r: %s" % (reason, logs))
    the_failed_shard_has_one_number(place, node)
    listed = node.weir("kernels").out
    expect("bad.cu:3:10: error: 'z' was not" in " ".join(listed.split()), "nothing says that it never compiled: %s" % listed)
    expect(node.nodes()["ashburn"]["state"] == "up", "the node is %s" % node.nodes())
    expect(not node.nodes()["ashburn"].get("note"), "the node is blamed: %s" % node.nodes())
    out, = run(place, node, "saxpy", {"x": numpy.ones(10, "f4"), "y": numpy.ones(10, "f4")}, ["out"])
    same("saxpy after all that", out, numpy.full(10, 3, "f4"))


def an_output_larger_than_the_disk_is_refused_before_it_takes_what_there_is(place):
    node = place.mesh("ashburn", work__job_output="8TiB")["ashburn"]  # 3.6 GB an item is within what a worker takes
    arguments = write_kernel(place, ENTRY % "  y[0] = 0;", HEAD[:HEAD.rindex("shape")] + "shape = items, 900000000\n")
    answer = node.weir("submit", *arguments, code=1)
    left = re.search(r"no room for 3600000000000 bytes of output 'y' in .*, which has (\d+) left", answer.error)
    expect(left and 0 < int(left[1]) < 3600000000000, str(answer))


def ptx_without_a_gpu_waits_and_says_why(place):
    node = place.found()
    write_kernel(place, "")
    with open(place.path("bad.ptx"), "w", encoding="utf-8") as out:
        out.write("// PTX\n")
    job = node.weir("submit", "--kernel", place.path("bad.ptx"), "--input", "x=" + place.path("x.npy"), "--detach").out.strip()
    wait_until("it stalls", lambda: "no node that is up lends a device" in node.job(job).get("stalled", ""), 20)
    said = node.weir("explain", job).out
    expect("stalled" in said and "lends no GPU, and this kernel runs on no other device" in said, said)
    node.weir("cancel", job)
    expect("stalled" not in node.job(job), str(node.job(job)))
    expect("PTX can't be checked" in place.weir("kernel", "check", place.path("bad.ptx"), code=2).error, "PTX is checked")


def an_endless_kernel_is_stopped(place):
    need_compiler(place)
    node = Node(place, "ashburn", work__hang="1s")
    place.weir("init", "--federation", "rivers", "--site", "ashburn", "--name", "ashburn", "--data", node.data)
    node.start()
    arguments = write_kernel(place, ENTRY % "  volatile float *at = y;\n  for (;;) at[0] = at[0] + x[0];")
    answer = node.weir("submit", *arguments, code=1, timeout_s=120)
    expect("did not end a shard within" in answer.error, str(answer))
    answer = node.weir("submit", *arguments, code=1, timeout_s=20)  # at once, without another second of hanging
    expect("quarantined on this node, where it failed 2 times" in answer.error, str(answer))
    # What a kernel declares counts where it is more: 1000 items of half a millisecond, three times.
    slow = ENTRY % "  volatile float *at = y;\n  for (;;) at[0] = at[0] - x[0];"
    arguments = write_kernel(place, slow, HEAD.replace("[kernel]\n", "[kernel]\ncost = 500000\n"))
    answer = node.weir("submit", *arguments, "--shard-items", "1000", code=1, timeout_s=120)
    expect("within 1500 ms" in answer.error and "it needs 500 at most" in answer.error, str(answer))
    ashburn = node.nodes()["ashburn"]
    expect(ashburn["slots"] == 2, "a stranger's endless kernel cost the node a device: %s" % ashburn)
    out, = run(place, node, "saxpy", {"x": numpy.ones(10, "f4"), "y": numpy.ones(10, "f4")}, ["out"])
    same("saxpy after that", out, numpy.full(10, 3, "f4"))


def a_node_without_a_compiler_or_a_layer_of_the_sandbox_is_not_given_shards(place):
    need_compiler(place)
    worker = os.path.join(place.build, "weir-worker")
    layers = subprocess.run([worker, "--sandbox"], capture_output=True, text=True, check=True).stdout
    without = layers.replace('"layer":"landlock","on":true', '"layer":"landlock","on":false')
    expect(layers != without, "the worker has no layer landlock: " + layers)
    bare = {"berlin": ("--toolkit", '{"why": "there is no g++"}\n', "there is no g++"),
            "cairo": ("--sandbox", without, "the sandbox lacks its layer landlock")}
    mesh = place.mesh("ashburn")
    for site, (option, answer, reason) in bare.items():
        script = place.path("worker-of-" + site)
        with open(script, "w", encoding="utf-8") as out:
            out.write('#!/bin/sh\nif [ "$1" = %s ]; then cat <<\'E\'\n%sE\nelse exec "%s" "$@"; fi\n' % (option, answer, worker))
        os.chmod(script, 0o755)
        mesh[site] = place.join(mesh["ashburn"], site, work__worker=script)
        mesh[site].wait_states({"ashburn": "up"})
        expect(reason in mesh[site].log_text(), "%s does not say why: %s" % (site, mesh[site].log_end()))
    write_kernel(place, "")
    for site in bare:
        job = mesh[site].weir("submit", "--kernel", example("saxpy"), "--input", "x=" + place.path("x.npy"), "--input",
                              "y=" + place.path("x.npy"), "--shard-items", "50", "--cache", "off", "--json").json
        ran = {row["name"]: row["shards"] for row in mesh[site].job(job["id"])["by_node"] if row["shards"]}
        expect(ran == {"ashburn": 20}, "the shards ran at %s" % ran)
    lacks = {"berlin": ("whole", "no compiler", "berlin has no compiler for users' kernels: it is not asked"),
             "cairo": ("no landlock", "sandbox not whole",
                       "cairo would refuse a user's kernel: its sandbox has no landlock: it is not asked")}
    asked = mesh["ashburn"]
    for site, (sandbox, word, reason) in lacks.items():  # told everywhere: where it is asked too
        wait_until("%s says what it lacks: %s" % (site, asked.nodes()[site]),
                   lambda site=site, sandbox=sandbox, word=word: (
                       asked.nodes()[site]["sandbox"], asked.nodes()[site]["users_kernels"]) == (sandbox, {"cpu": word}))
    wide = asked.weir("nodes", "-o", "wide").out
    expect("no landlock" in wide and "no compiler" in wide and "whole" in wide, wide)
    job = asked.weir("submit", "--kernel", example("saxpy"), "--input", "x=" + place.path("x.npy"), "--input",
                     "y=" + place.path("x.npy"), "--shard-items", "50", "--cache", "off", "--json").json
    told = asked.weir("explain", job["id"], "--json").json
    expect(all(row["why"] != "no-kernel" for row in told["decisions"]), "they are asked in vain: %s" % told["decisions"])
    expect(asked.count("core", "refusals") == 0 and all(mesh[site].count("core", "refusals") == 0 for site in lacks),
           "somebody was asked in vain")
    shown = asked.weir("explain", job["id"]).out
    for site, (_, _, reason) in lacks.items():
        expect(reason in shown, "%r is not in:\n%s" % (reason, shown))


def a_users_kernel_is_cached_listed_and_outlives_its_home(place):
    need_compiler(place)
    mesh = place.mesh("ashburn", "berlin", "cairo")
    node = mesh["ashburn"]
    x = numpy.arange(5000, dtype=numpy.float32)
    inputs = {"x": x, "y": x}
    run(place, node, "saxpy", inputs, ["out"], "--shard-items", "100")
    run(place, mesh["berlin"], "saxpy", inputs, ["out"], "--shard-items", "100")
    again = mesh["berlin"].weir("jobs", "--json").json["jobs"][0]
    expect(again["cached"] == again["shards"], "the same kernel and rows were computed again: %s" % again)
    # Another source under the same name is another kernel.
    for name in ("saxpy.cu", "saxpy.ini"):
        shutil.copy(os.path.join(EXAMPLES, name), place.path(name))
    with open(place.path("saxpy.cu"), "a", encoding="utf-8") as out:
        out.write("// changed\n")
    other = node.weir("submit", "--kernel", place.path("saxpy.cu"), "--input", "x=" + place.path("x.npy"), "--input",
                      "y=" + place.path("y.npy"), "--shard-items", "100", "--json").json
    expect(node.job(other["id"])["cached"] == 0, "a changed source was taken for the old one")
    listed = [row for row in node.weir("kernels", "--json").json["kernels"] if row["user"]]
    expect(len(listed) == 2 and {row["name"] for row in listed} == {"saxpy"}, "listed: %s" % listed)
    both = node.weir("kernels", "saxpy", code=2)
    expect("2 kernels are 'saxpy'" in both.error, str(both))
    page = node.weir("kernels", listed[1]["digest"][:8]).out
    expect(listed[1]["digest"] in page and "float32 [items]" in page, page)

    # Long enough to be caught in the middle: each block does much.
    slow = place.path("slow.cu")
    with open(slow, "w", encoding="utf-8") as out:
        out.write((ENTRY % "  volatile float v = x[weir_item()];\n  for (int i = 0; i < 4000000; i++) v = v + 1.0f;\n"
                   "  y[weir_item()] = v;").replace("bad", "slow"))
    with open(place.path("slow.ini"), "w", encoding="utf-8") as out:
        out.write(HEAD.replace("name = bad", "name = slow\ncost = 4e6"))
    numpy.save(place.path("few.npy"), numpy.zeros(400, dtype=numpy.float32))
    job = node.weir("submit", "--kernel", slow, "--input", "x=" + place.path("few.npy"), "--shard-items", "5", "--cache",
                    "off", "--detach").out.strip()
    wait_until("some shards are done", lambda: node.job(job)["done"] > 3, 60)
    node.kill()
    answer = mesh["berlin"].weir("submit", "--reattach", job, "--output", "y=" + place.path("slow.npy"), timeout_s=180)
    same("slow", numpy.load(place.path("slow.npy")), numpy.full(400, 4000000, dtype=numpy.float32))
    expect(answer.code == 0, str(answer))
    node.start()
    run(place, node, "saxpy", inputs, ["out"], "--cache", "off")
    expect("kernel=saxpy state=kept" in node.log_text() or "kernel=saxpy state=done" in node.log_text(), "no code was kept")
    wait_until("ashburn lists it again", lambda: any(
        row["name"] == "saxpy" for row in node.weir("kernels", "--json").json["kernels"]), 30)


TESTS = [
    the_examples_give_what_independent_references_give,
    the_examples_compile_for_gpus,
    check_finds_what_only_a_gpu_would_show,
    the_examples_give_the_same_bits_as_cuda_code_through_the_mesh,
    a_bad_kernel_fails_with_its_reason_and_the_node_lives_on,
    an_output_larger_than_the_disk_is_refused_before_it_takes_what_there_is,
    ptx_without_a_gpu_waits_and_says_why,
    an_endless_kernel_is_stopped,
    a_node_without_a_compiler_or_a_layer_of_the_sandbox_is_not_given_shards,
    a_users_kernel_is_cached_listed_and_outlives_its_home,
]

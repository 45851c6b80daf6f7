# `make demo` and `make test` work on a fresh clone: each installs what it needs, once.
.PHONY: demo test test-slow lint train-tiny judge bench eval-tiny
python = .venv/bin/python

demo:
	bash init_env.sh
	$(python) generate_demo.py

test:
	bash init_env.sh dev
	$(python) -m pytest

test-slow:
	bash init_env.sh train dev
	$(python) -m pytest -m "not gpu"

lint:
	bash init_env.sh dev
	$(python) -m ruff check .
	$(python) -m ruff format --check .

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

# Each target is one command that also works alone.
.PHONY: check test demo bench format

check:  ## format, lint, types
	uv run ruff format --check .
	uv run ruff check .
	uv run mypy

test:  ## the whole suite; slow tests by hand: uv run pytest -m slow
	OMP_NUM_THREADS=1 uv run pytest -n auto --maxprocesses 8 --dist worksteal

demo:  ## the whole job in miniature, and a check that it shows what the tool is for
	uv run python train.py --config configs/demo.yaml
	uv run python scripts/check_demo.py logs/demo/summary.json

format:
	uv run ruff format .
	uv run ruff check --fix .

bench:  ## every claim of speed beside a plain path, into docs/benchmarks.md
	uv run python -m benchmarks

"""Measurements of `lightning_gradood.gradients`; `python -m benchmarks.run` from the top of the repository."""

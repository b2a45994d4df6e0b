"""What all tests share: which warnings of others are let through."""

import pytest


def pytest_collection_modifyitems(config, items):
    """Keep pyproject's exceptions under `pytest -W error` too: a filter on the command line would beat them."""
    exceptions = [line for line in config.getini("filterwarnings") if line.startswith("ignore")]
    for item in items:
        item.add_marker(pytest.mark.filterwarnings(*exceptions))

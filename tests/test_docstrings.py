"""The examples in docstrings run and give what they say."""

import doctest
import importlib
import pkgutil

import pytest

import mtlib

NAMES = [module.name for module in pkgutil.walk_packages(mtlib.__path__, "mtlib.") if "__main__" not in module.name]


@pytest.mark.parametrize("name", NAMES)
def test_examples_give_what_they_say(name):
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.NORMALIZE_WHITESPACE)
    assert results.failed == 0

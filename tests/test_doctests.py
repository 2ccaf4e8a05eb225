"""Every example in a docstring runs, under the name that users import its module by."""

import doctest
import importlib
import re

import pytest

from tests.rooms import source_files

PROMPT = re.compile(r"^\s*>>> ", re.MULTILINE)
EXAMPLES = {
    name: prompts for name, path in source_files().items() if (prompts := len(PROMPT.findall(path.read_text("utf-8"))))
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_print_what_they_say(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.failed == 0
    assert results.attempted == EXAMPLES[name], "an example is where doctest does not look"

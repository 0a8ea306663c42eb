"""docs/reliability.md names tests that exist, numbers its promises in order, and leaves no test of faults out."""

import re
from pathlib import Path

TESTS = Path(__file__).parent.parent
TEXT = (TESTS.parent / "docs" / "reliability.md").read_text(encoding="utf-8")


def named() -> list[tuple[str, str]]:
    """(file, test) of every reference; "" for a whole file. `::name` belongs to the file named before it."""
    found, file = [], ""
    for path, test in re.findall(r"`([\w/]*\.py)?(?:::(\w+))?`", TEXT):
        if path or test:
            file = path or file
            found.append((file, test))
    return found


def test_every_test_that_is_named_exists():
    assert len(named()) > 40
    for file, test in named():
        source = (TESTS / file).read_text(encoding="utf-8")
        assert not test or f"def {test}(" in source, f"{file}::{test}"


def test_every_file_of_fault_tests_is_named():
    here = {f"faults/{path.name}" for path in Path(__file__).parent.glob("test_*.py")} - {
        f"faults/{Path(__file__).name}"
    }
    assert here <= {file for file, _ in named()}


def test_promises_are_numbered_in_order():
    numbers = [int(number) for number in re.findall(r"^\| (\d+) \|", TEXT, re.MULTILINE)]
    assert numbers == list(range(1, len(numbers) + 1))

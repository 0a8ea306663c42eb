"""YAML files as plain values: nothing in one can run code, or be much larger than the file."""

import os
from pathlib import Path
from typing import Any

import yaml

from mtlib.errors import ConfigurationError

ENDINGS = (".yaml", ".yml")

LARGEST = 2**20  # bytes of a YAML file

NOT_YAML = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
"""What PyYAML raises for a text: `!!int ""`, `!!bool x` and `!!timestamp x` end in errors that are not its own."""


def is_yaml(path: str | os.PathLike) -> bool:
    """Whether a path ends as those of YAML files do."""
    return str(path).endswith(ENDINGS)


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; raises ConfigurationError for anything else, aliases and giants included."""
    try:
        data = path.read_bytes()
        if len(data) > LARGEST:
            raise ConfigurationError(f"{path}: expected at most {LARGEST} bytes, found {len(data)}")
        return yaml.load(data, PlainLoader)
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read: {error.strerror or error}") from None
    except NOT_YAML as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)[:500]
        raise ConfigurationError(f"{path}: cannot be read as YAML: {reason}") from None


class PlainLoader(yaml.SafeLoader):
    """YAML without aliases, of which a few lines can stand for more values than fit into memory, and no key twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [key for number, (_, key) in enumerate(keys) if keys[number] in keys[:number]]:
            raise yaml.YAMLError(f"key {twice[0]!r} is given twice")
        return super().construct_mapping(node, deep)

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases (*name) are not read here")
        return super().compose_node(parent, index)

"""Settings in a YAML file: the environment's names and texts, and nothing that the environment could not say.

Scalars are taken as they are written (``022`` stays ``022``), a list is a list setting, nesting is refused. Pure but
for the reading of the file.
"""

from __future__ import annotations

from pathlib import Path

import yaml

from forebay.errors import ConfigError

CONFIG_FLAG = "--config"
CONFIG_VARIABLE = "FOREBAY_CONFIG"
PREFIX = "FOREBAY_"
FILE_MAX_BYTES = 1 << 20

FileValue = str | tuple[str, ...]


def read_config_file(path: Path) -> dict[str, FileValue]:
    """What the file sets, by name. An empty value is as if it were not there.

    Raises:
        ConfigError: it cannot be read, is no YAML, or says something else than ``FOREBAY_NAME: value``; names the line.
    """
    try:
        with path.open("rb") as file:
            data = file.read(FILE_MAX_BYTES + 1)
        if len(data) > FILE_MAX_BYTES:
            raise ConfigError(CONFIG_FLAG, f"{path} is larger than {FILE_MAX_BYTES} bytes")
        return parse_config(data.decode(), str(path))
    except OSError as e:
        raise ConfigError(CONFIG_FLAG, f"{path} cannot be read: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise ConfigError(CONFIG_FLAG, f"{path} is not UTF-8 text") from e


def parse_config(text: str, name: str) -> dict[str, FileValue]:
    """As `read_config_file`, of a text; ``name`` is said in errors."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as e:
        line = f", line {e.problem_mark.line + 1}" if e.problem_mark is not None else ""
        raise ConfigError(CONFIG_FLAG, f"{name}{line}: no YAML: {e.problem or e.context}") from e
    except yaml.YAMLError as e:
        raise ConfigError(CONFIG_FLAG, f"{name}: no YAML: {str(e).splitlines()[0]}") from e
    if node is None:
        return {}
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(CONFIG_FLAG, f"{name}: want lines of the form {PREFIX}NAME: value")
    found: dict[str, FileValue] = {}
    for key, value in node.value:
        where = f"{name}, line {key.start_mark.line + 1}"
        if not isinstance(key, yaml.ScalarNode) or not key.value.startswith(PREFIX):
            raise ConfigError(CONFIG_FLAG, f"{where}: names begin with {PREFIX}, as in the environment")
        if key.value in found:
            raise ConfigError(CONFIG_FLAG, f"{where}: {key.value} stands there twice")
        if (said := _value(value, f"{where}: {key.value}")) not in ("", ()):
            found[key.value] = said
    return found


def _value(node: yaml.Node, where: str) -> FileValue:
    if isinstance(node, yaml.ScalarNode):
        return "" if node.tag == "tag:yaml.org,2002:null" else str(node.value)
    if isinstance(node, yaml.SequenceNode) and all(isinstance(item, yaml.ScalarNode) for item in node.value):
        return tuple(str(item.value) for item in node.value)
    raise ConfigError(CONFIG_FLAG, f"{where}: want one value, or a list of them")

"""Configs of the command line: Hydra groups, filled from the registries, typed, with the nearest key named."""

from kanvolution.configs.compose import Composed, ConfigError, compose, read_config
from kanvolution.configs.groups import GROUPS, Group, Key

__all__ = ["GROUPS", "Composed", "ConfigError", "Group", "Key", "compose", "read_config"]

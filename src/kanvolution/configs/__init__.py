"""Configs of the command line: Hydra groups, filled from the registries, typed, with the nearest key named."""

from kanvolution.configs.compose import Composed, ConfigError, compose, read_config
from kanvolution.configs.experiments import EXPERIMENTS, Experiment, register_experiment
from kanvolution.configs.groups import GROUPS, JOBS, Group, Job, Key
from kanvolution.configs.sweep import Variant, expand

__all__ = [
    "EXPERIMENTS",
    "GROUPS",
    "JOBS",
    "Composed",
    "ConfigError",
    "Experiment",
    "Group",
    "Job",
    "Key",
    "Variant",
    "compose",
    "expand",
    "read_config",
    "register_experiment",
]

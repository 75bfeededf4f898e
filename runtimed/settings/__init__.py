"""The settings of the daemon."""

from runtimed.settings.loading import (
    Configuration,
    config_file,
    configuration_files,
    configuration_folders,
    load,
    unknown_variables,
)
from runtimed.settings.log import LOG_LEVELS
from runtimed.settings.settings import Settings
from runtimed.settings.values import ENVIRONMENT_PREFIX
from runtimed.settings.workers import RESTORE_POLICIES

__all__ = [
    "ENVIRONMENT_PREFIX",
    "LOG_LEVELS",
    "RESTORE_POLICIES",
    "Configuration",
    "Settings",
    "config_file",
    "configuration_files",
    "configuration_folders",
    "load",
    "unknown_variables",
]

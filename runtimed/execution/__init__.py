"""Backends that run Workers: profiles, drivers of programs, and the process trees of these programs."""

from runtimed.execution.function import FunctionBackend
from runtimed.execution.profile import Profile
from runtimed.execution.registry import ProfileRegistry

__all__ = ["FunctionBackend", "Profile", "ProfileRegistry"]

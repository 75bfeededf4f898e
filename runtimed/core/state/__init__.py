"""The pure part of the core: the values of a Change, and the decisions that make one."""

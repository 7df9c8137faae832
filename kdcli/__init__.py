"""kd: distil any text classifier into a smaller, faster one."""

__version__ = "0.1.0"

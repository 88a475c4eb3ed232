"""The version of the package, its only declaration."""

__version__ = "0.1.0"

"""The version of the library, apart from the package so that its own modules can say it."""
__version__ = "0.2.0"

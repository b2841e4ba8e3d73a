"""The program: settings, composition root, HTTP, command line. Everything else is a library to it."""

__version__ = "1.3.0"

"""Helpers without torch: files, logs, downloads, command lines and plots."""

from dnnlib.download import open_url
from dnnlib.util import EasyDict, Logger, format_time

__all__ = ["EasyDict", "Logger", "format_time", "open_url"]

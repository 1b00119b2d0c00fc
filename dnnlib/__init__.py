"""Helpers without torch: files, logs, downloads, command lines and plots."""

from dnnlib import host
from dnnlib.download import open_url
from dnnlib.util import Logger, format_time

__all__ = ["Logger", "format_time", "host", "open_url"]

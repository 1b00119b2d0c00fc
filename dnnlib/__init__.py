"""Helpers without torch: files, logs, downloads, command lines and plots."""

from dnnlib.util import EasyDict, Logger, format_time, open_url

__all__ = ["EasyDict", "Logger", "format_time", "open_url"]

"""ONNX Runtime without its telemetry. Every module imports `onnxruntime` from here.

Since version 1.29 the library writes an identifier of the device to the home folder, and sends
names, hashes and figures of the models and of the machine to its vendor, unless this is set.
"""

from __future__ import annotations

import os

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read when the library is loaded

import onnxruntime as onnxruntime  # noqa: TID251

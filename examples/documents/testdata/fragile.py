"""The story's worker with a PDF library that has two bugs: some PDFs crash it, and on some it never ends."""

import ctypes
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import worker  # noqa: E402

load = worker.pdfium.PdfDocument


def fragile(pdf: bytes) -> Any:
    """Load the document, or die as native code does."""
    if b"(crash)" in pdf:
        ctypes.string_at(0)  # SIGSEGV
    while b"(hang)" in pdf:
        time.sleep(0.01)
    return load(pdf)


worker.pdfium.PdfDocument = fragile  # type: ignore[misc, assignment]

"""A service's Python side: some work, and which service has done it."""

import hashlib
import os
from typing import Dict

from pypool import command


@command
def stamp(text: str) -> Dict[str, str]:
    """A signature that takes a millisecond or two, and the name of who has made it."""
    return {"service": os.environ["SERVICE"], "stamp": hashlib.pbkdf2_hmac("sha256", text.encode(), b"salt", 3000).hex()}

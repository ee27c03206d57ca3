import nmupy  # noqa: F401

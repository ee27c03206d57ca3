import nmupy  # type: ignore[import-not-found]  # noqa: F401

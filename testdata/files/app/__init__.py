"""A package with its marker."""

"""Desired things as other systems' objects and files. Pure."""

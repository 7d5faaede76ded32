"""Measurements on all scored frames of an archive: tables and images that are made on the workers."""

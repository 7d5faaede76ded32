"""Aperture photometry, source detection and image subtraction, with and without a mask."""

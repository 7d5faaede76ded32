"""Products of a scored archive: xarray datasets, masks, FITS and table exports, comparisons, pictures."""

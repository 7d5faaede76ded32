"""Display of the progress of a run."""

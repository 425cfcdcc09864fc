"""The laboratory: tabular experiments of the papers, one module each, and what they share."""

"""What every program stands on: parts assembled from settings, checks before the start, exit codes,
processes.
"""

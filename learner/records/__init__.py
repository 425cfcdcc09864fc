"""What a run leaves on disk: settings, provenance, checkpoints, metrics, episodes; and its line of
progress.
"""

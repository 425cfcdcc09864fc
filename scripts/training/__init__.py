"""From settings to one running session, or a group of them, until the final score."""

"""Playing with stored parameters: scores, videos, exported agents."""

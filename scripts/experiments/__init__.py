"""Many runs: suites and their trials, results, curves and comparisons."""

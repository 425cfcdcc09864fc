"""Exact MDPs, Bellman operators and the value-equivalence losses of the papers: small worlds,
nothing sampled.
"""

"""What `scripts/look.py` is made of: the search tree, imagined values,
the value-equivalence audit.
"""

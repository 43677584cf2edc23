"""Experiments too long for a lesson: NAME.py makes NAME.json, which the lesson reads; the command stands in both."""

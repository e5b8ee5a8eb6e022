"""Scaling studies, pure: what to measure, what the numbers say, what more ranks would do."""

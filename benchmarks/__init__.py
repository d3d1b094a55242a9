"""Benchmarks of tiltjax: cases, metrics with their floors, a runner, a report. `python -m benchmarks --help`."""

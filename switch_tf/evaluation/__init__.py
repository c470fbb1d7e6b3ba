"""Evaluation: teacher-forced, and the tasks' own metrics."""

"""Evaluation: teacher-forced, and by the tasks' own metrics."""

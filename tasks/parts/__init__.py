"""Building blocks of tasks: preprocessors, rates, metrics and the catalogue."""

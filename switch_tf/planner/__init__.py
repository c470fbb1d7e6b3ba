"""What a configuration needs and communicates: counts, bytes, collectives and dtypes."""
